"""Which one component to move where so that a path becomes shorter, by what the running stack shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from perception_core.bundle import BundleSpec
from perception_core.deployment import Deployment
from perception_core.platform.component_latency import ComponentLatency
from perception_core.platform.component_work import ComponentWork
from perception_core.platform.devices import platform_of
from perception_core.platform.placement.build import build_problem
from perception_core.platform.placement.objective import PlacementObjective
from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.refit import (
    RefittedLatency,
    alike_devices,
    host_times,
    measured_by_device,
    path_offsets,
)
from perception_core.platform.run_observations import MIN_COUNT, RunObservations, StageObservation
from perception_core.platform.schedule import UnreachableError, schedule
from perception_core.platform.task_graph import task_graph
from perception_core.rig import Rig

_WINDOW = 200


@dataclass(frozen=True)
class MoveProposal:
    """A move that is worth a thought.

    Attributes:
        component: What to move.
        device: Where to.
        before_ms, after_ms: Predicted latency of the path in question.
    """

    component: str
    device: str
    before_ms: float
    after_ms: float


class RunningStages:
    """The newest run times of every stage on the device it is on now."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[str, deque[float]]] = {}

    def add(self, stage: str, device: str, run_ms: float) -> None:
        """Takes one report; those from another device are forgotten when a component has moved."""
        known = self._runs.get(stage)
        if known is None or known[0] != device:
            known = self._runs[stage] = (device, deque(maxlen=_WINDOW))
        known[1].append(run_ms)

    def observations(self, bundle: str, path_ms: Mapping[str, float]) -> RunObservations:
        """Returns what a run that ended now would have shown.

        Args:
            bundle: Its name.
            path_ms: Medians of the paths.
        """
        stages = {
            stage: StageObservation(stage, device, median(runs), len(runs))
            for stage, (device, runs) in self._runs.items()
            if len(runs) >= MIN_COUNT
        }
        return RunObservations(Path("the running stack"), bundle, stages, dict(path_ms))


def propose_move(
    deployment: Deployment,
    spec: BundleSpec,
    rig: Rig,
    work: Mapping[str, ComponentWork],
    observed: RunObservations,
    choices: Mapping[str, Sequence[str]],
    path: str,
    base: ComponentLatency | None = None,
) -> MoveProposal | None:
    """Looks for the single move that shortens a path most and breaks nothing that holds now.

    One component at a time: after each, what it did is seen before the next.

    Args:
        deployment: Devices, links, budgets.
        spec: The bundle.
        rig: The sensors.
        work: Components' memory.
        observed: What the stack shows now; gives the present placement too.
        choices: By movable component, the devices it can go to.
        path: `modality->task`.
        base: Latencies that were measured or modelled before, for devices where a component was never seen.

    Returns:
        None where no move is known to help, or not every component was seen often enough.
    """
    now = observed.placement()
    if not set(spec.components) <= set(now):
        return None
    platform = platform_of(deployment)
    latency = RefittedLatency(base, measured_by_device([observed]), alike_devices(deployment.devices))
    host = host_times([observed])
    graph = task_graph(spec, rig, work, deployment.budgets_ms)
    plain = build_problem(graph, platform, latency, host=host)
    host = replace(host, path_offset_ms=path_offsets(plain, observed))
    problem = build_problem(graph, platform, latency, host=host)
    before = _path_ms(problem, now, path)
    if before is None:
        return None
    found = [
        MoveProposal(component, device, before, after)
        for component, devices in choices.items()
        for device in devices
        if device != now[component]
        and (after := _path_ms(problem, {**now, component: device}, path)) is not None
        and after < before
        and not _breaks_more(problem, now, {**now, component: device})
    ]
    return min(found, key=lambda move: move.after_ms, default=None)


def _path_ms(problem: PlacementProblem, placement: dict[str, str], path: str) -> float | None:
    """Predicted latency of a path, None where it or a component's latency is not known."""
    indices = problem.indices(placement)
    if any(device not in problem.choices[i] for i, device in enumerate(indices)):
        return None
    try:
        return schedule(problem, indices).path_ms.get(path)
    except UnreachableError:
        return None


def _breaks_more(problem: PlacementProblem, before: dict[str, str], after: dict[str, str]) -> bool:
    objective = PlacementObjective(problem)
    return objective.score(problem.indices(after)).broken > objective.score(problem.indices(before)).broken
