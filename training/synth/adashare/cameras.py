"""Cameras of the image data sets: the intrinsics their loaders take for given, looking around the vehicle."""

from __future__ import annotations

import numpy as np

from perception_core.geometry import FloatArray, rotation_about_z, transform_of
from training.synth.camera import Camera

#: Where the views look, degrees to the left of ahead; a data set has the first of them.
VIEW_YAWS_DEG = (0.0, 180.0, 75.0, -75.0)
_HEIGHT_M, _AHEAD_M, _OFF_CENTRE_M = 1.5, 1.0, 0.7

#: Camera axes (x right, y down, z forward) of a camera that looks along the vehicle's x axis.
_EGO_FROM_FORWARD_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def view_cameras(matrix_33: FloatArray, size: tuple[int, int], views: int) -> tuple[Camera, ...]:
    """Makes the cameras of a data set.

    Args:
        matrix_33: Intrinsics of a picture of that size.
        size: Width and height in pixels.
        views: How many of VIEW_YAWS_DEG.
    """
    cameras = []
    for yaw_deg in VIEW_YAWS_DEG[:views]:
        turn = rotation_about_z(np.radians(yaw_deg))
        place = turn @ [_OFF_CENTRE_M, 0.0, 0.0] + [_AHEAD_M, 0.0, _HEIGHT_M]
        pose = transform_of(turn @ _EGO_FROM_FORWARD_CAMERA, place)
        cameras.append(Camera(f"camera_{yaw_deg:g}", pose, matrix_33, *size))
    return tuple(cameras)
