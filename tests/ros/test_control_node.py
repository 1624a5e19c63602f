"""The control node over DDS: the whole story from engaging to stopping and driving again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest
from lifecycle_msgs.msg import Transition
from mmmt_msgs.msg import ControlCommand, DetectedObject, StageTiming
from safety_fixtures import COMFORTABLE_STOP_AGE_S, CONTROL_RATE_HZ, FULL_STOP_AGE_S, SafetySide
from std_msgs.msg import Bool

DRIVING = ControlCommand.STATE_DRIVING
COMFORTABLE_STOP = ControlCommand.STATE_COMFORTABLE_STOP
FULL_STOP = ControlCommand.STATE_FULL_STOP


@pytest.fixture(scope="module")
def side() -> Iterator[SafetySide]:
    side = SafetySide()
    yield side
    side.close()


@pytest.fixture(autouse=True)
def _every_command_is_safe(side: SafetySide) -> Iterator[None]:
    yield
    assert side.unsafe_ticks() == []


def box_at(x: float, y: float = 0.0) -> DetectedObject:
    item = DetectedObject(label="car", score=0.9)
    item.pose.position.x, item.pose.position.y = x, y
    item.pose.orientation.w = 1.0
    item.size.x, item.size.y, item.size.z = 4.0, 2.0, 1.5
    return item


def test_does_not_engage_without_perception(side: SafetySide) -> None:
    side.stages.dead.add("sensor_fusion")
    time.sleep(COMFORTABLE_STOP_AGE_S + 1.0)
    answer = side.engage()
    assert not answer.success
    assert "perception" in answer.message
    assert not side.commands


def test_publishes_nothing_before_it_is_engaged_but_tells_that_it_is_alive(side: SafetySide) -> None:
    side.stages.dead.clear()
    since = time.monotonic()
    side.wait_for(
        lambda: any(
            at > since and s.name == "control" and "disengaged" in s.message for at, s in side.diagnostics
        ),
        5.0,
        "a diagnostic of the disengaged control",
    )
    assert not side.commands


def test_drives_at_its_own_rate_and_reports_each_frame_once(side: SafetySide) -> None:
    side.drive()
    start = len(side.commands)
    time.sleep(2.0)
    commands = [command for _, command in side.commands[start:]]
    assert 3 <= len(commands) <= 2.5 * CONTROL_RATE_HZ  # a machine that stands still misses ticks
    assert [c.sequence for c in commands] == list(
        range(commands[0].sequence, commands[0].sequence + len(commands))
    )
    assert all(c.engaged and c.state == DRIVING for c in commands)
    assert all(c.trace_id and len(c.sensors) == len(side.rig.modalities) for c in commands)
    assert 5.0 < commands[-1].speed_limit <= side.rig.vehicle.max_speed_mps
    reports = [t for _, t in side.timings if t.stage == "control" and t.outcome == StageTiming.OUTCOME_DONE]
    traces = [t.trace_id for t in reports]
    assert len(traces) == len(set(traces)) >= 3
    assert all(
        t.queued_ns <= t.started_ns <= t.done_ns and t.sensors and t.task == "control" for t in reports
    )


def test_control_paths_are_measured_to_the_command(side: SafetySide) -> None:
    side.drive()
    status = side.wait_for(
        lambda: next(
            (s for _, s in side.latency[-1:] if any(p.task == "control" and p.count > 2 for p in s.paths)),
            None,
        ),
        5.0,
        "latency of the control paths",
    )
    by_task = {p.task: p for p in status.paths if p.modality == "lidar"}
    assert by_task["control"].p50_ms >= by_task["detection3d"].p50_ms
    assert list(by_task["control"].stages)[-2:] == ["control", "transport"]


def test_speed_limit_falls_when_a_stage_gets_slow(side: SafetySide) -> None:
    side.drive()
    before = side.wait_for_state(DRIVING, 2.0)
    side.stages.extra_s["camera_net"] = 2.0
    slow = side.wait_for(
        lambda: next(
            (c for _, c in side.commands[-3:] if c.reaction_time > before.reaction_time + 0.8), None
        ),
        6.0,
        "a longer reaction time",
    )
    assert slow.speed_limit < before.speed_limit - 0.5


def test_object_on_the_path_shortens_sight(side: SafetySide) -> None:
    side.drive()
    side.stages.objects = [box_at(30.0), box_at(10.0, 8.0)]
    front = side.rig.vehicle.front_overhang_m
    command = side.wait_for(
        lambda: next((c for _, c in side.commands[-3:] if "object" in c.reason), None),
        3.0,
        "an object as reason",
    )
    assert command.sight_distance == pytest.approx(30.0 - 2.0 - front - 2.0, abs=0.5)


def test_stops_when_every_sensor_that_looks_ahead_is_masked(side: SafetySide) -> None:
    side.drive()
    side.stages.masked.update(side.rig.modalities)
    command = side.wait_for(
        lambda: next(
            (c for _, c in side.commands[-3:] if c.speed_limit == 0.0 and c.acceleration < -4.9), None
        ),
        3.0,
        "full braking",
    )
    assert command.sight_distance == 0.0


def test_silence_stops_first_comfortably_then_fully_and_is_held_until_recovered(side: SafetySide) -> None:
    side.drive()
    side.stages.dead.add("lidar_net")
    comfortable = side.wait_for_state(COMFORTABLE_STOP, 6.0)
    assert "perception" in comfortable.reason
    full = side.wait_for_state(FULL_STOP, 6.0)
    assert full.perception_age > FULL_STOP_AGE_S
    side.wait_for(lambda: side.commands[-1][1].acceleration == -5.0, 3.0, "full deceleration")
    side.stages.dead.clear()
    recovered_at = time.monotonic()
    side.wait_for_state(DRIVING, 5.0)
    driving_at = next(at for at, c in side.commands if at > recovered_at and c.state == DRIVING)
    assert driving_at > recovered_at + 0.9
    held = {c.state for at, c in side.commands if recovered_at + 0.2 < at < recovered_at + 0.9}
    assert held <= {FULL_STOP}  # none where the machine stood still so long


def test_dead_monitor_is_a_full_stop(side: SafetySide) -> None:
    side.drive()
    side.change_monitor(Transition.TRANSITION_DEACTIVATE)
    try:
        command = side.wait_for_state(FULL_STOP, 6.0)
        assert "monitor" in command.reason
    finally:
        side.change_monitor(Transition.TRANSITION_ACTIVATE)
    side.wait_for_state(DRIVING, 5.0)


def test_objects_that_are_no_numbers_are_no_perception(side: SafetySide) -> None:
    side.drive()
    side.stages.objects = [box_at(math.nan)]
    side.wait_for_state(FULL_STOP, 10.0)
    side.stages.objects = []
    side.wait_for_state(DRIVING, 5.0)


def test_lost_odometry_is_a_comfortable_stop(side: SafetySide) -> None:
    side.drive()
    side.stages.publish_odometry = False
    try:
        assert "odometry" in side.wait_for_state(COMFORTABLE_STOP, 10.0).reason
    finally:
        side.stages.publish_odometry = True
    side.wait_for_state(DRIVING, 5.0)


def test_driver_override_disengages_at_once(side: SafetySide) -> None:
    side.drive()
    side.override.publish(Bool(data=True))
    count = side.count_when_silent()
    answer = side.engage()
    assert not answer.success
    assert "driver" in answer.message
    side.override.publish(Bool(data=False))
    time.sleep(1.0)
    assert len(side.commands) == count, "letting go must not engage"
    side.drive()


def test_disengages_by_service(side: SafetySide) -> None:
    side.drive()
    assert side.engage(False).success
    count = side.count_when_silent()
    time.sleep(1.0)
    assert len(side.commands) == count


def test_engages_by_itself_where_asked_to(side: SafetySide) -> None:
    own = SafetySide(engage_on_start=True)
    try:
        own.wait_for_state(DRIVING, 15.0)
    finally:
        own.close()
