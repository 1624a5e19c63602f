"""A recorded frame holds sensor messages and outputs that belong together."""

from __future__ import annotations

import struct

from perception_nodes.report.message_log import LoggedMessage
from perception_nodes.report.snapshot import SnapshotCollector, stamp_ns_of

SECOND = 1_000_000_000


def message(topic: str, stamp_ns: int, received_ns: int, size: int = 40) -> LoggedMessage:
    seconds, nanoseconds = divmod(stamp_ns, SECOND)
    data = b"\x00\x01\x00\x00" + struct.pack("<iI", seconds, nanoseconds)
    return LoggedMessage(topic, "pkg/msg/Any", received_ns, data.ljust(size, b"\0"))


def collector(**options: float) -> SnapshotCollector:
    made = SnapshotCollector({"lidar": 0, "camera_front": -5_000_000}, **options)
    made.expect("/out")
    return made


def stamps(snapshot_messages: list[LoggedMessage]) -> list[tuple[str, int]]:
    return sorted((m.topic, stamp_ns_of(m.data)) for m in snapshot_messages)


def test_the_sensor_messages_are_those_the_output_was_made_of() -> None:
    made = collector()
    for index in range(5):
        at = index * SECOND // 10
        made.add_sensor("lidar", message("/lidar", SECOND + at, at))
        made.add_sensor("camera_front", message("/front", SECOND + at + 5_000_000, at))
    # The output of the second frame comes while the fifth is being received.
    frame_ns = SECOND + SECOND // 10
    sensors = {"lidar": frame_ns, "camera_front": frame_ns}
    made.add_ground_truth(message("/truth", frame_ns + 20_000_000, 0))
    made.add_ground_truth(message("/truth", frame_ns + 90_000_000, 0))
    made.add_output(7, sensors, message("/out", frame_ns, SECOND // 2))
    snapshot = made.poll(SECOND // 2)
    assert snapshot is not None
    assert snapshot.trace_id == 7
    assert stamps(snapshot.messages) == [
        ("/front", frame_ns + 5_000_000),
        ("/lidar", frame_ns),
        ("/out", frame_ns),
        ("/truth", frame_ns + 20_000_000),
    ]


def test_an_output_of_a_frame_before_the_capture_is_not_taken() -> None:
    made = collector()
    made.add_sensor("lidar", message("/lidar", 5 * SECOND, 0))
    made.add_output(3, {"lidar": 4 * SECOND}, message("/out", 4 * SECOND, 1))
    assert made.poll(2) is None


def test_without_outputs_the_newest_sensor_data_are_shown() -> None:
    made = collector(patience_s=1.0)
    made.add_sensor("lidar", message("/lidar", 5 * SECOND, 0))
    made.add_sensor("lidar", message("/lidar", 6 * SECOND, SECOND // 2))
    assert made.poll(SECOND // 2) is None
    snapshot = made.poll(SECOND)
    assert snapshot is not None
    assert snapshot.trace_id == 0
    assert stamps(snapshot.messages) == [("/lidar", 6 * SECOND)]


def test_a_slow_task_gets_a_grace_and_no_more() -> None:
    made = collector(grace_s=0.5)
    made.expect("/slow")
    made.add_sensor("lidar", message("/lidar", 5 * SECOND, 0))
    made.add_output(1, {"lidar": 5 * SECOND}, message("/out", 5 * SECOND, 100))
    assert made.poll(100 + SECOND // 4) is None
    assert made.poll(100 + SECOND // 2) is not None


def test_sensor_messages_outside_a_capture_are_not_kept() -> None:
    made = collector(period_s=2.0)
    made.add_sensor("lidar", message("/lidar", 5 * SECOND, 0))
    made.add_output(1, {"lidar": 5 * SECOND}, message("/out", 5 * SECOND, 1))
    assert made.poll(2) is not None
    made.add_sensor("lidar", message("/lidar", 6 * SECOND, SECOND))
    assert not made.capturing
    made.add_sensor("lidar", message("/lidar", 7 * SECOND, 2 * SECOND))
    assert made.capturing


def test_the_buffer_stays_within_its_limit() -> None:
    made = collector(max_buffer_bytes=1000)
    for index in range(50):
        made.add_sensor("lidar", message("/lidar", index * SECOND, index, size=100))
    made.add_output(1, {"lidar": 10 * SECOND}, message("/out", 10 * SECOND, 60))
    assert made.poll(61) is None  # its sweep has gone
    made.add_output(2, {"lidar": 45 * SECOND}, message("/out", 45 * SECOND, 62))
    assert made.poll(63) is not None
