"""nuScenes category names to the ten detection classes (as in nuscenes-devkit's
`category_to_detection_name`).
"""

from __future__ import annotations

_DETECTION_CLASS = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
}


DETECTION_CLASSES = frozenset(_DETECTION_CLASS.values())


def detection_class(category: str) -> str | None:
    """Returns the detection class of a nuScenes category, None for categories outside the detection task."""
    return _DETECTION_CLASS.get(category)


def camera_modality(channel: str) -> str:
    """Returns the rig modality of a nuScenes channel: CAM_FRONT_LEFT becomes camera_front_left."""
    return "camera_" + channel.removeprefix("CAM_").lower()
