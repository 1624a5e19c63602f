"""A path where no reference path is given: the middle of the drivable area ahead, from the bird's-eye-view
map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perception_core.control.path import FloatArray


@dataclass(frozen=True)
class DrivableGrid:
    """Where the road is, in the ego frame.

    Attributes:
        drivable_yx: True where drivable; rows run along +y, columns along +x.
        origin_x: x of the outer corner of cell (0, 0), metres.
        origin_y: y of the outer corner of cell (0, 0), metres.
        resolution: Cell size in metres.
    """

    drivable_yx: npt.NDArray[np.bool_]
    origin_x: float
    origin_y: float
    resolution: float


def centre_line(
    grid: DrivableGrid, vehicle_width_m: float, start_search_m: float, max_slope: float = 0.5
) -> FloatArray | None:
    """Derives the middle of the drivable area, column by column from the vehicle forward.

    In each column of cells the connected drivable interval nearest to the line so far is taken; the line ends
    where that interval is narrower than the vehicle or not reachable from the line. Where the road widens
    suddenly (a junction) the line moves to its new middle with at most `max_slope`, so that it can be driven.

    Args:
        grid: The drivable area.
        vehicle_width_m: Narrower intervals end the line.
        start_search_m: The area under and right before the vehicle is often not mapped; the line may begin
            this far ahead.
        max_slope: Largest lateral change per metre forward.

    Returns:
        Points (N, 2) in the ego frame, beginning at the first usable column, or None where there is no
        drivable road ahead.
    """
    columns = grid.drivable_yx.shape[1]
    x_of = grid.origin_x + (np.arange(columns) + 0.5) * grid.resolution
    points: list[tuple[float, float]] = []
    lateral, last_x = 0.0, 0.0
    for column in np.flatnonzero(x_of >= 0.0):
        x = float(x_of[column])
        interval = _nearest_interval(grid.drivable_yx[:, column], grid, lateral)
        usable = interval is not None and interval[1] - interval[0] >= vehicle_width_m
        reach = max_slope * max(x - last_x, grid.resolution) + grid.resolution
        if usable and interval is not None:
            usable = interval[0] - reach <= lateral <= interval[1] + reach
        if not usable or interval is None:
            if points or x > start_search_m:
                break
            continue
        low, high = interval[0] + vehicle_width_m / 2.0, interval[1] - vehicle_width_m / 2.0
        middle = (low + high) / 2.0
        step = max_slope * max(x - last_x, grid.resolution)
        wanted = min(max(middle, lateral - step), lateral + step)
        lateral = min(max(wanted, low), high)
        last_x = x
        points.append((x, lateral))
    if len(points) < 2:
        return None
    line = np.array(points)
    return _smoothed(line, max(1, round(1.0 / grid.resolution)))


def _nearest_interval(
    drivable_y: npt.NDArray[np.bool_], grid: DrivableGrid, lateral: float
) -> tuple[float, float] | None:
    """Returns (low, high) in metres of the run of drivable cells nearest to `lateral`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], drivable_y, [False]]).astype(np.int8)))
    if not len(edges):
        return None
    lows = grid.origin_y + edges[0::2] * grid.resolution
    highs = grid.origin_y + edges[1::2] * grid.resolution
    gaps = np.maximum(0.0, np.maximum(lows - lateral, lateral - highs))
    best = int(np.argmin(gaps))
    return float(lows[best]), float(highs[best])


def _smoothed(line: FloatArray, half_window: int) -> FloatArray:
    """Averages y over neighbouring columns; the window shrinks towards the ends so that they stay where
    they are.
    """
    y = line[:, 1]
    total = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(len(y))
    half = np.minimum(np.minimum(index, len(y) - 1 - index), half_window)
    mean = (total[index + half + 1] - total[index - half]) / (2 * half + 1)
    return np.stack([line[:, 0], mean], axis=1)
