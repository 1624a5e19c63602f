"""From speed limit, target speed and braking need to an acceleration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LongitudinalOptions:
    """Settings of the speed follower.

    Attributes:
        time_constant_s: A speed error is removed with this time constant.
        onset: Share of the law's deceleration at which braking for the sight distance fades in. It must be
            complete at the limit itself; beginning earlier makes the approach to a stop smooth instead of a
            switch.
        standstill_mps: Slower counts as standing.
    """

    time_constant_s: float = 0.8
    onset: float = 0.7
    standstill_mps: float = 0.1


def follow_speed(
    speed_mps: float,
    target_mps: float,
    limit_mps: float,
    need_mps2: float,
    law_deceleration_mps2: float,
    max_acceleration_mps2: float,
    comfortable_deceleration_mps2: float,
    options: LongitudinalOptions,
) -> float:
    """Returns the wanted acceleration in m/s^2.

    Below the limit it follows the target speed, fading over to the braking need where that comes near the
    law's deceleration; above the limit it brakes with at least the need.

    Args:
        speed_mps: Present speed, not negative.
        target_mps: Speed wanted, not above the limit.
        limit_mps: Speed limit.
        need_mps2: Deceleration that just stops within the sight distance, see
            `speed_limit.needed_deceleration`.
        law_deceleration_mps2: Deceleration the limit counts on.
        max_acceleration_mps2: Largest acceleration.
        comfortable_deceleration_mps2: Largest deceleration for a mere change of speed.
        options: Settings.
    """
    if target_mps <= 0.0 and speed_mps <= options.standstill_mps:
        return -comfortable_deceleration_mps2  # the brake holds the standing vehicle
    wanted = (target_mps - speed_mps) / options.time_constant_s
    wanted = min(max(wanted, -comfortable_deceleration_mps2), max_acceleration_mps2)
    if speed_mps > limit_mps:
        return min(wanted, -need_mps2)
    share = (need_mps2 / law_deceleration_mps2 - options.onset) / (1.0 - options.onset)
    share = min(max(share, 0.0), 1.0)
    return min(wanted, (1.0 - share) * wanted - share * need_mps2)
