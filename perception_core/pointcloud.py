"""Decodes LiDAR sweeps laid out as sensor_msgs/PointCloud2 and prepares them as network input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception_core.configuration import nearest

Float32Array = NDArray[np.float32]

#: sensor_msgs/PointField datatypes.
DATATYPES: dict[int, str] = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}

#: Names drivers give to the intensity and to each point's time, in order of preference.
INTENSITY_FIELDS = ("intensity", "reflectance", "reflectivity", "i")
TIME_FIELDS = ("time", "t", "timestamp", "time_offset", "offset_time", "time_stamp")

#: A sweep is at most about this long; a point time beyond it is of an unknown unit and is not used.
_LONGEST_SWEEP_S = 1.0


class PointCloudError(ValueError):
    """A point cloud message does not hold what it says; the message tells what is wrong."""


@dataclass(frozen=True)
class PointField:
    """One field of a point: sensor_msgs/PointField without ROS."""

    name: str
    offset: int
    datatype: int
    count: int = 1


def decode_point_cloud(
    data: Any,
    *,
    fields: Sequence[PointField],
    width: int,
    height: int,
    point_step: int,
    row_step: int,
    is_bigendian: bool = False,
    stamp_s: float = 0.0,
    intensity_field: str = "",
) -> Float32Array:
    """Decodes a point cloud of any layout that has x, y and z.

    Args:
        data: Anything with the buffer interface (bytes, array.array, numpy).
        fields: The message's fields.
        width: Points a row.
        height: Rows.
        point_step: Bytes a point.
        row_step: Bytes a row, padding included.
        is_bigendian: Byte order of the values.
        stamp_s: The message's stamp, to which absolute point times are made relative.
        intensity_field: Name of the intensity field; empty: the first of `INTENSITY_FIELDS` that exists, else
            zero.

    Returns:
        [N, 5] x, y, z as in the message, intensity as in the message, time relative to the stamp in seconds
        (zero where the message has none). Points that are not finite are left out. N may be zero.

    Raises:
        PointCloudError: Fields are missing, do not fit into a point, or data is missing.
    """
    record = _record_type(fields, point_step, is_bigendian)
    names = record.names or ()
    for axis in "xyz":
        if axis not in names:
            raise PointCloudError(f"point cloud has no field '{axis}', only: {', '.join(names) or 'none'}")
    if intensity_field and intensity_field not in names:
        raise PointCloudError(
            f"point cloud has no intensity field '{intensity_field}'" + nearest(intensity_field, names)
        )
    if width < 0 or height < 0:
        raise PointCloudError(f"point cloud has the size {width}x{height}")
    if width * height == 0:
        return np.zeros((0, 5), dtype=np.float32)

    # Some drivers leave row_step at zero for a cloud of one row, where it has no meaning.
    stride = width * point_step if height == 1 else row_step
    if stride < width * point_step:
        raise PointCloudError(f"row_step {row_step} is less than {width} points of {point_step} bytes")
    content = np.frombuffer(data, dtype=np.uint8)
    needed = (height - 1) * stride + width * point_step
    if content.size < needed:
        raise PointCloudError(
            f"point cloud is cut off: {width}x{height} points of {point_step} bytes need {needed} bytes, "
            f"got {content.size}"
        )
    records: NDArray[Any] = np.ndarray(
        (height, width), dtype=record, buffer=content, strides=(stride, point_step)
    )

    points = np.zeros((height * width, 5), dtype=np.float32)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a float64 beyond float32 becomes infinite and is left out below
        for column, axis in enumerate("xyz"):
            points[:, column] = records[axis].reshape(-1)
        intensity = intensity_field or next((name for name in INTENSITY_FIELDS if name in names), "")
        if intensity:
            points[:, 3] = records[intensity].reshape(-1)
        time = next((name for name in TIME_FIELDS if name in names), "")
        if time:
            points[:, 4] = _relative_time(records[time].reshape(-1), stamp_s)
    usable = np.isfinite(points[:, 0]) & np.isfinite(points[:, 1]) & np.isfinite(points[:, 2])
    if not usable.all():
        points = points[usable]
    if not np.isfinite(points[:, 3]).all():
        points[:, 3] = np.nan_to_num(points[:, 3], nan=0.0, posinf=0.0, neginf=0.0)
    return points


def _record_type(fields: Sequence[PointField], point_step: int, is_bigendian: bool) -> np.dtype[Any]:
    """Returns the numpy record of one point."""
    if point_step <= 0:
        raise PointCloudError(f"point_step must be positive, got {point_step}")
    order = ">" if is_bigendian else "<"
    names: list[str] = []
    formats: list[Any] = []
    offsets: list[int] = []
    for field in fields:
        if field.datatype not in DATATYPES:
            raise PointCloudError(f"field '{field.name}' has the unknown datatype {field.datatype}")
        if field.name in names:
            raise PointCloudError(f"field '{field.name}' occurs twice")
        count = max(1, field.count)  # zero is written by drivers that mean one
        if field.name in ("x", "y", "z") and count != 1:
            raise PointCloudError(f"field '{field.name}' has {count} values a point instead of one")
        kind = np.dtype(order + DATATYPES[field.datatype])
        if field.offset < 0 or field.offset + kind.itemsize * count > point_step:
            raise PointCloudError(
                f"field '{field.name}' at byte {field.offset} does not fit into a point of {point_step} bytes"
            )
        names.append(field.name)
        formats.append(kind if count == 1 else (kind, (count,)))
        offsets.append(field.offset)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": point_step})


def _relative_time(values: NDArray[Any], stamp_s: float) -> NDArray[np.float64]:
    """Turns point times of the units drivers use into seconds relative to the stamp, if possible, else zero.

    Integers are nanoseconds (Ouster, Livox); floating-point numbers are seconds, absolute where they are
    large (Hesai, RoboSense).
    """
    nothing = np.zeros(values.shape[:1])
    if values.ndim != 1:
        return nothing
    seconds = values.astype(np.float64)
    if values.dtype.kind in "iu":
        seconds = seconds * 1e-9
    seconds[~np.isfinite(seconds)] = 0.0
    if seconds.size and np.abs(seconds).max() > 1e6:
        seconds = seconds - stamp_s
    if seconds.size and np.abs(seconds).max() > _LONGEST_SWEEP_S:
        return nothing
    return seconds


def even_subset(count: int, limit: int) -> NDArray[np.int64]:
    """Returns at most `limit` of the indices 0..count-1, evenly spread, so that a sweep keeps its shape."""
    if count <= limit:
        return np.arange(count)
    return np.arange(limit, dtype=np.int64) * count // limit


def prepare_points(
    points_n5: Float32Array,
    ego_from_lidar_44: ArrayLike,
    *,
    min_range_m: float = 0.0,
    intensity_scale: float = 1.0,
    max_points: int | None = None,
) -> Float32Array:
    """Brings decoded points into the ego frame as the frame tensor `points_nc`.

    Args:
        points_n5: x y z intensity time, as `decode_point_cloud` returns them, in the LiDAR's frame.
        ego_from_lidar_44: Pose of the LiDAR in the ego frame.
        min_range_m: Points nearer to the sensor than this are the vehicle itself and are removed.
        intensity_scale: Divides the intensity, which is then limited to 0..1.
        max_points: Keep at most this many, evenly spread; None: all.

    Returns:
        [M, 5] float32, contiguous; a new array.
    """
    points = points_n5
    if min_range_m > 0:
        squared = np.einsum("nc,nc->n", points[:, :3], points[:, :3])
        points = points[squared >= np.float32(min_range_m**2)]
    if max_points is not None and len(points) > max_points:
        points = points[even_subset(len(points), max_points)]
    transform = np.asarray(ego_from_lidar_44, dtype=np.float32)
    result = np.empty((len(points), 5), dtype=np.float32)
    result[:, :3] = points[:, :3] @ transform[:3, :3].T + transform[:3, 3]
    np.clip(points[:, 3] / np.float32(intensity_scale), 0.0, 1.0, out=result[:, 3])
    result[:, 4] = points[:, 4]
    return result
