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

#: The classes of Cityscapes-3D's benchmark, in the order of cityscapesscripts.
CITYSCAPES_3D_CLASSES: tuple[str, ...] = ("car", "truck", "bus", "train", "motorcycle", "bicycle")

#: The 19 classes of Cityscapes' semantic segmentation, in the order of cityscapesscripts' train ids.
CITYSCAPES_SEGMENTATION_CLASSES: tuple[str, ...] = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider"),
    *("car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
