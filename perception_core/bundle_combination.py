"""Puts trained bundles of different models into one, for a deployment that runs them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perception_core.bundle import Bundle, TrainingRecord
from perception_core.bundle_writer import write_bundle
from perception_core.models import create_model
from perception_core.weights import load_component_weights


def combine_bundles(
    bundles: Mapping[str, Bundle], path: str | Path, *, name: str | None = None, graphs: bool = False
) -> Bundle:
    """Writes one bundle with the components and weights of several.

    Args:
        bundles: The bundles by a name of their own, e.g. `{"bev": …, "mono": …}`.
        path: Folder, created where missing.
        name: Name of the bundle, default the folder's.
        graphs: Also export the components' dense parts.

    Raises:
        ConfigurationError: Components, tensors or tasks of two bundles have the same name, or weights do not
            fit.
    """
    references = {
        key: {"name": bundle.spec.model.name, "arguments": bundle.spec.model.arguments}
        for key, bundle in bundles.items()
    }
    model = create_model("combined", models=references)
    networks = dict(model.named_children())
    for bundle in bundles.values():
        for component in bundle.spec.components:
            load_component_weights(bundle, component, networks[component])
    records = {key: bundle.spec.training for key, bundle in bundles.items()}
    record = TrainingRecord(
        trained=all(item.trained for item in records.values()),
        recipe="; ".join(f"{key}: {item.recipe}" for key, item in records.items()),
        seed=next(iter(records.values())).seed,
        data="; ".join(f"{key}: {item.data}" for key, item in records.items()),
        metrics={f"{key}/{metric}": v for key, item in records.items() for metric, v in item.metrics.items()},
        note="; ".join(f"{key}: bundle '{bundle.spec.name}'" for key, bundle in bundles.items()),
    )
    return write_bundle(model, "combined", path, record, name=name, graphs=graphs)
