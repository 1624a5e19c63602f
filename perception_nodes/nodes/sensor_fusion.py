"""The node that makes synchronized frames of sensor messages: at LiDAR rate, masking what is late."""

from __future__ import annotations

import functools
import math
import threading
import time
from dataclasses import dataclass
from typing import Any

import torch
from builtin_interfaces.msg import Time
from mmmt_msgs.msg import FusionStatus, SensorStamp, StageTiming, TensorAnnouncement
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from perception_core.bundle import SENSOR_FUSION
from perception_core.calibration import CalibrationError
from perception_core.rig import Sensor
from perception_nodes import topics
from perception_nodes.fusion.calibration_book import CalibrationBook
from perception_nodes.fusion.frame_account import FrameAccount
from perception_nodes.fusion.frame_admission import FrameAdmission
from perception_nodes.fusion.frame_assembly import LIDAR, AssembledFrame, EgoMotion, FrameAssembler
from perception_nodes.fusion.frame_synchronizer import (
    FrameSynchronizer,
    Reception,
    SensorMessage,
    SensorTiming,
)
from perception_nodes.fusion.task_reach import heads_fed_by
from perception_nodes.nodes.number_parameter import declare_number
from perception_nodes.runtime.stack_node import ProcessContext, StackNode, monotonic_ns
from perception_nodes.transport.announcement import Announcer
from perception_nodes.transport.interface import TensorError, TensorWriter
from perception_nodes.transport.transport import make_writer

#: Message classes by the type names a rig may give.
SENSOR_TYPES: dict[str, type] = {
    "sensor_msgs/msg/PointCloud2": PointCloud2,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
}

#: A stamp further than this from the host's ROS clock comes from another clock.
_FOREIGN_CLOCK_NS = 10_000_000_000
_STATUS_PERIOD_S = 0.5
_SILENCE_S = 1.0
#: Drivers and sensor_fusion start in any order: a sensor not yet heard has this long.
_FIRST_MESSAGE_S = 5.0


def stamp_ns(stamp: Time) -> int:
    """Turns a ROS stamp into nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def stamp_message(nanoseconds: int) -> Time:
    """Turns nanoseconds into a ROS stamp; times before 1970 become zero."""
    seconds, rest = divmod(max(0, nanoseconds), 1_000_000_000)
    return Time(sec=min(seconds, 2**31 - 1), nanosec=rest)


@dataclass(frozen=True)
class _PendingFrame:
    """A frame that waits for admission or for the worker."""

    trigger: SensorMessage
    fallback: bool
    chosen: dict[str, SensorMessage]


class SensorFusionNode(StackNode):
    """Callbacks only store messages; a worker thread decodes and emits frames.

    While a frame is worked on or the stack is full, the newest sweep waits and an older waiting one is
    dropped and counted.
    """

    def __init__(self, context: ProcessContext) -> None:
        """Declares the parameters; nothing is opened before `configure`."""
        super().__init__(context, SENSOR_FUSION)
        number = functools.partial(declare_number, self)
        self._wait_s = 1e-3 * number(
            "wait_ms",
            0.0,
            "Milliseconds a frame may wait for cameras that would be masked, 0: never waits",
            0.0,
            500.0,
        )
        self._fallback_after_s = number(
            "fallback_after_s",
            0.3,
            "Seconds without a frame of the trigger sensor after which the cameras trigger frames",
            0.05,
            60.0,
        )
        self._fallback_rate_hz = number(
            "fallback_max_rate_hz",
            20.0,
            "Highest rate in Hz of frames triggered by cameras meanwhile",
            0.1,
            100.0,
        )
        self._time_stretch = number(
            "time_stretch",
            1.0,
            "Seconds between two stamps for each second between the measurements: above 1 where a recording "
            "is played slowly, below where it is played fast",
            1e-3,
            1e3,
        )
        self._stamp_jump_s = number(
            "stamp_jump_s",
            1.0,
            "Stamps that go back by more seconds are a restarted recording or clock, by less out of order",
            0.01,
            60.0,
        )
        self._max_in_flight = int(
            number(
                "max_in_flight",
                2,
                "Frames under way in the stack at once; meanwhile the newest sweep waits",
                1,
                32,
            )
        )
        self._in_flight_timeout_s = number(
            "in_flight_timeout_s",
            2.0,
            "Seconds after which a frame without outcome no longer counts as under way",
            0.1,
            60.0,
        )
        self._decode_threads = int(number("decode_threads", 2, "Threads that decode images", 1, 32))
        self._compensate = bool(
            self.declare_parameter(
                "compensate_ego_motion",
                True,
                ParameterDescriptor(
                    description="Correct cameras' poses by what the vehicle drove between image and frame",
                    read_only=True,
                ),
            ).value
        )

        rig, needs = context.rig, context.bundle.spec.input
        self._used = FrameAssembler.used_modalities(rig, needs)
        self._heard = tuple(name for name in rig.modalities if name in self._used or name == rig.trigger)
        self._account = FrameAccount(rig.modalities)
        self._wake = threading.Condition()
        self._running = False
        self._pending: _PendingFrame | None = None
        self._motion: EgoMotion | None = None
        self._last_trace_id = 0
        self._worker: threading.Thread | None = None
        self._own_subscriptions: list[Any] = []
        self._own_timers: list[Any] = []
        self._writer: TensorWriter | None = None
        self._assembler: FrameAssembler | None = None
        self._announcer: Any = None
        self._status_publisher: Any = None

    @property
    def _sensors(self) -> dict[str, Sensor]:
        rig = self.process_context.rig
        lidar: dict[str, Sensor] = {LIDAR: rig.lidar} if rig.lidar is not None else {}
        return lidar | dict(rig.cameras)

    # -- lifecycle -------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Reads the calibration file and opens the transport."""
        context = self.process_context
        needs = context.bundle.spec.input
        self._book = CalibrationBook(context.rig, context.rig_path, needs.image)
        self._assembler = FrameAssembler(
            context.rig,
            needs,
            self._book,
            decode_threads=self._decode_threads,
            compensate_ego_motion=self._compensate,
            time_stretch=self._time_stretch,
        )
        self._reach = heads_fed_by(context.bundle)
        self._admission = FrameAdmission(
            context.bundle.task_heads().values(), self._max_in_flight, self._in_flight_timeout_s
        )
        self._writer = make_writer(context, SENSOR_FUSION)
        self._announcer = Announcer(self, context, SENSOR_FUSION)
        self._status_publisher = self.create_publisher(FusionStatus, topics.FUSION_STATUS, topics.reliable())

    def start(self) -> None:
        """Starts the worker and subscribes to the rig's sensors."""
        rig = self.process_context.rig
        self._started_ns = monotonic_ns()
        self._synchronizer = FrameSynchronizer(
            {
                name: SensorTiming(
                    round(sensor.offset_s * 1e9 * self._time_stretch),
                    self._widened_ns(sensor.max_delay_s),
                    usable=name in self._used,
                )
                for name, sensor in self._sensors.items()
                if name in self._heard
            },
            rig.trigger,
            started_ns=self._started_ns,
            fallback_after_ns=self._widened_ns(self._fallback_after_s),
            fallback_period_ns=round(1e9 / self._fallback_rate_hz),
            jump_ns=round(self._stamp_jump_s * 1e9),
        )
        self._running = True
        self._worker = threading.Thread(target=self._work, name="sensor-fusion", daemon=True)
        self._worker.start()
        self._subscribe_calibration()
        for name, sensor in self._sensors.items():
            if name in self._heard:
                self._subscribe(
                    SENSOR_TYPES[sensor.type],  # type: ignore[attr-defined]
                    sensor.topic,
                    functools.partial(self._on_sensor, name),
                    topics.sensor(),
                )
        if rig.odometry is not None:
            self._subscribe(Odometry, rig.odometry.topic, self._on_odometry, topics.sensor())
        self._subscribe(StageTiming, topics.TIMING, self._on_timing, topics.reliable(64))
        # The account is wanted at its rate whatever a replay does to ROS time.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._own_timers.append(self.create_timer(_STATUS_PERIOD_S, self._on_status_timer, clock=steady))

    def stop(self) -> None:
        """Unsubscribes, ends the worker after its frame, and publishes the final account."""
        for timer in self._own_timers:
            self.destroy_timer(timer)
        self._own_timers.clear()
        for handle in self._own_subscriptions:
            self.destroy_subscription(handle)
        self._own_subscriptions.clear()
        if self._worker is None:
            return
        with self._wake:
            self._running = False
            self._discard_pending("shutdown")
            self._wake.notify_all()
        self._worker.join()
        self._worker = None
        self._publish_status()
        # The final account is what a report quotes: it must have left before the process does.
        self._status_publisher.wait_for_all_acked(Duration(seconds=0.5))

    def _widened_ns(self, limit_s: float) -> int:
        """A limit on times between messages, as wide as a slow replay makes them; never narrower than given:
        a fast one does not hurry drivers and networks.
        """
        return round(limit_s * 1e9 * max(1.0, self._time_stretch))

    def release(self) -> None:
        """Closes transport and decoding threads."""
        if self._assembler is not None:
            self._assembler.close()
            self._assembler = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _subscribe(self, message_type: type, topic: str, callback: Any, qos: Any) -> None:
        self._own_subscriptions.append(self.create_subscription(message_type, topic, callback, qos))

    def _subscribe_calibration(self) -> None:
        if self._book.listens_to_tf_static:
            try:
                from tf2_msgs.msg import TFMessage
            except ImportError:
                self.fault(
                    "no_tf2_msgs",
                    "the rig takes extrinsics from /tf_static but the package tf2_msgs is not installed: "
                    "install it, or name a calibration file in the rig",
                )
            else:
                self._subscribe(TFMessage, topics.TF_STATIC, self._on_tf_static, topics.latched())
        if self._book.listens_to_camera_info:
            for name, camera in self.process_context.rig.cameras.items():
                if name in self._used:
                    self._subscribe(
                        CameraInfo,
                        camera.info_topic(),
                        functools.partial(self._on_camera_info, name),
                        topics.sensor(),
                    )

    # -- callbacks -------------------------------------------------------------------------------------------

    def _on_tf_static(self, message: Any) -> None:
        for item in message.transforms:
            translation, rotation = item.transform.translation, item.transform.rotation
            try:
                self._book.add_transform(
                    item.header.frame_id,
                    item.child_frame_id,
                    (translation.x, translation.y, translation.z),
                    (rotation.x, rotation.y, rotation.z, rotation.w),
                )
            except CalibrationError as error:
                self.fault("bad_transform", f"transform on /tf_static ignored: {error}")

    def _on_camera_info(self, modality: str, message: CameraInfo) -> None:
        try:
            self._book.add_camera_info(modality, message)
        except CalibrationError as error:
            self.fault(f"bad_camera_info {modality}", f"CameraInfo ignored: {error}")

    def _on_odometry(self, message: Odometry) -> None:
        speed, yaw_rate = message.twist.twist.linear.x, message.twist.twist.angular.z
        if not (math.isfinite(speed) and math.isfinite(yaw_rate)):
            self.fault("bad_odometry", f"odometry ignored: speed {speed}, yaw rate {yaw_rate} are not finite")
            return
        self._motion = EgoMotion(stamp_ns(message.header.stamp), speed, yaw_rate)

    def _on_timing(self, message: StageTiming) -> None:
        fed = self._reach.get(message.stage)
        if fed is None or message.stage == SENSOR_FUSION:
            return
        if message.outcome == StageTiming.OUTCOME_DONE:
            if message.stage not in fed:
                return  # an inner stage that succeeded ends nothing
            fed = frozenset({message.stage})
        with self._wake:
            for head in fed:
                self._admission.report(message.trace_id, head)
            self._wake.notify_all()

    def _on_sensor(self, modality: str, message: Any) -> None:
        received_ns, ros_now_ns = monotonic_ns(), self.get_clock().now().nanoseconds
        self._account.received(modality)
        with self._wake:
            if not self._running:
                if modality == self.process_context.rig.trigger:
                    self._account.dropped("shutdown")
                return
            received = self._synchronizer.receive(
                modality,
                message,
                stamp_ns(message.header.stamp),
                received_ns=received_ns,
                ros_now_ns=ros_now_ns,
            )
            if received.reception == Reception.TRIGGER:
                self._discard_pending("busy")
                self._pending = self._begin(received.message, fallback=False)
            elif received.reception == Reception.FALLBACK and (
                self._pending is None or self._pending.fallback
            ):
                self._pending = self._begin(received.message, fallback=True)
            elif received.reception == Reception.STALE:
                self._account.dropped(Reception.STALE.value)
            self._wake.notify_all()
        topic = self._sensors[modality].topic
        if received.jumped_back_ns:
            self.fault(
                f"stamps_jumped_back {modality}",
                f"stamps on {topic} went back by {received.jumped_back_ns * 1e-9:.3f} s (restarted recording "
                "or clock); earlier messages of this sensor are forgotten",
                error=False,
            )
        if received.unstamped:
            self.fault(
                f"unstamped {modality}",
                f"messages on {topic} have no stamp; their arrival is taken instead",
                error=False,
            )
        elif ros_now_ns and abs(received.message.age_ns) > _FOREIGN_CLOCK_NS:
            self.fault(
                f"foreign_clock {modality}",
                f"stamps on {topic} are {received.message.age_ns * 1e-9:.1f} s behind this host's ROS clock: "
                "synchronize the clocks, or set use_sim_time where a recording is played with /clock",
                error=False,
            )

    def _begin(self, trigger: SensorMessage, fallback: bool) -> _PendingFrame:
        return _PendingFrame(trigger, fallback, self._synchronizer.select(trigger))

    def _discard_pending(self, reason: str) -> None:
        """Drops the waiting frame; fallback frames stand for no trigger message and are not counted."""
        if self._pending is not None and not self._pending.fallback:
            self._account.dropped(reason)
        self._pending = None

    # -- worker ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Runs on the worker thread: emits the newest waiting frame as soon as it is admitted."""
        while True:
            with self._wake:
                while self._running and not self._admitted():
                    timeout = (
                        self._admission.seconds_to_next_timeout(time.monotonic()) if self._pending else None
                    )
                    self._wake.wait(timeout)
                if not self._running:
                    return
                pending, self._pending = self._pending, None
                assert pending is not None
                if self._wait_s > 0:
                    self._wake.wait_for(functools.partial(self._is_complete, pending), timeout=self._wait_s)
                selection = self._synchronizer.select(pending.trigger, pending.chosen)
            self._account_for(pending, *self._try_to_emit(pending, selection))

    def _try_to_emit(
        self, pending: _PendingFrame, selection: dict[str, SensorMessage]
    ) -> tuple[str, set[str]]:
        """Returns why the frame was dropped (empty: it went out) and the modalities it lacks."""
        try:
            return self._emit(pending, selection, monotonic_ns())
        except (
            Exception
        ) as error:  # one bad frame must not end the stream of frames: reported, counted, and on
            self.fault("frame_failed", f"frame dropped: {type(error).__name__}: {error}")
            return "failed", set()

    def _account_for(self, pending: _PendingFrame, drop_reason: str, missing: set[str]) -> None:
        if not drop_reason:
            self._account.emitted(missing, pending.fallback)
        elif not pending.fallback:
            self._account.dropped(drop_reason)

    def _admitted(self) -> bool:
        return self._pending is not None and self._admission.may_enter(time.monotonic())

    def _is_complete(self, pending: _PendingFrame) -> bool:
        missing = set(self._used) - self._synchronizer.select(pending.trigger, pending.chosen).keys()
        return not missing or not self._running

    def _fresh_motion(self, frame_stamp_ns: int) -> EgoMotion | None:
        source, motion = self.process_context.rig.odometry, self._motion
        if (
            source is None
            or motion is None
            or abs(motion.stamp_ns - frame_stamp_ns) > self._widened_ns(source.max_delay_s)
        ):
            return None
        return motion

    def _emit(
        self, pending: _PendingFrame, selection: dict[str, SensorMessage], started_ns: int
    ) -> tuple[str, set[str]]:
        assert self._assembler is not None and self._writer is not None
        trigger = pending.trigger
        frame = self._assembler.assemble(trigger.stamp_ns, selection, self._fresh_motion(trigger.stamp_ns))
        assembled_ns = monotonic_ns()
        for modality in frame.rejected:
            self._account.rejected(modality)
        for fault in frame.faults:
            self.fault(f"{fault.kind} {fault.modality}", fault.message)
        if frame.drop_reason:
            return frame.drop_reason, set()
        # Unique over restarts of this node, and rising.
        trace_id = self._last_trace_id = max(self._last_trace_id + 1, time.time_ns())
        sensors = self._sensor_stamps(frame, selection)
        with self._wake:
            self._admission.enter(trace_id, time.monotonic())
        try:
            handles = self._writer.put(
                trace_id, {name: torch.from_numpy(tensor) for name, tensor in frame.tensors.items()}
            )
        except TensorError as error:
            with self._wake:
                for head in self._reach[SENSOR_FUSION]:
                    self._admission.report(trace_id, head)
            self.fault("transport", f"frame dropped: {error}")
            return "transport", set()
        stamp = stamp_message(trigger.stamp_ns)
        announcement = TensorAnnouncement(
            trace_id=trace_id, producer=SENSOR_FUSION, sensors=sensors, tensors=handles
        )
        announcement.header.stamp = stamp
        announcement.header.frame_id = self.process_context.rig.ego_frame
        self._announcer.publish(announcement)
        done_ns = monotonic_ns()
        if not pending.fallback:
            with self._wake:
                self._synchronizer.trigger_emitted(done_ns)
        self.report_timing(
            trace_id=trace_id,
            stamp=stamp,
            sensors=sensors,
            queued_ns=trigger.received_ns,
            started_ns=started_ns,
            done_ns=done_ns,
            compute_ns=assembled_ns - started_ns,
        )
        return "", set(self._used) - frame.valid

    def _sensor_stamps(self, frame: AssembledFrame, selection: dict[str, SensorMessage]) -> list[SensorStamp]:
        """Every modality of the rig: those in the frame, and of the others what was last heard."""
        stamps = []
        for modality in self.process_context.rig.modalities:
            message = selection.get(modality)
            if message is None and modality in self._heard:
                with self._wake:
                    message = self._synchronizer.last_message(modality)
            entry = SensorStamp(modality=modality, valid=modality in frame.valid)
            if message is not None:
                entry.stamp = stamp_message(message.stamp_ns)
                entry.received_ns = message.received_ns
                entry.age_at_reception_ns = message.age_ns
            stamps.append(entry)
        return stamps

    # -- reports ---------------------------------------------------------------------------------------------

    def _on_status_timer(self) -> None:
        self._publish_status()
        now_ns = monotonic_ns()
        for modality in self._heard:
            with self._wake:
                silent_ns = self._synchronizer.silent_for_ns(modality, now_ns)
            silent_s = (now_ns - self._started_ns if silent_ns is None else silent_ns) * 1e-9
            limit_s = _FIRST_MESSAGE_S if silent_ns is None else _SILENCE_S
            if silent_s * 1e9 > self._widened_ns(limit_s):
                self._report_silence(modality, silent_s, ever_heard=silent_ns is not None)

    def _report_silence(self, modality: str, silent_s: float, ever_heard: bool) -> None:
        sensor = self._sensors[modality]
        message = f"no message on {sensor.topic} for {silent_s:.1f} s" + (
            "" if ever_heard else " since the start"
        )
        if self.count_publishers(sensor.topic) == 0:
            same_type = sorted(
                name
                for name, types in self.get_topic_names_and_types()
                if sensor.type in types and self.count_publishers(name)  # type: ignore[attr-defined]
            )
            message += "; nobody publishes it" + (
                f", of its type there are: {', '.join(same_type)}" if same_type else ""
            )
        self.fault(f"silent {modality}", message, error=modality == self.process_context.rig.trigger)

    def _publish_status(self) -> None:
        account = self._account.snapshot()
        modalities = list(account.received)
        status = FusionStatus(
            frames_in=account.frames_in,
            frames_out=account.frames_out,
            frames_dropped=account.frames_dropped,
            frames_masked=account.frames_masked,
            frames_fallback=account.frames_fallback,
            drop_reasons=sorted(account.drops),
            drop_counts=[account.drops[reason] for reason in sorted(account.drops)],
            modalities=modalities,
            received=[account.received[modality] for modality in modalities],
            rejected=[account.rejected[modality] for modality in modalities],
            masked=[account.masked[modality] for modality in modalities],
        )
        status.header.stamp = self.get_clock().now().to_msg()
        status.header.frame_id = self.process_context.rig.ego_frame
        self._status_publisher.publish(status)
