"""What the layouts of image data sets take for given: names of their lists, scales, intrinsics.

Shared by loaders and generators; imports no torch, because rendering processes do without it.
"""

from __future__ import annotations

import numpy as np

from perception_core.geometry import FloatArray

#: Names of the classes of a data set whose files hold numbers, where they are not the published ones.
CLASS_NAMES_FILE = "classes.json"

NYUV2_GROUP_FILE = "nyu_v2_3task.json"
TASKONOMY_GROUP_FILE = "taskonomy.json"

#: Kinect's colour camera at 640 x 480, from NYUv2's toolbox.
NYUV2_INTRINSICS = np.array([[518.86, 0, 325.58], [0, 519.47, 253.74], [0, 0, 1.0]])
NYUV2_SIZE = (640, 480)

#: Parts of the 16-bit scale that Taskonomy's keypoints and edges use.
KEYPOINT_RANGE, EDGE_RANGE = 0.005, 0.08


def nyuv2_intrinsics(size: tuple[int, int]) -> FloatArray:
    """Returns NYUv2's camera matrix for a picture of (width, height)."""
    scaling = np.diag([size[0] / NYUV2_SIZE[0], size[1] / NYUV2_SIZE[1], 1.0])
    result: FloatArray = scaling @ NYUV2_INTRINSICS
    return result


def nominal_intrinsics(size: tuple[int, int]) -> FloatArray:
    """Returns a camera matrix for data sets that tell none: focal length = width (53 degrees wide),
    centred.
    """
    width, height = size
    return np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
