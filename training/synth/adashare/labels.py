"""What a view's labels are stored as."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synth.world.views import Keypoint, View

Float32Array = NDArray[np.float32]

#: Depth is not known beyond this; 16 bits of 1/512 m reach as far.
FARTHEST_M = 120.0
_MILLIMETRE_DECIMALS = 3
_TASKONOMY_STEPS, _TASKONOMY_UNKNOWN = 512.0, 65535
#: A label's strength falls off over this share of the picture's width.
_EDGE_WIDTH, _KEYPOINT_WIDTH = 1 / 320, 1 / 100


def _known(depth_hw: Float32Array) -> NDArray[np.bool_]:
    return np.isfinite(depth_hw) & (depth_hw > 0) & (depth_hw <= FARTHEST_M)


def metric_depth(depth_hw: Float32Array) -> Float32Array:
    """Returns float32 metres in whole millimetres, 0 where the depth is not known."""
    with np.errstate(invalid="ignore"):
        rounded = np.round(depth_hw.astype(np.float64), _MILLIMETRE_DECIMALS)
    return np.where(_known(depth_hw), rounded, 0.0).astype(np.float32)


def taskonomy_depth(depth_hw: Float32Array) -> NDArray[np.uint16]:
    """Returns steps of 1/512 m, 65535 where the depth is not known."""
    known = _known(depth_hw)
    steps = np.round(np.where(known, depth_hw, 0.0).astype(np.float64) * _TASKONOMY_STEPS)
    return np.where(known, np.maximum(steps, 1), _TASKONOMY_UNKNOWN).astype(np.uint16)


def _as_bytes(vectors_hw3: Float32Array, known_hw: NDArray[np.bool_], unknown: int) -> NDArray[np.uint8]:
    values = np.clip(np.round((vectors_hw3.astype(np.float64) + 1) * 127.5), 0, 255)
    return np.where(known_hw[..., None], values, unknown).astype(np.uint8)


def nyuv2_normals(view: View) -> NDArray[np.uint8]:
    """Returns the components right, forward, up of the camera as colours; white where there is none."""
    right, down, forward = np.moveaxis(view.normal_hwc, -1, 0)
    return _as_bytes(np.stack([right, forward, -down], axis=-1), _known(view.depth_hw), 255)


def taskonomy_normals(view: View) -> NDArray[np.uint8]:
    """Returns the components right, up, towards the viewer as colours; 128 where there is none."""
    right, down, forward = np.moveaxis(view.normal_hwc, -1, 0)
    return _as_bytes(np.stack([right, -down, -forward], axis=-1), _known(view.depth_hw), 128)


def edge_strength(edge_hw: NDArray[np.bool_]) -> Float32Array:
    """Returns 1 on occlusion edges, falling off beside them."""
    if not edge_hw.any():
        return np.zeros(edge_hw.shape, dtype=np.float32)
    distance = np.asarray(
        cv2.distanceTransform((~edge_hw).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    )
    spread = max(0.7, edge_hw.shape[1] * _EDGE_WIDTH)
    result: Float32Array = np.exp(-0.5 * (distance / spread) ** 2).astype(np.float32)
    return result


def keypoint_strength(keypoints: list[Keypoint], shape_hw: tuple[int, int]) -> Float32Array:
    """Returns 1 on the visible keypoints of vehicles and people, falling off around them."""
    height, width = shape_hw
    strength = np.zeros(shape_hw, dtype=np.float32)
    spread = max(0.8, width * _KEYPOINT_WIDTH)
    reach = int(3 * spread) + 1
    for keypoint in keypoints:
        if not keypoint.visible:
            continue
        u, v = keypoint.pixel
        left, right = max(0, round(u) - reach), min(width, round(u) + reach + 1)
        top, bottom = max(0, round(v) - reach), min(height, round(v) + reach + 1)
        columns, rows = np.arange(left, right) - u, np.arange(top, bottom) - v
        blob = np.exp(-0.5 * (columns[None, :] ** 2 + rows[:, None] ** 2) / spread**2)
        part = strength[top:bottom, left:right]
        np.maximum(part, blob.astype(np.float32), out=part)
    return strength


def used_range(strength_hw: Float32Array, share: float) -> NDArray[np.uint16]:
    """Returns 16-bit values of which only `share` of the scale is used, as Taskonomy's files are."""
    return np.round(strength_hw.astype(np.float64) * (2**16 * share)).astype(np.uint16)
