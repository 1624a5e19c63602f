"""The camera of the Cityscapes vehicle, and its calibration as the data set's files state it."""

from __future__ import annotations

from typing import Any

import numpy as np

from perception_core.geometry import FloatArray, inverse, transform_of
from training.datasets.box_frames import rotation_of
from training.synth.camera import Camera

#: Width of Cityscapes' pictures, to which the intrinsics below belong.
FULL_WIDTH = 2048
_FX, _FY, _U0, _V0 = 2262.52, 2265.3017905988554, 1096.98, 513.137
#: Metres between the two cameras of the stereo pair.
BASELINE_M = 0.209313
#: Pose of the camera in the vehicle frame (csCalibration.pdf): metres, radians.
_PLACE_M = (1.7, 0.1, 1.22)
_YAW, _PITCH, _ROLL = -0.0195, 0.038, 0.0

#: Axes of ISO 8855 (x forward, y left, z up) from those of an image camera (x right, y down, z forward).
_ISO_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def _ego_from_iso_camera() -> FloatArray:
    return transform_of(rotation_of([[_YAW, _PITCH, _ROLL]])[0], _PLACE_M)


def cityscapes_camera(width: int, height: int) -> Camera:
    """Makes the left camera for pictures of any size; the field of view is that of 2048 x 1024.

    Args:
        width: Pixels.
        height: Pixels; half the width leaves the principal point where it is.
    """
    scale = width / FULL_WIDTH
    # pixel coordinates name centres: half a pixel more measures from the picture's corner
    u0, v0 = (_U0 + 0.5) * scale - 0.5, (_V0 + 0.5) * scale - 0.5
    matrix = np.array([[_FX * scale, 0.0, u0], [0.0, _FY * scale, v0], [0.0, 0.0, 1.0]])
    pose = _ego_from_iso_camera() @ transform_of(_ISO_FROM_OPTICAL)
    return Camera("camera_front", pose, matrix, width, height)


def _intrinsic(camera: Camera) -> dict[str, float]:
    matrix = camera.matrix_33
    return {
        "fx": float(matrix[0, 0]),
        "fy": float(matrix[1, 1]),
        "u0": float(matrix[0, 2]),
        "v0": float(matrix[1, 2]),
    }


def camera_json(camera: Camera) -> dict[str, Any]:
    """Returns the content of `_camera.json`."""
    x, y, z = _PLACE_M
    extrinsic = {
        "baseline": BASELINE_M,
        "pitch": _PITCH,
        "roll": _ROLL,
        "x": x,
        "y": y,
        "yaw": _YAW,
        "z": z,
    }
    return {"extrinsic": extrinsic, "intrinsic": _intrinsic(camera)}


def sensor_json(camera: Camera) -> dict[str, Any]:
    """Returns the `sensor` of `_gtBbox3d.json`: the same, with the pose as a matrix."""
    sensor_from_iso = inverse(_ego_from_iso_camera())[:3]
    return {"sensor_T_ISO_8855": sensor_from_iso.tolist(), **_intrinsic(camera), "baseline": BASELINE_M}
