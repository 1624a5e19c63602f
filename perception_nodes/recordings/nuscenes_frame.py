"""One annotated nuScenes frame (an mmdet3d info file as JSON beside its sensor files), shown over and over.

Facts of the info format (mmdet3d info version 1.1), checked against the data: `bbox_3d` is the box *centre*
in the LiDAR frame
(the points inside match `num_lidar_pts`); `lidar2cam` contains the vehicle's motion between the two
exposures, which is how
the vehicle's speed is found; velocities are in the LiDAR frame.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import compose, inverse, planar_motion, yaw_of
from perception_nodes.recordings.image_files import (
    ImageFileError,
    image_format,
    image_size,
)
from perception_nodes.recordings.interface import (
    CameraIntrinsics,
    RecordingError,
    StaticTransform,
)
from perception_nodes.recordings.items import (
    FaultItem,
    GroundTruthObject,
    ImageItem,
    Item,
    ObjectsItem,
    OdometryItem,
    PointsItem,
)
from perception_nodes.recordings.nuscenes_labels import camera_modality

FRAME_FILE = "frame.json"
POINT_FIELDS = ("x", "y", "z", "intensity", "ring")
OTHER_LABEL = "other"  # annotated objects outside the ten detection classes


@dataclass(frozen=True)
class _Camera:
    modality: str
    channel: str
    path: Path
    time_ns: int
    matrix_33: NDArray[np.float64]
    ego_from_camera: NDArray[np.float64]
    camera_from_lidar: NDArray[np.float64]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e6) * 1000  # nuScenes stamps are whole microseconds


class NuscenesFrameRecording:
    """The frame as an endless recording: the same sensor data at a fixed rate, with advancing times and true
    offsets between sensors.

    Odometry is the vehicle's true motion at the moment of the frame, continued along its arc.
    """

    kind = "nuscenes_frame"
    endless = True
    rig_name: str | None = "nuscenes"
    clock_offset_ns = 0
    end_fault: str | None = None

    def __init__(
        self, path: str | Path, rate_hz: float = 5.0, duration_s: float = 10.0, odometry_rate_hz: float = 25.0
    ) -> None:
        """Reads the annotation.

        Args:
            path: Folder with frame.json.
            rate_hz: How often the frame is shown.
            duration_s: Length of one pass.
            odometry_rate_hz: Rate of odometry.

        Raises:
            RecordingError: The folder or its frame.json cannot be read.
        """
        self.path = Path(path)
        self.name = self.path.resolve().name
        self.duration_s = duration_s
        self._period_ns = round(1e9 / rate_hz)
        self._odometry_period_ns = round(1e9 / odometry_rate_hz)
        try:
            content = json.loads((self.path / FRAME_FILE).read_text(encoding="utf-8"))
            self._read(content["metainfo"], content["data_list"][0])
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise RecordingError(
                f"{self.path / FRAME_FILE}: not a nuScenes frame (mmdet3d info as JSON): "
                f"{type(error).__name__}: {error}"
            ) from error
        self.sensor_frames = {"lidar": "LIDAR_TOP"} | {
            camera.modality: camera.channel for camera in self._cameras
        }
        self._speed, self._yaw_rate = self._estimate_motion()
        self.description = (
            f"one annotated nuScenes frame shown at {rate_hz:g} Hz: {len(self._cameras)} cameras, "
            f"{len(self._objects)} boxes; odometry "
            f"({self._speed:.1f} m/s) from the motion between the exposures"
        )

    def _read(self, metainfo: dict[str, Any], frame: dict[str, Any]) -> None:
        lidar = frame["lidar_points"]
        self._lidar_path = self.path / lidar["lidar_path"]
        self._point_columns = int(lidar["num_pts_feats"])
        if not 3 <= self._point_columns <= len(POINT_FIELDS):
            raise ValueError(f"points of {self._point_columns} columns; 3 to {len(POINT_FIELDS)} are known")
        self._ego_from_lidar = np.array(lidar["lidar2ego"], dtype=np.float64)
        self._world_from_ego = np.array(frame["ego2global"], dtype=np.float64)
        self._lidar_ns = _nanoseconds(frame["timestamp"])
        self._cameras = sorted(
            (
                _Camera(
                    camera_modality(channel),
                    channel,
                    self.path / image["img_path"],
                    _nanoseconds(image["timestamp"]),
                    np.array(image["cam2img"], dtype=np.float64)[:3, :3],
                    np.array(image["cam2ego"], dtype=np.float64),
                    np.array(image["lidar2cam"], dtype=np.float64),
                )
                for channel, image in frame["images"].items()
            ),
            key=lambda camera: camera.time_ns,
        )
        self.start_ns = min([self._lidar_ns, *(camera.time_ns for camera in self._cameras)])
        names = {number: name for name, number in metainfo["categories"].items()}
        self._objects = tuple(
            self._object(instance, names.get(instance["bbox_label_3d"], OTHER_LABEL))
            for instance in frame["instances"]
        )

    def _object(self, instance: dict[str, Any], label: str) -> GroundTruthObject:
        x, y, z, length, width, height, yaw = instance["bbox_3d"]
        centre = self._ego_from_lidar @ [x, y, z, 1.0]
        heading = self._ego_from_lidar[:3, :3] @ [np.cos(yaw), np.sin(yaw), 0.0]
        velocity = np.array([*instance.get("velocity", (np.nan, np.nan)), 0.0], dtype=np.float64)
        velocity = self._ego_from_lidar[:3, :3] @ velocity
        return GroundTruthObject(
            label,
            (
                *(float(value) for value in centre[:3]),
                length,
                width,
                height,
                float(np.arctan2(heading[1], heading[0])),
            ),  # type: ignore[arg-type]
            (float(velocity[0]), float(velocity[1])) if np.isfinite(velocity).all() else None,
            instance.get("num_lidar_pts"),
        )

    def _estimate_motion(self) -> tuple[float, float]:
        """Finds speed and yaw rate from `lidar2cam`, which was made through the ego poses of both exposures
        (least squares).
        """
        along = turned = squares = 0.0
        for camera in self._cameras:
            elapsed = (camera.time_ns - self._lidar_ns) * 1e-9
            # ego at the camera's exposure from ego at the LiDAR's
            later_from_ego = compose(
                camera.ego_from_camera, camera.camera_from_lidar, inverse(self._ego_from_lidar)
            )
            motion = inverse(later_from_ego)
            along += motion[0, 3] * elapsed
            turned += yaw_of(motion) * elapsed
            squares += elapsed * elapsed
        return (along / squares, turned / squares) if squares > 0 else (0.0, 0.0)

    # -- the recording ---------------------------------------------------------------------------------------

    def static_transforms(self) -> tuple[StaticTransform, ...]:
        """Returns ego to LiDAR and ego to each camera."""
        return (
            StaticTransform("", "LIDAR_TOP", self._ego_from_lidar),
            *(StaticTransform("", camera.channel, camera.ego_from_camera) for camera in self._cameras),
        )

    def camera_intrinsics(self) -> dict[str, CameraIntrinsics]:
        """Returns each camera's intrinsics; nuScenes images are rectified. Cameras whose image is unreadable
        are left out.
        """
        found = {}
        for camera in self._cameras:
            try:
                width, height = image_size(camera.path.read_bytes())
            except (OSError, ImageFileError):
                continue  # `messages` reports the file
            found[camera.modality] = CameraIntrinsics(camera.channel, width, height, camera.matrix_33)
        return found

    def messages(self, start_s: float = 0.0) -> Iterator[Item]:
        """Yields the frame again and again, without end."""
        sensors, faults = self._load()
        start_ns = self.start_ns + round(start_s * 1e9)
        yield from faults
        first = max(0, int((start_ns - self.start_ns) // self._period_ns))
        odometry = (self._odometry(self.start_ns + k * self._odometry_period_ns) for k in itertools.count())
        sensor_data = (
            type(item)(**{**vars(item), "time_ns": item.time_ns + shown * self._period_ns})  # type: ignore[arg-type]
            for shown in itertools.count(first)
            for item in sensors
        )
        for item in _merge_endless(odometry, sensor_data):
            if item.time_ns >= start_ns:
                yield item

    def _odometry(self, time_ns: int) -> OdometryItem:
        moved = planar_motion(self._speed, self._yaw_rate, (time_ns - self._lidar_ns) * 1e-9)
        return OdometryItem(
            time_ns, self._world_from_ego @ moved, np.array([self._speed, 0.0, 0.0]), self._yaw_rate
        )

    def _load(self) -> tuple[list[Item], list[FaultItem]]:
        items: list[Item] = []
        faults: list[FaultItem] = []
        try:
            values = np.fromfile(self._lidar_path, dtype=np.float32)
            points_nc = values[: values.size // self._point_columns * self._point_columns].reshape(
                -1, self._point_columns
            )
            items.append(PointsItem(self._lidar_ns, "lidar", points_nc, POINT_FIELDS[: self._point_columns]))
        except OSError as error:
            faults.append(FaultItem(self.start_ns, "unreadable lidar", f"{self._lidar_path}: {error}"))
        for camera in self._cameras:
            try:
                data = camera.path.read_bytes()
                items.append(ImageItem(camera.time_ns, camera.modality, data, image_format(data)))
            except (OSError, ImageFileError) as error:
                faults.append(
                    FaultItem(self.start_ns, f"unreadable {camera.modality}", f"{camera.path}: {error}")
                )
        items.append(ObjectsItem(self._lidar_ns, self._objects))
        return sorted(items, key=lambda item: item.time_ns), faults

    def close(self) -> None:
        """Does nothing."""


def _merge_endless(*streams: Iterator[Item]) -> Iterator[Item]:
    return iter(heapq.merge(*streams, key=lambda item: item.time_ns))
