"""Annotated boxes with any rotation, brought into the ego frame as centre, size, yaw and velocity."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from perception_core.geometry import FloatArray, transform_points


def angles_of(rotation_b33: ArrayLike) -> FloatArray:
    """Splits rotations into yaw, pitch and roll [B, 3] radians with R = Rz(yaw) Ry(pitch) Rx(roll).

    Yaw is the heading of the box's x axis seen from above; a positive pitch lowers the front.
    """
    rotation = np.asarray(rotation_b33, dtype=np.float64).reshape(-1, 3, 3)
    yaw = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    pitch = np.arctan2(-rotation[:, 2, 0], np.hypot(rotation[:, 2, 1], rotation[:, 2, 2]))
    roll = np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2])
    return np.stack([yaw, pitch, roll], axis=1)


def rotation_of(angles_b3: ArrayLike) -> FloatArray:
    """Returns the rotations [B, 3, 3] of yaw, pitch and roll, see `angles_of`."""
    yaw, pitch, roll = np.asarray(angles_b3, dtype=np.float64).reshape(-1, 3).T
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    return np.stack(
        [
            np.stack([cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr], axis=1),
            np.stack([sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr], axis=1),
            np.stack([-sp, cp * sr, cp * cr], axis=1),
        ],
        axis=1,
    )


def boxes_in_ego(
    ego_from_source_44: ArrayLike,
    centre_b3: ArrayLike,
    size_b3: ArrayLike,
    rotation_b33: ArrayLike,
    velocity_b2: ArrayLike,
) -> tuple[FloatArray, FloatArray]:
    """Moves boxes from a data set's frame into the ego frame.

    Args:
        ego_from_source_44: Rigid transform.
        centre_b3: Metres, source frame.
        size_b3: Length, width, height.
        rotation_b33: Source from box.
        velocity_b2: Metres a second along the source frame's axes; NaN where not known.

    Returns:
        boxes_b9 and pitch_roll_b2 of `BoxLabels`.
    """
    transform = np.asarray(ego_from_source_44, dtype=np.float64)
    centre = transform_points(transform, np.asarray(centre_b3, dtype=np.float64).reshape(-1, 3))
    angles = angles_of(transform[:3, :3] @ np.asarray(rotation_b33, dtype=np.float64).reshape(-1, 3, 3))
    velocity = np.asarray(velocity_b2, dtype=np.float64).reshape(-1, 2)
    flat = np.concatenate([velocity, np.zeros((len(velocity), 1))], axis=1) @ transform[:3, :3].T
    size = np.asarray(size_b3, dtype=np.float64).reshape(-1, 3)
    return np.concatenate([centre, size, angles[:, :1], flat[:, :2]], axis=1), angles[:, 1:]
