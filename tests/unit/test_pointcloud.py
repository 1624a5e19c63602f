"""Any PointCloud2 layout with x, y and z is read; what does not add up is refused."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_core.geometry import rotation_about_z, transform_of
from perception_core.pointcloud import (
    DATATYPES,
    PointCloudError,
    PointField,
    decode_point_cloud,
    even_subset,
    prepare_points,
)

XYZI = [PointField(name, 4 * index, 7) for index, name in enumerate(("x", "y", "z", "intensity"))]


def decode(data: Any, fields: list[PointField], **changed: Any) -> np.ndarray:
    arguments: dict[str, Any] = {"width": 1, "height": 1, "point_step": 16, "row_step": 0} | changed
    return decode_point_cloud(data, fields=fields, **arguments)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[PointField], int, bool, dict[str, int]]:
    """Fields in any order with gaps, types and byte order."""
    names = draw(st.permutations(["x", "y", "z", "intensity", "ring", "time"]))
    position, fields, types = draw(st.integers(0, 5)), [], {}
    for name in names:
        datatype = draw(st.sampled_from([7, 8] if name in ("intensity", "time") else list(DATATYPES)))
        types[name] = datatype
        fields.append(PointField(name, position, datatype, draw(st.sampled_from([0, 1]))))
        position += np.dtype(DATATYPES[datatype]).itemsize + draw(st.integers(0, 3))
    return fields, position + draw(st.integers(0, 4)), draw(st.booleans()), types


@given(
    layouts(),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 9),
    st.sampled_from([bytes, "array", "numpy"]),
)
def test_any_layout_is_read(layout: Any, width: int, height: int, padding: int, holder: Any) -> None:
    fields, step, big, _ = layout
    row = width * step + (padding if height > 1 else 0)
    data = bytearray(row * height)
    expected = []
    for index in range(width * height):
        base = (index // width) * row + (index % width) * step
        values = {"x": index % 50, "y": (index * 3) % 50, "z": 7, "intensity": index, "ring": 1, "time": 0.01}
        for field in fields:
            kind = np.dtype((">" if big else "<") + DATATYPES[field.datatype])
            item = np.array(values[field.name]).astype(kind).tobytes()
            data[base + field.offset : base + field.offset + len(item)] = item
        expected.append([values["x"], values["y"], values["z"], values["intensity"], values["time"]])
    content: Any = bytes(data)
    if holder == "array":
        content = array.array("B", content)
    elif holder == "numpy":
        content = np.frombuffer(content, np.uint8)
    points = decode(
        content, fields, width=width, height=height, point_step=step, row_step=row, is_bigendian=big
    )
    assert points.dtype == np.float32
    assert np.allclose(points, expected, atol=1e-6)


def test_points_that_are_not_finite_or_too_large_are_left_out() -> None:
    fields = [PointField(name, 8 * index, 8) for index, name in enumerate("xyz")]
    values = np.array([[1, 2, 3], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, 1e300], [4, 5, 6]])
    points = decode(values.tobytes(), fields, width=5, point_step=24)
    assert points[:, :3].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_intensity_that_is_not_finite_becomes_zero() -> None:
    points = decode(np.array([1, 2, 3, np.nan], np.float32).tobytes(), XYZI)
    assert points[0, 3] == 0


@pytest.mark.parametrize(("width", "height"), [(0, 1), (5, 0), (0, 0)])
def test_a_cloud_of_no_points_is_empty(width: int, height: int) -> None:
    assert decode(b"", XYZI, width=width, height=height).shape == (0, 5)


@pytest.mark.parametrize(
    ("fields", "changed", "words"),
    [
        ([], {}, "no field 'x'"),
        (XYZI[1:], {}, "no field 'x', only: y, z, intensity"),
        ([*XYZI[:3], PointField("ring", 14, 6)], {}, "does not fit into a point of 16 bytes"),
        ([*XYZI, XYZI[0]], {}, "occurs twice"),
        ([PointField("x", 0, 42)], {}, "unknown datatype 42"),
        ([PointField("x", 0, 7, 3), *XYZI[1:]], {}, "3 values"),
        (XYZI, {"point_step": 0}, "point_step"),
        (XYZI, {"width": 2}, "cut off"),
        (XYZI, {"height": 2, "row_step": 8}, "row_step 8"),
        (XYZI, {"intensity_field": "intensty"}, "did you mean 'intensity'"),
    ],
)
def test_what_does_not_add_up_is_refused(
    fields: list[PointField], changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(PointCloudError, match=words):
        decode(bytes(16), fields, **changed)


@given(st.binary(max_size=64), st.integers(0, 8), st.integers(0, 8), st.integers(-4, 40), st.integers(-4, 80))
def test_random_headers_never_crash(
    data: bytes, width: int, height: int, point_step: int, row_step: int
) -> None:
    try:
        points = decode(data, XYZI, width=width, height=height, point_step=point_step, row_step=row_step)
    except PointCloudError:
        return
    assert len(points) <= width * height
    assert np.isfinite(points).all()


STAMP = 1_700_000_000.25


@pytest.mark.parametrize(
    ("name", "datatype", "value", "expected"),
    [
        ("time", 7, -0.03, -0.03),  # Velodyne, nuScenes sweeps
        ("t", 6, 40_000_000, 0.04),  # Ouster: nanoseconds
        ("offset_time", 6, 99_000_000, 0.099),  # Livox
        ("timestamp", 8, STAMP + 0.05, 0.05),  # Hesai: absolute seconds
        ("time", 7, float("nan"), 0.0),
        ("time", 7, 5000.0, 0.0),  # of an unknown unit
    ],
)
def test_point_times_of_the_drivers(name: str, datatype: int, value: float, expected: float) -> None:
    kind = np.dtype("<" + DATATYPES[datatype])
    data = np.array([1, 2, 3, 4], np.float32).tobytes() + np.array(value).astype(kind).tobytes()
    points = decode(
        data, [*XYZI, PointField(name, 16, datatype)], point_step=16 + kind.itemsize, stamp_s=STAMP
    )
    assert points[0, 4] == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 500), st.integers(1, 600))
def test_even_subset_is_spread_over_the_whole_sweep(count: int, limit: int) -> None:
    indices = even_subset(count, limit)
    assert len(indices) == min(count, limit)
    if count:
        assert indices[0] == 0
        steps = np.diff(indices)
        assert (steps >= 1).all()
        assert len(steps) == 0 or steps.max() - steps.min() <= 1
        assert indices[-1] < count


@given(st.integers(0, 300), st.floats(0, 5), st.integers(1, 100), st.floats(-3, 3))
def test_prepared_points_are_in_the_ego_frame_and_within_limits(
    count: int, low: float, limit: int, yaw: float
) -> None:
    generator = np.random.default_rng(count)
    points = generator.uniform(-10, 10, (count, 5)).astype(np.float32)
    points[:, 3] = generator.uniform(-10, 300, count)
    pose = transform_of(rotation_about_z(yaw), [1, 2, 3])
    result = prepare_points(points, pose, min_range_m=low, intensity_scale=255, max_points=limit)
    assert result.flags.c_contiguous
    assert len(result) <= limit
    assert ((result[:, 3] >= 0) & (result[:, 3] <= 1)).all()
    ranges = np.linalg.norm(result[:, :3] - [1, 2, 3], axis=1)
    assert (ranges >= low - 1e-3).all()
    kept = points[np.linalg.norm(points[:, :3], axis=1) >= low]
    assert len(result) == min(len(kept), limit) or abs(len(kept) - len(result)) <= 1  # rounding at the limit
