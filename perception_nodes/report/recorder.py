"""The node that records what a report is made of: every timing, command and status, and now and then a whole
frame.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from mmmt_msgs.msg import (
    ControlCommand,
    DetectedObjectArray,
    FusionStatus,
    LatencyStatus,
    MapSegmentation,
    StageTiming,
)
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from perception_core.atomic_write import write_atomically
from perception_nodes import topics
from perception_nodes.report.message_log import LoggedMessage, MessageLogWriter
from perception_nodes.report.snapshot import SnapshotCollector
from perception_nodes.runtime.stack_node import ProcessContext, StackNode, host_id, monotonic_ns

MESSAGES_FILE = "messages.log"
SNAPSHOT_PATTERN = "snapshot_{:04d}.log"
RECORDER_FILE = "recorder.json"

#: Deep enough that a stall of several seconds loses nothing of the small messages.
_DEEP_QUEUE = 2000
_SENSOR_TYPES = {
    "sensor_msgs/msg/PointCloud2": PointCloud2,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
}


def type_name_of(message_type: type) -> str:
    """ROS name of a message class, e.g. `mmmt_msgs/msg/StageTiming`."""
    return f"{message_type.__module__.split('.')[0]}/msg/{message_type.__name__}"


def valid_stamps(message: Any) -> dict[str, int]:
    """Stamp in nanoseconds of each valid modality of an output's frame."""
    return {
        sensor.modality: sensor.stamp.sec * 1_000_000_000 + sensor.stamp.nanosec
        for sensor in message.sensors
        if sensor.valid
    }


class RecorderNode(StackNode):
    """Writes messages as they come, serialized; decodes next to nothing, so as not to disturb the stack.

    Files in the output folder: `messages.log` (all small messages), `snapshot_NNNN.log` (sensor data, task
    outputs and calibration of one frame) and, at the end, `recorder.json` (what was received and written
    and what is missing).
    """

    def __init__(self, context: ProcessContext, name: str = "recorder", out: Path | None = None) -> None:
        """Declares the parameters.

        Args:
            context: The process' context.
            name: Node name.
            out: Folder to write into; None: the parameter `out`.
        """
        super().__init__(context, name)
        self._period_s = self._parameter("snapshot_period_s", 2.0, "seconds between two recorded frames")
        self._max_snapshots = self._parameter(
            "max_snapshots",
            12,
            "recorded frames kept; beyond it every second one goes and the period doubles",
        )
        given = self._parameter("out", "", "folder to write into")
        self.out = out if out is not None else Path(given or "runs/report")
        self._log: MessageLogWriter | None = None
        self._collector: SnapshotCollector | None = None
        self._snapshots: list[Path] = []
        self._next_snapshot = 0
        self._snapshot_failure: str | None = None
        self._received: dict[str, int] = {}
        self._latest: dict[str, LoggedMessage] = {}
        self._latched: dict[str, dict[bytes, LoggedMessage]] = {}
        self._handles: list[Any] = []
        self._own_timers: list[Any] = []
        self._begun_ns = 0

    def _parameter(self, name: str, default: Any, description: str) -> Any:
        return self.declare_parameter(name, default, ParameterDescriptor(description=description)).value

    # -- lifecycle ---------------------------------------------------------------------------------

    def setup(self) -> None:
        """Creates the output folder and opens the log."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.fault(
                "report folder", f"{self.out}: cannot be created: {error.strerror}; nothing is recorded"
            )
        for stale in (*self.out.glob("snapshot_*.log"), self.out / RECORDER_FILE):
            stale.unlink(missing_ok=True)
        self._log = MessageLogWriter(self.out / MESSAGES_FILE)
        if self._log.failure:
            self._report_failure(self._log.failure)
        rig = self.process_context.rig
        sensors = ({"lidar": rig.lidar} if rig.lidar else {}) | dict(rig.cameras)
        self._collector = SnapshotCollector(
            {name: round(sensor.offset_s * 1e9) for name, sensor in sensors.items()},
            period_s=self._period_s,
        )

    def start(self) -> None:
        """Subscribes to everything."""
        self._begun_ns = monotonic_ns()
        rig = self.process_context.rig
        deep = topics.reliable(_DEEP_QUEUE)
        self._record(StageTiming, topics.TIMING, deep)
        self._record(ControlCommand, topics.CONTROL_COMMAND, deep)
        self._record(LatencyStatus, topics.LATENCY_STATUS, topics.reliable(100))
        self._record(FusionStatus, topics.FUSION_STATUS, topics.reliable(100))
        self._record(DiagnosticArray, topics.DIAGNOSTICS, deep)
        self._record(PathMessage, topics.REFERENCE_PATH, topics.reliable(4))
        if rig.odometry is not None:
            self._record(Odometry, rig.odometry.topic, topics.sensor(200))
        for task in self.process_context.bundle.task_heads():
            self._record(DetectedObjectArray, topics.objects_of(task), topics.reliable(200), self._on_output)
            self._record(
                MapSegmentation, topics.map_of(task), topics.reliable(20), self._on_output, logged=False
            )
        self._record(
            DetectedObjectArray, topics.GROUND_TRUTH_OBJECTS, topics.reliable(50), self._on_ground_truth
        )
        if rig.lidar is not None:
            self._record_sensor("lidar", rig.lidar.topic, rig.lidar.type)
        for name, camera in rig.cameras.items():
            self._record_sensor(name, camera.topic, camera.type)
            self._keep_latest(CameraInfo, camera.info_topic())
        self._keep_tf_static()
        self._own_timers = [self.create_timer(0.5, self._flush), self.create_timer(0.05, self._poll_snapshot)]

    def stop(self) -> None:
        """Ends the subscriptions; what has come is flushed."""
        for handle in self._handles:
            self.destroy_subscription(handle)
        for timer in self._own_timers:
            self.destroy_timer(timer)
        self._handles, self._own_timers = [], []
        self._flush()

    def release(self) -> None:
        """Closes the log and writes the account of the recording."""
        if self._log is None:
            return
        if not self._log.close():
            self._report_failure(str(self._log.failure))
        account = {
            "begun_ns": self._begun_ns,
            "ended_ns": monotonic_ns(),
            "host": host_id(),
            "received": self._received,
            "written": self._log.written,
            "missing": self._log.missing,
            "failures": [text for text in (self._log.failure, self._snapshot_failure) if text],
            "snapshots": [path.name for path in self._snapshots],
        }
        self._log = None
        try:
            write_atomically(self.out / RECORDER_FILE, json.dumps(account, indent=1).encode())
        except OSError as error:
            self._report_failure(f"{self.out / RECORDER_FILE}: cannot be written: {error.strerror}")

    # -- subscriptions -----------------------------------------------------------------------------

    def _subscribe(
        self, message_type: type, topic: str, qos: QoSProfile, handle: Callable[[LoggedMessage], None]
    ) -> None:
        type_name = type_name_of(message_type)
        full_name = self.resolve_topic_name(topic)

        def receive(data: bytes) -> None:
            self._received[full_name] = self._received.get(full_name, 0) + 1
            handle(LoggedMessage(full_name, type_name, monotonic_ns(), data))

        self._handles.append(self.create_subscription(message_type, topic, receive, qos, raw=True))

    def _record(
        self,
        message_type: type,
        topic: str,
        qos: QoSProfile,
        also: Callable[[LoggedMessage], None] | None = None,
        logged: bool = True,
    ) -> None:
        def handle(message: LoggedMessage) -> None:
            if logged:
                self._append(message)
            if also is not None:
                also(message)

        self._subscribe(message_type, topic, qos, handle)

    def _record_sensor(self, modality: str, topic: str, type_name: str) -> None:
        collector = self._collector
        assert collector is not None
        self._subscribe(
            _SENSOR_TYPES[type_name],
            topic,
            topics.sensor(2),
            lambda message: collector.add_sensor(modality, message),
        )

    def _keep_latest(self, message_type: type, topic: str) -> None:
        def keep(message: LoggedMessage) -> None:
            self._latest[message.topic] = message

        self._subscribe(message_type, topic, topics.sensor(1), keep)

    def _keep_tf_static(self) -> None:
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            return  # then extrinsics come from the rig's calibration file

        def keep(message: LoggedMessage) -> None:
            # Every broadcaster latches its own message, so all different ones are kept.
            self._latched.setdefault(message.topic, {})[message.data] = message

        self._subscribe(TFMessage, topics.TF_STATIC, topics.latched(), keep)

    # -- what arrives ------------------------------------------------------------------------------

    def _append(self, message: LoggedMessage) -> None:
        assert self._log is not None
        if not self._log.append(message.topic, message.type_name, message.received_ns, message.data):
            self._report_failure(str(self._log.failure))

    def _on_output(self, message: LoggedMessage) -> None:
        assert self._collector is not None
        self._collector.expect(message.topic)
        if not self._collector.capturing:
            return
        message_type = (
            MapSegmentation if message.type_name.endswith("MapSegmentation") else DetectedObjectArray
        )
        decoded = deserialize_message(message.data, message_type)
        self._collector.add_output(decoded.trace_id, valid_stamps(decoded), message)

    def _on_ground_truth(self, message: LoggedMessage) -> None:
        assert self._collector is not None
        self._collector.add_ground_truth(message)

    def _flush(self) -> None:
        if self._log is not None and not self._log.flush():
            self._report_failure(str(self._log.failure))

    def _poll_snapshot(self) -> None:
        assert self._collector is not None
        snapshot = self._collector.poll(monotonic_ns())
        if snapshot is None or self._snapshot_failure is not None:
            return
        latched = [message for messages in self._latched.values() for message in messages.values()]
        self._write_snapshot([*snapshot.messages, *self._latest.values(), *latched])

    def _write_snapshot(self, messages: list[LoggedMessage]) -> None:
        path = self.out / SNAPSHOT_PATTERN.format(self._next_snapshot)
        self._next_snapshot += 1
        writer = MessageLogWriter(path)
        for message in messages:
            writer.append(message.topic, message.type_name, message.received_ns, message.data)
        writer.close()
        if writer.failure is not None:
            path.unlink(missing_ok=True)
            self._snapshot_failure = f"{writer.failure}; no more frames are recorded for the report"
            self._report_failure(self._snapshot_failure)
            return
        self._snapshots.append(path)
        if len(self._snapshots) > self._max_snapshots:
            self._thin_out()

    def _thin_out(self) -> None:
        """Keeps every second snapshot and takes new ones half as often: a long run keeps its whole course,
        in bounded space.
        """
        assert self._collector is not None
        for path in self._snapshots[1::2]:
            path.unlink(missing_ok=True)
        self._snapshots = self._snapshots[0::2]
        self._collector.period_ns *= 2

    def _report_failure(self, failure: str) -> None:
        self.fault("report", f"{failure}; the stack goes on, the report will say what is missing")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point `mmmt_recorder`: records a stack that was started by other means, until it is interrupted.

    Args:
        argv: Arguments; None: the command line.

    Returns:
        Exit code of the process runtime.
    """
    from perception_nodes.runtime import process

    parser = argparse.ArgumentParser(
        prog="mmmt_recorder", description="Record a running stack until interrupted."
    )
    parser.add_argument(
        "--deployment", required=True, help="deployment that runs, a file or a name in hw_configs/"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY:=VALUE", help="may be repeated"
    )
    given = parser.parse_args(argv)
    overrides = [*given.override, f"parameters.recorder.out:={given.out.resolve()}"]
    arguments = ["--deployment", given.deployment, "--process", "recorder", "--nodes", "recorder"]
    for override in overrides:
        arguments += ["--override", override]
    return process.main(arguments)
