"""Writes the bundle of a trained checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_core.bundle import Bundle, TrainingRecord
from perception_core.bundle_writer import write_bundle
from perception_core.configuration import ConfigurationError
from perception_core.models import create_model
from training.evaluation.result import write_json
from training.export.agreement import TOLERANCE, Agreement, compare_graphs
from training.provenance import describe_origin
from training.trainer.checkpoints import first_difference, network_state, read_checkpoint
from training.trainer.module import CHECKPOINT_KEY

#: Beside bundle.yaml: how far each exported graph lies from the network, and where that was measured.
AGREEMENT_FILE = "export.json"


@dataclass(frozen=True)
class ExportedBundle:
    """A written bundle.

    Attributes:
        bundle: The bundle.
        agreements: Of each component; empty without graphs.
    """

    bundle: Bundle
    agreements: tuple[Agreement, ...]


def bundle_of_checkpoint(
    checkpoint: Path, out: Path, *, graphs: bool = True, name: str | None = None
) -> ExportedBundle:
    """Writes a checkpoint's network as a bundle, and checks its graphs against the network.

    Args:
        checkpoint: Of `mmmt train`; of a network of the registry.
        out: Folder of the bundle.
        graphs: Also export ONNX graphs.
        name: Of the bundle, default the folder's.

    Raises:
        ConfigurationError: The checkpoint cannot be used, or a graph differs from the network by more than
            TOLERANCE (the bundle is there then, and its export.json says which).
    """
    content = read_checkpoint(checkpoint)
    state = content[CHECKPOINT_KEY]
    described = state["learner"]
    if "arguments" not in described:
        raise ConfigurationError(
            f"{checkpoint}: its network '{described.get('name')}' is not in the registry of models, so no "
            "bundle can name it"
        )
    model = create_model(described["name"], **described["arguments"])
    weights = network_state(content)
    difference = first_difference(model, weights)
    if difference is not None:
        raise ConfigurationError(
            f"{checkpoint}: does not fit model '{described['name']}' of this version: {difference}"
        )
    model.load_state_dict(weights)
    bundle = write_bundle(model, described["name"], out, training_record(state), name=name, graphs=graphs)
    agreements = tuple(compare_graphs(bundle)) if graphs else ()
    write_json(
        out / AGREEMENT_FILE,
        {
            "tolerance": TOLERANCE,
            "components": {item.component: item.model_dump(exclude={"component"}) for item in agreements},
            "origin": describe_origin(),
        },
    )
    wrong = [item for item in agreements if not item.within_tolerance]
    if wrong:
        listed = ", ".join(f"{item.component} by {item.max_abs_error:.2g}" for item in wrong)
        raise ConfigurationError(
            f"{out}: exported graphs differ from the network by more than {TOLERANCE:g}: {listed}; see "
            f"{AGREEMENT_FILE}"
        )
    return ExportedBundle(bundle, agreements)


def training_record(state: dict[str, Any]) -> TrainingRecord:
    """Returns what a bundle says of its training, from what a checkpoint holds."""
    run = state["run"]
    data = dict(run.get("data", {}))
    generated = data.get("generated") or {}
    words = [f"{data['data']} ({data.get('version')})" if "data" in data else "unknown data"]
    if generated:
        words.append("generated: " + ", ".join(f"{key} {value}" for key, value in generated.items()))
    if "digest" in data:
        words.append(
            f"{data['train_samples']} samples of {data['train_split']}, {data['validation_samples']} of "
            f"{data['validation_split']}, digest {data['digest']}"
        )
    return TrainingRecord(
        trained=True,
        recipe=run.get("recipe"),
        overrides=tuple(run.get("overrides", ())),
        seed=int(state["seed"]),
        data="; ".join(words),
        data_seed=generated.get("seed"),
        commit=run.get("commit"),
        metrics={name: value for name, value in state["results"].items() if math.isfinite(value)},
        note=f"{state['epochs_done']} epochs.",
    )
