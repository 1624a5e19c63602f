"""The node that plays a recording as if its sensors were there."""

from __future__ import annotations

import fnmatch
import importlib
import math
import threading
import time
from dataclasses import replace
from typing import Any

from mmmt_msgs.msg import DetectedObjectArray
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from std_msgs.msg import Bool, Float32
from std_srvs.srv import SetBool
from visualization_msgs.msg import MarkerArray

from perception_nodes import topics
from perception_nodes.recordings import ros_messages
from perception_nodes.recordings.interface import (
    CameraIntrinsics,
    Recording,
    StaticTransform,
)
from perception_nodes.recordings.items import (
    FaultItem,
    ImageItem,
    Item,
    ObjectsItem,
    OdometryItem,
    PointsItem,
    SerializedItem,
)
from perception_nodes.recordings.opening import open_recording
from perception_nodes.recordings.playback import Due, PlayClock, Range, ReadAhead
from perception_nodes.recordings.rosbag2 import TF_STATIC, Rosbag2Recording
from perception_nodes.runtime.stack_node import ProcessContext, StackNode
from perception_nodes.runtime.stop_request import request_process_stop

NODE_NAME = "replay"
_SENSOR_DEPTH = 5
_CLOCK_PERIOD_NS = 10_000_000
_PROGRESS_PERIOD_NS = 200_000_000
#: An item this late moves the whole schedule instead of being published with a stamp that is already old.
_LATE_NS = 200_000_000
_LONGEST_WAIT_S = 0.05
#: Time between a subscriber's discovery and the first message: the other direction of discovery takes a
#: moment longer.
_DISCOVERY_GRACE_S = 0.2
#: Topics of a bag that are this stack's own or the graph's; playing them would be taken for live ones.
_NOT_PLAYED = (
    "/clock",
    "/rosout",
    "/parameter_events",
    topics.DIAGNOSTICS,
    topics.TF_STATIC,
    f"{topics.NAMESPACE}/*",
)


def message_class(message_type: str) -> Any:
    """Imports the Python class of a message type such as `sensor_msgs/msg/Image`.

    Raises:
        ImportError: The package that defines it is not installed.
    """
    package, _, name = message_type.partition("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name.rpartition("/")[2])
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"message type {message_type} is not there: install or source the package '{package}'"
        ) from error


class ReplayNode(StackNode):
    """Publishes a recording on the topics of the rig, or a bag on its own topics.

    Stamps are re-based by default: each message gets the time it is published at, minus the age it had when
    it was recorded, so
    that offsets between sensors stay what they were and nothing needs simulated time. With `stamps: recorded`
    they stay as they are
    (moved on by whole passes when looping) and /clock carries the recorded time. /clock goes on after the
    end, so that nodes on
    simulated time notice that their sensors are silent.
    """

    def __init__(self, context: ProcessContext) -> None:
        """Creates the node; nothing is opened before `configure`.

        Args:
            context: The process' context.
        """
        super().__init__(context, NODE_NAME)
        self._declare(
            "recording", "", "Recording to play: rosbag2, nuScenes folder or frame, KITTI drive folder"
        )
        self._declare("scene", "", "Scene of a nuScenes data set, by name or index; empty: the first")
        self._declare(
            "rate", 1.0, "Recording seconds per second; re-based stamps always advance by wall time"
        )
        self._declare("start", 0.0, "Seconds into the recording to start at")
        self._declare("duration", 0.0, "Seconds of the recording to play in one pass; 0: to its end")
        self._declare("loop", 1, "Number of passes, 0 or true: for ever, false: one; stamps keep advancing")
        self._declare(
            "paused",
            False,
            f"Start paused; the service {topics.REPLAY_PAUSE} (std_srvs/SetBool) lets it go on",
        )
        self._declare(
            "stamps",
            "rebased",
            "'rebased': time of publication; 'recorded': as recorded, needs use_sim_time elsewhere",
        )
        self._declare("publish_clock", True, "Publish /clock at 100 Hz and before each message")
        self._declare("ground_truth", True, "Publish the recording's annotations, if any")
        self._declare(
            "wait_for_subscribers",
            20.0,
            "Seconds to wait at most until every sensor topic of the rig has a subscriber; 0: do not wait",
        )
        self._declare(
            "end_process_after",
            -1.0,
            "Seconds after the end of the recording at which this node's process ends; negative: it stays",
        )
        self._declare(
            "exclude_topics", [""], "Topics of a bag not to play; patterns with * and ? are allowed"
        )
        self._recording: Recording | None = None
        self._part = Range()
        self._play_clock: PlayClock | None = None
        self._read_ahead: ReadAhead | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._publishers_by_topic: dict[str, Any] = {}
        self._clock_publisher: Any = None
        self._progress_publisher: Any = None
        self._finished_publisher: Any = None
        self._pause_service: Any = None
        self._intrinsics: dict[str, CameraIntrinsics] = {}
        self._unplayable: set[str] = set()
        self._static_transforms: tuple[StaticTransform, ...] = ()
        self._last_clock_ns = 0
        self._end_process_after_s = -1.0
        self._rebased = True
        self._publish_clock = True
        self._ground_truth = True

    def _declare(self, name: str, default: Any, description: str) -> None:
        # dynamic typing: a YAML file that says `rate: 1` means the number, not an integer parameter; values
        # are checked in `setup`
        self.declare_parameter(
            name, default, ParameterDescriptor(description=description, dynamic_typing=True, read_only=True)
        )

    def _number(self, name: str, low: float, exclusive: bool = False) -> float:
        value = self.get_parameter(name).value
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
        if not math.isfinite(number) or number < low or (exclusive and number == low):
            raise ValueError(
                f"parameter '{name}' must be a finite number "
                f"{'above' if exclusive else 'of at least'} {low:g}, not {value!r}"
            )
        return number

    def _flag(self, name: str) -> bool:
        value = self.get_parameter(name).value
        if not isinstance(value, bool):
            raise ValueError(f"parameter '{name}' must be true or false, not {value!r}")
        return value

    # -- lifecycle -------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Opens the recording and creates its publishers."""
        path = str(self.get_parameter("recording").value)
        if not path:
            raise ValueError("parameter 'recording' is empty: set it to the recording to play")
        stamps = self.get_parameter("stamps").value
        if stamps not in ("rebased", "recorded"):
            raise ValueError(f"parameter 'stamps' must be 'rebased' or 'recorded', not {stamps!r}")
        self._rebased = stamps == "rebased"
        self._publish_clock = self._flag("publish_clock")
        self._ground_truth = self._flag("ground_truth")
        loop = self.get_parameter("loop").value
        self._end_process_after_s = self._number("end_process_after", -1)
        passes = (0 if loop else 1) if isinstance(loop, bool) else int(self._number("loop", 0))
        self._part = Range(self._number("start", 0), self._number("duration", 0), passes)
        self._play_clock = PlayClock(self._number("rate", 0, exclusive=True), self._flag("paused"))
        scene = str(self.get_parameter("scene").value)
        self._recording = open_recording(path, **({"scene": scene} if scene else {}))
        self._part.pass_ns(
            self._recording
        )  # refuses a start behind the end here, where the transition can fail
        self._intrinsics = self._recording.camera_intrinsics()
        self._static_transforms = self._recording.static_transforms()
        self._clock_publisher = (
            self.create_publisher(Clock, topics.CLOCK, topics.reliable(1)) if self._publish_clock else None
        )
        self._progress_publisher = self.create_publisher(Float32, topics.REPLAY_PROGRESS, topics.reliable(1))
        self._finished_publisher = self.create_publisher(
            Bool, topics.REPLAY_FINISHED, replace_depth(topics.latched(), 1)
        )
        self._pause_service = self.create_service(SetBool, topics.REPLAY_PAUSE, self._on_pause)
        if isinstance(self._recording, Rosbag2Recording):
            self._create_bag_publishers(self._recording)
        else:
            self._create_rig_publishers(self._recording)
        self.get_logger().info(f"{self._recording.name}: {self._recording.description}")

    def start(self) -> None:
        """Begins to play."""
        assert self._recording is not None
        self._stopping.clear()
        self._send_static_transforms()
        self._read_ahead = ReadAhead(self._recording, self._part, self._prepare)
        self._thread = threading.Thread(target=self._play, name="replay-publish", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends playing; a later activation begins from the start."""
        self._stopping.set()
        if self._read_ahead is not None:
            self._read_ahead.stop()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self._read_ahead = self._thread = None

    def release(self) -> None:
        """Closes the recording."""
        own = (self._clock_publisher, self._progress_publisher, self._finished_publisher)
        for publisher in (*self._publishers_by_topic.values(), *own):
            if publisher is not None:
                self.destroy_publisher(publisher)
        if self._pause_service is not None:
            self.destroy_service(self._pause_service)
        self._publishers_by_topic = {}
        self._clock_publisher = self._progress_publisher = self._finished_publisher = None
        self._pause_service = None
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        assert self._play_clock is not None
        self._play_clock.pause(request.data)
        response.success = True
        response.message = "paused" if request.data else "playing"
        return response

    # -- publishers ------------------------------------------------------------------------------------------

    def _create_rig_publishers(self, recording: Recording) -> None:
        rig = self.process_context.rig
        qos = topics.reliable(_SENSOR_DEPTH)
        sensors = ({"lidar": rig.lidar} if rig.lidar else {}) | dict(rig.cameras)
        unheard = [modality for modality in recording.sensor_frames if modality not in sensors]
        if unheard:
            self.fault(
                "not_in_rig",
                f"rig '{rig.name}' has no {', '.join(unheard)}: '{recording.name}' is played without",
                error=False,
            )
        for modality, sensor in sensors.items():
            if modality not in recording.sensor_frames:
                continue
            if modality == "lidar":
                self._publishers_by_topic[sensor.topic] = self.create_publisher(
                    PointCloud2, sensor.topic, qos
                )
                continue
            if sensor.type != "sensor_msgs/msg/CompressedImage":
                raise ValueError(
                    f"rig '{rig.name}' expects {sensor.type} on {sensor.topic}, but '{recording.name}' holds "
                    "compressed images: set the camera's type to sensor_msgs/msg/CompressedImage"
                )
            self._publishers_by_topic[sensor.topic] = self.create_publisher(
                CompressedImage, sensor.topic, qos
            )
            self._publishers_by_topic[sensor.info_topic()] = self.create_publisher(
                CameraInfo, sensor.info_topic(), qos
            )
        if rig.odometry is not None:
            self._publishers_by_topic[rig.odometry.topic] = self.create_publisher(
                Odometry, rig.odometry.topic, qos
            )
        if self._ground_truth:
            for name, kind in (
                (topics.GROUND_TRUTH_OBJECTS, DetectedObjectArray),
                (topics.GROUND_TRUTH_MARKERS, MarkerArray),
            ):
                self._publishers_by_topic[name] = self.create_publisher(kind, name, qos)

    def _create_bag_publishers(self, recording: Rosbag2Recording) -> None:
        for topic in recording.topics.values():
            if not self._is_played(topic.name):
                continue
            try:
                kind = message_class(topic.message_type)
            except ImportError as error:
                self.fault(f"unknown_type {topic.message_type}", f"{topic.name} is not played: {error}")
                continue
            qos = topics.latched() if topic.latched else topics.reliable(_SENSOR_DEPTH)
            self._publishers_by_topic[topic.name] = self.create_publisher(kind, topic.name, qos)
        heard = {
            sensor.topic
            for sensor in (self.process_context.rig.lidar, *self.process_context.rig.cameras.values())
            if sensor
        }
        if not heard & set(self._publishers_by_topic):
            self.fault(
                "foreign_bag",
                f"'{recording.name}' holds none of the sensor topics of rig "
                f"'{self.process_context.rig.name}' ({', '.join(sorted(heard))}); "
                "`mmmt rig draft` writes a rig for a bag",
            )

    def _is_played(self, topic: str) -> bool:
        if topic in _ground_truth_topics():
            return self._ground_truth
        if topic == f"{topics.NAMESPACE}/{topics.REFERENCE_PATH}":  # comes from outside the stack
            return True
        excluded = [pattern for pattern in self.get_parameter("exclude_topics").value or () if pattern]
        return not any(fnmatch.fnmatchcase(topic, pattern) for pattern in (*_NOT_PLAYED, *excluded))

    def _send_static_transforms(self) -> None:
        """Publishes all transforms in one latched message, so that late subscribers get all of them."""
        if not self._static_transforms or TF_STATIC in self._unplayable:
            return
        try:
            kind = message_class("tf2_msgs/msg/TFMessage")
        except ImportError as error:
            self._unplayable.add(TF_STATIC)
            self.fault(
                "missing_tf2_msgs",
                f"/tf_static cannot be published: {error}; or give the rig a calibration file",
            )
            return
        assert self._recording is not None
        rig, recording = self.process_context.rig, self._recording
        sensors = ({"lidar": rig.lidar} if rig.lidar else {}) | dict(rig.cameras)
        renamed = {
            frame: sensors[modality].frame
            for modality, frame in recording.sensor_frames.items()
            if modality in sensors
        }
        messages = [
            ros_messages.transform(replace(item, child=renamed.get(item.child) or item.child), rig.ego_frame)
            for item in self._static_transforms
        ]
        stamp = self.get_clock().now().to_msg()
        for message in messages:
            message.header.stamp = stamp
        if topics.TF_STATIC not in self._publishers_by_topic:
            self._publishers_by_topic[topics.TF_STATIC] = self.create_publisher(
                kind, topics.TF_STATIC, topics.latched()
            )
        self._publishers_by_topic[topics.TF_STATIC].publish(kind(transforms=messages))

    # -- reading thread --------------------------------------------------------------------------------------

    def _prepare(self, item: Item) -> list[tuple[str, Any]]:
        """Makes the messages of an item, unstamped, with the topics they go to. Called ahead of time."""
        rig = self.process_context.rig
        if isinstance(item, PointsItem) and rig.lidar is not None:
            return [(rig.lidar.topic, ros_messages.point_cloud(item, self._frame(item.modality)))]
        if isinstance(item, ImageItem) and item.modality in rig.cameras:
            camera, frame = rig.cameras[item.modality], self._frame(item.modality)
            messages: list[tuple[str, Any]] = [(camera.topic, ros_messages.compressed_image(item, frame))]
            if item.modality in self._intrinsics:
                messages.insert(
                    0, (camera.info_topic(), ros_messages.camera_info(self._intrinsics[item.modality], frame))
                )
            return messages
        if isinstance(item, OdometryItem) and rig.odometry is not None:
            return [(rig.odometry.topic, ros_messages.odometry(item, rig.ego_frame))]
        if isinstance(item, ObjectsItem) and self._ground_truth:
            return [(topics.GROUND_TRUTH_OBJECTS, ros_messages.detected_objects(item, rig.ego_frame))]
        return []

    def _frame(self, modality: str) -> str:
        assert self._recording is not None
        rig = self.process_context.rig
        sensor = rig.lidar if modality == "lidar" else rig.cameras[modality]
        return (sensor.frame if sensor else "") or self._recording.sensor_frames[modality]

    # -- publishing thread -----------------------------------------------------------------------------------

    def _play(self) -> None:
        try:
            self._await_subscribers()
            assert self._play_clock is not None
            self._play_clock.follow_wall_clock()
            self._play_clock.begin()
            self._play_items()
            while not self._stopping.wait(_CLOCK_PERIOD_NS * 1e-9):
                self._send_clock(None)
        except Exception as error:
            # the context may be shut down under a publishing thread; anything else must be seen
            if self.context.ok() and not self._stopping.is_set():
                self.fault("replay", f"playing ended: {type(error).__name__}: {error}")

    def _await_subscribers(self) -> None:
        limit_s = self._number("wait_for_subscribers", 0)
        rig = self.process_context.rig
        wanted = {sensor.topic for sensor in (rig.lidar, *rig.cameras.values()) if sensor} & set(
            self._publishers_by_topic
        )
        deadline = time.monotonic() + limit_s
        while limit_s > 0 and not self._stopping.is_set():
            missing = [
                name
                for name in sorted(wanted)
                if self._publishers_by_topic[name].get_subscription_count() == 0
            ]
            if not missing:
                self._stopping.wait(_DISCOVERY_GRACE_S)
                return
            if time.monotonic() > deadline:
                self.fault(
                    "no_subscriber",
                    f"nobody listens to {', '.join(missing)} after {limit_s:g} s; playing anyway",
                    error=False,
                )
                return
            self._stopping.wait(0.05)

    def _play_items(self) -> None:
        assert self._read_ahead is not None and self._play_clock is not None
        total_ns = self._read_ahead.total_ns
        next_progress_ns = 0
        looped_ns = 0
        while not self._stopping.is_set():
            due = self._read_ahead.next(_LONGEST_WAIT_S)
            if due is None:
                self._send_clock(None)
                continue
            if due.looped_ns != looped_ns:
                looped_ns = due.looped_ns
                self._play_clock.follow_wall_clock()
            due_ns = self._wait_until_due(due)
            if due_ns is None:
                return
            if due.item is None:
                self._finish()
                return
            self._deliver(due, due_ns)
            if total_ns and due.elapsed_ns >= next_progress_ns:
                self._progress_publisher.publish(Float32(data=min(due.elapsed_ns / total_ns, 1.0)))
                next_progress_ns = due.elapsed_ns + round(_PROGRESS_PERIOD_NS * self._number("rate", 0))

    def _wait_until_due(self, due: Due) -> int | None:
        """Waits, ticking /clock; returns the due time on the monotonic clock, None where the node stops."""
        assert self._play_clock is not None
        while not self._stopping.is_set():
            due_ns = self._play_clock.due_ns(due.elapsed_ns)
            now_ns = time.monotonic_ns()
            if due_ns is not None and due_ns <= now_ns:
                late_ns = now_ns - due_ns
                if late_ns > _LATE_NS and due.item is not None:
                    self.fault(
                        "late",
                        f"reading or publishing fell {late_ns * 1e-9:.2f} s behind; the rest is played later",
                        error=False,
                    )
                    self._play_clock.slip(late_ns)
                    due_ns = now_ns
                return due_ns
            self._send_clock(None)
            remaining_ns = _CLOCK_PERIOD_NS if due_ns is None else min(due_ns - now_ns, _CLOCK_PERIOD_NS)
            time.sleep(remaining_ns * 1e-9)
        return None

    def _send_clock(self, monotonic_ns: int | None) -> None:
        """Publishes /clock: now, or the due time of the message that follows."""
        if self._clock_publisher is None:
            return
        assert self._play_clock is not None and self._recording is not None
        if self._rebased:
            time_ns = self._play_clock.wall_ns(time.monotonic_ns() if monotonic_ns is None else monotonic_ns)
        else:
            time_ns = self._recorded_ns(self._play_clock.elapsed_ns())
        message = Clock()
        # a late item's due time may lie before the last tick: simulated time never runs backwards
        self._last_clock_ns = max(time_ns, self._last_clock_ns)
        message.clock.sec, message.clock.nanosec = divmod(self._last_clock_ns, 1_000_000_000)
        self._clock_publisher.publish(message)

    def _recorded_ns(self, elapsed_ns: int) -> int:
        assert self._recording is not None
        return (
            self._recording.start_ns
            + round(self._part.start_s * 1e9)
            + elapsed_ns
            - self._recording.clock_offset_ns
        )

    def _deliver(self, due: Due, due_ns: int) -> None:
        """Publishes one item with the stamp that belongs to its due time."""
        assert self._play_clock is not None and self._recording is not None
        item = due.item
        assert item is not None
        if isinstance(item, FaultItem):
            self.fault(item.source, item.message)
            return
        self._send_clock(due_ns)
        # the time the item had on the messages' clock, and the time it gets on the clock of this replay
        own_ns = item.time_ns - self._recording.clock_offset_ns
        new_ns = self._play_clock.wall_ns(due_ns) if self._rebased else own_ns + due.looped_ns
        if isinstance(item, SerializedItem):
            self._deliver_serialized(item, new_ns - own_ns)
            return
        for topic, message in due.prepared:  # type: ignore[attr-defined]
            publisher = self._publishers_by_topic.get(topic)
            if publisher is None:
                continue
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(new_ns, 1_000_000_000)
            publisher.publish(message)
            if topic == topics.GROUND_TRUTH_OBJECTS:
                self._publishers_by_topic[topics.GROUND_TRUTH_MARKERS].publish(
                    ros_messages.object_markers(message)
                )

    def _deliver_serialized(self, item: SerializedItem, shift_ns: int) -> None:
        publisher = self._publishers_by_topic.get(item.topic)
        if publisher is None:
            return
        try:
            publisher.publish(item.shift(item.data, shift_ns) if item.shift is not None else item.data)
        except (
            Exception
        ) as error:  # bytes that are no such message: the decoder and the middleware raise their own types
            self.fault(
                f"corrupt_message {item.topic}",
                f"{item.message_type} of {len(item.data)} bytes: {type(error).__name__}: {error}",
            )

    def _finish(self) -> None:
        assert self._recording is not None
        whole = self._recording.end_fault is None
        self._progress_publisher.publish(Float32(data=1.0))
        self._finished_publisher.publish(Bool(data=whole))
        self.get_logger().info(
            f"{self._recording.name} has been played"
            + ("" if whole else f" as far as it goes: {self._recording.end_fault}")
        )
        if self._end_process_after_s >= 0.0 and not self._stopping.wait(self._end_process_after_s):
            request_process_stop(f"{self._recording.name} has been played")


def _ground_truth_topics() -> tuple[str, ...]:
    return tuple(
        f"{topics.NAMESPACE}/{name}" for name in (topics.GROUND_TRUTH_OBJECTS, topics.GROUND_TRUTH_MARKERS)
    )


def replace_depth(profile: QoSProfile, depth: int) -> QoSProfile:
    """Sets the depth of a profile."""
    profile.depth = depth
    return profile
