"""The drive of the vehicle that carries the sensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from training.synth.world.curve import Curve

FloatArray = NDArray[np.float64]

#: Of the nuScenes vehicle.
WHEELBASE_M = 2.588
#: The box's centre lies this far ahead of the rear axle, the origin of the ego frame.
CENTRE_AHEAD_M = 1.34
#: Steering wheel angle per angle of the front wheels.
STEERING_RATIO = 15.2
_SMOOTHED_OVER_STEPS = 4.0


@dataclass(frozen=True)
class EgoState:
    """How the vehicle moves at one time.

    Attributes:
        position_2: Rear axle, metres.
        yaw: Radians.
        speed: Metres a second.
        acceleration: Along the heading, metres a second squared.
        yaw_rate: Radians a second.
        steering: Angle of the front wheels in radians, positive left.
        travelled_m: Since time 0.
    """

    position_2: FloatArray
    yaw: float
    speed: float
    acceleration: float
    yaw_rate: float
    steering: float
    travelled_m: float


@dataclass(frozen=True)
class EgoDrive:
    """A drive along a curve: the rear axle follows it, which is what a kinematic bicycle does.

    Attributes:
        curve: The path of the rear axle.
        times_t: Seconds.
        arcs_t: Arc length at those times.
    """

    curve: Curve
    times_t: FloatArray
    arcs_t: FloatArray

    @cached_property
    def _spline(self) -> CubicSpline:
        return CubicSpline(self.times_t, self.arcs_t)

    def state(self, time_s: float) -> EgoState:
        """Returns the vehicle's state; before and after the simulated time it keeps its speed."""
        inside = float(np.clip(time_s, self.times_t[0], self.times_t[-1]))
        speed = float(self._spline(inside, 1))
        arc = float(self._spline(inside)) + speed * (time_s - inside)
        acceleration = float(self._spline(inside, 2)) if inside == time_s else 0.0
        curvature = float(self.curve.curvature(arc))
        return EgoState(
            self.curve.at(arc),
            float(self.curve.heading(arc)),
            speed,
            acceleration,
            speed * curvature,
            float(np.arctan(WHEELBASE_M * curvature)),
            arc - float(self._spline(0.0)),
        )

    def centre(self, time_s: float) -> tuple[FloatArray, float]:
        """Returns the centre of the vehicle's outline and its yaw."""
        state = self.state(time_s)
        ahead = CENTRE_AHEAD_M * np.array([np.cos(state.yaw), np.sin(state.yaw)])
        return state.position_2 + ahead, state.yaw


def make_ego_drive(curve: Curve, times_t: FloatArray, arcs_t: FloatArray) -> EgoDrive:
    """Makes a smooth drive out of a simulated one.

    Args:
        curve: The path of the vehicle's centre, taken for that of its rear axle.
        times_t: Seconds.
        arcs_t: Arc length of the centre.
    """
    # beyond both ends it goes on with the speed it has there, so that the filter has something to blend with
    beyond = np.arange(1, 1 + int(4 * _SMOOTHED_OVER_STEPS))
    begin, end = arcs_t[1] - arcs_t[0], arcs_t[-1] - arcs_t[-2]
    extended = np.concatenate([arcs_t[0] - begin * beyond[::-1], arcs_t, arcs_t[-1] + end * beyond])
    smooth = gaussian_filter1d(extended, _SMOOTHED_OVER_STEPS)[len(beyond) : -len(beyond)]
    return EgoDrive(curve, times_t, np.maximum.accumulate(smooth - CENTRE_AHEAD_M))
