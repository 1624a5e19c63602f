"""Which of a bundle's tasks the control node acts on."""

from __future__ import annotations

from perception_core.bundle import BundleSpec
from perception_core.platform.latency_paths import paths_of
from perception_core.rig import Rig


def detection_tasks(bundle: BundleSpec) -> tuple[str, ...]:
    """Returns the tasks of a bundle whose output are 3D objects: `detection3d`, `mono_detection3d` and
    what is named like them.
    """
    return tuple(
        component.task
        for component in bundle.components.values()
        if component.task is not None and component.task.endswith("detection3d")
    )


def map_tasks(bundle: BundleSpec) -> tuple[str, ...]:
    """Returns the tasks of a bundle whose output is a bird's-eye-view map."""
    return tuple(
        component.task
        for component in bundle.components.values()
        if component.task is not None and component.task == "map_segmentation"
    )


def required_tasks(bundle: BundleSpec) -> tuple[str, ...]:
    """Returns the detection tasks without which the vehicle does not drive: `detection3d` where the bundle
    has it, else all.
    """
    tasks = detection_tasks(bundle)
    return ("detection3d",) if "detection3d" in tasks else tasks


def stand_in_tasks(bundle: BundleSpec) -> tuple[str, ...]:
    """Returns the detection tasks that may carry on alone where the required ones fail, best first."""
    required = required_tasks(bundle)
    return tuple(task for task in detection_tasks(bundle) if task not in required)


def modalities_of(bundle: BundleSpec, rig: Rig, task: str) -> frozenset[str]:
    """Returns the rig's modalities that a task's output rests on.

    A frame names every sensor it contains; an output of a monocular head rests on its camera alone, however
    alive the LiDAR is.
    """
    return frozenset(path.modality for path in paths_of(bundle, rig, {}) if path.task == task)
