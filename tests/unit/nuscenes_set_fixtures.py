"""A small data set in nuScenes' format that the devkit accepts: all 13 tables, sweeps and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception_core.geometry import quaternion_from_yaw

VERSION = "v1.0-test-set"
SWEEP_PERIOD_US = 50_000
SWEEPS_PER_SAMPLE = 10
START_US = 1_600_000_000_000_000
SPEED_MPS, YAW_RATE = 5.0, 0.1
POINTS = 40

#: Category, width length height, attribute, speed.
OBJECTS: tuple[tuple[str, tuple[float, float, float], str, float], ...] = (
    ("vehicle.car", (1.9, 4.5, 1.6), "vehicle.moving", 6.0),
    ("vehicle.truck", (2.5, 7.0, 3.0), "vehicle.moving", 4.0),
    ("vehicle.construction", (2.6, 6.0, 3.0), "vehicle.parked", 0.0),
    ("vehicle.bus.rigid", (2.9, 11.0, 3.5), "vehicle.stopped", 0.0),
    ("vehicle.trailer", (2.4, 10.0, 3.4), "vehicle.parked", 0.0),
    ("movable_object.barrier", (2.5, 0.5, 1.0), "", 0.0),
    ("vehicle.motorcycle", (0.8, 2.1, 1.5), "cycle.with_rider", 5.0),
    ("vehicle.bicycle", (0.6, 1.7, 1.3), "cycle.without_rider", 0.0),
    ("human.pedestrian.adult", (0.7, 0.7, 1.8), "pedestrian.moving", 1.2),
    ("movable_object.trafficcone", (0.4, 0.4, 1.0), "", 0.0),
    ("animal", (0.4, 0.9, 0.6), "", 0.0),
)

Row = dict[str, Any]


def wxyz(yaw: float) -> list[float]:
    x, y, z, w = (float(value) for value in quaternion_from_yaw(yaw))
    return [w, x, y, z]


def write_nuscenes_set(
    root: Path, scenes: int = 2, samples: int = 3, objects_per_class: int = 2, seed: int = 0
) -> Path:
    """Writes the set and returns its folder; splits are `val` (the last scene) and `train` (the others)."""
    rng = np.random.default_rng(seed)
    tables: dict[str, list[Row]] = {
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "attribute": [],
        "category": [],
        "sensor": [
            {"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
            {"token": "front", "channel": "CAM_FRONT", "modality": "camera"},
            {"token": "back", "channel": "CAM_BACK", "modality": "camera"},
        ],
        "calibrated_sensor": [
            calibration("lidar", [0.94, 0.0, 1.84], wxyz(-np.pi / 2)),
            calibration("front", [1.7, 0.0, 1.5], [0.5, -0.5, 0.5, -0.5]),
            calibration("back", [0.0, 0.0, 1.5], [0.5, -0.5, -0.5, 0.5]),
        ],
        "log": [{"token": "log", "logfile": "log", "vehicle": "v", "date_captured": "2020-01-01"}],
        "map": [
            {"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/map.png"}
        ],
    }
    tables["log"][0]["location"] = "boston-seaport"
    for name in sorted({name for _, _, name, _ in OBJECTS if name}):
        tables["attribute"].append({"token": f"attribute-{name}", "name": name, "description": ""})
    for category, *_ in OBJECTS:
        tables["category"].append({"token": category, "name": category, "description": ""})
    for name in ("scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation"):
        tables[name] = []
    for channel in ("LIDAR_TOP", "CAM_FRONT", "CAM_BACK"):
        (root / "samples" / channel).mkdir(parents=True)
        (root / "sweeps" / channel).mkdir(parents=True)
    (root / "maps").mkdir()
    cv2.imwrite(str(root / "maps" / "map.png"), np.zeros((4, 4), np.uint8))
    for number in range(scenes):
        _write_scene(root, tables, number, samples, objects_per_class, rng)
    folder = root / VERSION
    folder.mkdir()
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    names = [row["name"] for row in tables["scene"]]
    (folder / "splits.json").write_text(json.dumps({"train": names[:-1], "val": names[-1:]}))
    return root


def calibration(sensor: str, translation: list[float], rotation: list[float]) -> Row:
    camera = [[80.0, 0.0, 50.0], [0.0, 80.0, 30.0], [0.0, 0.0, 1.0]]
    return {
        "token": f"calibrated-{sensor}",
        "sensor_token": sensor,
        "translation": translation,
        "rotation": rotation,
        "camera_intrinsic": [] if sensor == "lidar" else camera,
    }


def ego_place(time_s: float) -> tuple[list[float], float]:
    """Position and heading of the vehicle: a left turn at constant speed."""
    yaw = YAW_RATE * time_s
    radius = SPEED_MPS / YAW_RATE
    return [100 + radius * float(np.sin(yaw)), 200 + radius * (1 - float(np.cos(yaw))), 0.0], yaw


def _write_scene(
    root: Path,
    tables: dict[str, list[Row]],
    number: int,
    samples: int,
    objects_per_class: int,
    rng: np.random.Generator,
) -> None:
    scene, start_us = f"scene{number}", START_US + number * 60_000_000
    sample_tokens = [f"{scene}-sample{index}" for index in range(samples)]
    tables["scene"].append(
        {
            "token": scene,
            "log_token": "log",
            "nbr_samples": samples,
            "first_sample_token": sample_tokens[0],
            "last_sample_token": sample_tokens[-1],
            "name": f"scene-{number + 1:04d}",
            "description": "",
        }
    )
    for index, token in enumerate(sample_tokens):
        tables["sample"].append(
            {
                "token": token,
                "timestamp": start_us + index * SWEEPS_PER_SAMPLE * SWEEP_PERIOD_US,
                "prev": sample_tokens[index - 1] if index else "",
                "next": sample_tokens[index + 1] if index + 1 < samples else "",
                "scene_token": scene,
            }
        )
    for channel, sensor, every in (
        ("LIDAR_TOP", "lidar", 1),
        ("CAM_FRONT", "front", 2),
        ("CAM_BACK", "back", 2),
    ):
        _write_sensor(root, tables, scene, sample_tokens, channel, sensor, every, rng)
    for kind, (category, size, attribute, speed) in enumerate(OBJECTS):
        for copy in range(objects_per_class):
            place, _ = ego_place(0.0)
            instance = f"{scene}-{category}-{copy}"
            angle = 2 * np.pi * (kind + copy / objects_per_class) / len(OBJECTS)
            heading = float(rng.uniform(-np.pi, np.pi))
            tokens = [f"{instance}-{index}" for index in range(samples)]
            for index, token in enumerate(tokens):
                time_s = index * SWEEPS_PER_SAMPLE * SWEEP_PERIOD_US * 1e-6
                moved = speed * time_s
                reach = 12.0 + 8.0 * copy
                tables["sample_annotation"].append(
                    {
                        "token": token,
                        "sample_token": sample_tokens[index],
                        "instance_token": instance,
                        "visibility_token": "4",
                        "attribute_tokens": [f"attribute-{attribute}"] if attribute else [],
                        "translation": [
                            place[0] + reach * float(np.cos(angle)) + moved * float(np.cos(heading)),
                            place[1] + reach * float(np.sin(angle)) + moved * float(np.sin(heading)),
                            size[2] / 2,
                        ],
                        "size": list(size),
                        "rotation": wxyz(heading),
                        "prev": tokens[index - 1] if index else "",
                        "next": tokens[index + 1] if index + 1 < samples else "",
                        "num_lidar_pts": 5,
                        "num_radar_pts": 0,
                    }
                )
            tables["instance"].append(
                {
                    "token": instance,
                    "category_token": category,
                    "nbr_annotations": samples,
                    "first_annotation_token": tokens[0],
                    "last_annotation_token": tokens[-1],
                }
            )


def _write_sensor(
    root: Path,
    tables: dict[str, list[Row]],
    scene: str,
    sample_tokens: list[str],
    channel: str,
    sensor: str,
    every: int,
    rng: np.random.Generator,
) -> None:
    scene_row = next(row for row in tables["scene"] if row["token"] == scene)
    first = next(row for row in tables["sample"] if row["token"] == scene_row["first_sample_token"])
    # a camera's picture is taken a little later than the sweep
    offset_us = 0 if sensor == "lidar" else 7_000
    sweeps = range(0, (len(sample_tokens) - 1) * SWEEPS_PER_SAMPLE + 1, every)
    tokens = [f"{scene}-{channel}-{sweep}" for sweep in sweeps]
    for index, sweep in enumerate(sweeps):
        key = sweep % SWEEPS_PER_SAMPLE == 0
        token, time_us = tokens[index], first["timestamp"] + sweep * SWEEP_PERIOD_US + offset_us
        place, yaw = ego_place((time_us - first["timestamp"]) * 1e-6)
        suffix = "pcd.bin" if sensor == "lidar" else "jpg"
        name = f"{'samples' if key else 'sweeps'}/{channel}/{token}.{suffix}"
        if sensor == "lidar":
            points = np.column_stack(
                [
                    rng.uniform(-30, 30, (POINTS, 2)),
                    rng.uniform(-1.8, 3, POINTS),
                    rng.uniform(0, 255, POINTS),
                    rng.integers(0, 32, POINTS),
                ]
            )
            points.astype(np.float32).tofile(root / name)
        else:
            picture = rng.integers(0, 255, (6, 10, 3), dtype=np.uint8).repeat(10, axis=0).repeat(10, axis=1)
            cv2.imwrite(str(root / name), picture)
        tables["ego_pose"].append(
            {"token": token, "timestamp": time_us, "translation": place, "rotation": wxyz(yaw)}
        )
        tables["sample_data"].append(
            {
                "token": token,
                "sample_token": sample_tokens[(sweep + SWEEPS_PER_SAMPLE // 2) // SWEEPS_PER_SAMPLE],
                "ego_pose_token": token,
                "calibrated_sensor_token": f"calibrated-{sensor}",
                "timestamp": time_us,
                "fileformat": "pcd" if sensor == "lidar" else "jpg",
                "is_key_frame": key,
                "height": 0 if sensor == "lidar" else 60,
                "width": 0 if sensor == "lidar" else 100,
                "filename": name,
                "prev": tokens[index - 1] if index else "",
                "next": tokens[index + 1] if index + 1 < len(tokens) else "",
            }
        )
