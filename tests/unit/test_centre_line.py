"""The drivable centre line."""

from __future__ import annotations

import numpy as np
import pytest

from perception_core.control.centre_line import DrivableGrid, centre_line

RESOLUTION = 0.5


def grid(drivable: np.ndarray) -> DrivableGrid:
    """A grid 60 m ahead and 10 m behind, 20 m to either side."""
    return DrivableGrid(drivable, -10.0, -20.0, RESOLUTION)


def blank() -> np.ndarray:
    return np.zeros((80, 140), dtype=bool)


def rows(low: float, high: float) -> slice:
    return slice(int((low + 20.0) / RESOLUTION), int((high + 20.0) / RESOLUTION))


def columns(low: float, high: float) -> slice:
    return slice(int((low + 10.0) / RESOLUTION), int((high + 10.0) / RESOLUTION))


def test_middle_of_a_straight_road() -> None:
    cells = blank()
    cells[rows(-2.0, 6.0), :] = True
    line = centre_line(grid(cells), 1.9, 8.0)
    assert line is not None
    assert np.allclose(line[line[:, 0] > 10.0, 1], 2.0, atol=0.05)
    assert line[-1, 0] == pytest.approx(59.75)


def test_takes_the_interval_the_vehicle_is_in_and_not_the_wider_one_beside_it() -> None:
    cells = blank()
    cells[rows(-2.0, 2.0), :] = True
    cells[rows(5.0, 19.0), :] = True
    line = centre_line(grid(cells), 1.9, 8.0)
    assert line is not None
    assert np.allclose(line[:, 1], 0.0, atol=0.05)


def test_follows_a_bend() -> None:
    cells = blank()
    for column in range(140):
        x = -10.0 + (column + 0.5) * RESOLUTION
        middle = 0.004 * max(x, 0.0) ** 2
        cells[rows(middle - 3.0, min(middle + 3.0, 20.0)), column] = True
    line = centre_line(grid(cells), 1.9, 8.0)
    assert line is not None
    near = line[line[:, 0] < 45.0]
    assert np.abs(near[:, 1] - 0.004 * near[:, 0] ** 2).max() < 0.6


def test_ends_before_a_gap_and_where_the_road_is_too_narrow() -> None:
    cells = blank()
    cells[rows(-3.0, 3.0), columns(-10.0, 20.0)] = True
    cells[rows(-3.0, 3.0), columns(25.0, 60.0)] = True
    line = centre_line(grid(cells), 1.9, 8.0)
    assert line is not None
    assert line[-1, 0] == pytest.approx(19.75)
    cells = blank()
    cells[rows(-3.0, 3.0), columns(-10.0, 30.0)] = True
    cells[rows(-0.5, 0.5), columns(30.0, 60.0)] = True
    line = centre_line(grid(cells), 1.9, 8.0)
    assert line is not None
    assert line[-1, 0] == pytest.approx(29.75)


def test_unmapped_cells_under_the_vehicle_are_skipped_but_not_a_road_that_begins_far_ahead() -> None:
    cells = blank()
    cells[rows(-3.0, 3.0), columns(6.0, 60.0)] = True
    assert centre_line(grid(cells), 1.9, 8.0) is not None
    cells = blank()
    cells[rows(-3.0, 3.0), columns(15.0, 60.0)] = True
    assert centre_line(grid(cells), 1.9, 8.0) is None


def test_no_road_is_no_line() -> None:
    assert centre_line(grid(blank()), 1.9, 8.0) is None


def test_stays_on_the_road_where_it_widens() -> None:
    cells = blank()
    cells[rows(-2.0, 2.0), :] = True
    cells[rows(-2.0, 19.0), columns(30.0, 60.0)] = True
    line = centre_line(grid(cells), 1.9, 8.0)
    assert line is not None
    slopes = np.diff(line[:, 1]) / np.diff(line[:, 0])
    assert np.abs(slopes).max() <= 0.55
    assert line[:, 1].min() > -1.1
