"""Paths in the plane of the ego frame: polylines with arc length, projection, and motion of the frame they
are written in.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: Shorter pieces of a polyline are merged: their direction would be noise.
MIN_SEGMENT_M = 1e-3


def frame_moved(points_n2: FloatArray, speed_mps: float, yaw_rate_rps: float, time_s: float) -> FloatArray:
    """Rewrites points of the ego frame into the ego frame `time_s` later, at constant speed and yaw rate.

    Args:
        points_n2: x, y in the ego frame now.
        speed_mps: Speed of the ego origin along x.
        yaw_rate_rps: Turn rate, positive left.
        time_s: Time that passes; negative looks back.
    """
    angle = yaw_rate_rps * time_s
    if abs(angle) < 1e-9:
        origin = np.array([speed_mps * time_s, 0.0])
    else:
        radius = speed_mps / yaw_rate_rps
        origin = np.array([radius * math.sin(angle), radius * (1.0 - math.cos(angle))])
    cosine, sine = math.cos(angle), math.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    return (points_n2 - origin) @ rotation  # rows times R is R transposed times columns: the inverse rotation


def _apart(points_n2: FloatArray) -> FloatArray:
    """Drops points that coincide with the one kept before them."""
    while len(points_n2) > 1:
        steps = np.diff(points_n2, axis=0)
        apart = np.concatenate([[True], np.hypot(steps[:, 0], steps[:, 1]) >= MIN_SEGMENT_M])
        if apart.all():
            break
        if 2 * apart.sum() < len(apart):
            return _thinned(points_n2)  # points denser than that are a path all the same
        points_n2 = points_n2[apart]
    return points_n2


def _thinned(points_n2: FloatArray) -> FloatArray:
    """Does what `_apart` does point after point: slow, and right where all points lie too dense."""
    kept = [0]
    for index in range(1, len(points_n2)):
        if np.hypot(*(points_n2[index] - points_n2[kept[-1]])) >= MIN_SEGMENT_M:
            kept.append(index)
    return points_n2[kept]


class PlanarPath:
    """A polyline with arc length.

    Attributes:
        points_n2: Its points, at least two, consecutive ones apart.
        arc_length_n: Arc length at each point, starting with 0.
    """

    def __init__(self, points_n2: FloatArray) -> None:
        """Creates a path, merging points that coincide.

        Raises:
            ValueError: Points are not finite or fewer than two of them are apart.
        """
        points = np.asarray(points_n2, dtype=np.float64)
        if points.ndim != 2 or points.shape[1:] != (2,) or not np.isfinite(points).all():
            raise ValueError("a path needs finite points of shape (N, 2)")
        points = _apart(points)
        if len(points) < 2:
            raise ValueError("a path needs two points that are apart")
        self.points_n2: FloatArray = points
        segments = np.diff(self.points_n2, axis=0)
        self._lengths: FloatArray = np.hypot(segments[:, 0], segments[:, 1])
        self._directions: FloatArray = segments / self._lengths[:, None]
        self.arc_length_n: FloatArray = np.concatenate([[0.0], np.cumsum(self._lengths)])

    @property
    def length_m(self) -> float:
        """Length of the whole path."""
        return float(self.arc_length_n[-1])

    def project(self, points_n2: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns arc length and distance of each point's nearest place on the path, both of shape (N,)."""
        offsets = points_n2[:, None, :] - self.points_n2[None, :-1, :]
        along = np.clip(np.einsum("nsk,sk->ns", offsets, self._directions), 0.0, self._lengths[None, :])
        gaps = offsets - along[..., None] * self._directions[None]
        distances = np.hypot(gaps[..., 0], gaps[..., 1])
        nearest = np.argmin(distances, axis=1)
        rows = np.arange(len(points_n2))
        return self.arc_length_n[nearest] + along[rows, nearest], distances[rows, nearest]

    def point_at(self, arc_length_m: float) -> FloatArray:
        """Returns the point at an arc length, on the straight continuation beyond the end."""
        index = int(np.searchsorted(self.arc_length_n, arc_length_m, side="right")) - 1
        index = min(max(index, 0), len(self._lengths) - 1)
        return self.points_n2[index] + (arc_length_m - self.arc_length_n[index]) * self._directions[index]

    def largest_curvature(self, start_m: float, end_m: float, step_m: float = 2.0) -> float:
        """Returns the largest curvature in 1/m between two arc lengths, measured over chords of `step_m`
        so that noise is no curve.
        """
        end_m = min(end_m, self.length_m)
        count = int((end_m - start_m) / step_m)
        if count < 2:
            return 0.0
        places = np.array([self.point_at(start_m + index * step_m) for index in range(count + 1)])
        chords = np.diff(places, axis=0)
        headings = np.unwrap(np.arctan2(chords[:, 1], chords[:, 0]))
        return float(np.abs(np.diff(headings)).max() / step_m)


def path_from_ego(path: PlanarPath) -> PlanarPath | None:
    """Returns the path as driven from the ego origin: what lies behind is cut off and a lateral offset is
    closed ahead, not sideways.

    Returns None where nothing of it lies ahead.
    """
    arc_length, offset = path.project(np.zeros((1, 2)))
    # A vehicle beside its path returns to it over a length, here three times the offset, not by turning on
    # the spot.
    join_m = float(arc_length[0]) + 3.0 * float(offset[0])
    ahead = path.points_n2[path.arc_length_n > join_m + MIN_SEGMENT_M]
    if join_m >= path.length_m:
        return None
    points = np.vstack([np.zeros((1, 2)), path.point_at(join_m)[None], ahead])
    try:
        return PlanarPath(points)
    except ValueError:
        return None


def arc_path(curvature: float, length_m: float, step_m: float = 0.5) -> PlanarPath:
    """Returns the arc of constant curvature in 1/m that starts at the ego origin along x."""
    count = max(2, math.ceil(length_m / step_m) + 1)
    s = np.linspace(0.0, max(length_m, 2 * MIN_SEGMENT_M), count)
    if abs(curvature) < 1e-6:
        return PlanarPath(np.stack([s, np.zeros_like(s)], axis=1))
    return PlanarPath(
        np.stack([np.sin(curvature * s) / curvature, (1.0 - np.cos(curvature * s)) / curvature], axis=1)
    )
