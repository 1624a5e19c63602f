"""Steering along a path: pure pursuit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perception_core.control.path import PlanarPath


@dataclass(frozen=True)
class PursuitOptions:
    """Look-ahead distance = `base_m` + speed x `gain_s`, at most `max_m`."""

    base_m: float = 4.0
    gain_s: float = 0.8
    max_m: float = 20.0


def pure_pursuit(path: PlanarPath, speed_mps: float, wheelbase_m: float, options: PursuitOptions) -> float:
    """Returns the steering angle in radians, positive left, that leads the rear axle onto the path.

    R. C. Coulter, Implementation of the Pure Pursuit Path Tracking Algorithm, CMU-RI-TR-92-01: the arc
    through the origin, tangent to x, that passes the path's point at the look-ahead distance.

    Args:
        path: In the ego frame.
        speed_mps: Present speed.
        wheelbase_m: Wheelbase.
        options: Look-ahead.
    """
    look_ahead_m = min(options.base_m + options.gain_s * max(0.0, speed_mps), options.max_m)
    nearest, _ = path.project(np.zeros((1, 2)))
    goal = path.point_at(float(nearest[0]) + look_ahead_m)
    distance = math.hypot(goal[0], goal[1])
    if distance < 0.1:
        return 0.0
    curvature = 2.0 * float(goal[1]) / (distance * distance)
    return math.atan(wheelbase_m * curvature)
