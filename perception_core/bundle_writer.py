"""Writes bundles. The same model and record give the same bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import safetensors.torch
import torch
import yaml

from perception_core.atomic_write import write_atomically
from perception_core.backends.example_inputs import example_inputs
from perception_core.backends.exported_graph import RUN_IN_TORCH
from perception_core.bundle import Bundle, BundleSpec, ComponentSpec, ModelReference, TrainingRecord
from perception_core.models import PerceptionModel, create_model
from perception_core.onnx_export import export_dense_part
from perception_core.weights import sha256_of


def create_seeded_model(name: str, seed: int, **arguments: object) -> PerceptionModel:
    """Builds a registered model whose initial weights depend on `seed` alone.

    Torch's global generator is left as it was.

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
    graphs: bool = False,
) -> Bundle:
    """Writes a bundle folder; files of an earlier bundle there are replaced.

    Args:
        model: Any model of the registry.
        model_name: Its name there.
        path: Folder, created where missing.
        training: How the weights came about.
        name: Name of the bundle, default the folder's.
        graphs: Also export the components' dense parts as ONNX, for the backends onnxruntime and openvino.

    Raises:
        ConfigurationError: Graphs are asked for and the packages for them are missing.
        pydantic.ValidationError: The signatures the model gives do not form a whole graph.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    # Written beside and moved at the end: an export that fails leaves the earlier bundle as it was.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        staging = Path(folder)
        weights = staging / "weights.safetensors"
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
        # Bytes first: safetensors' own writer makes files only their owner can read.
        weights.write_bytes(safetensors.torch.save(state))
        components = model.component_specs()
        exported_sha256: dict[str, str] = {}
        if graphs:
            components, exported_sha256 = _export_graphs(model, staging)
        spec = BundleSpec(
            format=1,
            name=name or path.name,
            model=ModelReference(name=model_name, arguments=model.configuration()),
            input=model.bundle_input(),
            tensors=model.tensor_specs(),
            components=components,
            labels=model.labels(),
            weights=weights.name,
            weights_sha256=sha256_of(weights),
            exported_sha256=exported_sha256,
            training=training,
        )
        for earlier in path.glob("*.onnx"):
            earlier.unlink()
        for file in staging.iterdir():
            file.replace(path / file.name)
    write_spec(path, spec)
    return Bundle.open(path)


def write_spec(path: Path, spec: BundleSpec) -> None:
    """Writes a bundle's bundle.yaml; the file is always whole."""
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, width=110)
    write_atomically(path / "bundle.yaml", text)


def _export_graphs(model: PerceptionModel, path: Path) -> tuple[dict[str, ComponentSpec], dict[str, str]]:
    """Writes each component's graph; returns the signatures that name them, and the files' SHA-256."""
    specs, digests = {}, {}
    frame_input, tensors = model.bundle_input(), model.tensor_specs()
    for name, component in model.components.items():
        spec = model.component_specs()[name]
        if not component.exportable:
            specs[name] = spec.model_copy(
                update={"exported": dict.fromkeys(("onnxruntime", "openvino"), RUN_IN_TORCH)}
            )
            continue
        inputs = example_inputs(frame_input, tensors, spec)
        graph = path / f"{name}.onnx"
        export_dense_part(component, [inputs[tensor] for tensor in spec.inputs], graph)
        digests[graph.name] = sha256_of(graph)
        specs[name] = spec.model_copy(
            update={"exported": dict.fromkeys(("onnxruntime", "openvino"), graph.name)}
        )
    return specs, digests
