"""What networks of a space cost: their component graph and each component's work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from perception_core.atomic_write import write_atomically
from perception_core.bundle import BundleSpec, ModelReference, TrainingRecord
from perception_core.configuration import ConfigurationError
from perception_core.platform.component_work import ComponentWork, tensor_bytes
from perception_core.platform.task_graph import TaskGraph, task_graph
from perception_core.rig import Rig
from training.search.codesign.space import Architecture, ArchitectureSpace


@dataclass(frozen=True)
class NetworkCost:
    """A network as the platform sees it.

    Attributes:
        graph: Its stages and paths.
        work: Work of its components.
    """

    graph: TaskGraph
    work: Mapping[str, ComponentWork]


class WorkEvaluator(Protocol):
    """What tells a network's cost."""

    def cost(self, architecture: Architecture) -> NetworkCost:
        """Returns the graph and the work of a network."""
        ...


class ModelWork:
    """Builds networks and counts their multiply-adds, each once; remembers them in a file."""

    def __init__(
        self,
        space: ArchitectureSpace,
        rig: Rig,
        budgets_ms: Mapping[str, float] | None = None,
        cache: Path | None = None,
        split_preprocessing: bool = False,
    ) -> None:
        """Takes a space, a rig, and a file for what was counted.

        Raises:
            ConfigurationError: The file is not one of this class.
        """
        self.space, self.rig = space, rig
        self._budgets = dict(budgets_ms or {})
        self._split = split_preprocessing
        self._cache = cache
        self._known: dict[str, dict[str, ComponentWork]] = {}
        self._costs: dict[Architecture, NetworkCost] = {}
        if cache is not None and cache.is_file():
            self._known = _read_cache(cache)

    def cost(self, architecture: Architecture) -> NetworkCost:
        """See WorkEvaluator."""
        if architecture not in self._costs:
            self._costs[architecture] = self._reckon(architecture)
        return self._costs[architecture]

    def _reckon(self, architecture: Architecture) -> NetworkCost:
        from perception_core.models import create_model
        from perception_core.models.profile import profile_model

        arguments = self.space.arguments_of(architecture)
        model = create_model(self.space.model, **arguments)
        spec = BundleSpec(
            format=1,
            name=self.space.model,
            model=ModelReference(name=self.space.model, arguments=model.configuration()),
            input=model.bundle_input(),
            tensors=model.tensor_specs(),
            components=model.component_specs(),
            labels=model.labels(),
            weights_sha256="",
            training=TrainingRecord(trained=False, seed=0),
        )
        key = json.dumps([self.space.model, arguments, len(self.rig.cameras)], sort_keys=True)
        if key not in self._known:
            cameras = len(self.rig.cameras)
            profiles = profile_model(model, cameras=max(1, cameras))
            self._known[key] = {
                name: ComponentWork(
                    multiply_adds=float(profile.multiply_adds),
                    weight_bytes=profile.parameters * 4,
                    input_bytes=sum(tensor_bytes(t, spec, cameras) for t in spec.components[name].inputs),
                    output_bytes=sum(tensor_bytes(t, spec, cameras) for t in spec.components[name].outputs),
                )
                for name, profile in profiles.items()
            }
            self._write_cache()
        work = self._known[key]
        graph = task_graph(spec, self.rig, work, self._budgets, split_preprocessing=self._split)
        return NetworkCost(graph, work)

    def _write_cache(self) -> None:
        if self._cache is None:
            return
        plain = {
            key: {name: asdict(work) for name, work in works.items()} for key, works in self._known.items()
        }
        write_atomically(self._cache, json.dumps(plain))


def _read_cache(path: Path) -> dict[str, dict[str, ComponentWork]]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: {name: ComponentWork(**work) for name, work in works.items()} for key, works in plain.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path}: not counts of multiply-adds: {error}; delete it") from error
