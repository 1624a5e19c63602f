"""Judges recorded control commands. Shares no code with the controller: it states the rules a second time,
from the outside.

A tick is unsafe when its command is not finite, breaks a limit of rate or magnitude, brakes less than the
speed limit asks for, or drives on perception older than the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from perception_core.rig import VehicleLimits

_DISENGAGED, _DRIVING, _COMFORTABLE_STOP, _FULL_STOP = 0, 1, 2, 3


@dataclass(frozen=True)
class JudgedCommand:
    """The fields of mmmt_msgs/ControlCommand that the rules are about, same names and units."""

    engaged: bool
    state: int
    steering_angle: float
    steering_rate: float
    speed: float
    acceleration: float
    measured_speed: float
    speed_limit: float
    sight_distance: float
    reaction_time: float
    perception_age: float


@dataclass(frozen=True)
class JudgeOptions:
    """What the judge holds commands against.

    Attributes:
        comfortable_stop_age_s: Perception older than this must not be driven on.
        full_stop_age_s: Perception older than this must be a full stop.
        law_deceleration_mps2: Deceleration of the sight-distance law; None: the vehicle's comfortable one.
        relative_tolerance: Of rates, limits and needs; messages hold 32-bit floats and time stamps jitter.
        speed_tolerance_mps: A speed this little above the limit is not held against the command.
    """

    comfortable_stop_age_s: float = 0.6
    full_stop_age_s: float = 1.2
    law_deceleration_mps2: float | None = None
    relative_tolerance: float = 0.02
    speed_tolerance_mps: float = 0.05


def unsafe_reasons(
    previous: JudgedCommand | None,
    current: JudgedCommand,
    dt: float,
    vehicle: VehicleLimits,
    options: JudgeOptions | None = None,
) -> list[str]:
    """Returns why a command is unsafe, an empty list where it is not.

    Args:
        previous: The command published just before it, None for the first after engaging.
        current: The command.
        dt: Seconds between the two; for a first command the control period.
        vehicle: The vehicle's limits.
        options: Ages, tolerances.
    """
    options = options or JudgeOptions()
    numbers = {
        name: value
        for name, value in vars(current).items()
        if isinstance(value, float) and not isinstance(value, bool)
    }
    broken = [name for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        return [f"{', '.join(broken)} not finite"]
    reasons = _magnitude_reasons(current, vehicle, options)
    reasons += _rate_reasons(previous, current, dt, vehicle, options)
    reasons += _state_reasons(current, options)
    reasons += _braking_reasons(previous, current, dt, vehicle, options)
    return reasons


def _magnitude_reasons(current: JudgedCommand, vehicle: VehicleLimits, options: JudgeOptions) -> list[str]:
    slack = 1.0 + options.relative_tolerance
    reasons = []
    if abs(current.steering_angle) > vehicle.max_steering_angle_rad * slack:
        reasons.append(
            f"steering angle {current.steering_angle:.3f} rad beyond {vehicle.max_steering_angle_rad:.3f}"
        )
    if abs(current.steering_rate) > vehicle.max_steering_rate_rad_s * slack:
        reasons.append(
            f"steering rate {current.steering_rate:.3f} rad/s beyond {vehicle.max_steering_rate_rad_s:.3f}"
        )
    if current.acceleration > vehicle.max_acceleration_mps2 * slack:
        reasons.append(
            f"acceleration {current.acceleration:.2f} m/s2 beyond {vehicle.max_acceleration_mps2:.2f}"
        )
    if current.acceleration < -vehicle.full_deceleration_mps2 * slack:
        reasons.append(
            f"deceleration {-current.acceleration:.2f} m/s2 beyond {vehicle.full_deceleration_mps2:.2f}"
        )
    if not -1e-3 <= current.speed <= vehicle.max_speed_mps * slack:
        reasons.append(f"target speed {current.speed:.2f} m/s outside 0..{vehicle.max_speed_mps:.2f}")
    return reasons


def _rate_reasons(
    previous: JudgedCommand | None,
    current: JudgedCommand,
    dt: float,
    vehicle: VehicleLimits,
    options: JudgeOptions,
) -> list[str]:
    slack = (1.0 + options.relative_tolerance) * max(dt, 0.0)
    reasons = []
    if previous is not None:
        turned = abs(current.steering_angle - previous.steering_angle)
        if turned > vehicle.max_steering_rate_rad_s * slack + 1e-4:
            reasons.append(f"steering moved {turned:.4f} rad in {dt:.3f} s")
    before = previous.acceleration if previous is not None else 0.0
    changed = abs(current.acceleration - before)
    if changed > vehicle.max_jerk_mps3 * slack + 1e-3:
        reasons.append(f"acceleration changed by {changed:.3f} m/s2 in {dt:.3f} s")
    return reasons


def _state_reasons(current: JudgedCommand, options: JudgeOptions) -> list[str]:
    if not current.engaged or current.state == _DISENGAGED:
        return ["a command was published while not engaged"]
    if current.state not in (_DRIVING, _COMFORTABLE_STOP, _FULL_STOP):
        return [f"unknown state {current.state}"]
    reasons = []
    age = current.perception_age
    if age > options.comfortable_stop_age_s + 1e-3 and current.state == _DRIVING:
        reasons.append(f"drives on perception {age:.2f} s old")
    if age > options.full_stop_age_s + 1e-3 and current.state != _FULL_STOP:
        reasons.append(f"no full stop on perception {age:.2f} s old")
    if current.state != _DRIVING and current.speed > 1e-3:
        reasons.append(f"wants {current.speed:.2f} m/s in a stop")
    return reasons


def _braking_reasons(
    previous: JudgedCommand | None,
    current: JudgedCommand,
    dt: float,
    vehicle: VehicleLimits,
    options: JudgeOptions,
) -> list[str]:
    law = options.law_deceleration_mps2 or vehicle.comfortable_deceleration_mps2
    sight, reaction = max(0.0, current.sight_distance), max(0.0, current.reaction_time)
    lawful = law * (math.sqrt(reaction**2 + 2.0 * sight / law) - reaction)
    reasons = []
    tolerance = options.speed_tolerance_mps + options.relative_tolerance * lawful
    if current.speed_limit > lawful + tolerance:
        reasons.append(f"speed limit {current.speed_limit:.2f} m/s above the law's {lawful:.2f}")
    if current.speed > current.speed_limit + tolerance:
        reasons.append(f"wants {current.speed:.2f} m/s above the limit {current.speed_limit:.2f}")

    required = 0.0
    speed = abs(current.measured_speed)
    if speed > min(current.speed_limit, lawful) + tolerance:
        left = sight - speed * reaction
        full = vehicle.full_deceleration_mps2
        required = full if left <= 0.0 else min(full, speed**2 / (2.0 * left))
    if current.state == _COMFORTABLE_STOP:
        required = max(required, vehicle.comfortable_deceleration_mps2)
    if current.state == _FULL_STOP:
        required = vehicle.full_deceleration_mps2
    # Braking builds up at the jerk limit: on the way there the command must fall as fast as it may.
    before = previous.acceleration if previous is not None else 0.0
    reachable = before - vehicle.max_jerk_mps3 * max(dt, 0.0) * (1.0 - options.relative_tolerance)
    allowed = max(-required * (1.0 - options.relative_tolerance), reachable) + 0.02
    if required > 0.0 and current.acceleration > allowed:
        reasons.append(f"acceleration {current.acceleration:.2f} m/s2 where {-required:.2f} is needed")
    return reasons
