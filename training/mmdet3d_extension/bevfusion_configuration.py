"""Reads configs of mmdet3d's BEVFusion: what they say about grid, images, classes and channels, as arguments
of a FULLER network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from perception_core.configuration import ConfigurationError

#: Voxels along one side of a BEV cell: BEVFusion's sparse encoder halves three times, as ours does.
_VOXELS_PER_CELL = 8


def fuller_arguments(config: Mapping[str, Any], origin: str = "config") -> dict[str, Any]:
    """Returns arguments of the registered networks `fuller_full` and `fuller_base`.

    Ours is the ego frame, BEVFusion's the LiDAR's; the grid is the same square around the vehicle, and the
    heights, which are the LiDAR's, are moved up by its height above the ground in nuScenes, 1.84 m, to
    whole voxels.

    Args:
        config: A config of mmdet3d's BEVFusion project (mmengine's `Config` is a mapping).
        origin: File, for messages.

    Raises:
        ConfigurationError: A key is missing, or its value fits no network of ours.
    """
    x_min, y_min, z_min, x_max, y_max, z_max = _numbers(config, "point_cloud_range", 6, origin)
    side, other_side, height = _numbers(config, "voxel_size", 3, origin)
    if side != other_side:
        raise ConfigurationError(f"{origin}: voxel_size: ours are square, these are {side} x {other_side} m")
    raised = round(1.84 / height) * height
    model = config.get("model", {})
    modalities = []
    if "pts_middle_encoder" in model:
        modalities.append("lidar")
    if "img_backbone" in model:
        modalities.append("camera")
    if not modalities:
        raise ConfigurationError(f"{origin}: its model has neither pts_middle_encoder nor img_backbone")
    arguments: dict[str, Any] = {
        "grid": {
            "x_min": x_min,
            "x_max": x_max,
            "y_min": y_min,
            "y_max": y_max,
            "cell_size": round(side * _VOXELS_PER_CELL, 9),
        },
        "z_range": (round(z_min + raised, 9), round(z_max + raised, 9)),
        "modalities": tuple(modalities),
        "detection": {"classes": _names(config, "class_names", origin)},
    }
    if "lidar" in modalities:
        arguments["lidar"] = {"kind": "voxels", "voxel_height": height}
        stages = model["pts_middle_encoder"].get("encoder_channels")
        if stages is not None:
            arguments["lidar"]["stage_channels"] = tuple(int(stage[0]) for stage in stages)
    if "camera" in modalities:
        arguments["camera"] = _camera(model, origin)
    head = model.get("bbox_head", {})
    if "num_proposals" in head:
        arguments["detection"]["queries"] = int(head["num_proposals"])
    if "hidden_channel" in head:
        arguments["detection"]["channels"] = int(head["hidden_channel"])
    return arguments


def _camera(model: Mapping[str, Any], origin: str) -> dict[str, Any]:
    backbone = str(model["img_backbone"].get("type", "")).rpartition(".")[2]
    if backbone != "SwinTransformer":
        raise ConfigurationError(
            f"{origin}: model.img_backbone is {backbone or 'nameless'}; ours at this size is SwinTransformer"
        )
    transform = model.get("view_transform", model.get("vtransform"))
    if transform is None:
        raise ConfigurationError(
            f"{origin}: model has no view_transform (or vtransform), which sizes the images"
        )
    height, width = _numbers(transform, "image_size", 2, f"{origin}: view_transform")
    near, far, step = _numbers(transform, "dbound", 3, f"{origin}: view_transform")
    bins = math.floor((far - near) / step + 1e-6)
    return {
        "kind": "swin",
        "image_height": int(height),
        "image_width": int(width),
        "bev_channels": int(transform.get("out_channels", 80)),
        "pool_subdivision": int(transform.get("downsample", 1)),
        "depth_min": near,
        # BEVFusion's bounds leave out the last plane.
        "depth_max": round(near + (bins - 1) * step, 9),
        "depth_bins": bins,
    }


def _numbers(config: Mapping[str, Any], key: str, count: int, origin: str) -> tuple[float, ...]:
    value = config.get(key)
    if not isinstance(value, Sequence) or len(value) != count:
        raise ConfigurationError(f"{origin}: {key} should be {count} numbers, not {value!r}")
    return tuple(float(number) for number in value)


def _names(config: Mapping[str, Any], key: str, origin: str) -> tuple[str, ...]:
    value = config.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ConfigurationError(f"{origin}: {key} should list the classes, not {value!r}")
    return tuple(str(name) for name in value)
