"""A small data set in nuScenes' layout whose world is known exactly: what loaders read is compared with that.

One scene: the vehicle drives an arc between static objects and one that moves. Every LiDAR point lies inside
an object or on the ground, so boxes and merged sweeps can be checked point by point.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception_core.geometry import (
    FloatArray,
    compose,
    inverse,
    planar_motion,
    points_in_box,
    quaternion_from_rotation,
    rotation_about_z,
    transform_of,
    transform_points,
    yaw_of,
)

VERSION = "v1.0-mini"
LOCATION = "singapore-onenorth"
START_US = 1_532_402_927_000_000
IMAGE_SIZE = (160, 90)
SPEED, YAW_RATE = 6.0, 0.2
WHEELBASE = 2.588
STEERING_RATIO = 15.0
START = compose(transform_of(None, [500.0, 600.0, 0.0]), transform_of(rotation_about_z(0.7)))
EGO_FROM_LIDAR = transform_of(rotation_about_z(-np.pi / 2), [0.94, 0.0, 1.84])

#: Azimuth of each camera in degrees, and how long after the LiDAR it exposes.
CAMERAS = {
    "CAM_FRONT": (0, -0.035),
    "CAM_FRONT_RIGHT": (-55, -0.028),
    "CAM_FRONT_LEFT": (55, -0.043),
    "CAM_BACK": (180, -0.010),
    "CAM_BACK_LEFT": (110, 0.0),
    "CAM_BACK_RIGHT": (-110, -0.020),
}
INTRINSICS = np.array([[126.0, 0, 79.6], [0, 126.0, 45.1], [0, 0, 1]])

#: Category, centre in the world relative to the start's ego frame, length width height, yaw, velocity.
OBJECTS: tuple[tuple[str, tuple[float, ...], tuple[float, ...], float, tuple[float, float]], ...] = (
    ("vehicle.car", (15.0, 4.0, 0.9), (4.6, 1.9, 1.7), 0.3, (0.0, 0.0)),
    ("vehicle.car", (20.0, -3.0, 0.9), (4.4, 1.8, 1.6), -0.1, (3.0, 1.0)),
    ("vehicle.bus.rigid", (-18.0, 6.0, 1.7), (11.0, 2.9, 3.4), 2.0, (0.0, 0.0)),
    ("human.pedestrian.adult", (9.0, -6.0, 0.9), (0.7, 0.6, 1.8), 1.0, (0.0, 0.0)),
    ("movable_object.trafficcone", (6.0, 3.0, 0.5), (0.4, 0.4, 1.0), 0.0, (0.0, 0.0)),
    ("animal", (5.0, -3.0, 0.4), (0.9, 0.4, 0.8), 0.0, (0.0, 0.0)),
)


def token(*parts: object) -> str:
    return hashlib.md5("/".join(map(str, parts)).encode()).hexdigest()


def world_from_ego(time_s: float) -> FloatArray:
    return START @ planar_motion(SPEED, YAW_RATE, time_s)


def ego_from_camera(channel: str) -> FloatArray:
    azimuth = np.radians(CAMERAS[channel][0])
    # optical frame: x right, y down, z forward
    axes = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    return transform_of(rotation_about_z(azimuth) @ axes, [1.0 * np.cos(azimuth), np.sin(azimuth), 1.5])


def object_box(index: int, time_s: float) -> FloatArray:
    """Returns x y z l w h yaw in the world at a time."""
    _, centre, size, yaw, velocity = OBJECTS[index]
    moved = np.add(centre, [velocity[0] * time_s, velocity[1] * time_s, 0])
    return np.concatenate([transform_points(START, moved), size, [yaw + yaw_of(START)]])


def object_velocity(index: int) -> FloatArray:
    return (START[:3, :3] @ [*OBJECTS[index][4], 0.0])[:2]


def sweep_points_world(time_s: float) -> FloatArray:
    """Returns [N, 3] points: some inside each object, some on the ground, in the world."""
    random = np.random.default_rng(round(time_s * 1000) + 7)
    parts = []
    for index in range(len(OBJECTS)):
        box = object_box(index, time_s)
        local = random.uniform(-0.48, 0.48, (40, 3)) * box[3:6]
        parts.append(local @ rotation_about_z(box[6]).T + box[:3])
    radius, angle = random.uniform(3, 45, 800), random.uniform(-np.pi, np.pi, 800)
    ground = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(800, -0.02)], axis=1)
    parts.append(transform_points(world_from_ego(time_s), ground))
    return np.concatenate(parts)


@dataclass
class NuScenesTree:
    """Writes the tree; `root` is the data set's folder.

    Attributes:
        keyframes: Number of samples, half a second apart.
        sweeps_per_keyframe: LiDAR sweeps in that half second.
    """

    root: Path
    keyframes: int = 5
    sweeps_per_keyframe: int = 5
    can_bus: bool = True
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def write(self) -> Path:
        for name in (
            *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample"),
            *("sample_annotation", "sample_data", "scene", "sensor", "visibility"),
        ):
            self.tables[name] = []
        self._fixed_tables()
        times = [0.5 * index for index in range(self.keyframes)]
        sample_tokens = [token("sample", index) for index in range(self.keyframes)]
        for index, time_s in enumerate(times):
            self.tables["sample"].append(
                {
                    "token": sample_tokens[index],
                    "timestamp": self.stamp(time_s),
                    "scene_token": token("scene"),
                    **self._chain("sample", index, self.keyframes),
                }
            )
            for channel in CAMERAS:
                self._camera(channel, index, time_s, sample_tokens[index])
        self._sweeps(sample_tokens)
        self._annotations(times, sample_tokens)
        self._maps()
        if self.can_bus:
            self._can_bus()
        folder = self.root / VERSION
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows))
        (folder / "splits.json").write_text(
            json.dumps({"my_train": ["scene-0001"], "elsewhere": ["scene-9"]})
        )
        return self.root

    @staticmethod
    def stamp(time_s: float) -> int:
        return START_US + round(time_s * 1e6)

    @staticmethod
    def _chain(kind: str, index: int, count: int) -> dict[str, str]:
        return {
            "prev": token(kind, index - 1) if index > 0 else "",
            "next": token(kind, index + 1) if index + 1 < count else "",
        }

    @staticmethod
    def _pose(transform: FloatArray) -> dict[str, list[float]]:
        x, y, z, w = quaternion_from_rotation(transform[:3, :3])
        return {"translation": transform[:3, 3].tolist(), "rotation": [w, x, y, z]}

    def _fixed_tables(self) -> None:
        tables = self.tables
        tables["scene"].append(
            {
                "token": token("scene"),
                "name": "scene-0001",
                "description": "an arc",
                "log_token": token("log"),
                "nbr_samples": self.keyframes,
                "first_sample_token": token("sample", 0) if self.keyframes else "",
                "last_sample_token": token("sample", self.keyframes - 1) if self.keyframes else "",
            }
        )
        tables["log"].append(
            {
                "token": token("log"),
                "logfile": "n001",
                "vehicle": "n001",
                "date_captured": "2018-07-24",
                "location": LOCATION,
            }
        )
        mask = self.root / "maps" / "mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(mask), np.zeros((4, 4), np.uint8))
        tables["map"].append(
            {
                "token": token("map"),
                "log_tokens": [token("log")],
                "category": "semantic_prior",
                "filename": "maps/mask.png",
            }
        )
        tables["visibility"].append({"token": "4", "level": "v80-100", "description": ""})
        tables["attribute"].append({"token": token("attribute"), "name": "vehicle.parked", "description": ""})
        for category in sorted({category for category, *_ in OBJECTS}):
            tables["category"].append(
                {"token": token("category", category), "name": category, "description": ""}
            )
        for index, (category, *_) in enumerate(OBJECTS):
            tables["instance"].append(
                {
                    "token": token("instance", index),
                    "category_token": token("category", category),
                    "nbr_annotations": self.keyframes,
                    "first_annotation_token": token("annotation", index, 0),
                    "last_annotation_token": token("annotation", index, self.keyframes - 1),
                }
            )
        for channel, modality, mount in (
            ("LIDAR_TOP", "lidar", EGO_FROM_LIDAR),
            *((channel, "camera", ego_from_camera(channel)) for channel in CAMERAS),
        ):
            tables["sensor"].append(
                {"token": token("sensor", channel), "channel": channel, "modality": modality}
            )
            tables["calibrated_sensor"].append(
                {
                    "token": token("calibrated", channel),
                    "sensor_token": token("sensor", channel),
                    **self._pose(mount),
                    "camera_intrinsic": INTRINSICS.tolist() if modality == "camera" else [],
                }
            )

    def _data(self, channel: str, key: object, time_s: float, sample_token: str, **facts: Any) -> None:
        self.tables["ego_pose"].append(
            {
                "token": token("data", channel, key),
                "timestamp": self.stamp(time_s),
                **self._pose(world_from_ego(time_s)),
            }
        )
        self.tables["sample_data"].append(
            {
                "token": token("data", channel, key),
                "sample_token": sample_token,
                "ego_pose_token": token("data", channel, key),
                "calibrated_sensor_token": token("calibrated", channel),
                "timestamp": self.stamp(time_s),
                "prev": "",
                "next": "",
                **facts,
            }
        )

    def _camera(self, channel: str, index: int, time_s: float, sample_token: str) -> None:
        path = Path("samples") / channel / f"{index}.jpg"
        random = np.random.default_rng([index, *channel.encode()])
        image = cv2.resize(random.integers(0, 255, (9, 16, 3), dtype=np.uint8), IMAGE_SIZE)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.root / path), image)
        self._data(
            channel,
            index,
            time_s + CAMERAS[channel][1],
            sample_token,
            fileformat="jpg",
            is_key_frame=True,
            filename=str(path),
            width=IMAGE_SIZE[0],
            height=IMAGE_SIZE[1],
        )

    def _sweeps(self, sample_tokens: list[str]) -> None:
        count = (self.keyframes - 1) * self.sweeps_per_keyframe + 1 if self.keyframes else 0
        for index in range(count):
            time_s = 0.5 * index / self.sweeps_per_keyframe
            is_key = index % self.sweeps_per_keyframe == 0
            path = Path("samples" if is_key else "sweeps") / "LIDAR_TOP" / f"{index}.pcd.bin"
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            in_lidar = transform_points(
                inverse(compose(world_from_ego(time_s), EGO_FROM_LIDAR)), sweep_points_world(time_s)
            )
            rows = np.zeros((len(in_lidar), 5), dtype=np.float32)
            rows[:, :3] = in_lidar
            rows[:, 3] = np.arange(len(rows)) % 256
            rows[:, 4] = np.arange(len(rows)) % 32
            (self.root / path).write_bytes(rows.tobytes())
            # between keyframes, sample_data belongs to the keyframe that follows
            owner = sample_tokens[-(-index // self.sweeps_per_keyframe)]
            self._data(
                "LIDAR_TOP",
                index,
                time_s,
                owner,
                fileformat="pcd",
                is_key_frame=is_key,
                filename=str(path),
                width=0,
                height=0,
            )

    def _annotations(self, times: list[float], sample_tokens: list[str]) -> None:
        for sample, time_s in enumerate(times):
            points = sweep_points_world(time_s)
            for index in range(len(OBJECTS)):
                box = object_box(index, time_s)
                self.tables["sample_annotation"].append(
                    {
                        "token": token("annotation", index, sample),
                        "sample_token": sample_tokens[sample],
                        "instance_token": token("instance", index),
                        "visibility_token": "4",
                        "attribute_tokens": [],
                        **self._pose(transform_of(rotation_about_z(box[6]), box[:3])),
                        "size": [box[4], box[3], box[5]],
                        "prev": token("annotation", index, sample - 1) if sample else "",
                        "next": token("annotation", index, sample + 1) if sample + 1 < len(times) else "",
                        "num_lidar_pts": int(points_in_box(points, box).sum()),
                        "num_radar_pts": 0,
                    }
                )

    def _maps(self) -> None:
        """A street 12 m wide along the start's heading, a walkway left of it, a crossing, a divider."""
        content: dict[str, Any] = {
            "version": "1.3",
            "canvas_edge": [1585.6, 2025.0],
            "arcline_path_3": {},
            "connectivity": {},
        }
        for layer in (
            *("polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane"),
            *("ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider"),
            *("traffic_light", "lane_connector"),
        ):
            content[layer] = []

        def nodes(name: str, corners: list[tuple[float, float]]) -> list[str]:
            tokens = []
            for number, (x, y) in enumerate(corners):
                place = transform_points(START, [x, y, 0.0])
                tokens.append(token("node", name, number))
                content["node"].append({"token": tokens[-1], "x": float(place[0]), "y": float(place[1])})
            return tokens

        def polygon(name: str, x0: float, x1: float, y0: float, y1: float) -> str:
            corners = nodes(name, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            content["polygon"].append(
                {"token": token("polygon", name), "exterior_node_tokens": corners, "holes": []}
            )
            return token("polygon", name)

        content["drivable_area"].append(
            {"token": token("drivable"), "polygon_tokens": [polygon("road", -60, 60, -6, 6)]}
        )
        content["walkway"].append(
            {"token": token("walkway"), "polygon_token": polygon("walk", -60, 60, 6, 9)}
        )
        content["ped_crossing"].append(
            {
                "token": token("crossing"),
                "polygon_token": polygon("crossing", 10, 14, -6, 6),
                "road_segment_token": "",
            }
        )
        content["line"].append({"token": token("line"), "node_tokens": nodes("line", [(-60, 0), (60, 0)])})
        content["road_divider"].append(
            {"token": token("divider"), "line_token": token("line"), "road_segment_token": None}
        )
        path = self.root / "maps" / "expansion" / f"{LOCATION}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def _can_bus(self) -> None:
        folder = self.root / "can_bus"
        folder.mkdir(parents=True, exist_ok=True)
        angle = STEERING_RATIO * np.arctan(WHEELBASE * YAW_RATE / SPEED)
        messages = [{"utime": self.stamp(0.01 * index), "value": float(angle)} for index in range(-10, 250)]
        (folder / "scene-0001_steeranglefeedback.json").write_text(json.dumps(messages))
