"""The sight-distance law: a vehicle may be only as fast as it can stop within what it sees, given how late it
sees it.

    v T + v^2 / (2 a)  <=  d

v speed, T reaction time, a deceleration, d sight distance. It is the stopping-sight-distance formula of road
design (AASHTO, A Policy on Geometric Design of Highways and Streets, chapter 3), with the driver's reaction
time replaced by the stack's measured one.
"""

from __future__ import annotations

import math


def stopping_distance(speed_mps: float, reaction_time_s: float, deceleration_mps2: float) -> float:
    """Returns the distance in metres covered until standstill: the left side of the law."""
    return speed_mps * reaction_time_s + speed_mps * speed_mps / (2.0 * deceleration_mps2)


def speed_limit(sight_distance_m: float, reaction_time_s: float, deceleration_mps2: float) -> float:
    """Returns the largest speed in m/s that satisfies the law, 0 where nothing is seen.

    The root of the quadratic is written 2 d / (T + sqrt(T^2 + 2 d / a)), which loses no digits for small d.

    Args:
        sight_distance_m: Distance free and in sight; infinite is refused.
        reaction_time_s: Time from an event in front of the sensor to the onset of braking.
        deceleration_mps2: Deceleration counted on.

    Raises:
        ValueError: A value is not finite, the reaction time is negative or the deceleration not positive.
    """
    if not all(map(math.isfinite, (sight_distance_m, reaction_time_s, deceleration_mps2))):
        raise ValueError(
            f"sight distance {sight_distance_m}, reaction time {reaction_time_s} and deceleration"
            f" {deceleration_mps2} must be finite"
        )
    if reaction_time_s < 0.0 or deceleration_mps2 <= 0.0:
        raise ValueError(
            f"reaction time {reaction_time_s} must be >= 0 and deceleration {deceleration_mps2} > 0"
        )
    if sight_distance_m <= 0.0:
        return 0.0
    root = math.sqrt(reaction_time_s**2 + 2.0 * sight_distance_m / deceleration_mps2)
    return 2.0 * sight_distance_m / (reaction_time_s + root)


def needed_deceleration(
    speed_mps: float, sight_distance_m: float, reaction_time_s: float, full_deceleration_mps2: float
) -> float:
    """Returns the constant deceleration that, after the reaction time, just stops within the sight distance.

    At the speed limit it is the deceleration of the law. Bounded by what the vehicle can do.
    """
    if speed_mps <= 0.0:
        return 0.0
    remaining_m = sight_distance_m - speed_mps * reaction_time_s
    if remaining_m <= speed_mps * speed_mps / (2.0 * full_deceleration_mps2):
        return full_deceleration_mps2
    return speed_mps * speed_mps / (2.0 * remaining_m)


def ramp_delay_s(acceleration_mps2: float, deceleration_mps2: float, jerk_mps3: float) -> float:
    """Returns the delay that costs as much speed as changing from an acceleration to a deceleration at
    limited jerk.

    The ramp takes (a0 + a) / j; afterwards the vehicle is as fast as if it had braked with `a` at once after
    (a0 + a)^2 / (2 a j).

    Args:
        acceleration_mps2: Acceleration at the onset; negative values (already braking) count as 0.
        deceleration_mps2: Deceleration to reach.
        jerk_mps3: Jerk limit.
    """
    return (max(0.0, acceleration_mps2) + deceleration_mps2) ** 2 / (2.0 * deceleration_mps2 * jerk_mps3)
