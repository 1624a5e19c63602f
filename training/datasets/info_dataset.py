"""Any data set through mmdet3d's info file, and the annotated nuScenes frame (`frame.json`, the same as
JSON).

What was found in such files, checked against their data (mmdet3d's documentation leaves it open): `bbox_3d`
is the box's centre, size (l w h) and yaw in the LiDAR frame; `velocity` is over ground along the LiDAR's
axes; `lidar2cam` contains the vehicle's motion between the two exposures; `lidar2sensor` of an earlier sweep
maps the frame's LiDAR to that sweep's, motion included.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perception_core.geometry import FloatArray, compose, inverse, is_rigid, rotation_about_z, yaw_of
from perception_core.labels import NUSCENES_DETECTION_CLASSES
from training.datasets.box_frames import boxes_in_ego
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError, read_points
from training.datasets.frame_input import (
    DEFAULT_INPUT,
    FrameInput,
    Sweep,
    View,
    merge_sweeps,
    read_views,
    shipped_rig,
)
from training.datasets.info_file import read_info_file
from training.datasets.sample import BoxLabels, Provenance, Sample

FRAME_FILE = "frame.json"

#: Column of the laser's number in nuScenes sweeps.
_RING_COLUMN = 4


def camera_name(channel: str) -> str:
    """Returns the modality of a nuScenes channel: CAM_FRONT_LEFT becomes camera_front_left."""
    return "camera_" + channel.removeprefix("CAM_").lower()


class InfoDataset(SampleDataset):
    """The frames of an info file, with boxes as labels."""

    name = "info"

    def __init__(
        self,
        info: str | Path,
        root: str | Path | None = None,
        frame_input: FrameInput = DEFAULT_INPUT,
        classes: tuple[str, ...] = NUSCENES_DETECTION_CLASSES,
        rig: str = "nuscenes",
        image_size: tuple[int, int] | None = (1600, 900),
    ) -> None:
        """Reads the info file.

        Args:
            info: The .pkl or .json file, or a folder with `frame.json`.
            root: Folder of the sensor files; default: the info file's. A name in the info is looked for there
                and in mmdet3d's places (`samples/<channel>/`, `sweeps/<channel>/`).
            frame_input: What the network takes.
            classes: Class names in the order of the network's channels; others are left out.
            rig: Rig of hw_configs/rigs: order of the cameras, intensity scale, minimal range.
            image_size: Width and height the images must have, so that intrinsics fit; None: any. An info file
                does not tell. Known sizes are decoded faster.

        Raises:
            DataError: The file cannot be read or is no info file.
        """
        path = Path(info)
        self.path = path / FRAME_FILE if path.is_dir() else path
        self.root = self.path.parent if root is None else Path(root)
        self.frame_input = frame_input
        self.classes = classes
        self._rig, self._image_size = shipped_rig(rig), image_size
        content = read_info_file(self.path)
        self._frames: list[dict[str, Any]] = content["data_list"]
        categories = content["metainfo"].get("categories", {})
        if not isinstance(categories, Mapping):
            raise DataError(self.path, "metainfo.categories must map class names to numbers")
        self._class_of_number = {int(number): str(name) for name, number in categories.items()}
        if not self._frames:
            raise DataError(self.path, "holds no frame")

    def __len__(self) -> int:
        return len(self._frames)

    def labels_of(self, index: int) -> frozenset[str]:
        """Frames with `instances` have boxes; an info file of a test split has none."""
        return frozenset({"detection3d"}) if "instances" in self._frames[index] else frozenset()

    def token(self, index: int) -> str:
        """Returns the sample token, or the index in files without."""
        frame = self._frames[index]
        return str(frame.get("token", frame.get("sample_idx", index)))

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, len(self))
        try:
            return self._read(self._frames[index], index)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                self.path, f"frame {index} ({self.token(index)}): {type(error).__name__}: {error}"
            ) from error

    def _read(self, frame: dict[str, Any], index: int) -> Sample:
        ego_from_lidar = _rigid(frame["lidar_points"]["lidar2ego"], "lidar2ego")
        images = {camera_name(channel): (channel, image) for channel, image in frame["images"].items()}
        files: dict[str, str] = {}
        cameras = None
        if self.frame_input.cameras and images:
            cameras = read_views(
                [
                    self._view(name, *images[name], ego_from_lidar) if name in images else name
                    for name in self._rig.cameras
                ],
                self.frame_input.image,
            )
        points_nc = self._points(frame, ego_from_lidar, files)
        for name, (channel, image) in images.items():
            files[name] = str(self._find(image["img_path"], channel))
        return Sample(
            provenance=Provenance(
                self.name, self.token(index), "", round(float(frame["timestamp"]) * 1e6) * 1000, files
            ),
            cameras=cameras,
            points_nc=points_nc,
            lidar_valid=True,
            ego_motion_c=_motion(frame, ego_from_lidar),
            world_from_ego_44=np.array(frame["ego2global"], dtype=np.float64),
            ego_from_lidar_44=ego_from_lidar,
            boxes=self._boxes(frame, ego_from_lidar) if "instances" in frame else None,
            labels_present=self.labels_of(index),
        )

    def _find(self, name: str, channel: str) -> Path:
        places = [self.root / name, *(self.root / kind / channel / name for kind in ("samples", "sweeps"))]
        return next((place for place in places if place.is_file()), places[0])

    def _view(self, name: str, channel: str, image: dict[str, Any], ego_from_lidar: FloatArray) -> View:
        camera_from_lidar = _rigid(image["lidar2cam"], f"lidar2cam of {channel}")
        return View(
            name,
            self._find(image["img_path"], channel),
            np.array(image["cam2img"], dtype=np.float64)[:3, :3],
            compose(camera_from_lidar, inverse(ego_from_lidar)),
            self._image_size,
        )

    def _points(
        self, frame: dict[str, Any], ego_from_lidar: FloatArray, files: dict[str, str]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        lidar = frame["lidar_points"]
        columns = int(lidar.get("num_pts_feats", 5))
        path = self._find(lidar["lidar_path"], "LIDAR_TOP")
        files["lidar"] = str(path)
        sweeps = [self._sweep(path, columns, ego_from_lidar, np.eye(4), 0.0)]
        stamp_s = float(frame["timestamp"])
        for earlier in (frame.get("lidar_sweeps") or [])[: self.frame_input.sweeps - 1]:
            points = earlier["lidar_points"]
            frame_from_sweep_lidar = inverse(_rigid(points["lidar2sensor"], "lidar2sensor"))
            sweeps.append(
                self._sweep(
                    self._find(points["lidar_path"], "LIDAR_TOP"),
                    columns,
                    frame_from_sweep_lidar,
                    ego_from_lidar,
                    float(earlier["timestamp"]) - stamp_s,
                )
            )
        settings = self._rig.lidar
        assert settings is not None
        return merge_sweeps(
            sweeps,
            min_range_m=settings.min_range_m,
            intensity_scale=settings.intensity_scale,
            max_points=self.frame_input.max_points,
        )

    @staticmethod
    def _sweep(path: Path, columns: int, inner: FloatArray, outer: FloatArray, time_s: float) -> Sweep:
        ring = _RING_COLUMN if columns > _RING_COLUMN else None
        return Sweep(read_points(path, columns, ring_column=ring), inner, outer, time_s)

    def _boxes(self, frame: dict[str, Any], ego_from_lidar: FloatArray) -> BoxLabels:
        channel = {name: index for index, name in enumerate(self.classes)}
        chosen = [
            (channel[name], instance)
            for instance in frame["instances"]
            if (name := self._class_of_number.get(int(instance["bbox_label_3d"]), "")) in channel
        ]
        if not chosen:
            return BoxLabels.empty(self.classes)
        box = np.array([instance["bbox_3d"][:7] for _, instance in chosen], dtype=np.float64)
        velocity = np.array(
            [instance.get("velocity", (np.nan, np.nan)) for _, instance in chosen], dtype=np.float64
        )
        rotation = np.stack([rotation_about_z(yaw) for yaw in box[:, 6]])
        boxes_b9, pitch_roll = boxes_in_ego(ego_from_lidar, box[:, :3], box[:, 3:6], rotation, velocity)
        return BoxLabels(
            boxes_b9,
            np.array([label for label, _ in chosen], dtype=np.int64),
            np.array([instance.get("num_lidar_pts", -1) for _, instance in chosen], dtype=np.int64),
            self.classes,
            pitch_roll,
        )


def _rigid(values: Any, what: str) -> FloatArray:
    transform = np.array(values, dtype=np.float64)
    if not is_rigid(transform):
        raise ValueError(f"{what} is no rigid 4x4 transform")
    return transform


def _motion(frame: dict[str, Any], ego_from_lidar: FloatArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Finds speed and yaw rate from the vehicle's motion between the exposures that `lidar2cam` contains.

    Least squares over the cameras; (0, 0, 0), which says not known, where all exposures were at once.
    """
    along = turned = squares = 0.0
    for image in frame["images"].values():
        elapsed_s = float(image["timestamp"]) - float(frame["timestamp"])
        later_from_ego = compose(image["cam2ego"], image["lidar2cam"], inverse(ego_from_lidar))
        motion = inverse(later_from_ego)
        along += motion[0, 3] * elapsed_s
        turned += yaw_of(motion) * elapsed_s
        squares += elapsed_s * elapsed_s
    if squares < 1e-6:
        return np.zeros(3, dtype=np.float32)
    return np.array([along / squares, turned / squares, 1.0], dtype=np.float32)
