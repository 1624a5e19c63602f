"""The state machine and the limiter."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.control.safety_envelope import (
    CommandLimiter,
    DrivingState,
    EnvelopeOptions,
    Health,
    SafetyStateMachine,
)
from perception_core.rig import VehicleLimits

WELL = Health(0.1, 0.1)
OLD = Health(0.7, 0.1)
SILENT = Health(1.3, 0.1)
DEAD_MONITOR = Health(0.1, 0.6)


def driving() -> SafetyStateMachine:
    machine = SafetyStateMachine(EnvelopeOptions())
    assert machine.engage(WELL) == ""
    assert machine.state == DrivingState.DRIVING
    return machine


@pytest.mark.parametrize(
    ("health", "word"),
    [
        (Health(math.inf, 0.1), "perception"),
        (OLD, "perception"),
        (DEAD_MONITOR, "monitor"),
        (Health(0.1, math.nan), "monitor"),
    ],
)
def test_engaging_is_refused_with_a_reason(health: Health, word: str) -> None:
    machine = SafetyStateMachine(EnvelopeOptions())
    assert word in machine.engage(health)
    assert not machine.engaged


def test_old_perception_stops_comfortably_and_silence_fully() -> None:
    machine = driving()
    assert machine.update(OLD, 0.0) == DrivingState.COMFORTABLE_STOP
    assert machine.update(SILENT, 0.1) == DrivingState.FULL_STOP
    assert "silent" in machine.reason


def test_dead_monitor_is_a_full_stop_at_once() -> None:
    assert driving().update(DEAD_MONITOR, 0.0) == DrivingState.FULL_STOP


def test_another_reason_stops_comfortably() -> None:
    machine = driving()
    assert machine.update(Health(0.1, 0.1, "no path"), 0.0) == DrivingState.COMFORTABLE_STOP
    assert machine.reason == "no path"


def test_full_stop_never_softens() -> None:
    machine = driving()
    machine.update(SILENT, 0.0)
    assert machine.update(OLD, 0.1) == DrivingState.FULL_STOP
    assert machine.update(WELL, 0.2) == DrivingState.FULL_STOP


def test_stop_is_held_until_all_was_well_without_a_break() -> None:
    machine = driving()
    machine.update(SILENT, 0.0)
    assert machine.update(WELL, 1.0) == DrivingState.FULL_STOP
    assert machine.update(WELL, 1.9) == DrivingState.FULL_STOP
    machine.update(OLD, 1.95)
    assert machine.update(WELL, 2.0) == DrivingState.FULL_STOP
    assert "recovering" in machine.reason
    assert machine.update(WELL, 2.99) == DrivingState.FULL_STOP
    assert machine.update(WELL, 3.0) == DrivingState.DRIVING
    assert machine.reason == ""


def test_disengaging_works_in_every_state() -> None:
    for health in (WELL, OLD, SILENT):
        machine = driving()
        machine.update(health, 0.0)
        machine.disengage("driver")
        assert machine.update(WELL, 10.0) == DrivingState.DISENGAGED


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 0.5),
            st.one_of(st.floats(0.0, 3.0), st.just(math.nan), st.just(math.inf)),
            st.floats(0, 1),
        ),
        max_size=80,
    )
)
def test_drives_only_after_the_hold_time_without_fault(steps: list[tuple[float, float, float]]) -> None:
    options, machine = EnvelopeOptions(), driving()
    now, last_fault, worst = 0.0, -math.inf, DrivingState.DRIVING
    for step, perception_age, monitor_age in steps:
        now += step
        state = machine.update(Health(perception_age, monitor_age), now)
        old = not perception_age <= options.comfortable_stop_age_s
        silent = not perception_age <= options.full_stop_age_s or not monitor_age <= options.monitor_age_s
        if silent:
            assert state == DrivingState.FULL_STOP
        if old or silent:
            last_fault = now
            worst = max(worst, DrivingState.FULL_STOP if silent else DrivingState.COMFORTABLE_STOP)
            assert state == worst
        elif state == DrivingState.DRIVING:
            hold = {
                DrivingState.FULL_STOP: options.full_hold_s,
                DrivingState.COMFORTABLE_STOP: options.comfortable_hold_s,
            }
            assert now - last_fault >= hold.get(worst, 0.0)
            worst = DrivingState.DRIVING


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32), st.floats(-0.1, 0.3)), max_size=60))
def test_limiter_keeps_every_limit_whatever_is_wished(wishes: list[tuple[float, float, float]]) -> None:
    vehicle = VehicleLimits()
    limiter = CommandLimiter(vehicle)
    limiter.reset(wishes[0][0] if wishes else 0.0)
    steering, acceleration = limiter.steering_rad, limiter.acceleration_mps2
    for wanted_steering, wanted_acceleration, time_s in wishes:
        now_steering = limiter.steer(wanted_steering, time_s)
        now_acceleration = limiter.accelerate(wanted_acceleration, time_s)
        assert abs(now_steering) <= vehicle.max_steering_angle_rad
        assert -vehicle.full_deceleration_mps2 <= now_acceleration <= vehicle.max_acceleration_mps2
        assert abs(now_steering - steering) <= vehicle.max_steering_rate_rad_s * max(time_s, 0.0) + 1e-12
        assert abs(now_acceleration - acceleration) <= vehicle.max_jerk_mps3 * max(time_s, 0.0) + 1e-12
        if math.isnan(wanted_acceleration):
            assert now_acceleration <= acceleration
        steering, acceleration = now_steering, now_acceleration


def test_options_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="comfortable_stop_age_s"):
        EnvelopeOptions(comfortable_stop_age_s=2.0, full_stop_age_s=1.0)
