"""The graph that is scheduled: sensor pre-processing, the components of a bundle and what they hand each
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perception_core.bundle import SENSOR_FUSION, BundleSpec
from perception_core.configuration import ConfigurationError
from perception_core.control.tasks import required_tasks
from perception_core.platform.component_work import ComponentWork, edge_bytes, tensor_bytes
from perception_core.platform.latency_paths import CAMERA_TENSORS, LIDAR_TENSORS, paths_of
from perception_core.platform.stage_report import CONTROL
from perception_core.rig import Rig

#: Sensor pre-processing where it is placed by itself: decoding and resizing images, sorting points.
LIDAR_PREPROCESSING = "lidar_preprocessing"
CAMERA_PREPROCESSING = "camera_preprocessing"


@dataclass(frozen=True)
class GraphStage:
    """Something that is worked on once a frame.

    Attributes:
        name: Its name.
        feeds_from: The stages it needs, and the bytes it takes from each.
        memory_mb: Megabytes it holds on its device.
    """

    name: str
    feeds_from: Mapping[str, int] = field(default_factory=dict)
    memory_mb: float = 0.0


@dataclass(frozen=True)
class GraphPath:
    """A path xp(m, t): from the stamp of modality m to the output of task t.

    Attributes:
        modality, task: m and t.
        output: The stage that outputs the task.
        budget_ms: Largest latency allowed, None: any.
        offset_ms: What passes outside of the schedule: age of the sensor's data when pre-processing begins,
            and what measurements showed on top.
    """

    modality: str
    task: str
    output: str
    budget_ms: float | None = None
    offset_ms: float = 0.0

    @property
    def name(self) -> str:
        """Written form, `modality->task`."""
        return f"{self.modality}->{self.task}"


@dataclass(frozen=True)
class TaskGraph:
    """Stages in topological order, and the paths through them.

    Attributes:
        stages: All stages by name, producers before consumers.
        paths: All (m, t) that are connected.
    """

    stages: Mapping[str, GraphStage]
    paths: tuple[GraphPath, ...]

    def __post_init__(self) -> None:
        known: set[str] = set()
        for stage in self.stages.values():
            missing = set(stage.feeds_from) - known
            if missing:
                raise ConfigurationError(
                    f"stage '{stage.name}' takes from {', '.join(sorted(missing))}, which come after it or "
                    "not at all; stages stand in topological order"
                )
            known.add(stage.name)
        for path in self.paths:
            if path.output not in known:
                raise ConfigurationError(f"path {path.name} ends in '{path.output}', which is no stage")


def task_graph(
    spec: BundleSpec,
    rig: Rig,
    work: Mapping[str, ComponentWork],
    budgets_ms: Mapping[str, float] | None = None,
    *,
    split_preprocessing: bool = False,
) -> TaskGraph:
    """Makes the graph of a bundle on a rig.

    Args:
        spec: The bundle.
        rig: The vehicle's sensors.
        work: Components' work; gives their memory.
        budgets_ms: Budgets as a deployment has them.
        split_preprocessing: Pre-process LiDAR and cameras in a stage each, placeable by itself, instead of
            in the stack's one sensor_fusion.
    """
    cameras = len(rig.cameras)
    stages = {stage.name: stage for stage in _preprocessing(spec, rig, split_preprocessing)}
    frame_stage = _frame_stage if split_preprocessing else (lambda tensor: SENSOR_FUSION)
    producer_of = {tensor: name for name, part in spec.components.items() for tensor in part.outputs}
    for name in _topological(spec):
        feeds: dict[str, int] = {}
        for tensor in spec.components[name].inputs:
            producer = producer_of.get(tensor)
            if producer is not None:
                feeds[producer] = edge_bytes(spec, cameras, producer, name)
            elif frame_stage(tensor) in stages:
                source = frame_stage(tensor)
                feeds[source] = feeds.get(source, 0) + tensor_bytes(tensor, spec, cameras)
        stages[name] = GraphStage(name, feeds, work[name].memory_mb if name in work else 0.0)
    connected = paths_of(spec, rig, budgets_ms or {}, required_tasks(spec))
    heads = dict.fromkeys(
        head for path in connected if path.output_stage == CONTROL for head in path.predecessors[CONTROL]
    )
    if heads:
        stages[CONTROL] = GraphStage(CONTROL, dict.fromkeys(heads, 0))
    paths = (GraphPath(path.modality, path.task, path.output_stage, path.budget_ms) for path in connected)
    return TaskGraph(stages, tuple(paths))


def _preprocessing(spec: BundleSpec, rig: Rig, split: bool) -> list[GraphStage]:
    if not split:
        return [GraphStage(SENSOR_FUSION)]
    taken = {tensor for component in spec.components.values() for tensor in component.inputs}
    stages = []
    if rig.lidar is not None and taken & LIDAR_TENSORS:
        stages.append(GraphStage(LIDAR_PREPROCESSING))
    if rig.cameras and taken & CAMERA_TENSORS:
        stages.append(GraphStage(CAMERA_PREPROCESSING))
    return stages


def _frame_stage(tensor: str) -> str:
    if tensor in LIDAR_TENSORS:
        return LIDAR_PREPROCESSING
    return CAMERA_PREPROCESSING if tensor in CAMERA_TENSORS else ""


def _topological(spec: BundleSpec) -> tuple[str, ...]:
    """Returns the components, producers first, otherwise as the bundle lists them.

    Raises:
        ConfigurationError: They feed each other in a circle.
    """
    producer_of = {tensor: name for name, part in spec.components.items() for tensor in part.outputs}
    done: dict[str, None] = {}
    while len(done) < len(spec.components):
        ready = [
            name
            for name, part in spec.components.items()
            if name not in done
            and all(producer_of[tensor] in done for tensor in part.inputs if tensor in producer_of)
        ]
        if not ready:
            rest = ", ".join(name for name in spec.components if name not in done)
            raise ConfigurationError(
                f"bundle '{spec.name}': the components {rest} feed each other in a circle"
            )
        done.update(dict.fromkeys(ready))
    return tuple(done)
