"""The safety envelope: when to drive, when to stop and how, and the limits every command keeps."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from perception_core.rig import VehicleLimits


class DrivingState(enum.IntEnum):
    """The values of mmmt_msgs/ControlCommand."""

    DISENGAGED = 0
    DRIVING = 1
    COMFORTABLE_STOP = 2
    FULL_STOP = 3


@dataclass(frozen=True)
class EnvelopeOptions:
    """When the vehicle stops and when it goes on.

    Attributes:
        comfortable_stop_age_s: Perception older than this: comfortable stop.
        full_stop_age_s: Perception older than this: full stop.
        monitor_age_s: A latency status older than this is a dead monitor: full stop.
        comfortable_hold_s: A comfortable stop ends after everything was well for this long without a break.
        full_hold_s: The same for a full stop.
    """

    comfortable_stop_age_s: float = 0.6
    full_stop_age_s: float = 1.2
    monitor_age_s: float = 0.5
    comfortable_hold_s: float = 0.5
    full_hold_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.comfortable_stop_age_s <= self.full_stop_age_s:
            raise ValueError(
                f"comfortable_stop_age_s {self.comfortable_stop_age_s} must be positive and not above"
                f" full_stop_age_s {self.full_stop_age_s}"
            )


@dataclass(frozen=True)
class Health:
    """What the state depends on at one tick.

    Attributes:
        perception_age_s: Time since the newest output of every required task; infinite before the first.
        monitor_age_s: Time since the newest latency status; infinite before the first.
        stop_reason: Any other reason for a comfortable stop, empty where there is none.
    """

    perception_age_s: float
    monitor_age_s: float
    stop_reason: str = ""


class SafetyStateMachine:
    """DISENGAGED, DRIVING, COMFORTABLE_STOP, FULL_STOP.

    A stop is entered at once and left only after everything was well without a break for a hold time, so that
    a path that comes and goes does not make the vehicle lurch. A full stop goes on as a full stop until then;
    it never softens to a comfortable one.
    """

    def __init__(self, options: EnvelopeOptions) -> None:
        self.options = options
        self.state = DrivingState.DISENGAGED
        self.reason = "not engaged"
        self._well_since_s: float | None = None
        self._held_reason = ""

    @property
    def engaged(self) -> bool:
        """True while commands are published, whatever they say."""
        return self.state != DrivingState.DISENGAGED

    def engage(self, health: Health) -> str:
        """Engages where perception and monitor are alive.

        Returns:
            Why not, empty where it did.
        """
        if self.engaged:
            return ""
        obstacle = self._full_reason(health) or self._age_reason(health)
        if obstacle:
            return obstacle
        self.state = DrivingState.DRIVING
        self._well_since_s = None
        self.update(health, 0.0)
        return ""

    def disengage(self, reason: str) -> None:
        """Hands the vehicle back at once."""
        self.state = DrivingState.DISENGAGED
        self.reason = reason
        self._well_since_s = None

    def update(self, health: Health, now_s: float) -> DrivingState:
        """Moves on by one tick and returns the state for it."""
        if not self.engaged:
            return self.state
        full = self._full_reason(health)
        comfortable = self._age_reason(health) or health.stop_reason
        if full or comfortable:
            self._well_since_s = None
        if full:
            self.state, self._held_reason = DrivingState.FULL_STOP, full
        elif comfortable:
            if self.state != DrivingState.FULL_STOP:
                self.state, self._held_reason = DrivingState.COMFORTABLE_STOP, comfortable
        elif self.state != DrivingState.DRIVING:
            self._recover(now_s)
        if full or comfortable:
            self.reason = full or comfortable
        elif self.state == DrivingState.DRIVING:
            self.reason = ""
        else:
            self.reason = f"recovering from: {self._held_reason}"
        return self.state

    def _recover(self, now_s: float) -> None:
        if self._well_since_s is None:
            self._well_since_s = now_s
        hold_s = (
            self.options.full_hold_s
            if self.state == DrivingState.FULL_STOP
            else self.options.comfortable_hold_s
        )
        if now_s - self._well_since_s >= hold_s:
            self.state = DrivingState.DRIVING

    def _full_reason(self, health: Health) -> str:
        if not health.monitor_age_s <= self.options.monitor_age_s:  # written so that NaN stops too
            return f"latency monitor is silent {_for(health.monitor_age_s)}"
        if not health.perception_age_s <= self.options.full_stop_age_s:
            return f"perception is silent {_for(health.perception_age_s)}"
        return ""

    def _age_reason(self, health: Health) -> str:
        if not health.perception_age_s <= self.options.comfortable_stop_age_s:
            return f"perception is {health.perception_age_s:.2f} s old"
        return ""


def _for(age_s: float) -> str:
    return f"for {age_s:.2f} s" if math.isfinite(age_s) else "since the start"


class CommandLimiter:
    """Keeps steering and acceleration within the vehicle's limits of magnitude and rate."""

    def __init__(self, vehicle: VehicleLimits) -> None:
        self._vehicle = vehicle
        self.steering_rad = 0.0
        self.acceleration_mps2 = 0.0

    def reset(self, steering_rad: float) -> None:
        """Starts anew from a steering angle that is already there, without acceleration."""
        limit = self._vehicle.max_steering_angle_rad
        self.steering_rad = min(max(steering_rad, -limit), limit) if math.isfinite(steering_rad) else 0.0
        self.acceleration_mps2 = 0.0

    def steer(self, wanted_rad: float, time_s: float) -> float:
        """Returns the steering angle nearest to the wanted one that can be had after `time_s`; a
        non-finite wish holds.
        """
        if math.isfinite(wanted_rad):
            step = self._vehicle.max_steering_rate_rad_s * max(0.0, time_s)
            limit = self._vehicle.max_steering_angle_rad
            wanted_rad = min(max(wanted_rad, -limit), limit)
            self.steering_rad = min(max(wanted_rad, self.steering_rad - step), self.steering_rad + step)
        return self.steering_rad

    def accelerate(self, wanted_mps2: float, time_s: float) -> float:
        """Returns the acceleration nearest to the wanted one that can be had after `time_s`; a non-finite
        wish brakes fully.
        """
        vehicle = self._vehicle
        if not math.isfinite(wanted_mps2):
            wanted_mps2 = -vehicle.full_deceleration_mps2
        wanted_mps2 = min(max(wanted_mps2, -vehicle.full_deceleration_mps2), vehicle.max_acceleration_mps2)
        step = vehicle.max_jerk_mps3 * max(0.0, time_s)
        self.acceleration_mps2 = min(
            max(wanted_mps2, self.acceleration_mps2 - step), self.acceleration_mps2 + step
        )
        return self.acceleration_mps2
