"""Class names the networks predict, in the order of their output channels."""

from __future__ import annotations

#: The ten classes of the nuScenes detection benchmark.
NUSCENES_DETECTION_CLASSES: tuple[str, ...] = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)

#: The six map layers of bird's-eye-view segmentation on nuScenes (BEVFusion, FULLER).
NUSCENES_MAP_CLASSES: tuple[str, ...] = (
    "drivable_area",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
    "divider",
)
