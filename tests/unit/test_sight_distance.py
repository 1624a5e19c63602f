"""Free distance along a path past objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.control.path import PlanarPath, arc_path, frame_moved, path_from_ego
from perception_core.control.sight_distance import Footprint, free_distance, trusted_range

WIDTH, MARGIN, FRONT = 1.9, 0.3, 3.7
STRAIGHT = PlanarPath(np.array([[0.0, 0.0], [50.0, 0.0], [100.0, 0.0]]))


def free(path: PlanarPath, *footprints: Footprint) -> float:
    return free_distance(path, footprints, WIDTH, MARGIN, FRONT)


def test_trusted_range_is_that_of_the_best_living_sensor() -> None:
    ranges = {"lidar": 50.0, "camera_front": 40.0, "camera_back": 0.0}
    assert trusted_range(("lidar", "camera_front"), ranges) == 50.0
    assert trusted_range(("camera_front", "camera_back"), ranges) == 40.0
    assert trusted_range(("camera_back", "radar"), ranges) == 0.0
    assert trusted_range((), ranges) == 0.0


def test_no_object_is_no_end() -> None:
    assert free(STRAIGHT) == math.inf


@settings(deadline=None, derandomize=True)
@given(st.floats(6.0, 90.0), st.floats(0.3, 12.0), st.floats(0.3, 3.0), st.floats(-math.pi, math.pi))
def test_object_on_the_axis_ends_it_at_its_nearest_edge(
    x: float, length: float, width: float, yaw: float
) -> None:
    """The nearest point of the rectangle within the corridor decides, found here by brute force."""
    along, across = np.meshgrid(
        np.linspace(-length / 2, length / 2, 300), np.linspace(-width / 2, width / 2, 300)
    )
    xs = x + along * math.cos(yaw) - across * math.sin(yaw)
    ys = along * math.sin(yaw) + across * math.cos(yaw)
    inside = np.abs(ys) <= WIDTH / 2 + MARGIN
    expected = max(0.0, xs[inside].min() - FRONT)
    if xs.min() < FRONT + 0.1:
        return  # beside the body another rule holds
    assert free(STRAIGHT, Footprint(x, 0.0, length, width, yaw)) == pytest.approx(expected, abs=0.3)


def test_object_beside_the_corridor_is_passed() -> None:
    edge = WIDTH / 2 + MARGIN
    assert free(STRAIGHT, Footprint(20.0, edge + 1.05, 4.0, 2.0, 0.0)) == math.inf
    assert free(STRAIGHT, Footprint(20.0, edge + 0.95, 4.0, 2.0, 0.0)) == pytest.approx(18.0 - FRONT)
    assert free(STRAIGHT, Footprint(20.0, -edge - 0.95, 4.0, 2.0, 0.0)) == pytest.approx(18.0 - FRONT)


def test_yaw_turns_a_passed_object_into_one_in_the_way() -> None:
    assert free(STRAIGHT, Footprint(20.0, 3.0, 8.0, 1.0, 0.0)) == math.inf
    across = free(STRAIGHT, Footprint(20.0, 3.0, 8.0, 1.0, math.pi / 2))
    assert across == pytest.approx(19.5 - FRONT, abs=0.01)


def test_long_thin_object_is_not_missed_between_its_corners() -> None:
    assert free(STRAIGHT, Footprint(30.0, 0.0, 40.0, 0.05, math.pi / 2)) == pytest.approx(
        30.0 - FRONT, abs=0.1
    )


def test_object_behind_is_no_matter_and_one_beside_the_body_only_when_it_touches() -> None:
    assert free(STRAIGHT, Footprint(-4.0, 0.0, 4.0, 2.0, 0.0)) == math.inf
    assert free(STRAIGHT, Footprint(1.8, WIDTH / 2 + 0.9, 1.0, 1.6, 0.0)) == math.inf
    assert free(STRAIGHT, Footprint(1.8, WIDTH / 2 + 0.7, 1.0, 1.6, 0.0)) == 0.0


def test_object_that_covers_the_vehicle_leaves_nothing() -> None:
    assert free(STRAIGHT, Footprint(2.0, 0.0, 30.0, 30.0, 0.4)) == 0.0


def test_object_on_a_curve_is_measured_along_the_curve() -> None:
    radius, angle = 30.0, 1.0
    curve = arc_path(1.0 / radius, 60.0)
    centre = Footprint(radius * math.sin(angle), radius * (1 - math.cos(angle)), 0.1, 0.1, 0.0)
    assert free(curve, centre) == pytest.approx(radius * angle - FRONT, abs=0.2)
    straight_ahead = Footprint(30.0, 0.0, 1.0, 1.0, 0.0)
    assert free(curve, straight_ahead) == math.inf


@settings(deadline=None, derandomize=True)
@given(st.floats(-15.0, 15.0), st.floats(-1.0, 1.0), st.floats(0.0, 3.0))
def test_moving_the_frame_forth_and_back_changes_nothing(
    speed: float, yaw_rate: float, time_s: float
) -> None:
    points = np.array([[0.0, 0.0], [10.0, -3.0], [4.0, 8.0]])
    there = frame_moved(points, speed, yaw_rate, time_s)
    assert np.allclose(frame_moved(there, speed, yaw_rate, -time_s), points, atol=1e-9)


def test_moving_straight_brings_points_nearer() -> None:
    assert np.allclose(frame_moved(np.array([[10.0, 1.0]]), 5.0, 0.0, 1.0), [[5.0, 1.0]])
    turned = frame_moved(np.array([[0.0, 10.0]]), 0.0, math.pi / 2, 1.0)
    assert np.allclose(turned, [[10.0, 0.0]])


def test_path_begins_at_the_vehicle_and_leaves_out_what_lies_behind() -> None:
    path = path_from_ego(PlanarPath(np.array([[-20.0, 1.0], [0.0, 1.0], [20.0, 1.0], [40.0, 1.0]])))
    assert path is not None
    assert np.allclose(path.points_n2[0], 0.0)
    assert (path.points_n2[1:, 0] >= 3.0 - 1e-9).all()
    assert path_from_ego(PlanarPath(np.array([[-20.0, 0.0], [-2.0, 0.0]]))) is None


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 2)),
        np.zeros((1, 2)),
        np.zeros((5, 2)),
        np.array([[0, 0], [math.nan, 1]]),
        np.zeros((3, 3)),
    ],
)
def test_what_is_no_path_is_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a path needs"):
        PlanarPath(points)
