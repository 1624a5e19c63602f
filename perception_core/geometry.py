"""Rigid transforms, boxes and projection.

Transforms are 4x4 float64 and named `target_from_source`: p_target = target_from_source @ p_source.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

#: Order of the eight corners that `box_corners` returns, as signs along the box's x (length), y (width) and z
#: (height) axes: 0-3 is the bottom face counter-clockwise from the front left, 4-7 the top face above it.
BOX_CORNER_SIGNS: FloatArray = np.array(
    [[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]],
    dtype=np.float64,
)

#: Corner pairs joined by the twelve edges of a box.
BOX_EDGES: tuple[tuple[int, int], ...] = (
    *((0, 1), (1, 2), (2, 3), (3, 0)),
    *((4, 5), (5, 6), (6, 7), (7, 4)),
    *((0, 4), (1, 5), (2, 6), (3, 7)),
)


def transform_of(rotation_33: ArrayLike | None = None, translation_3: ArrayLike | None = None) -> FloatArray:
    """Builds a 4x4 transform from a rotation matrix and a translation; None stands for identity and zero."""
    transform = np.eye(4)
    if rotation_33 is not None:
        transform[:3, :3] = np.asarray(rotation_33, dtype=np.float64)
    if translation_3 is not None:
        transform[:3, 3] = np.asarray(translation_3, dtype=np.float64)
    return transform


def rotation_from_quaternion(quaternion_xyzw: ArrayLike) -> FloatArray:
    """Turns a quaternion (x, y, z, w; the order of geometry_msgs) of any length but zero into a 3x3 rotation.

    Raises:
        ValueError: The quaternion is not finite or has no length.
    """
    quaternion = np.asarray(quaternion_xyzw, dtype=np.float64)
    norm = float(np.linalg.norm(quaternion))
    if quaternion.shape != (4,) or not np.isfinite(norm) or norm < 1e-9:
        raise ValueError(f"not a rotation quaternion (x, y, z, w): {quaternion.tolist()}")
    x, y, z, w = quaternion / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation_33: ArrayLike) -> FloatArray:
    """Turns a 3x3 rotation into the unit quaternion (x, y, z, w) with w >= 0.

    Uses Bar-Itzhack's eigenvector method, which stays exact near 180 degrees and gives the nearest rotation
    for a matrix that is slightly off orthonormal.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.asarray(rotation_33, dtype=np.float64)
    symmetric = (
        np.array(
            [
                [xx - yy - zz, xy + yx, xz + zx, zy - yz],
                [xy + yx, yy - xx - zz, yz + zy, xz - zx],
                [xz + zx, yz + zy, zz - xx - yy, yx - xy],
                [zy - yz, xz - zx, yx - xy, xx + yy + zz],
            ]
        )
        / 3.0
    )
    _, vectors = np.linalg.eigh(symmetric)
    quaternion: FloatArray = vectors[:, -1]
    return -quaternion if quaternion[3] < 0 else quaternion


def transform_from_quaternion(translation_3: ArrayLike, quaternion_xyzw: ArrayLike) -> FloatArray:
    """Builds a 4x4 transform from a translation and a quaternion (x, y, z, w), as geometry_msgs have them.

    Raises:
        ValueError: The quaternion has no length or a value is not finite.
    """
    translation = np.asarray(translation_3, dtype=np.float64)
    if translation.shape != (3,) or not np.isfinite(translation).all():
        raise ValueError(f"not a translation (x, y, z): {translation.tolist()}")
    return transform_of(rotation_from_quaternion(quaternion_xyzw), translation)


def rotation_about_z(yaw: float) -> FloatArray:
    """Returns the 3x3 rotation by `yaw` radians about z, counter-clockwise seen from above."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def quaternion_from_yaw(yaw: float) -> FloatArray:
    """Returns the quaternion (x, y, z, w) of a rotation by `yaw` radians about z."""
    return np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])


def yaw_of(transform: ArrayLike) -> float:
    """Returns the heading in radians of a 4x4 transform or 3x3 rotation: its x axis seen from above."""
    matrix = np.asarray(transform, dtype=np.float64)
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def wrap_angle(angle: ArrayLike) -> FloatArray:
    """Maps angles in radians to [-pi, pi)."""
    return (np.asarray(angle, dtype=np.float64) + np.pi) % (2 * np.pi) - np.pi


def inverse(transform_44: ArrayLike) -> FloatArray:
    """Inverts a rigid 4x4 transform (by transposition, exact for rotations)."""
    transform = np.asarray(transform_44, dtype=np.float64)
    rotation = transform[:3, :3].T
    return transform_of(rotation, -rotation @ transform[:3, 3])


def compose(*transforms_44: ArrayLike) -> FloatArray:
    """Multiplies transforms left to right: those of `a_from_b` and `b_from_c` make `a_from_c`."""
    result = np.eye(4)
    for transform in transforms_44:
        result = result @ np.asarray(transform, dtype=np.float64)
    return result


def is_rigid(transform_44: ArrayLike, tolerance: float = 1e-3) -> bool:
    """Tells whether a matrix is a finite 4x4 transform with a proper rotation."""
    transform = np.asarray(transform_44, dtype=np.float64)
    if transform.shape != (4, 4) or not np.isfinite(transform).all():
        return False
    rotation = transform[:3, :3]
    return bool(
        np.abs(rotation @ rotation.T - np.eye(3)).max() < tolerance
        and np.linalg.det(rotation) > 0
        and np.abs(transform[3] - [0, 0, 0, 1]).max() < tolerance
    )


def transform_points(target_from_source_44: ArrayLike, points_n3: ArrayLike) -> FloatArray:
    """Transforms points of any leading shape [..., 3]."""
    transform = np.asarray(target_from_source_44, dtype=np.float64)
    points = np.asarray(points_n3, dtype=np.float64)
    result: FloatArray = points @ transform[:3, :3].T + transform[:3, 3]
    return result


def planar_motion(speed: float, yaw_rate: float, duration_s: float) -> FloatArray:
    """Gives the transform `ego(t)_from_ego(t + duration)` of a vehicle that keeps its speed and yaw rate.

    Args:
        speed: Metres a second along x.
        yaw_rate: Radians a second, positive left.
        duration_s: Seconds, negative for the past.
    """
    turned = yaw_rate * duration_s
    travelled = speed * duration_s
    # sin(a)/a and (1-cos(a))/a of the arc, in forms that do not divide by a vanishing angle
    along = float(np.sinc(turned / np.pi))
    across = float(np.sin(turned / 2) * np.sinc(turned / 2 / np.pi))
    return transform_of(rotation_about_z(turned), [travelled * along, travelled * across, 0.0])


def box_corners(boxes_b7: ArrayLike) -> FloatArray:
    """Returns the corners [B, 8, 3] of boxes (x y z of the centre, length width height, yaw; further columns
    ignored).

    The order of the corners is that of `BOX_CORNER_SIGNS`.
    """
    boxes = np.atleast_2d(np.asarray(boxes_b7, dtype=np.float64))
    if boxes.size == 0:
        return np.zeros((0, 8, 3))
    local = BOX_CORNER_SIGNS[None] * boxes[:, None, 3:6] / 2
    cosine, sine = np.cos(boxes[:, 6, None]), np.sin(boxes[:, 6, None])
    corners = np.stack(
        [
            local[..., 0] * cosine - local[..., 1] * sine,
            local[..., 0] * sine + local[..., 1] * cosine,
            local[..., 2],
        ],
        axis=-1,
    )
    result: FloatArray = corners + boxes[:, None, :3]
    return result


def points_in_box(points_n3: ArrayLike, box_7: ArrayLike) -> NDArray[np.bool_]:
    """Tells which points lie inside one box (x y z l w h yaw)."""
    box = np.asarray(box_7, dtype=np.float64)
    local = (np.asarray(points_n3, dtype=np.float64)[:, :3] - box[:3]) @ rotation_about_z(box[6])
    inside: NDArray[np.bool_] = (np.abs(local) <= box[3:6] / 2).all(axis=1)
    return inside


class Projection(NamedTuple):
    """Points seen by a camera.

    Attributes:
        pixels: [..., 2] column and row in pixels; meaningless where `depth` is not positive.
        depth: [...] metres along the optical axis.
        visible: [...] in front of the camera and inside the image.
    """

    pixels: FloatArray
    depth: FloatArray
    visible: NDArray[np.bool_]


def project_points(
    points_n3: ArrayLike,
    camera_from_ego_44: ArrayLike,
    intrinsics_33: ArrayLike,
    image_size: tuple[int, int],
    minimal_depth: float = 0.1,
) -> Projection:
    """Projects ego-frame points into an image without distortion.

    Args:
        points_n3: [..., 3] points in the ego frame.
        camera_from_ego_44: Ego frame to the camera's optical frame (x right, y down, z forward).
        intrinsics_33: Camera matrix in pixels of that image.
        image_size: Width and height in pixels.
        minimal_depth: Points nearer than this, in metres, are not visible.
    """
    in_camera = transform_points(camera_from_ego_44, points_n3)
    depth = in_camera[..., 2]
    # Points at or behind the camera have no pixel; dividing by a small depth keeps them finite.
    homogeneous = in_camera @ np.asarray(intrinsics_33, dtype=np.float64).T
    pixels = homogeneous[..., :2] / np.maximum(depth, 1e-6)[..., None]
    width, height = image_size
    visible = (
        (depth >= minimal_depth)
        & (pixels[..., 0] >= 0)
        & (pixels[..., 0] < width)
        & (pixels[..., 1] >= 0)
        & (pixels[..., 1] < height)
    )
    return Projection(pixels, depth, visible)


def project_box_edges(
    corners_83: ArrayLike,
    camera_from_ego_44: ArrayLike,
    intrinsics_33: ArrayLike,
    image_size: tuple[int, int],
    minimal_depth: float = 0.1,
) -> FloatArray:
    """Projects one box's edges as line segments for drawing, cut at the camera's near plane.

    Args:
        corners_83: Corners as `box_corners` returns them, in the ego frame.
        camera_from_ego_44: Ego frame to the camera's optical frame.
        intrinsics_33: Camera matrix in pixels.
        image_size: Width and height; a box none of whose edges touches the image gives no segment.
        minimal_depth: Distance of the near plane in metres.

    Returns:
        [S, 2, 2] start and end pixels (column, row), at most twelve; they may leave the image.
    """
    in_camera = transform_points(camera_from_ego_44, corners_83)
    intrinsics = np.asarray(intrinsics_33, dtype=np.float64)
    segments = []
    for first, second in BOX_EDGES:
        start, end = in_camera[first], in_camera[second]
        if start[2] < minimal_depth and end[2] < minimal_depth:
            continue
        if start[2] < minimal_depth:
            start = end + (start - end) * (end[2] - minimal_depth) / (end[2] - start[2])
        elif end[2] < minimal_depth:
            end = start + (end - start) * (start[2] - minimal_depth) / (start[2] - end[2])
        ends = np.stack([start, end]) @ intrinsics.T
        segments.append(ends[:, :2] / ends[:, 2:])
    if not segments:
        return np.zeros((0, 2, 2))
    result = np.stack(segments)
    width, height = image_size
    outside = (
        (result[..., 0] < 0).all()
        or (result[..., 0] >= width).all()
        or (result[..., 1] < 0).all()
        or (result[..., 1] >= height).all()
    )
    return np.zeros((0, 2, 2)) if outside else result
