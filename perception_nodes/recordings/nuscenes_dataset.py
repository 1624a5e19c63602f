"""A nuScenes-format data set folder, read through its own JSON tables (schema:
nuscenes.org/nuscenes#data-format).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import (
    inverse,
    transform_from_quaternion,
    wrap_angle,
    yaw_of,
)
from perception_nodes.recordings.image_files import ImageFileError, image_format
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
from perception_nodes.recordings.nuscenes_labels import DETECTION_CLASSES, camera_modality, detection_class

LIDAR_CHANNEL = "LIDAR_TOP"
#: Of the data set's own cameras, and what their rig expects.
NUSCENES_IMAGE_SIZE = (1600, 900)
POINT_FIELDS = ("x", "y", "z", "intensity", "ring")

_Row = dict[str, Any]


def find_tables(path: Path) -> Path | None:
    """Returns the folder with the JSON tables (`path` itself or its first v1.0-* folder), None where there is
    none.
    """
    for folder in (path, *sorted(path.glob("v1.0-*"))):
        if (folder / "scene.json").is_file() and (folder / "sample_data.json").is_file():
            return folder
    return None


def _pose(row: _Row) -> NDArray[np.float64]:
    w, x, y, z = row["rotation"]  # nuScenes writes w first
    return transform_from_quaternion(row["translation"], (x, y, z, w))


def _nanoseconds(row: _Row) -> int:
    return int(row["timestamp"]) * 1000


class NuscenesDatasetRecording:
    """One scene of a nuScenes-format data set: sweeps, camera images, odometry from the ego poses,
    annotations at key frames.
    """

    kind = "nuscenes"
    endless = False
    clock_offset_ns = 0
    end_fault: str | None = None

    def __init__(self, path: str | Path, scene: str = "") -> None:
        """Reads the tables of one scene.

        Args:
            path: Folder with samples/, sweeps/ and the tables' folder, or the tables' folder itself.
            scene: Scene name or index; empty: the first.

        Raises:
            RecordingError: A table is missing or damaged or there is no such scene.
        """
        self.path = Path(path)
        tables = find_tables(self.path)
        if tables is None:
            raise RecordingError(f"{self.path}: no v1.0-*/scene.json with sample_data.json beside it")
        self._root = tables.parent if (tables.parent / "samples").is_dir() else self.path
        try:
            self._read(tables, scene)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordingError(
                f"{tables}: tables cannot be read: {type(error).__name__}: {error}"
            ) from error
        # Generated worlds come in other sizes, which the nuScenes vehicle's rig would refuse.
        camera_sizes = {size for name, size in self._sizes.items() if name != LIDAR_CHANNEL}
        self.rig_name: str | None = "nuscenes" if camera_sizes <= {NUSCENES_IMAGE_SIZE} else "synthetic"
        self.description = (
            f"nuScenes scene '{self.name}': {len(self.sensor_frames)} sensors, {self.duration_s:.1f} s; "
            "odometry from the ego poses"
        )

    # -- tables ----------------------------------------------------------------------------------------------

    def _read(self, tables: Path, scene: str) -> None:
        def table(name: str) -> list[_Row]:
            rows: list[_Row] = json.loads((tables / f"{name}.json").read_text(encoding="utf-8"))
            return rows

        chosen = self._choose_scene(table("scene"), scene)
        self.name = str(chosen["name"])
        samples = {row["token"]: row for row in table("sample") if row["scene_token"] == chosen["token"]}
        sensors = {row["token"]: row for row in table("sensor")}
        calibrations = {row["token"]: row for row in table("calibrated_sensor")}

        def channel(row: _Row) -> str:
            return str(sensors[calibrations[row["calibrated_sensor_token"]]["sensor_token"]]["channel"])

        used = [
            (channel(row), row)
            for row in table("sample_data")
            if row["sample_token"] in samples
            and sensors[calibrations[row["calibrated_sensor_token"]]["sensor_token"]]["modality"]
            in ("lidar", "camera")
        ]
        # only LIDAR_TOP and the cameras are modalities of the rig
        self._data = sorted(
            (item for item in used if item[0] == LIDAR_CHANNEL or item[0].startswith("CAM_")),
            key=lambda item: int(item[1]["timestamp"]),
        )
        if not self._data:
            raise RecordingError(f"{tables}: scene '{self.name}' has no LiDAR or camera data")
        self._calibrations = {name: calibrations[row["calibrated_sensor_token"]] for name, row in self._data}
        self._sizes = {name: (int(row["width"] or 0), int(row["height"] or 0)) for name, row in self._data}
        self.sensor_frames = {
            "lidar" if name == LIDAR_CHANNEL else camera_modality(name): name
            for name in sorted(self._calibrations)
        }
        wanted_poses = {row["ego_pose_token"] for _, row in self._data}
        poses = {row["token"]: row for row in table("ego_pose") if row["token"] in wanted_poses}
        self._odometry = self._make_odometry(poses)
        self._objects = self._make_objects(table, samples, poses)
        self.start_ns = _nanoseconds(self._data[0][1])
        end_ns = _nanoseconds(self._data[-1][1])
        slowest = min(sum(1 for name, _ in self._data if name == other) for other in self._calibrations)
        length_s = (end_ns - self.start_ns) * 1e-9
        self.duration_s = length_s + (length_s / (slowest - 1) if slowest > 1 else 0.5)

    @staticmethod
    def _choose_scene(scenes: list[_Row], wanted: str) -> _Row:
        if not scenes:
            raise RecordingError("scene.json lists no scenes")
        if not wanted:
            return scenes[0]
        for index, row in enumerate(scenes):
            if wanted in (row["name"], row["token"], str(index)):
                return row
        raise RecordingError(
            f"no scene '{wanted}'; there are: {', '.join(str(row['name']) for row in scenes)}"
        )

    def _make_odometry(self, poses: dict[str, _Row]) -> list[OdometryItem]:
        """Velocity and yaw rate by central differences of the ego poses belonging to the LiDAR (all sensors
        where there is none).
        """
        rows = [row for name, row in self._data if name == LIDAR_CHANNEL] or [row for _, row in self._data]
        by_time = {
            _nanoseconds(poses[row["ego_pose_token"]]): _pose(poses[row["ego_pose_token"]]) for row in rows
        }
        times = sorted(by_time)
        items = []
        for index, time_ns in enumerate(times):
            before, after = times[max(index - 1, 0)], times[min(index + 1, len(times) - 1)]
            velocity, yaw_rate = np.zeros(3), 0.0
            if after > before:
                elapsed = (after - before) * 1e-9
                moved = (by_time[after][:3, 3] - by_time[before][:3, 3]) / elapsed
                velocity = by_time[time_ns][:3, :3].T @ moved
                yaw_rate = float(wrap_angle(yaw_of(by_time[after]) - yaw_of(by_time[before]))) / elapsed
            items.append(OdometryItem(time_ns, by_time[time_ns], velocity, yaw_rate))
        return items

    def _make_objects(
        self, table: Any, samples: dict[str, _Row], poses: dict[str, _Row]
    ) -> list[ObjectsItem]:
        categories = {row["token"]: row["name"] for row in table("category")}
        instances = {row["token"]: categories[row["category_token"]] for row in table("instance")}
        world_annotations: dict[str, list[tuple[str, _Row]]] = {token: [] for token in samples}
        by_token: dict[str, _Row] = {}
        for row in table("sample_annotation"):
            if row["sample_token"] in samples:
                by_token[row["token"]] = row
                # data sets in the nuScenes format may name detection classes directly
                category = instances[row["instance_token"]]
                label = detection_class(category) or (category if category in DETECTION_CLASSES else None)
                if label is not None:
                    world_annotations[row["sample_token"]].append((label, row))
        key_frames = {
            row["sample_token"]: row
            for name, row in self._data
            if row["is_key_frame"] and name == LIDAR_CHANNEL
        } or {row["sample_token"]: row for _, row in self._data if row["is_key_frame"]}
        items = []
        for sample_token, row in key_frames.items():
            ego_from_world = inverse(_pose(poses[row["ego_pose_token"]]))
            objects = tuple(
                self._object(label, annotation, ego_from_world, by_token, samples)
                for label, annotation in world_annotations[sample_token]
            )
            items.append(ObjectsItem(_nanoseconds(row), objects))
        return sorted(items, key=lambda item: item.time_ns)

    @staticmethod
    def _object(
        label: str,
        annotation: _Row,
        ego_from_world: NDArray[np.float64],
        by_token: dict[str, _Row],
        samples: dict[str, _Row],
    ) -> GroundTruthObject:
        pose = ego_from_world @ _pose(annotation)
        width, length, height = annotation["size"]
        before = by_token.get(annotation.get("prev") or "", annotation)
        after = by_token.get(annotation.get("next") or "", annotation)
        elapsed = (
            _nanoseconds(samples[after["sample_token"]]) - _nanoseconds(samples[before["sample_token"]])
        ) * 1e-9
        velocity = None
        if elapsed > 0:
            moved = (
                ego_from_world[:3, :3]
                @ (np.array(after["translation"]) - np.array(before["translation"]))
                / elapsed
            )
            velocity = (float(moved[0]), float(moved[1]))
        x, y, z = (float(value) for value in pose[:3, 3])
        points = annotation.get("num_lidar_pts")
        return GroundTruthObject(
            label, (x, y, z, float(length), float(width), float(height), yaw_of(pose)), velocity, points
        )

    # -- the recording ---------------------------------------------------------------------------------------

    def static_transforms(self) -> tuple[StaticTransform, ...]:
        """Returns ego to every sensor, from `calibrated_sensor`."""
        return tuple(StaticTransform("", name, _pose(row)) for name, row in self._calibrations.items())

    def camera_intrinsics(self) -> dict[str, CameraIntrinsics]:
        """Returns the cameras' intrinsics; nuScenes images are rectified."""
        return {
            camera_modality(name): CameraIntrinsics(
                name, *self._sizes[name], np.array(row["camera_intrinsic"], dtype=np.float64)
            )
            for name, row in self._calibrations.items()
            if name != LIDAR_CHANNEL
        }

    def messages(self, start_s: float = 0.0) -> Iterator[Item]:
        """Yields sensor data, odometry and annotations in order of time."""
        start_ns = self.start_ns + round(start_s * 1e9)
        sensors = (self._sensor_item(name, row) for name, row in self._data if _nanoseconds(row) >= start_ns)
        unsorted: list[OdometryItem | ObjectsItem] = [*self._odometry, *self._objects]
        others: Iterator[Item] = iter(sorted(unsorted, key=lambda item: item.time_ns))
        yield from heapq.merge(
            sensors, (item for item in others if item.time_ns >= start_ns), key=lambda item: item.time_ns
        )

    def _sensor_item(self, channel: str, row: _Row) -> Item:
        time_ns, file = _nanoseconds(row), self._root / row["filename"]
        modality = "lidar" if channel == LIDAR_CHANNEL else camera_modality(channel)
        try:
            if modality == "lidar":
                values = np.fromfile(file, dtype=np.float32)
                if values.size % len(POINT_FIELDS):
                    raise ValueError(f"{values.nbytes} bytes are no whole number of points; cut off?")
                return PointsItem(time_ns, modality, values.reshape(-1, len(POINT_FIELDS)), POINT_FIELDS)
            data = file.read_bytes()
            return ImageItem(time_ns, modality, data, image_format(data))
        except (OSError, ValueError, ImageFileError) as error:
            return FaultItem(time_ns, f"unreadable {modality}", f"{file}: {error}")

    def close(self) -> None:
        """Does nothing."""
