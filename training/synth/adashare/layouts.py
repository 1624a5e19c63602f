"""Where the two layouts keep a view's files, and in what order their lists name them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import FloatArray
from training.datasets import image_layouts
from training.synth.adashare import labels
from training.synth.adashare.classes import (
    nyuv2_classes_json,
    taskonomy_class_numbers,
    taskonomy_classes_json,
)
from training.synth.image_scale import ImageScale
from training.synth.png import write_png
from training.synth.world.views import View


@dataclass(frozen=True)
class ViewName:
    """Which view.

    Attributes:
        scene: Index in the data set.
        keyframe: Number in the scene.
        view: Number of the camera.
    """

    scene: int
    keyframe: int
    view: int


@dataclass(frozen=True)
class AdaShareLayout:
    """A layout.

    Attributes:
        name: As `mmmt data synth --format` has it.
        tasks: What is labelled.
        group_file: List of all files by part.
        scales: Sizes by name.
        intrinsics: Of a picture of (width, height), as the loader takes them for given.
        classes: Content of classes.json.
        write: Writes a view's files into a folder and returns their names in the order of the list.
        pictures: Top folder of the pictures of a scene, moved to its place last.
    """

    name: str
    tasks: tuple[str, ...]
    group_file: str
    scales: Mapping[str, ImageScale]
    intrinsics: Callable[[tuple[int, int]], FloatArray]
    classes: Callable[[], dict[str, Any]]
    write: Callable[[Path, ViewName, View], list[str]]
    pictures: Callable[[int], str]


def _write_nyuv2(folder: Path, name: ViewName, view: View) -> list[str]:
    stem = f"{name.scene:04d}_{name.keyframe:02d}_{name.view}"
    depth = io.BytesIO()
    np.save(depth, labels.metric_depth(view.depth_hw))
    files = [f"img/{stem}.png", f"seg/{stem}.png", f"normal_mask/{stem}.png", f"depth/{stem}.npy"]
    # `Semantic` numbers as STREET_CLASSES do, 255 for none
    images: list[NDArray[Any]] = [view.image_hwc, view.semantic_hw, labels.nyuv2_normals(view)]
    for file, image in zip(files[:3], images, strict=True):
        write_png(_placed(folder, file), image)
    _placed(folder, files[3]).write_bytes(depth.getvalue())
    return files


_DOMAINS = ("rgb", "segmentsemantic", "normal", "depth_zbuffer", "keypoints2d", "edge_texture")


def _write_taskonomy(folder: Path, name: ViewName, view: View) -> list[str]:
    shape = view.semantic_hw.shape
    keypoints = labels.keypoint_strength(view.keypoints, (shape[0], shape[1]))
    images: list[NDArray[Any]] = [
        view.image_hwc,
        taskonomy_class_numbers(view.semantic_hw),
        labels.taskonomy_normals(view),
        labels.taskonomy_depth(view.depth_hw),
        labels.used_range(keypoints, image_layouts.KEYPOINT_RANGE),
        labels.used_range(labels.edge_strength(view.edge_hw), image_layouts.EDGE_RANGE),
    ]
    files = [
        f"{_building(name.scene)}_{domain}/point_{name.keyframe}_view_{name.view}_domain_{domain}.png"
        for domain in _DOMAINS
    ]
    for file, image in zip(files, images, strict=True):
        write_png(_placed(folder, file), image)
    return files


def _building(scene: int) -> str:
    return f"street{scene:04d}"


def _placed(folder: Path, file: str) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _scales(sizes: dict[str, tuple[int, int, int]]) -> dict[str, ImageScale]:
    return {
        name: ImageScale(name=name, keyframes=keyframes, image_width=width, image_height=height)
        for name, (keyframes, width, height) in sizes.items()
    }


LAYOUTS: dict[str, AdaShareLayout] = {
    "nyuv2": AdaShareLayout(
        "nyuv2",
        ("semantic_segmentation", "depth", "normals"),
        image_layouts.NYUV2_GROUP_FILE,
        _scales({"tiny": (4, 160, 120), "small": (16, 320, 240), "full": (40, 640, 480)}),
        image_layouts.nyuv2_intrinsics,
        nyuv2_classes_json,
        _write_nyuv2,
        lambda scene: "img",
    ),
    "taskonomy": AdaShareLayout(
        "taskonomy",
        ("semantic_segmentation", "normals", "depth", "keypoints", "edges"),
        image_layouts.TASKONOMY_GROUP_FILE,
        _scales({"tiny": (4, 128, 128), "small": (16, 256, 256), "full": (40, 512, 512)}),
        image_layouts.nominal_intrinsics,
        taskonomy_classes_json,
        _write_taskonomy,
        lambda scene: f"{_building(scene)}_rgb",
    ),
}
