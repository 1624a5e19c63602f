"""How far the vehicle sees a free road: the range its living sensors are trusted to, shortened by the
nearest object on the path.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perception_core.control.path import FloatArray, PlanarPath


@dataclass(frozen=True)
class Footprint:
    """Rectangle an object covers on the ground, in the ego frame: centre, length along its yaw, width
    across.
    """

    x: float
    y: float
    length: float
    width: float
    yaw: float

    def is_finite(self) -> bool:
        """True where every value is a number."""
        return all(map(math.isfinite, (self.x, self.y, self.length, self.width, self.yaw)))


def trusted_range(alive: Iterable[str], trusted_range_m: Mapping[str, float]) -> float:
    """Returns the largest range a living sensor is trusted to, 0 where none of them looks ahead."""
    return max((trusted_range_m.get(modality, 0.0) for modality in alive), default=0.0)


def free_distance(
    path: PlanarPath,
    footprints: Sequence[Footprint],
    vehicle_width_m: float,
    margin_m: float,
    front_m: float,
) -> float:
    """Returns how far the front bumper can move along the path until it meets an object, infinite where it
    meets none.

    The corridor is the vehicle's width plus a margin on both sides. Beside the vehicle's own body the margin
    does not count: an object there is passed, not hit, unless it overlaps the body. Objects stand still here;
    see docs/control.md.

    Args:
        path: Driven path in the ego frame of the footprints; starts at the ego origin.
        footprints: The objects.
        vehicle_width_m: Vehicle width.
        margin_m: Free space wanted on either side.
        front_m: Ego origin to front bumper.
    """
    if not footprints:
        return math.inf
    half_width = vehicle_width_m / 2.0
    reach = half_width + margin_m
    centres = np.array([[f.x, f.y] for f in footprints])
    half_diagonals = np.array([math.hypot(f.length, f.width) / 2.0 for f in footprints])
    _, offsets = path.project(centres)
    nearest = math.inf
    for index in np.flatnonzero(offsets <= reach + half_diagonals):
        nearest = min(nearest, _distance_to(path, footprints[index], half_width, reach, front_m))
    return nearest


def _distance_to(
    path: PlanarPath, footprint: Footprint, half_width: float, reach: float, front_m: float
) -> float:
    points = _outline(footprint)
    if (
        _covers(footprint, front_m, half_width)
        or ((points[:, 0] > 0.0) & (points[:, 0] < front_m) & (np.abs(points[:, 1]) < half_width)).any()
    ):
        return 0.0
    arc_length, offset = path.project(points)
    # A point behind the origin projects onto the path's first point; it is not ahead, however near.
    direction = path.points_n2[1] - path.points_n2[0]
    ahead = (arc_length > 0.0) | (points @ direction > 0.0)
    in_corridor = ahead & (offset <= reach) & (arc_length >= front_m)
    hits = arc_length[in_corridor]
    return float(hits.min()) - front_m if len(hits) else math.inf


def _outline(footprint: Footprint) -> FloatArray:
    """Points along the rectangle's edge, close enough that none of it slips between two corridor edges."""
    step_m = 0.25
    half_length, half_width = footprint.length / 2.0, footprint.width / 2.0
    along = np.linspace(-half_length, half_length, min(200, max(2, math.ceil(footprint.length / step_m) + 1)))
    across = np.linspace(-half_width, half_width, min(200, max(2, math.ceil(footprint.width / step_m) + 1)))
    local = np.concatenate(
        [
            np.stack([along, np.full_like(along, -half_width)], axis=1),
            np.stack([along, np.full_like(along, half_width)], axis=1),
            np.stack([np.full_like(across, -half_length), across], axis=1),
            np.stack([np.full_like(across, half_length), across], axis=1),
        ]
    )
    cosine, sine = math.cos(footprint.yaw), math.sin(footprint.yaw)
    return local @ np.array([[cosine, sine], [-sine, cosine]]) + np.array([footprint.x, footprint.y])


def _covers(footprint: Footprint, front_m: float, half_width: float) -> bool:
    """True where the object covers a corner or the middle of the vehicle's own body (its outline may then
    lie all outside).
    """
    body = np.array([[x, y] for x in (0.0, front_m / 2.0, front_m) for y in (-half_width, 0.0, half_width)])
    cosine, sine = math.cos(footprint.yaw), math.sin(footprint.yaw)
    local = (body - np.array([footprint.x, footprint.y])) @ np.array([[cosine, -sine], [sine, cosine]])
    inside = (np.abs(local[:, 0]) < footprint.length / 2.0) & (np.abs(local[:, 1]) < footprint.width / 2.0)
    return bool(inside.any())
