"""Small monocular networks, boxes a camera sees, and a small data set in Cityscapes' layout."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from perception_core.geometry import quaternion_from_rotation, rotation_about_z
from perception_core.models.tag.decoding import MonoBoxCodec

#: Every family of backbones with few channels, on images of 64 x 128.
_CAMERA = {"image_height": 64, "image_width": 128}
_HEADS: dict[str, dict[str, Any]] = {
    "mono_detection3d": {"hidden_channels": 6, "objects": 12},
    "semantic_segmentation": {"hidden_channels": 8},
    "depth": {"hidden_channels": 8},
}
SMALL: dict[str, dict[str, Any]] = {
    "tag_micro": {
        "camera": _CAMERA,
        "backbone": {"stage_channels": (8, 8, 12, 16, 24), "detail_channels": 8},
        "attention": {"hidden_channels": 6},
        **_HEADS,
    },
    "mono_dla34": {
        "camera": _CAMERA,
        "backbone": {"channels": (4, 6, 8, 12, 16, 24), "final_aggregation": True},
        **_HEADS,
    },
    "mono_resnet50": {
        "camera": _CAMERA,
        "backbone": {
            "stem_channels": 8,
            "stage_channels": (4, 4, 6, 8),
            "stage_blocks": (1, 1, 1, 1),
            "pyramid_channels": 12,
        },
        **_HEADS,
    },
    "mono_icnet": {
        "camera": _CAMERA,
        "backbone": {
            "stem_channels": 8,
            "stage_channels": (4, 4, 6, 8),
            "stage_blocks": (1, 1, 1, 1),
            "fusion_channels": 12,
        },
        **_HEADS,
    },
    "mono_ddrnet39": {"camera": _CAMERA, "backbone": {"planes": 4, "pyramid_channels": 8}, **_HEADS},
    "mono_pidnet_s": {"camera": _CAMERA, "backbone": {"planes": 4, "pyramid_channels": 8}, **_HEADS},
    "mono_pidnet_l": {"camera": _CAMERA, "backbone": {"planes": 4, "pyramid_channels": 8}, **_HEADS},
}

#: 53 degrees wide, on images of 512 x 256.
SIZE = (512, 256)
INTRINSICS = np.array([[512.0, 0.0, 255.5], [0.0, 512.0, 127.5], [0.0, 0.0, 1.0]])
CLASSES = ("car", "pedestrian")
USUAL = ((4.2, 1.8, 1.6), (0.7, 0.7, 1.75))


def camera_pose(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """camera_from_ego of a camera 1.5 m ahead of and 1.6 m above the ego origin, turned from ahead."""
    (cp, sp), (cr, sr) = ((math.cos(a), math.sin(a)) for a in (pitch, roll))
    tilt = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]]) @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    ego_from_upright = rotation_about_z(yaw) @ tilt
    optical_from_upright = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    pose = np.eye(4)
    pose[:3, :3] = optical_from_upright @ ego_from_upright.T
    pose[:3, 3] = -pose[:3, :3] @ np.array([1.5, 0.0, 1.6])
    return pose


def make_codec(reference_focal: float | None = None, stride: int = 8) -> MonoBoxCodec:
    return MonoBoxCodec(stride, SIZE, USUAL, 12, reference_focal)


def as_tensors(*arrays: Any) -> tuple[torch.Tensor, ...]:
    return tuple(torch.as_tensor(np.asarray(array), dtype=torch.float64) for array in arrays)


def write_cityscapes(
    root: Path, images: int = 2, split: str = "train", size: tuple[int, int] = (256, 128)
) -> Path:
    """Writes images with segmentation, disparity and boxes of one car ahead; returns the root."""
    width, height = size
    random = np.random.default_rng(7)
    focal = 1.0 * width
    for number in range(images):
        name = f"town_{number:06d}_000000"

        def place(kind: str, ending: str, name: str = name) -> Path:
            path = root / kind / split / "town" / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        picture = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(place("leftImg8bit", "_leftImg8bit.png")), picture)
        labels = np.full((height, width), 7, dtype=np.uint8)  # road
        labels[: height // 2] = 23  # sky
        cv2.imwrite(str(place("gtFine", "_gtFine_labelIds.png")), labels)
        disparity = np.zeros((height, width), dtype=np.uint16)
        disparity[height // 2 :] = (
            np.linspace(3, 20, height - height // 2).astype(np.uint16)[:, None] * 256 + 1
        )
        cv2.imwrite(str(place("disparity", "_disparity.png")), disparity)
        sensor = {
            "fx": focal, "fy": focal, "u0": width / 2, "v0": height / 2, "baseline": 0.22,
            "sensor_T_ISO_8855": [[1.0, 0, 0, -1.5], [0, 1.0, 0, 0], [0, 0, 1.0, -1.5]],
        }  # fmt: skip
        x, y, z, w = quaternion_from_rotation(rotation_about_z(0.3))
        car = {
            "label": "car", "instanceId": 1,
            "2d": {"modal": [10, 10, 50, 40], "amodal": [10, 10, 50, 40]},
            "3d": {
                "center": [12.0 + number, 0.5, 0.8], "dimensions": [4.2, 1.8, 1.6],
                "rotation": [w, x, y, z],
            },
        }  # fmt: skip
        content = {"sensor": sensor, "objects": [car], "ignore": []}
        place("gtBbox3d", "_gtBbox3d.json").write_text(json.dumps(content))
        camera = {
            "intrinsic": {key: sensor[key] for key in ("fx", "fy", "u0", "v0")},
            "extrinsic": {"baseline": 0.22, "x": 1.5, "y": 0, "z": 1.5, "yaw": 0, "pitch": 0, "roll": 0},
        }
        place("camera", "_camera.json").write_text(json.dumps(camera))
    return root
