"""The tables of a nuScenes-format data set as flat arrays: small, quick to load, safe to share between
workers.

The official devkit reads and joins the tables once (minutes for all of nuScenes); what samples need of them
is kept in one file of plain arrays beside no data of the user's. Poses are x y z qx qy qz qw; tokens and
paths are ASCII.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_core.atomic_write import write_atomically
from perception_core.geometry import FloatArray, transform_from_quaternion
from training.datasets.files import DataError

#: Raised whenever the arrays' meaning changes, so that an older cache is not taken for this one.
_FORMAT = 1

LIDAR_CHANNEL = "LIDAR_TOP"

TABLES: tuple[str, ...] = (
    *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample"),
    *("sample_annotation", "sample_data", "scene", "sensor", "visibility"),
)

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class NuScenesIndex:
    """What samples need of the tables. N scenes, S samples, L LiDAR sweeps, C camera channels, B annotations.

    Samples and sweeps are sorted by scene, then time. Where a camera gave no keyframe its path is empty.

    Attributes:
        fingerprint: Of the tables this was made from.
        channels: Names of the C camera channels.
        categories: Category names.
        scene_name, scene_location, scene_token: [N].
        scene_sample_start: [N + 1] first sample of each scene.
        scene_sweep_start: [N + 1] first sweep of each scene.
        sample_token: [S].
        sample_sweep: [S] the keyframe's own sweep.
        sample_annotation_start: [S + 1].
        sweep_path, sweep_token: [L] path relative to the data set; token of its sample_data.
        sweep_time_us: [L] microseconds.
        sweep_world_from_ego: [L, 7].
        sweep_ego_from_lidar: [L, 7].
        camera_path, camera_token: [S, C].
        camera_time_us: [S, C].
        camera_world_from_ego: [S, C, 7] at the image's time.
        camera_ego_from_camera: [S, C, 7].
        camera_intrinsics: [S, C, 3, 3].
        camera_size: [S, C, 2] width and height.
        annotation_token: [B].
        annotation_category: [B] index into `categories`.
        annotation_centre: [B, 3] world.
        annotation_size: [B, 3] length, width, height.
        annotation_rotation: [B, 4] world from box, x y z w.
        annotation_velocity: [B, 2] world; NaN where the devkit cannot estimate it.
        annotation_points: [B, 2] LiDAR and radar points inside.
        can_steering: [S] steering wheel angle in radians by the CAN bus, positive left; NaN where not
            recorded.
    """

    fingerprint: str
    channels: tuple[str, ...]
    categories: tuple[str, ...]
    scene_name: NDArray[np.bytes_]
    scene_location: NDArray[np.bytes_]
    scene_token: NDArray[np.bytes_]
    scene_sample_start: NDArray[np.int64]
    scene_sweep_start: NDArray[np.int64]
    sample_token: NDArray[np.bytes_]
    sample_sweep: NDArray[np.int64]
    sample_annotation_start: NDArray[np.int64]
    sweep_path: NDArray[np.bytes_]
    sweep_token: NDArray[np.bytes_]
    sweep_time_us: NDArray[np.int64]
    sweep_world_from_ego: FloatArray
    sweep_ego_from_lidar: FloatArray
    camera_path: NDArray[np.bytes_]
    camera_token: NDArray[np.bytes_]
    camera_time_us: NDArray[np.int64]
    camera_world_from_ego: FloatArray
    camera_ego_from_camera: FloatArray
    camera_intrinsics: FloatArray
    camera_size: NDArray[np.int64]
    annotation_token: NDArray[np.bytes_]
    annotation_category: NDArray[np.int64]
    annotation_centre: FloatArray
    annotation_size: FloatArray
    annotation_rotation: FloatArray
    annotation_velocity: FloatArray
    annotation_points: NDArray[np.int64]
    can_steering: FloatArray

    def scene_of(self, sample: int) -> int:
        """Returns the scene a sample belongs to."""
        return int(np.searchsorted(self.scene_sample_start, sample, side="right")) - 1

    def to_bytes(self) -> bytes:
        """Returns the index as an uncompressed .npz without pickled objects."""
        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in dataclasses.fields(self)}
        stream = io.BytesIO()
        np.savez(stream, format=np.array(_FORMAT), **arrays)
        return stream.getvalue()

    @classmethod
    def read(cls, path: Path) -> NuScenesIndex | None:
        """Reads a cached index; None where there is none of this format or it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                if int(stored["format"]) != _FORMAT:
                    return None
                values: dict[str, Any] = {f.name: stored[f.name] for f in dataclasses.fields(cls)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        values["fingerprint"] = str(values["fingerprint"])
        for name in ("channels", "categories"):
            values[name] = tuple(str(item) for item in values[name])
        return cls(**values)


def pose(row_7: NDArray[np.float64]) -> FloatArray:
    """Returns the 4x4 transform of a stored pose."""
    return transform_from_quaternion(row_7[:3], row_7[3:])


def table_folder(root: Path, version: str) -> Path:
    """Returns the folder of the tables.

    Raises:
        DataError: The folder or a table is missing or empty.
    """
    folder = root / version
    if not folder.is_dir():
        versions = sorted(path.name for path in root.glob("v1.0-*")) if root.is_dir() else []
        raise DataError(folder, f"no such folder of tables; there are: {', '.join(versions) or 'none'}")
    for table in TABLES:
        path = folder / f"{table}.json"
        if not path.is_file():
            raise DataError(
                path, "table is missing; nuScenes has 13, download or generate the data set again"
            )
        if path.stat().st_size == 0:
            raise DataError(path, "table is empty; download or generate the data set again")
    return folder


def tables_fingerprint(root: Path, version: str) -> str:
    """Returns a digest that changes when a table or the CAN bus folder is changed or replaced.

    Raises:
        DataError: A table is missing.
    """
    folder = table_folder(root, version)
    files = [folder / f"{table}.json" for table in TABLES]
    can_bus = root / "can_bus"
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    if can_bus.is_dir():
        facts.append((can_bus.name, 0, can_bus.stat().st_mtime_ns))
    return hashlib.sha256(json.dumps([_FORMAT, facts]).encode()).hexdigest()


def default_cache() -> Path:
    """Returns the folder of cached indices: MMMT_CACHE, else XDG_CACHE_HOME/mmmt, else ~/.cache/mmmt."""
    if os.environ.get("MMMT_CACHE"):
        return Path(os.environ["MMMT_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "mmmt"
    return Path.home() / ".cache" / "mmmt"


def open_index(
    root: Path, version: str, cache: Path | None = None, progress: Progress | None = None
) -> NuScenesIndex:
    """Returns the index of a data set, from the cache where the tables have not changed since.

    Any number of processes may do this at once.

    Args:
        root: Folder with samples/, sweeps/ and the tables' folder.
        version: Name of the tables' folder, e.g. v1.0-mini.
        cache: Folder of cached indices; None: `default_cache()`.
        progress: Told how many scenes are done while the index is made.

    Raises:
        DataError: Tables are missing, damaged or contradict each other.
    """
    fingerprint = tables_fingerprint(root, version)
    name = hashlib.sha256(f"{root.resolve()}\n{version}".encode()).hexdigest()[:24]
    path = (cache or default_cache()) / "nuscenes" / f"{name}.npz"
    index = NuScenesIndex.read(path)
    if index is not None and index.fingerprint == fingerprint:
        return index
    index = build_index(root, version, fingerprint, progress)
    # A cache that cannot be written costs time at the next start and nothing else.
    with contextlib.suppress(OSError):
        write_atomically(path, index.to_bytes())
    return index


def build_index(
    root: Path, version: str, fingerprint: str = "", progress: Progress | None = None
) -> NuScenesIndex:
    """Reads the tables with the devkit and makes the index.

    Raises:
        DataError: Tables are missing, damaged or contradict each other, a scene has no samples, or there are
            no scenes.
    """
    from nuscenes.nuscenes import NuScenes

    folder = table_folder(root, version)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            tables = NuScenes(version=version, dataroot=str(root), verbose=False)
    except (OSError, ValueError, KeyError, TypeError, AssertionError, IndexError) as error:
        raise DataError(folder, _explain(error)) from error
    try:
        return _IndexBuilder(tables, root).build(fingerprint, progress)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(folder, _explain(error)) from error


def _explain(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the tables contradict each other: nothing has the token or field {error}"
    return f"the tables cannot be read: {type(error).__name__}: {error}"


class _IndexBuilder:
    """Collects rows scene by scene."""

    def __init__(self, tables: Any, root: Path) -> None:
        self.tables, self.root = tables, root
        self.folder = root / tables.version
        self.channels = tuple(
            sorted({row["channel"] for row in tables.sensor if row["modality"] == "camera"})
        )
        self.categories = tuple(sorted({row["name"] for row in tables.category}))
        self.category_index = {name: index for index, name in enumerate(self.categories)}
        self.rows: dict[str, list[Any]] = {
            f.name: []
            for f in dataclasses.fields(NuScenesIndex)
            if f.name not in ("fingerprint", "channels", "categories")
        }
        self.sweep_of_token: dict[str, int] = {}
        self.sweeps_of_scene = self._sweeps_of_scene()
        self.can_bus = _can_bus(root)

    def build(self, fingerprint: str, progress: Progress | None) -> NuScenesIndex:
        """Returns the index of all scenes."""
        scenes = sorted(self.tables.scene, key=lambda row: str(row["name"]))
        if not scenes:
            raise DataError(self.folder / "scene.json", "holds no scene")
        for done, scene in enumerate(scenes):
            self._add_scene(scene)
            if progress is not None:
                progress(done + 1, len(scenes))
        for name, count in (
            ("scene_sample_start", len(self.rows["sample_token"])),
            ("scene_sweep_start", len(self.rows["sweep_token"])),
            ("sample_annotation_start", len(self.rows["annotation_token"])),
        ):
            self.rows[name].append(count)
        shapes = {
            **dict.fromkeys(("sweep_world_from_ego", "sweep_ego_from_lidar"), (-1, 7)),
            **{
                name: (-1, len(self.channels), 7)
                for name in ("camera_world_from_ego", "camera_ego_from_camera")
            },
            "camera_intrinsics": (-1, len(self.channels), 3, 3),
            "camera_size": (-1, len(self.channels), 2),
            **{name: (-1, len(self.channels)) for name in ("camera_path", "camera_token", "camera_time_us")},
            **dict.fromkeys(("annotation_centre", "annotation_size"), (-1, 3)),
            "annotation_rotation": (-1, 4),
            **dict.fromkeys(("annotation_velocity", "annotation_points"), (-1, 2)),
        }
        arrays: dict[str, Any] = {
            name: np.array(rows, dtype=_dtype(name)).reshape(shapes.get(name, (-1,)))
            for name, rows in self.rows.items()
        }
        return NuScenesIndex(fingerprint, self.channels, self.categories, **arrays)

    def _sweeps_of_scene(self) -> dict[str, list[dict[str, Any]]]:
        scene_of_sample = {row["token"]: row["scene_token"] for row in self.tables.sample}
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.tables.sample_data:
            if row["channel"] == LIDAR_CHANNEL:
                found.setdefault(scene_of_sample[row["sample_token"]], []).append(row)
        return found

    def _add_scene(self, scene: dict[str, Any]) -> None:
        name = str(scene["name"])
        samples = self._samples_of(scene)
        sweeps = sorted(self.sweeps_of_scene.get(scene["token"], []), key=lambda row: int(row["timestamp"]))
        rows = self.rows
        rows["scene_name"].append(name)
        rows["scene_token"].append(scene["token"])
        rows["scene_location"].append(self.tables.get("log", scene["log_token"])["location"])
        rows["scene_sample_start"].append(len(rows["sample_token"]))
        rows["scene_sweep_start"].append(len(rows["sweep_token"]))
        for sweep in sweeps:
            self.sweep_of_token[sweep["token"]] = len(rows["sweep_token"])
            rows["sweep_token"].append(sweep["token"])
            rows["sweep_path"].append(sweep["filename"])
            rows["sweep_time_us"].append(int(sweep["timestamp"]))
            rows["sweep_world_from_ego"].append(
                _pose_row(self.tables.get("ego_pose", sweep["ego_pose_token"]))
            )
            calibration = self.tables.get("calibrated_sensor", sweep["calibrated_sensor_token"])
            rows["sweep_ego_from_lidar"].append(_pose_row(calibration))
        for sample in samples:
            self._add_sample(sample, name)
        rows["can_steering"] += self._can_steering(name, samples)

    def _samples_of(self, scene: dict[str, Any]) -> list[dict[str, Any]]:
        """Follows the chain of a scene's samples."""
        samples: list[dict[str, Any]] = []
        token = scene["first_sample_token"]
        while token:
            sample = self.tables.get("sample", token)
            samples.append(sample)
            token = sample["next"]
            if len(samples) > len(self.tables.sample):
                raise DataError(self.folder / "sample.json", f"samples of {scene['name']} follow in a circle")
        if not samples:
            raise DataError(
                self.folder / "scene.json",
                f"scene '{scene['name']}' has no samples; remove it or generate it again",
            )
        return samples

    def _add_sample(self, sample: dict[str, Any], scene: str) -> None:
        rows, tables = self.rows, self.tables
        if LIDAR_CHANNEL not in sample["data"]:
            raise DataError(
                self.folder / "sample_data.json",
                f"sample {sample['token']} of {scene} has no {LIDAR_CHANNEL}",
            )
        rows["sample_token"].append(sample["token"])
        rows["sample_sweep"].append(self.sweep_of_token[sample["data"][LIDAR_CHANNEL]])
        rows["sample_annotation_start"].append(len(rows["annotation_token"]))
        for channel in self.channels:
            token = sample["data"].get(channel)
            data = tables.get("sample_data", token) if token else None
            calibration = tables.get("calibrated_sensor", data["calibrated_sensor_token"]) if data else None
            rows["camera_path"].append(data["filename"] if data else "")
            rows["camera_token"].append(token or "")
            rows["camera_time_us"].append(int(data["timestamp"]) if data else 0)
            rows["camera_size"].append((data["width"], data["height"]) if data else (0, 0))
            rows["camera_intrinsics"].append(calibration["camera_intrinsic"] if calibration else np.eye(3))
            identity = {"translation": (0, 0, 0), "rotation": (1, 0, 0, 0)}
            rows["camera_ego_from_camera"].append(_pose_row(calibration or identity))
            ego_pose = tables.get("ego_pose", data["ego_pose_token"]) if data else identity
            rows["camera_world_from_ego"].append(_pose_row(ego_pose))
        for token in sample["anns"]:
            annotation = tables.get("sample_annotation", token)
            width, length, height = annotation["size"]  # nuScenes' order
            rows["annotation_token"].append(token)
            rows["annotation_category"].append(self.category_index[annotation["category_name"]])
            rows["annotation_centre"].append(annotation["translation"])
            rows["annotation_size"].append((length, width, height))
            rows["annotation_rotation"].append(_xyzw(annotation["rotation"]))
            rows["annotation_velocity"].append(tables.box_velocity(token)[:2])
            rows["annotation_points"].append((annotation["num_lidar_pts"], annotation["num_radar_pts"]))

    def _can_steering(self, scene: str, samples: Sequence[dict[str, Any]]) -> list[float]:
        """Interpolates the steering wheel's angle at each sample; NaN where the CAN bus has none near it."""
        unknown = [float("nan")] * len(samples)
        if self.can_bus is None or not (self.root / "can_bus" / f"{scene}_steeranglefeedback.json").is_file():
            return unknown
        if int(scene[-4:]) in self.can_bus.can_blacklist:
            return unknown
        messages = self.can_bus.get_messages(scene, "steeranglefeedback")
        if len(messages) < 2:
            return unknown
        times = np.array([message["utime"] for message in messages], dtype=np.float64)
        angles = np.array([message["value"] for message in messages], dtype=np.float64)
        stamps = np.array([sample["timestamp"] for sample in samples], dtype=np.float64)
        found = np.interp(stamps, times, angles)
        nearest = np.abs(times[None] - stamps[:, None]).min(axis=1)
        found[nearest > _CAN_GAP_US] = np.nan
        return [float(value) for value in found]


#: A sample further than this from any CAN bus message has no steering angle; the bus sends at 100 Hz.
_CAN_GAP_US = 200_000


def _can_bus(root: Path) -> Any:
    if not (root / "can_bus").is_dir():
        return None
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus

    return NuScenesCanBus(dataroot=str(root))


def _xyzw(rotation_wxyz: Sequence[float]) -> tuple[float, float, float, float]:
    w, x, y, z = rotation_wxyz  # nuScenes writes w first
    return x, y, z, w


def _pose_row(row: dict[str, Any]) -> list[float]:
    return [*row["translation"], *_xyzw(row["rotation"])]


def _dtype(name: str) -> type:
    if name.endswith(("_token", "_path", "_name", "_location")):
        return np.bytes_
    if name.endswith(("_start", "_sweep", "_us", "_category", "_points")) or name == "camera_size":
        return np.int64
    return np.float64
