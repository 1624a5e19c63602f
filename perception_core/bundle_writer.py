"""Writes bundles. The same model and record give the same bytes."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
import yaml

from perception_core.bundle import Bundle, BundleSpec, ModelReference, TrainingRecord
from perception_core.models import PerceptionModel, create_model
from perception_core.weights import sha256_of


def create_seeded_model(name: str, seed: int, **arguments: object) -> PerceptionModel:
    """Builds a registered model whose initial weights depend on `seed` alone; torch's generator is left as it was.

    Raises:
        ConfigurationError: The name or an argument is unknown or wrong.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_model(name, **arguments)


def write_bundle(
    model: PerceptionModel,
    model_name: str,
    path: str | Path,
    training: TrainingRecord,
    *,
    name: str | None = None,
) -> Bundle:
    """Writes a bundle folder; files of an earlier bundle there are replaced.

    Args:
        model: Any model of the registry.
        model_name: Its name there.
        path: Folder, created where missing.
        training: How the weights came about.
        name: Name of the bundle, default the folder's.

    Raises:
        ConfigurationError: The signatures the model gives do not form a whole graph.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    weights = path / "weights.safetensors"
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    # Bytes first: safetensors' own writer makes files only their owner can read.
    weights.write_bytes(safetensors.torch.save(state))
    spec = BundleSpec(
        format=1,
        name=name or path.name,
        model=ModelReference(name=model_name, arguments=model.configuration()),
        input=model.bundle_input(),
        tensors=model.tensor_specs(),
        components=model.component_specs(),
        labels=model.labels(),
        weights=weights.name,
        weights_sha256=sha256_of(weights),
        training=training,
    )
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, width=110)
    (path / "bundle.yaml").write_text(text, encoding="utf-8")
    return Bundle.open(path)
