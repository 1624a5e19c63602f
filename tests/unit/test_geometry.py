"""Properties of perception_core.geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_core import geometry

finite = st.floats(-50, 50, allow_nan=False)
vectors = st.tuples(finite, finite, finite).map(np.array)
angles = st.floats(-np.pi, np.pi)
quaternions = st.tuples(*[st.floats(-1, 1)] * 4).map(np.array).filter(lambda q: np.linalg.norm(q) > 1e-2)
transforms = st.builds(geometry.transform_from_quaternion, vectors, quaternions)


@given(quaternions)
def test_quaternion_and_matrix_are_each_others_inverse(quaternion: np.ndarray) -> None:
    rotation = geometry.rotation_from_quaternion(quaternion)
    assert geometry.is_rigid(geometry.transform_of(rotation), 1e-9)
    again = geometry.quaternion_from_rotation(rotation)
    expected = quaternion / np.linalg.norm(quaternion)
    assert min(np.abs(again - expected).max(), np.abs(again + expected).max()) < 1e-7


@given(quaternions, vectors)
def test_rotation_agrees_with_the_quaternion_product(quaternion: np.ndarray, vector: np.ndarray) -> None:
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    axis = np.array([x, y, z])
    by_product = vector + 2 * np.cross(axis, np.cross(axis, vector) + w * vector)
    assert np.allclose(geometry.rotation_from_quaternion(quaternion) @ vector, by_product, atol=1e-9)


@given(transforms, transforms, vectors)
def test_inverse_and_composition(first: np.ndarray, second: np.ndarray, point: np.ndarray) -> None:
    assert np.allclose(geometry.compose(first, geometry.inverse(first)), np.eye(4), atol=1e-9)
    stepwise = geometry.transform_points(first, geometry.transform_points(second, point))
    assert np.allclose(geometry.transform_points(geometry.compose(first, second), point), stepwise, atol=1e-8)


@given(angles)
def test_yaw_survives_both_representations(yaw: float) -> None:
    for rotation in (
        geometry.rotation_about_z(yaw),
        geometry.rotation_from_quaternion(geometry.quaternion_from_yaw(yaw)),
    ):
        difference = geometry.wrap_angle(geometry.yaw_of(rotation) - yaw)
        assert abs(difference) < 1e-9


@given(st.floats(-100, 100))
def test_wrapped_angle_is_equivalent_and_in_range(angle: float) -> None:
    wrapped = float(geometry.wrap_angle(angle))
    assert -np.pi <= wrapped < np.pi
    assert abs(np.exp(1j * wrapped) - np.exp(1j * angle)) < 1e-9


@pytest.mark.parametrize("quaternion", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [0, 0, 1]])
def test_bad_quaternion_is_refused(quaternion: list[float]) -> None:
    with pytest.raises(ValueError, match="quaternion"):
        geometry.rotation_from_quaternion(quaternion)


@given(vectors, st.tuples(*[st.floats(0.2, 10)] * 3), angles)
def test_box_corners_have_the_box_size_and_lie_in_it(
    centre: np.ndarray, size: tuple[float, float, float], yaw: float
) -> None:
    box = np.array([*centre, *size, yaw])
    corners = geometry.box_corners(box)[0]
    assert np.allclose(corners.mean(axis=0), centre, atol=1e-9)
    lengths = sorted(np.linalg.norm(corners[a] - corners[b]) for a, b in geometry.BOX_EDGES)
    assert np.allclose(lengths, sorted([*size] * 4), atol=1e-9)
    inner = centre + (corners - centre) * 0.999
    outer = centre + (corners - centre) * 1.001
    assert geometry.points_in_box(inner, box).all()
    assert not geometry.points_in_box(outer, box).any()
    forward = corners[0] - corners[1]  # length runs along the heading
    assert abs(geometry.wrap_angle(np.arctan2(forward[1], forward[0]) - yaw)) < 1e-6


def test_no_boxes_have_no_corners() -> None:
    assert geometry.box_corners(np.zeros((0, 7))).shape == (0, 8, 3)


INTRINSICS = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
#: A camera at the ego origin looking along ego x: optical x is -y, optical y is -z, optical z is x.
CAMERA_FROM_EGO = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


@given(st.floats(0, 639.9), st.floats(0, 479.9), st.floats(0.2, 100))
def test_projection_inverts_back_projection(column: float, row: float, depth: float) -> None:
    ray = np.linalg.inv(INTRINSICS) @ [column, row, 1]
    ego = geometry.transform_points(geometry.inverse(CAMERA_FROM_EGO), ray * depth)
    projection = geometry.project_points(ego, CAMERA_FROM_EGO, INTRINSICS, (640, 480))
    assert np.allclose(projection.pixels, [column, row], atol=1e-6)
    assert np.isclose(projection.depth, depth)
    assert projection.visible or min(column, row) < 1e-6  # rounding at the very border


@given(st.lists(vectors, min_size=1, max_size=20))
def test_projection_is_finite_and_never_shows_what_is_behind(points: list[np.ndarray]) -> None:
    projection = geometry.project_points(np.stack(points), CAMERA_FROM_EGO, INTRINSICS, (640, 480))
    assert np.isfinite(projection.pixels).all()
    assert not projection.visible[np.stack(points)[:, 0] < 0.1].any()


@given(vectors, st.tuples(*[st.floats(0.2, 10)] * 3), angles)
def test_box_edges_are_cut_at_the_near_plane(
    centre: np.ndarray, size: tuple[float, float, float], yaw: float
) -> None:
    corners = geometry.box_corners([*centre, *size, yaw])[0]
    segments = geometry.project_box_edges(corners, CAMERA_FROM_EGO, INTRINSICS, (640, 480))
    assert np.isfinite(segments).all()
    visible = geometry.project_points(corners, CAMERA_FROM_EGO, INTRINSICS, (640, 480)).visible
    if visible.any():
        assert len(segments) > 0
    if (corners[:, 0] < 0.1).all():
        assert len(segments) == 0
    if (corners[:, 0] > 0.1).all() and len(segments):
        assert len(segments) == 12


@given(st.floats(-20, 20), st.floats(-1, 1), st.floats(-1, 1))
def test_planar_motion_equals_many_small_steps(speed: float, yaw_rate: float, duration: float) -> None:
    steps = 200
    step = geometry.compose(
        geometry.transform_of(None, [speed * duration / steps / 2, 0, 0]),
        geometry.transform_of(geometry.rotation_about_z(yaw_rate * duration / steps)),
        geometry.transform_of(None, [speed * duration / steps / 2, 0, 0]),
    )
    expected = np.linalg.matrix_power(step, steps)
    assert np.allclose(geometry.planar_motion(speed, yaw_rate, duration), expected, atol=1e-3)


@given(transforms)
def test_mirrored_or_scaled_matrices_are_not_rigid(transform: np.ndarray) -> None:
    assert geometry.is_rigid(transform)
    mirrored = transform.copy()
    mirrored[:3, 0] *= -1
    assert not geometry.is_rigid(mirrored)
    assert not geometry.is_rigid(transform * 1.1)
    assert not geometry.is_rigid(np.full((4, 4), np.nan))
