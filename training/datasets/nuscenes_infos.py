"""Writes a nuScenes loader's samples as an mmdet3d info file, for users who go back and forth.

Paths are relative to the data set, boxes and velocities in the LiDAR frame, as mmdet3d's converter writes
them (info version 1.1). Fields that only its camera-only detectors read (`cam_instances`) are not written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from perception_core.geometry import FloatArray, compose, inverse, rotation_from_quaternion
from training.datasets.box_frames import boxes_in_ego
from training.datasets.info_file import write_info_file
from training.datasets.nuscenes import SWEEP_COLUMNS, NuScenesDataset
from training.datasets.nuscenes_index import pose

Progress = Callable[[int, int], None]

#: Numbers of the classes in mmdet3d's nuScenes configurations.
MMDET3D_CLASSES: tuple[str, ...] = (
    *("car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian"),
    *("traffic_cone", "barrier"),
)


def write_nuscenes_infos(
    dataset: NuScenesDataset, path: str | Path, sweeps: int = 10, progress: Progress | None = None
) -> None:
    """Writes the info file of a data set's split.

    Args:
        dataset: The loader; its frame input does not matter.
        path: The file, .pkl.
        sweeps: Earlier sweeps to list for each frame.
        progress: Told how many frames are done.

    Raises:
        DataError: The file cannot be written.
    """
    frames = []
    for number in range(len(dataset)):
        frames.append(_frame(dataset, number, sweeps))
        if progress is not None:
            progress(number + 1, len(dataset))
    metainfo = {
        "categories": {name: index for index, name in enumerate(MMDET3D_CLASSES)},
        "dataset": "nuscenes",
        "version": dataset.version,
        "info_version": "1.1",
    }
    write_info_file(path, metainfo, frames)


def _frame(dataset: NuScenesDataset, number: int, sweeps: int) -> dict[str, Any]:
    tables, sample = dataset.index, dataset.samples[number]
    sweep = int(tables.sample_sweep[sample])
    world_from_ego = pose(tables.sweep_world_from_ego[sweep])
    ego_from_lidar = pose(tables.sweep_ego_from_lidar[sweep])
    world_from_lidar = compose(world_from_ego, ego_from_lidar)
    first = int(tables.scene_sweep_start[tables.scene_of(sample)])
    return {
        "sample_idx": number,
        "token": tables.sample_token[sample].decode(),
        "timestamp": float(tables.sweep_time_us[sweep]) * 1e-6,
        "ego2global": world_from_ego.tolist(),
        "lidar_points": {
            "num_pts_feats": SWEEP_COLUMNS,
            "lidar_path": tables.sweep_path[sweep].decode(),
            "lidar2ego": ego_from_lidar.tolist(),
        },
        "lidar_sweeps": [
            _sweep(dataset, earlier, world_from_lidar)
            for earlier in range(sweep - 1, max(first, sweep - sweeps) - 1, -1)
        ],
        "images": _images(dataset, sample, world_from_lidar),
        "instances": _instances(dataset, sample, world_from_lidar),
    }


def _sweep(dataset: NuScenesDataset, sweep: int, world_from_lidar: FloatArray) -> dict[str, Any]:
    tables = dataset.index
    world_from_ego = pose(tables.sweep_world_from_ego[sweep])
    ego_from_sensor = pose(tables.sweep_ego_from_lidar[sweep])
    return {
        "timestamp": float(tables.sweep_time_us[sweep]) * 1e-6,
        "sample_data_token": tables.sweep_token[sweep].decode(),
        "ego2global": world_from_ego.tolist(),
        "lidar_points": {
            "lidar_path": tables.sweep_path[sweep].decode(),
            "lidar2ego": ego_from_sensor.tolist(),
            "lidar2sensor": compose(
                inverse(compose(world_from_ego, ego_from_sensor)), world_from_lidar
            ).tolist(),
        },
    }


def _images(dataset: NuScenesDataset, sample: int, world_from_lidar: FloatArray) -> dict[str, Any]:
    tables = dataset.index
    images = {}
    for channel, name in enumerate(tables.channels):
        path = tables.camera_path[sample, channel].decode()
        if not path:
            continue
        ego_from_camera = pose(tables.camera_ego_from_camera[sample, channel])
        world_from_camera = compose(pose(tables.camera_world_from_ego[sample, channel]), ego_from_camera)
        images[name] = {
            "img_path": path,
            "cam2img": tables.camera_intrinsics[sample, channel].tolist(),
            "cam2ego": ego_from_camera.tolist(),
            "sample_data_token": tables.camera_token[sample, channel].decode(),
            "timestamp": float(tables.camera_time_us[sample, channel]) * 1e-6,
            "lidar2cam": compose(inverse(world_from_camera), world_from_lidar).tolist(),
        }
    return images


def _instances(dataset: NuScenesDataset, sample: int, world_from_lidar: FloatArray) -> list[dict[str, Any]]:
    from nuscenes.eval.detection.utils import category_to_detection_name

    tables = dataset.index
    span = slice(tables.sample_annotation_start[sample], tables.sample_annotation_start[sample + 1])
    if span.start == span.stop:
        return []
    rotation = np.stack([rotation_from_quaternion(q) for q in tables.annotation_rotation[span]])
    boxes_b9, _ = boxes_in_ego(
        inverse(world_from_lidar),
        tables.annotation_centre[span],
        tables.annotation_size[span],
        rotation,
        tables.annotation_velocity[span],
    )
    instances = []
    for box, category, points in zip(
        boxes_b9, tables.annotation_category[span], tables.annotation_points[span], strict=True
    ):
        name = category_to_detection_name(tables.categories[category])
        label = MMDET3D_CLASSES.index(name) if name is not None else -1
        instances.append(
            {
                "bbox_label": label,
                "bbox_label_3d": label,
                "bbox_3d": box[:7].tolist(),
                "bbox_3d_isvalid": bool(points[0] > 0),
                "num_lidar_pts": int(points[0]),
                "num_radar_pts": int(points[1]),
                "velocity": box[7:].tolist(),
            }
        )
    return instances
