"""Sparse depth images from LiDAR points: the depth label of data sets that have no other."""

from __future__ import annotations

import numpy as np

from perception_core.geometry import project_points
from training.datasets.sample import CameraImages, DenseLabel, Float32Array


def sparse_depth(points_nc: Float32Array, cameras: CameraImages, minimal_depth_m: float = 0.5) -> DenseLabel:
    """Projects points into every view; where several fall into one pixel the nearest is seen.

    Points that the LiDAR sees over or past an obstacle the camera stands behind are not removed: at the
        distance between the two sensors on a car that concerns the rims of near objects.

    Args:
        points_nc: x y z first, in the ego frame at the stamp.
        cameras: Views; masked ones get no depth.
        minimal_depth_m: Nearer points are not used.

    Returns:
        float32 [V, H, W] metres along the optical axis, and where there are any.
    """
    width, height = cameras.size
    depth = np.zeros((len(cameras), height, width), dtype=np.float32)
    for view in np.flatnonzero(cameras.valid_v):
        # Pixel centres lie at whole numbers, so a pixel reaches half a pixel to each side.
        projection = project_points(
            points_nc[:, :3],
            cameras.camera_from_ego_v44[view],
            cameras.intrinsics_v33[view],
            (width, height),
            minimal_depth_m,
        )
        pixel = np.round(projection.pixels[projection.visible]).astype(np.int64)
        metres = projection.depth[projection.visible].astype(np.float32)
        inside = (pixel[:, 0] < width) & (pixel[:, 1] < height)
        pixel, metres = pixel[inside], metres[inside]
        far_first = np.argsort(-metres, kind="stable")  # the last write to a pixel stays
        depth[view, pixel[far_first, 1], pixel[far_first, 0]] = metres[far_first]
    return DenseLabel(depth, depth > 0)
