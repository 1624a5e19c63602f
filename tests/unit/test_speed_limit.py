"""The sight-distance law and its closed form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.control.speed_limit import (
    needed_deceleration,
    ramp_delay_s,
    speed_limit,
    stopping_distance,
)

distances = st.floats(0.0, 500.0)
times = st.floats(0.0, 60.0)
decelerations = st.floats(0.3, 12.0)


@settings(deadline=None, derandomize=True)
@given(distances, times, decelerations)
def test_limit_is_the_largest_speed_that_satisfies_the_law(
    sight: float, reaction: float, deceleration: float
) -> None:
    limit = speed_limit(sight, reaction, deceleration)
    assert limit >= 0.0
    assert stopping_distance(limit, reaction, deceleration) == pytest.approx(sight, rel=1e-9, abs=1e-12)


@settings(deadline=None, derandomize=True)
@given(distances, times, decelerations, st.floats(0.0, 10.0))
def test_limit_falls_with_lateness_and_rises_with_sight(
    sight: float, reaction: float, deceleration: float, more: float
) -> None:
    limit = speed_limit(sight, reaction, deceleration)
    assert speed_limit(sight, reaction + more, deceleration) <= limit + 1e-12
    assert speed_limit(sight + more, reaction, deceleration) >= limit - 1e-12


@pytest.mark.parametrize(
    "values", [(math.nan, 1, 2), (math.inf, 1, 2), (1, math.nan, 2), (1, -0.1, 2), (1, 1, 0)]
)
def test_nonsense_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        speed_limit(*values)


def test_nothing_in_sight_is_no_speed() -> None:
    assert speed_limit(0.0, 0.1, 2.0) == 0.0
    assert speed_limit(-3.0, 0.1, 2.0) == 0.0


@settings(deadline=None, derandomize=True)
@given(st.floats(0.1, 40.0), st.floats(0.0, 300.0), st.floats(0.0, 5.0))
def test_braking_with_the_need_just_stops_in_sight(speed: float, sight: float, reaction: float) -> None:
    full = 5.0
    need = needed_deceleration(speed, sight, reaction, full)
    assert 0.0 < need <= full
    if need < full:
        assert stopping_distance(speed, reaction, need) == pytest.approx(sight, rel=1e-9)
    else:
        assert stopping_distance(speed, reaction, full) >= sight - 1e-9


@settings(deadline=None, derandomize=True)
@given(st.floats(0.5, 40.0), st.floats(5.0, 300.0), st.floats(0.0, 5.0))
def test_at_the_limit_the_need_is_the_laws_deceleration(extra: float, sight: float, reaction: float) -> None:
    limit = speed_limit(sight, reaction, 2.0)
    assert needed_deceleration(limit, sight, reaction, 5.0) == pytest.approx(2.0, rel=1e-6)
    assert needed_deceleration(limit + extra, sight, reaction, 5.0) > 2.0


@settings(deadline=None, derandomize=True)
@given(st.floats(0.0, 2.0), st.floats(1.0, 5.0), st.floats(5.0, 50.0))
def test_ramp_delay_matches_the_integrated_ramp(start: float, end: float, jerk: float) -> None:
    duration = (start + end) / jerk
    change_of_speed = (start - end) * duration / 2.0
    delay = ramp_delay_s(start, end, jerk)
    assert -end * (duration - delay) == pytest.approx(change_of_speed, abs=1e-9)
