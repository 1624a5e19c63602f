"""The paths of a component graph: which stages lie between a modality and a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from perception_core.bundle import MONO_TENSORS, SENSOR_FUSION, SENSOR_TENSORS, BundleSpec
from perception_core.platform.stage_report import CONTROL
from perception_core.rig import Rig

#: Frame tensors by the kind of modality they carry. Odometry's belong to no modality.
LIDAR_TENSORS = frozenset({"points_nc", "lidar_valid"})
CAMERA_TENSORS = frozenset({"images_vhwc", "camera_valid_v", "intrinsics_v33", "camera_from_ego_v44"})


@dataclass(frozen=True)
class LatencyPath:
    """The part of the component graph between a modality and a task.

    Attributes:
        modality: Where the path starts.
        task: Where it ends.
        stages: Its stages in topological order; the first is sensor_fusion, the last one outputs the task.
        predecessors: For each stage but the first, the stages of this path that feed it.
        joins: Stages that start only when all of their predecessors are done (every component); `control`
            takes what is newest.
        awaited: All stages the output waits for, in topological order: a LiDAR path waits for the camera
            network too where a fuser joins them.
        budget_ms: Largest latency allowed, None where the deployment sets none.
    """

    modality: str
    task: str
    stages: tuple[str, ...]
    predecessors: Mapping[str, tuple[str, ...]]
    joins: frozenset[str]
    awaited: tuple[str, ...]
    budget_ms: float | None

    @property
    def name(self) -> str:
        """Written form, `modality->task`."""
        return f"{self.modality}->{self.task}"

    @property
    def output_stage(self) -> str:
        """The stage whose report ends the path."""
        return self.stages[-1]


def budget_of(budgets_ms: Mapping[str, float], modality: str, task: str) -> float | None:
    """Returns the budget of a path: the exact key before `*->task`, `modality->*` and `*->*`; None where
    none is set.
    """
    for key in (f"{modality}->{task}", f"*->{task}", f"{modality}->*", "*->*"):
        if key in budgets_ms:
            return budgets_ms[key]
    return None


def paths_of(
    bundle: BundleSpec, rig: Rig, budgets_ms: Mapping[str, float], control_tasks: Iterable[str] = ()
) -> tuple[LatencyPath, ...]:
    """Lists the paths of a bundle on a rig.

    Args:
        bundle: The component graph.
        rig: The modalities.
        budgets_ms: The deployment's budgets, see `budget_of`.
        control_tasks: Tasks whose outputs the control node acts on; with none there are no
            `modality->control` paths. A bundle's own control head (task `control`) always belongs to them:
            its proposal ends in a command only through control.
    """
    producer_of = dict.fromkeys(SENSOR_TENSORS, SENSOR_FUSION)
    for name, component in bundle.components.items():
        producer_of.update(dict.fromkeys(component.outputs, name))
    feeds: dict[str, tuple[str, ...]] = {
        name: tuple(dict.fromkeys(producer_of[tensor] for tensor in component.inputs))
        for name, component in bundle.components.items()
    }
    ends = {
        name: component.task for name, component in bundle.components.items() if component.task is not None
    }
    control_feeds = tuple(
        name for name, task in ends.items() if task == CONTROL or task in frozenset(control_tasks)
    )
    outputs = [(task, name) for name, task in ends.items() if task != CONTROL]
    if control_feeds:
        feeds[CONTROL] = control_feeds
        outputs.append((CONTROL, CONTROL))

    paths = []
    for modality in rig.modalities:
        own_tensors = LIDAR_TENSORS if modality == "lidar" else CAMERA_TENSORS
        if bundle.input.mono is not None and modality == bundle.input.mono.camera:
            own_tensors = own_tensors | frozenset(MONO_TENSORS)
        direct = {
            name
            for name, component in bundle.components.items()
            if own_tensors.intersection(component.inputs)
        }
        for task, end in outputs:
            order: list[str] = []
            predecessors: dict[str, tuple[str, ...]] = {}
            if _collect(end, feeds, direct, order, predecessors, {}):
                paths.append(
                    LatencyPath(
                        modality=modality,
                        task=task,
                        stages=(SENSOR_FUSION, *order),
                        predecessors=predecessors,
                        joins=frozenset(order) - {CONTROL},
                        awaited=_ancestors(end, feeds),
                        budget_ms=budget_of(budgets_ms, modality, task),
                    )
                )
    return tuple(paths)


def _collect(
    stage: str,
    feeds: Mapping[str, tuple[str, ...]],
    direct: set[str],
    order: list[str],
    predecessors: dict[str, tuple[str, ...]],
    known: dict[str, bool],
) -> bool:
    """Appends `stage` to `order`, after all its predecessors that the modality reaches; returns whether it
    reaches `stage`.
    """
    if stage in known:
        return known[stage]
    known[stage] = False  # a cycle, which BundleSpec's graph cannot have, would end here
    reached = tuple(
        feeder
        for feeder in feeds[stage]
        if (feeder == SENSOR_FUSION and stage in direct)
        or (feeder != SENSOR_FUSION and _collect(feeder, feeds, direct, order, predecessors, known))
    )
    if reached:
        order.append(stage)
        predecessors[stage] = reached
        known[stage] = True
    return bool(reached)


def _ancestors(end: str, feeds: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Returns everything `end` depends on and itself, in topological order."""
    order: dict[str, None] = {}

    def visit(stage: str) -> None:
        for feeder in feeds.get(stage, ()):
            if feeder not in order:
                visit(feeder)
        order[stage] = None

    visit(end)
    return tuple(order)
