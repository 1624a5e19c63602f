"""One scene: its sensor files, and its rows of the tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import inverse, points_in_box, quaternion_from_rotation, transform_points
from training.synth.camera import Camera, nuscenes_like_cameras
from training.synth.nuscenes.can_bus import write_can_bus
from training.synth.nuscenes.plan import PlannedScene
from training.synth.nuscenes.vocabulary import (
    CAMERA_CHANNELS,
    LIDAR_CHANNEL,
    Record,
    token,
    visibility_token,
)
from training.synth.world.presets import Scale
from training.synth.world.sweeps import CAMERA_SHARES
from training.synth.world.world import Moment, World

FloatArray = NDArray[np.float64]

KEYFRAME_HZ, SWEEP_HZ = 2, 20
_SWEEPS_PER_KEYFRAME = SWEEP_HZ // KEYFRAME_HZ
#: The first keyframe's stamp after the drive's beginning.
_FIRST_KEYFRAME_S = 0.1
#: Boxes farther away are not annotated, whatever the LiDAR hits.
_ANNOTATED_RANGE_M = 80.0
#: Any fixed time will do; scenes are ten minutes apart.
_EPOCH_US, _BETWEEN_SCENES_US = 1_533_000_000_000_000, 600_000_000
_JPEG_QUALITY = 90
_DECIMALS = 6


def seconds_of(scale: Scale) -> float:
    """Returns how long a scene's drive is."""
    return _FIRST_KEYFRAME_S + (scale.keyframes - 1) / KEYFRAME_HZ


@dataclass
class _Box:
    """An annotated box of one keyframe."""

    instance: int
    translation: list[float]
    size: list[float]
    rotation: list[float]
    attribute: str | None
    visibility: str
    points: int


@dataclass
class _Track:
    """Sample data of one channel, in order of time."""

    records: list[Record] = field(default_factory=list)


class SceneWriter:
    """Renders a scene and writes it."""

    def __init__(
        self, folder: Path, plan: PlannedScene, world: World, scale: Scale, seed: int, camera_frames: int = 0
    ) -> None:
        """Prepares sensors and names.

        Args:
            folder: Receives samples, sweeps and can_bus.
            plan: Name and place.
            world: What is recorded.
            scale: How much.
            seed: Of the data set; part of all tokens.
            camera_frames: Pictures of each camera between two keyframes, 0, 1, 4 or 9.
        """
        self._folder, self._plan, self._world, self._scale = folder, plan, world, scale
        if _SWEEPS_PER_KEYFRAME % (camera_frames + 1):
            raise ValueError(f"{camera_frames} camera frames do not divide ten sweeps evenly")
        self._camera_every = _SWEEPS_PER_KEYFRAME // (camera_frames + 1)
        self._camera_frames = camera_frames
        self._cameras = nuscenes_like_cameras(scale.image_width, scale.image_height)
        self._lidar = world.lidar(scale.lidar_columns)
        self._begin_us = _EPOCH_US + plan.index * _BETWEEN_SCENES_US
        self._key = ("synth", seed, world.preset.name, scale.name, plan.name)
        self._log = (
            f"n{8 + plan.index % 8:03d}-2018-07-31-{plan.index // 60 % 24:02d}-{plan.index % 60:02d}-00+0000"
        )
        self._tracks: dict[str, _Track] = {}
        self._poses: list[Record] = []
        for channel in (LIDAR_CHANNEL, *CAMERA_CHANNELS.values()):
            (folder / "samples" / channel).mkdir(parents=True, exist_ok=True)
            (folder / "sweeps" / channel).mkdir(parents=True, exist_ok=True)
            self._tracks[channel] = _Track()

    def write(self, progress: Callable[[], None] | None = None) -> dict[str, list[Record]]:
        """Writes all files.

        Args:
            progress: Called after each keyframe.

        Returns:
            The scene's rows of log, scene, sample, sample_data, ego_pose, calibrated_sensor, instance and
            sample_annotation.
        """
        boxes = []
        for number in range(self._scale.keyframes):
            if number > 0:
                for step in range(1, _SWEEPS_PER_KEYFRAME):
                    self._between(number, step)
            boxes.append(self._keyframe(number))
            if progress is not None:
                progress()
        write_can_bus(
            self._folder / "can_bus",
            self._plan.name,
            self._world,
            self._plan.origin,
            self._begin_us,
            seconds_of(self._scale),
        )
        return self._tables(boxes)

    # -- sensor data -----------------------------------------------------------------------------------------

    def _time(self, number: int, step: int = 0) -> float:
        """Returns the time of keyframe `number`, or of the sweep `step` after the keyframe before it."""
        if step:
            number -= 1
        return _FIRST_KEYFRAME_S + number / KEYFRAME_HZ + step / SWEEP_HZ

    def _stamp(self, time_s: float) -> int:
        return self._begin_us + round(time_s * 1e6)

    def _between(self, number: int, step: int) -> None:
        time = self._time(number, step)
        with_pictures = step % self._camera_every == 0
        moments = self._world.slices(time, fine=with_pictures)
        self._write_sweep(number, time, moments, key=False)
        if with_pictures:
            self._write_pictures(number, time, moments, key=False)

    def _keyframe(self, number: int) -> list[_Box]:
        time = self._time(number)
        moments = self._world.slices(time)
        points = self._write_sweep(number, time, moments, key=True)
        self._write_pictures(number, time, moments, key=True)
        return self._boxes(time, points, moments[-1])

    def _write_sweep(self, number: int, time: float, moments: list[Moment], key: bool) -> NDArray[np.float32]:
        sweep = self._world.sweep(self._lidar, time, moments)
        stamp = self._stamp(time)
        name = f"{self._log}__{LIDAR_CHANNEL}__{stamp}.pcd.bin"
        path = f"{'samples' if key else 'sweeps'}/{LIDAR_CHANNEL}/{name}"
        (self._folder / path).write_bytes(sweep.points_nc.tobytes())
        self._add(LIDAR_CHANNEL, number, stamp, path, key, "pcd", (0, 0), time)
        return sweep.points_nc

    def _write_pictures(self, number: int, time: float, moments: list[Moment], key: bool) -> None:
        for place, modality in enumerate(CAMERA_SHARES):
            camera = next(camera for camera in self._cameras if camera.modality == modality)
            moment = moments[place] if len(moments) > 1 else moments[0]
            view = self._world.render(camera, moment, keypoints=False)
            encoded, data = cv2.imencode(
                ".jpg", view.image_hwc[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
            )
            if not encoded:
                raise RuntimeError(f"{self._plan.name}: {modality}'s picture could not be encoded as JPEG")
            channel, stamp = CAMERA_CHANNELS[modality], self._stamp(moment.time_s)
            name = f"{self._log}__{channel}__{stamp}.jpg"
            path = f"{'samples' if key else 'sweeps'}/{channel}/{name}"
            (self._folder / path).write_bytes(data.tobytes())
            self._add(channel, number, stamp, path, key, "jpg", (camera.height, camera.width), moment.time_s)

    def _add(
        self,
        channel: str,
        number: int,
        stamp: int,
        path: str,
        key: bool,
        file_format: str,
        size: tuple[int, int],
        time: float,
    ) -> None:
        name = token(*self._key, channel, stamp)
        pose = self._world.world_from_ego(time)
        x, y, z = (float(value) for value in pose[:3, 3])
        self._poses.append(
            {
                "token": name,
                "timestamp": stamp,
                "rotation": _quaternion(pose),
                "translation": _rounded([x + self._plan.origin[0], y + self._plan.origin[1], z]),
            }
        )
        self._tracks[channel].records.append(
            {
                "token": name,
                # sweeps belong to the keyframe that follows them: the devkit interpolates boxes towards it
                "sample_token": self._sample_token(number),
                "ego_pose_token": name,
                "calibrated_sensor_token": token(*self._key, "calibrated", channel),
                "timestamp": stamp,
                "fileformat": file_format,
                "is_key_frame": key,
                "height": size[0],
                "width": size[1],
                "filename": path,
                "prev": "",
                "next": "",
            }
        )

    def _sample_token(self, number: int) -> str:
        return token(*self._key, "sample", number)

    # -- annotations -----------------------------------------------------------------------------------------

    def _boxes(self, time: float, points_nc: NDArray[np.float32], moment: Moment) -> list[_Box]:
        """Annotates what the sweep hit at least once."""
        world = self._world
        world_from_lidar = world.world_from_ego(time) @ self._lidar.ego_from_lidar
        in_world = transform_points(world_from_lidar, points_nc[:, :3])
        seen = world.visibility(moment, self._cameras)
        found = []
        for instance, pose in moment.poses.items():
            actor = world.actors[instance]
            centre = pose[:3, 3] + pose[:3, 2] * actor.size[2] / 2
            if np.hypot(*(centre[:2] - moment.world_from_ego[:2, 3])) > _ANNOTATED_RANGE_M:
                continue
            near = np.abs(in_world - centre).max(axis=1) < max(actor.size)
            local = transform_points(inverse(pose), in_world[near])
            count = int(points_in_box(local, (0.0, 0.0, actor.size[2] / 2, *actor.size, 0.0)).sum())
            if count == 0:
                continue
            length, width, height = actor.size
            found.append(
                _Box(
                    instance,
                    _rounded([*(centre[:2] + self._plan.origin), centre[2]]),
                    _rounded([width, length, height]),
                    _quaternion(pose),
                    actor.attribute(time),
                    visibility_token(seen[instance]),
                    count,
                )
            )
        return found

    # -- tables ----------------------------------------------------------------------------------------------

    def _tables(self, boxes: list[list[_Box]]) -> dict[str, list[Record]]:
        count = self._scale.keyframes
        name, log = self._plan.name, token(*self._key, "log")
        scene = token(*self._key, "scene")
        samples = [
            {
                "token": self._sample_token(number),
                "timestamp": self._stamp(self._time(number)),
                "prev": self._sample_token(number - 1) if number > 0 else "",
                "next": self._sample_token(number + 1) if number + 1 < count else "",
                "scene_token": scene,
            }
            for number in range(count)
        ]
        sample_data = []
        for track in self._tracks.values():
            _chain(track.records)
            sample_data += track.records
        instances, annotations = self._annotations(boxes)
        world = self._world
        return {
            "log": [
                {
                    "token": log,
                    "logfile": self._log,
                    "vehicle": self._log[:4],
                    "date_captured": "2018-07-31",
                    "location": self._plan.location,
                }
            ],
            "scene": [
                {
                    "token": scene,
                    "log_token": log,
                    "nbr_samples": count,
                    "first_sample_token": samples[0]["token"],
                    "last_sample_token": samples[-1]["token"],
                    "name": name,
                    "description": f"Synthetic {world.town.layout} street, {world.conditions.name}, "
                    f"preset {world.preset.name}",
                }
            ],
            "sample": samples,
            "sample_data": sample_data,
            "ego_pose": self._poses,
            "calibrated_sensor": self._calibration(),
            "instance": instances,
            "sample_annotation": annotations,
        }

    def _calibration(self) -> list[Record]:
        records = [_sensor_pose(self._key, LIDAR_CHANNEL, self._lidar.ego_from_lidar, [])]
        for camera in self._cameras:
            records.append(_camera_calibration(self._key, camera))
        return records

    def _annotations(self, boxes: list[list[_Box]]) -> tuple[list[Record], list[Record]]:
        by_instance: dict[int, list[Record]] = {}
        annotations = []
        for number, found in enumerate(boxes):
            for box in found:
                record = {
                    "token": token(*self._key, "annotation", number, box.instance),
                    "sample_token": self._sample_token(number),
                    "instance_token": token(*self._key, "instance", box.instance),
                    "visibility_token": box.visibility,
                    "attribute_tokens": [token("attribute", box.attribute)] if box.attribute else [],
                    "translation": box.translation,
                    "size": box.size,
                    "rotation": box.rotation,
                    "prev": "",
                    "next": "",
                    "num_lidar_pts": box.points,
                    "num_radar_pts": 0,
                }
                by_instance.setdefault(box.instance, []).append(record)
                annotations.append(record)
        instances = []
        for instance, records in sorted(by_instance.items()):
            _chain(records)
            instances.append(
                {
                    "token": records[0]["instance_token"],
                    "category_token": token("category", self._world.actors[instance].category),
                    "nbr_annotations": len(records),
                    "first_annotation_token": records[0]["token"],
                    "last_annotation_token": records[-1]["token"],
                }
            )
        return instances, annotations


def _chain(records: list[Record]) -> None:
    """Links records in order of time."""
    for before, after in itertools.pairwise(records):
        before["next"], after["prev"] = after["token"], before["token"]


def _rounded(values: Any) -> list[float]:
    return [round(float(value), _DECIMALS) for value in values]


def _quaternion(pose_44: FloatArray) -> list[float]:
    """Returns w x y z, of unit length to the last digit: pyquaternion checks it."""
    x, y, z, w = quaternion_from_rotation(pose_44[:3, :3])
    return [float(w), float(x), float(y), float(z)]


def _sensor_pose(
    key: tuple[object, ...], channel: str, ego_from_sensor: FloatArray, intrinsic: list[list[float]]
) -> Record:
    return {
        "token": token(*key, "calibrated", channel),
        "sensor_token": token("sensor", channel),
        "translation": _rounded(ego_from_sensor[:3, 3]),
        "rotation": _quaternion(ego_from_sensor),
        "camera_intrinsic": intrinsic,
    }


def _camera_calibration(key: tuple[object, ...], camera: Camera) -> Record:
    intrinsic = [[float(value) for value in row] for row in camera.matrix_33]
    return _sensor_pose(key, CAMERA_CHANNELS[camera.modality], camera.ego_from_camera, intrinsic)
