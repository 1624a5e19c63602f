"""Cityscapes (Cordts et al., 2016): segmentation, depth from disparity, and Cityscapes-3D's boxes (Gählert et
al., 2020).

Layout: `leftImg8bit/<split>/<city>/<name>_leftImg8bit.png` and beside leftImg8bit the folders `gtFine`
(`_gtFine_labelIds.png`), `disparity` (`_disparity.png`), `camera` (`_camera.json`) and `gtBbox3d`
(`_gtBbox3d.json`). What a task does not need may be missing.

Frames: Cityscapes' vehicle frame (ISO 8855: on the ground below the rear axle, x forward, y left, z up) is
the ego frame. Its calibration turns the camera with the axes of that frame; here, as everywhere, a camera's z
looks forward.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from perception_core.calibration import ImageResize
from perception_core.configuration import nearest
from perception_core.geometry import FloatArray, inverse, is_rigid, rotation_from_quaternion, transform_of
from training.datasets.box_frames import boxes_in_ego, rotation_of
from training.datasets.camvid import AS_RECORDED
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError, read_image, read_json, read_label_image
from training.datasets.frame_input import FrameInput
from training.datasets.sample import BoxLabels, DenseLabel, DenseLabels, Provenance, Sample
from training.datasets.single_view import (
    CAMERA,
    class_label,
    class_table,
    dense_label,
    resize_of,
    single_view,
)

#: Tasks this loader has labels of.
CITYSCAPES_TASKS: tuple[str, ...] = ("semantic_segmentation", "depth", "mono_detection3d")

#: The classes of Cityscapes-3D's benchmark.
CITYSCAPES_3D_CLASSES: tuple[str, ...] = ("car", "truck", "bus", "train", "motorcycle", "bicycle")

#: Axes of an image camera (x right, y down, z forward) from those of ISO 8855 (x forward, y left, z up).
_OPTICAL_FROM_ISO = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])

#: Where the files of each label lie, and how their names end.
LABEL_PLACES = {
    "semantic_segmentation": ("gtFine", "_gtFine_labelIds.png"),
    "depth": ("disparity", "_disparity.png"),
    "mono_detection3d": ("gtBbox3d", "_gtBbox3d.json"),
    "camera": ("camera", "_camera.json"),
}

_IMAGES = ("leftImg8bit", "_leftImg8bit.png")

#: Further away a disparity of a whole pixel says too little: 22 cm of baseline and 2260 pixels of focal
#: length.
_FARTHEST_M = 300.0


def segmentation_classes() -> tuple[tuple[str, ...], dict[int, int]]:
    """Returns the 19 classes in the order of cityscapesscripts' train ids, and the class of each stored label
    id.
    """
    from cityscapesscripts.helpers.labels import labels

    used = sorted((label for label in labels if 0 <= label.trainId < 255), key=lambda label: label.trainId)
    return tuple(label.name for label in used), {label.id: label.trainId for label in used}


class Cityscapes(SampleDataset):
    """One split of Cityscapes or Cityscapes-3D."""

    name = "cityscapes"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        tasks: tuple[str, ...] = CITYSCAPES_TASKS,
        frame_input: FrameInput = AS_RECORDED,
        box_classes: tuple[str, ...] = CITYSCAPES_3D_CLASSES,
    ) -> None:
        """Lists the images.

        Args:
            root: Folder with leftImg8bit/.
            split: train, val or test.
            tasks: Labels to load, of CITYSCAPES_TASKS.
            frame_input: Size of the images.
            box_classes: In the order of the network's channels; others are left out.

        Raises:
            DataError: There are no images of the split, or the labels' folder of a task is missing.
            ValueError: There are no labels of a task.
        """
        for task in tasks:
            if task not in CITYSCAPES_TASKS:
                raise ValueError(f"Cityscapes has no labels of '{task}'" + nearest(task, CITYSCAPES_TASKS))
        self.root, self.split, self.frame_input = Path(root), split, frame_input
        self.box_classes = box_classes
        folder = self.root / _IMAGES[0] / split
        self._images = sorted(folder.glob(f"*/*{_IMAGES[1]}"))
        if not self._images:
            splits = [path.name for path in folder.parent.glob("*")] if folder.parent.is_dir() else []
            raise DataError(folder, "holds no <city>/*_leftImg8bit.png" + nearest(split, splits))
        for task in tasks:
            if not (self.root / LABEL_PLACES[task][0] / split).is_dir():
                raise DataError(
                    self.root / LABEL_PLACES[task][0] / split,
                    f"labels of {task} are missing; it is a download of its own",
                )
        self._labels = frozenset(tasks)
        self.class_names, classes = segmentation_classes()
        self._table = class_table(classes)

    def __len__(self) -> int:
        return len(self._images)

    def labels_of(self, index: int) -> frozenset[str]:
        """Every image has the labels asked for."""
        return self._labels

    def token(self, index: int) -> str:
        """Returns city, sequence and frame, e.g. aachen_000000_000019, as the evaluators name images."""
        return self._images[index].name.removesuffix(_IMAGES[1])

    def _place(self, index: int, kind: str) -> Path:
        folder, ending = LABEL_PLACES[kind]
        return (
            self.root / folder / self.split / self._images[index].parent.name / f"{self.token(index)}{ending}"
        )

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, len(self))
        path = self._images[index]
        image = read_image(path)
        size = (image.shape[1], image.shape[0])
        resize = resize_of(size, self.frame_input.image)
        files = {CAMERA: str(path), **{task: str(self._place(index, task)) for task in sorted(self._labels)}}
        boxes, calibration = None, None
        if "mono_detection3d" in self._labels:
            boxes, calibration = self._boxes(self._place(index, "mono_detection3d"))
        if calibration is None and self._place(index, "camera").is_file():
            calibration = _camera_calibration(self._place(index, "camera"))
        intrinsics, camera_from_ego, _ = calibration or (None, None, 0.0)
        dense: dict[str, Any] = {}
        if "semantic_segmentation" in self._labels:
            label_path = self._place(index, "semantic_segmentation")
            ids = read_label_image(label_path, size)
            dense["semantic_segmentation"] = class_label(ids, self._table, label_path, resize)
        if "depth" in self._labels:
            depth_path = self._place(index, "depth")
            if calibration is None:
                raise DataError(self._place(index, "camera"), "calibration, which depth needs, is missing")
            dense["depth"] = self._depth(depth_path, size, calibration, resize)
        return Sample(
            provenance=Provenance(self.name, self.token(index), path.parent.name, files=files),
            cameras=single_view(image, resize, intrinsics, camera_from_ego),
            boxes=boxes,
            dense=DenseLabels(**dense, semantic_classes=self.class_names),
            labels_present=self._labels,
        )

    @staticmethod
    def _depth(
        path: Path,
        size: tuple[int, int],
        calibration: tuple[FloatArray, FloatArray, float],
        resize: ImageResize,
    ) -> DenseLabel:
        """Turns disparity d = (p - 1) / 256 pixels into depth = baseline * focal length / d; p = 0 is
        unknown.
        """
        stored = read_label_image(path, size)
        if stored.dtype != np.uint16 or stored.ndim != 2:
            raise DataError(path, f"disparity must be one channel of 16 bits, got {stored.dtype}")
        intrinsics, _, baseline = calibration
        disparity = (stored.astype(np.float32) - 1) / 256
        farthest = baseline * intrinsics[0, 0] / _FARTHEST_M
        known = (stored > 1) & (disparity >= farthest)
        depth = np.where(known, baseline * intrinsics[0, 0] / np.maximum(disparity, 1e-6), 0)
        return dense_label(depth.astype(np.float32), known, resize)

    def _boxes(self, path: Path) -> tuple[BoxLabels, tuple[FloatArray, FloatArray, float]]:
        content = read_json(path)
        try:
            sensor = content["sensor"]
            camera_from_ego = np.eye(4)
            camera_from_ego[:3] = np.array(sensor["sensor_T_ISO_8855"], dtype=np.float64).reshape(-1, 4)[:3]
            if not is_rigid(camera_from_ego):
                raise ValueError("sensor_T_ISO_8855 is no rigid transform")
            calibration = (
                _matrix(sensor),
                transform_of(_OPTICAL_FROM_ISO) @ camera_from_ego,
                float(sensor.get("baseline", 0.0)),
            )
            channel = {name: number for number, name in enumerate(self.box_classes)}
            chosen = [item for item in content["objects"] if item["label"] in channel]
            if not chosen:
                return BoxLabels.empty(self.box_classes), calibration
            spatial = [item["3d"] for item in chosen]
            rotation = np.stack([_rotation(item["rotation"]) for item in spatial])
            boxes_b9, pitch_roll = boxes_in_ego(
                np.eye(4),
                [item["center"] for item in spatial],
                [item["dimensions"] for item in spatial],
                rotation,
                np.full((len(chosen), 2), np.nan),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(path, f"no boxes of Cityscapes-3D: {type(error).__name__}: {error}") from error
        labels = np.array([channel[item["label"]] for item in chosen], dtype=np.int64)
        tokens = tuple(str(item.get("instanceId", "")) for item in chosen)
        unknown = np.full(len(chosen), -1, dtype=np.int64)
        return BoxLabels(boxes_b9, labels, unknown, self.box_classes, pitch_roll, tokens), calibration


def _rotation(quaternion_wxyz: Any) -> FloatArray:
    w, x, y, z = quaternion_wxyz
    return rotation_from_quaternion([x, y, z, w])


def _matrix(values: dict[str, Any]) -> FloatArray:
    fx, fy, u0, v0 = (float(values[key]) for key in ("fx", "fy", "u0", "v0"))
    return np.array([[fx, 0, u0], [0, fy, v0], [0, 0, 1.0]])


def _camera_calibration(path: Path) -> tuple[FloatArray, FloatArray, float]:
    """Reads intrinsics, camera from ego, and the stereo baseline in metres (csCalibration.pdf).

    Raises:
        DataError: The file is damaged.
    """
    content = read_json(path)
    try:
        extrinsic = content["extrinsic"]
        angles = [float(extrinsic[key]) for key in ("yaw", "pitch", "roll")]
        ego_from_iso_camera = transform_of(
            rotation_of([angles])[0], [float(extrinsic[key]) for key in ("x", "y", "z")]
        )
        camera_from_ego = transform_of(_OPTICAL_FROM_ISO) @ inverse(ego_from_iso_camera)
        return _matrix(content["intrinsic"]), camera_from_ego, float(extrinsic["baseline"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(path, f"no calibration of Cityscapes: {type(error).__name__}: {error}") from error
