"""Every fault of the sensors against the whole stack: it goes on or stops safely, says so once, and every
control tick is judged.
"""

from __future__ import annotations

import array
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from mmmt_msgs.msg import ControlCommand, FusionStatus
from patient_stack import PATIENCE_S, PERIOD_S, patient_overrides
from sensor_feed import SensorFeed, cloud_of
from sensor_fusion_fixtures import jpeg
from sensor_msgs.msg import CompressedImage, PointCloud2
from stack_fixtures import RunningStack, running_stack

from perception_nodes.nodes.sensor_fusion import stamp_message, stamp_ns

FRONT = "camera_front"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with running_stack("cpu-1process", patient_overrides()) as running:
        yield running


@pytest.fixture(scope="module")
def feed(stack: RunningStack) -> Iterator[SensorFeed]:
    with SensorFeed(stack.resolved.rig, PERIOD_S) as running:
        wait_for_whole_frame(stack)
        stack.probe.wait_for_state(ControlCommand.STATE_DRIVING, PATIENCE_S)
        yield running


@pytest.fixture(autouse=True)
def judged(stack: RunningStack, feed: SensorFeed) -> Iterator[None]:
    """After each fault the stack is whole again, nothing died, and no control tick was unsafe."""
    pids = dict(stack.supervisor.pids)
    yield
    wait_for_whole_frame(stack)
    stack.probe.wait_for_state(ControlCommand.STATE_DRIVING, PATIENCE_S, since=time.monotonic())
    assert dict(stack.supervisor.pids) == pids
    for _, status in list(stack.probe.fusion):
        assert status.frames_in == status.frames_out + status.frames_dropped
    assert stack.probe.finite_commands()
    assert stack.judge() == []


def wait_for_whole_frame(stack: RunningStack) -> None:
    """Waits for objects, of a frame that begins after now, for which every sensor was there."""
    now_ns = time.time_ns()

    def whole() -> bool:
        return any(
            stamp_ns(timing.header.stamp) > now_ns and all(sensor.valid for sensor in timing.sensors)
            for _, timing in list(stack.probe.timings)
            if timing.stage == "detection3d_head" and timing.outcome == timing.OUTCOME_DONE
        )

    stack.probe.wait_for(whole, PATIENCE_S, "a frame with every sensor in it")


def account(stack: RunningStack) -> FusionStatus:
    """The newest account of sensor_fusion."""
    return stack.probe.wait_for(lambda: list(stack.probe.fusion), PATIENCE_S, "an account")[-1][1]


def rejected(stack: RunningStack, modality: str) -> int:
    """Messages of a modality refused so far."""
    status = account(stack)
    return int(status.rejected[list(status.modalities).index(modality)])


def with_content(content: bytes) -> Any:
    """Replaces what a picture holds."""

    def fault(image: CompressedImage) -> CompressedImage:
        image.data = array.array("B", content)
        return image

    return fault


def with_points(points_n4: np.ndarray) -> Any:
    """Replaces a sweep's points."""

    def fault(cloud: PointCloud2) -> PointCloud2:
        replaced = cloud_of(points_n4)
        replaced.header = cloud.header
        return replaced

    return fault


def with_wrong_fields(cloud: PointCloud2) -> PointCloud2:
    """Names no coordinate as others do."""
    for field, name in zip(cloud.fields, ("a", "b", "c", "d"), strict=True):
        field.name = name
    return cloud


def nothing(message: Any) -> None:
    """Keeps a message back."""


def going_on(stack: RunningStack, since: float) -> None:
    """Objects keep coming while the fault lasts."""
    stack.probe.wait_for_outputs(2, PATIENCE_S, since=since)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (jpeg((320, 180))[:2000], "cut off"),
        (b"\x00" * 500, "cannot be decoded"),
        (jpeg((160, 90)), "160x90"),
    ],
    ids=["truncated", "garbage", "wrong size"],
)
def test_a_bad_picture(stack: RunningStack, feed: SensorFeed, content: bytes, words: str) -> None:
    before = rejected(stack, FRONT)
    since = time.monotonic()
    with feed.broken(FRONT, with_content(content)):
        fault = stack.probe.wait_for_fault(f"bad_image {FRONT}", PATIENCE_S, since)
        going_on(stack, since)
        stack.probe.wait_for(
            lambda: rejected(stack, FRONT) > before, PATIENCE_S, "the refusal in the account"
        )
    assert words in fault.message


@pytest.mark.parametrize(
    "points", [np.zeros((0, 4)), np.full((500, 4), np.nan)], ids=["of no points", "of NaN"]
)
def test_a_sweep_that_shows_nothing(stack: RunningStack, feed: SensorFeed, points: np.ndarray) -> None:
    since = time.monotonic()
    with feed.broken("lidar", with_points(points)):
        stack.probe.wait_for_fault("empty_cloud lidar", PATIENCE_S, since)
        going_on(stack, since)


def test_a_sweep_of_unknown_fields(stack: RunningStack, feed: SensorFeed) -> None:
    since = time.monotonic()
    with feed.broken("lidar", with_wrong_fields):
        fault = stack.probe.wait_for_fault("bad_points lidar", PATIENCE_S, since)
        going_on(stack, since)
    assert "no field 'x'" in fault.message


def test_a_camera_info_that_cannot_be(stack: RunningStack, feed: SensorFeed) -> None:
    def fault(info: Any) -> Any:
        info.k = [float("nan")] * 9
        return info

    since = time.monotonic()
    with feed.broken(f"{FRONT} info", fault):
        stack.probe.wait_for_fault(f"bad_camera_info {FRONT}", PATIENCE_S, since)
        going_on(stack, since)


def test_stamps_that_jump_back(stack: RunningStack, feed: SensorFeed) -> None:
    def fault(cloud: PointCloud2) -> PointCloud2:
        cloud.header.stamp = stamp_message(stamp_ns(cloud.header.stamp) - 3_000_000_000)
        return cloud

    since = time.monotonic()
    with feed.broken("lidar", fault):
        stack.probe.wait_for_fault("stamps_jumped_back lidar", PATIENCE_S, since)
        going_on(stack, since)


def test_a_camera_that_stops(stack: RunningStack, feed: SensorFeed) -> None:
    since = time.monotonic()
    with feed.broken(FRONT, nothing):
        stack.probe.wait_for_fault(f"silent {FRONT}", PATIENCE_S, since)
        going_on(stack, since)


def test_a_lidar_that_stops(stack: RunningStack, feed: SensorFeed) -> None:
    """The cameras go on; what they are trusted for is less, so the speed limit falls."""
    usual = next(c.speed_limit for _, c in reversed(stack.probe.commands))
    since = time.monotonic()
    with feed.broken("lidar", nothing):
        stack.probe.wait_for_fault("silent lidar", PATIENCE_S, since)
        fallback = account(stack).frames_fallback
        stack.probe.wait_for(
            lambda: account(stack).frames_fallback > fallback, PATIENCE_S, "frames of the cameras alone"
        )
        stack.probe.wait_for(
            lambda: stack.probe.commands[-1][1].speed_limit < usual, PATIENCE_S, f"a limit below {usual} m/s"
        )


def test_all_sensors_stop(stack: RunningStack, feed: SensorFeed) -> None:
    """Nothing is seen any more: the vehicle stops, and drives again when it sees."""
    since = time.monotonic()
    with ExitStack() as broken:
        for sensor in stack.resolved.rig.modalities:
            broken.enter_context(feed.broken(sensor, nothing))
        stack.probe.wait_for_state(ControlCommand.STATE_FULL_STOP, PATIENCE_S, since)
        stop = stack.probe.wait_for(
            lambda: next(
                (c for at, c in list(stack.probe.commands) if at > since and c.acceleration <= -4.9), None
            ),
            PATIENCE_S,
            "full braking",
        )
    assert stop.speed == 0.0


def test_odometry_of_no_numbers(stack: RunningStack, feed: SensorFeed) -> None:
    def fault(odometry: Any) -> Any:
        odometry.twist.twist.linear.x = float("nan")
        return odometry

    since = time.monotonic()
    with feed.broken("odometry", fault):
        stack.probe.wait_for_fault("bad_odometry", PATIENCE_S, since)
        stack.probe.wait_for(
            lambda: stack.probe.commands[-1][1].state != ControlCommand.STATE_DRIVING,
            PATIENCE_S,
            "a vehicle that does not know its speed to stop",
        )
