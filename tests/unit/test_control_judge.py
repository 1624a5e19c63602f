"""The judge finds what is wrong, one rule at a time."""

from __future__ import annotations

import dataclasses
import math

import pytest

from perception_core.control.judge import JudgedCommand, unsafe_reasons
from perception_core.rig import VehicleLimits

VEHICLE = VehicleLimits()
#: 10 m/s where 12.6 are lawful.
GOOD = JudgedCommand(
    engaged=True,
    state=1,
    steering_angle=0.1,
    steering_rate=0.1,
    speed=12.0,
    acceleration=0.5,
    measured_speed=10.0,
    speed_limit=12.5,
    sight_distance=46.3,
    reaction_time=0.5,
    perception_age=0.1,
)


def reasons(previous: JudgedCommand | None = GOOD, dt: float = 0.05, **changed: object) -> list[str]:
    return unsafe_reasons(previous, dataclasses.replace(GOOD, **changed), dt, VEHICLE)


def test_a_good_command_passes() -> None:
    assert reasons() == []


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(GOOD) if f.type == "float"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_any_number_that_is_none(field: str, value: float) -> None:
    assert reasons(**{field: value}) == [f"{field} not finite"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"steering_angle": 0.6}, "steering angle"),
        ({"steering_rate": -0.7}, "steering rate"),
        ({"acceleration": 1.6}, "acceleration"),
        ({"acceleration": -5.2}, "deceleration"),
        ({"speed": 14.5}, "target speed"),
        ({"speed": -0.5}, "target speed"),
        ({"steering_angle": 0.14}, "steering moved"),
        ({"acceleration": -0.7}, "acceleration changed"),
        ({"engaged": False}, "not engaged"),
        ({"state": 0}, "not engaged"),
        ({"state": 7}, "unknown state"),
        ({"perception_age": 0.7}, "drives on perception"),
        ({"perception_age": 1.3, "state": 2, "speed": 0.0}, "no full stop"),
        ({"state": 2}, "in a stop"),
        ({"speed_limit": 13.5}, "above the law"),
        ({"speed": 13.5}, "above the limit"),
        ({"measured_speed": 13.5, "speed": 12.0}, "is needed"),
        ({"sight_distance": 0.0, "speed_limit": 0.0, "speed": 0.0}, "is needed"),
        ({"reaction_time": 4.0, "speed_limit": 8.0, "speed": 8.0}, "is needed"),
        ({"state": 2, "speed": 0.0, "perception_age": 0.7}, "is needed"),
        ({"state": 3, "speed": 0.0, "perception_age": 1.3}, "is needed"),
    ],
)
def test_each_rule(changed: dict[str, object], word: str) -> None:
    found = reasons(**changed)
    assert any(word in reason for reason in found), found


def test_braking_may_build_up_at_the_jerk_limit_and_no_slower() -> None:
    stopping = {"state": 3, "speed": 0.0, "perception_age": 1.3}
    assert reasons(**stopping, acceleration=-0.5) == []
    assert any("is needed" in reason for reason in reasons(**stopping, acceleration=-0.4))
    braked = dataclasses.replace(GOOD, acceleration=-4.5)
    assert reasons(braked, **stopping, acceleration=-5.0) == []
    assert any("is needed" in reason for reason in reasons(braked, **stopping, acceleration=-4.6))


def test_first_command_is_held_against_standstill_of_the_pedals() -> None:
    assert reasons(None) == []
    assert any("changed" in reason for reason in reasons(None, acceleration=1.4))
