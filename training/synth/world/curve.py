"""Smooth plane curves by arc length: roads, lanes, and the paths of everything that moves along them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

FloatArray = NDArray[np.float64]

#: Distance of the samples that make a curve.
STEP_M = 0.5


@dataclass(frozen=True)
class Curve:
    """A curve of evenly spaced samples about half a metre apart.

    Attributes:
        points_n2: Metres.
    """

    points_n2: FloatArray

    @cached_property
    def arc_n(self) -> FloatArray:
        """Arc length of each sample in metres, from 0."""
        steps = np.linalg.norm(np.diff(self.points_n2, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    @cached_property
    def heading_n(self) -> FloatArray:
        """Heading of each sample in radians, unwrapped so that it can be interpolated."""
        gradient = np.gradient(self.points_n2, self.arc_n, axis=0)
        return np.unwrap(np.arctan2(gradient[:, 1], gradient[:, 0]))

    @cached_property
    def curvature_n(self) -> FloatArray:
        """Curvature of each sample in 1/m, positive to the left."""
        result: FloatArray = np.gradient(self.heading_n, self.arc_n)
        return result

    @property
    def length(self) -> float:
        """Metres."""
        return float(self.arc_n[-1])

    def _look_up(self, values_n: FloatArray, arc: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Returns values at arc lengths, and how far beyond the ends those lie; samples are evenly spaced."""
        last = len(self.points_n2) - 1
        spacing = self.length / last
        position = np.asarray(arc, dtype=np.float64) / spacing
        inside = np.minimum(np.maximum(position, 0.0), last)
        low = np.minimum(inside.astype(np.int64), last - 1)
        share = inside - low
        if values_n.ndim > 1:
            share = share[..., None]
        found = values_n[low] * (1 - share) + values_n[low + 1] * share
        return found, (position - inside) * spacing

    @cached_property
    def _table_n4(self) -> FloatArray:
        return np.column_stack([self.points_n2, self.heading_n, self.curvature_n])

    def heading(self, arc: ArrayLike) -> FloatArray:
        """Returns headings in radians at arc lengths of any shape."""
        return self._look_up(self.heading_n, arc)[0]

    def curvature(self, arc: ArrayLike) -> FloatArray:
        """Returns curvatures in 1/m at arc lengths of any shape."""
        return self._look_up(self.curvature_n, arc)[0]

    def at(self, arc: ArrayLike, lateral: ArrayLike = 0.0) -> FloatArray:
        """Returns points [..., 2] at arc lengths, `lateral` metres to the left of the curve.

        Beyond its ends the curve goes on straight.
        """
        found, beyond = self._look_up(self._table_n4, arc)
        cosine, sine = np.cos(found[..., 2]), np.sin(found[..., 2])
        lateral = np.asarray(lateral, dtype=np.float64)
        return np.stack(
            [
                found[..., 0] + beyond * cosine - lateral * sine,
                found[..., 1] + beyond * sine + lateral * cosine,
            ],
            axis=-1,
        )

    def pose(self, arc: float) -> tuple[float, float, float]:
        """Returns x, y and heading at one arc length; `at` and `heading` without the cost of arrays."""
        last = len(self.points_n2) - 1
        spacing = self.length / last
        position = arc / spacing
        inside = min(max(position, 0.0), float(last))
        low = min(int(inside), last - 1)
        share = inside - low
        before, after = self._table_n4[low].tolist(), self._table_n4[low + 1].tolist()
        x, y, heading = (b + (a - b) * share for b, a in zip(before[:3], after[:3], strict=True))
        beyond = (position - inside) * spacing
        return x + beyond * math.cos(heading), y + beyond * math.sin(heading), heading

    def offset(self, lateral: ArrayLike, start: float = 0.0, end: float | None = None) -> Curve:
        """Returns the curve `lateral` metres to the left, between two arc lengths.

        Args:
            lateral: Metres; a number, or a function's values at `stations(start, end)`.
            start: Arc length.
            end: Arc length; None: the end.
        """
        return resampled(self.at(self.stations(start, end), lateral))

    def stations(self, start: float = 0.0, end: float | None = None) -> FloatArray:
        """Returns evenly spaced arc lengths from `start` to `end`."""
        end = self.length if end is None else end
        return np.linspace(start, end, max(4, int(np.ceil((end - start) / STEP_M)) + 1))

    def reversed(self) -> Curve:
        """Returns the curve run through the other way."""
        return Curve(self.points_n2[::-1].copy())

    def nearest_arc(self, point_2: ArrayLike) -> float:
        """Returns the arc length of the sample nearest to a point."""
        return float(self.arc_n[np.argmin(((self.points_n2 - np.asarray(point_2)) ** 2).sum(axis=1))])


def resampled(points_n2: FloatArray, smooth_m: float = 0.0) -> Curve:
    """Makes a curve with even spacing through points.

    Args:
        points_n2: Metres; repeated points are dropped.
        smooth_m: Standard deviation of a Gaussian along the curve; it rounds corners and leaves the ends.
    """
    steps = np.linalg.norm(np.diff(points_n2, axis=0), axis=1)
    points = points_n2[np.concatenate([[True], steps > 1e-9])]
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    even = np.linspace(0.0, arc[-1], max(4, int(np.ceil(arc[-1] / STEP_M)) + 1))
    result = np.stack([np.interp(even, arc, points[:, axis]) for axis in (0, 1)], axis=1)
    if smooth_m > 0:
        # reflect about the end points, so that the curve begins and ends where it did
        pad = min(len(result) - 1, int(4 * smooth_m / STEP_M) + 1)
        padded = np.concatenate(
            [2 * result[0] - result[pad:0:-1], result, 2 * result[-1] - result[-2 : -pad - 2 : -1]]
        )
        return resampled(gaussian_filter1d(padded, smooth_m / STEP_M, axis=0)[pad:-pad])
    return Curve(result)


def from_curvature(start_2: ArrayLike, heading: float, curvature_n: FloatArray) -> Curve:
    """Integrates curvatures given every STEP_M metres."""
    headings = heading + np.concatenate([[0.0], np.cumsum(curvature_n[:-1])]) * STEP_M
    middle = headings + curvature_n * STEP_M / 2
    steps = STEP_M * np.stack([np.cos(middle), np.sin(middle)], axis=1)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)]) + np.asarray(start_2)
    return Curve(points)


def joined(pieces: list[Curve], smooth_m: float = 0.0) -> Curve:
    """Joins curves whose ends meet."""
    return resampled(np.concatenate([piece.points_n2 for piece in pieces]), smooth_m)


def turn_between(
    start_2: FloatArray, start_heading: float, end_2: FloatArray, end_heading: float
) -> FloatArray:
    """Returns points of a cubic Bezier curve that leaves and arrives with given headings."""
    reach = 0.56 * float(np.linalg.norm(end_2 - start_2))
    control_1 = start_2 + reach * np.array([np.cos(start_heading), np.sin(start_heading)])
    control_2 = end_2 - reach * np.array([np.cos(end_heading), np.sin(end_heading)])
    t = np.linspace(0.0, 1.0, 60)[:, None]
    result: FloatArray = (
        (1 - t) ** 3 * start_2
        + 3 * (1 - t) ** 2 * t * control_1
        + 3 * (1 - t) * t**2 * control_2
        + t**3 * end_2
    )
    return result
