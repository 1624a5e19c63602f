"""The control node: publishes steering and acceleration at its own rate, as good as what it last received
and as old as that is.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from mmmt_msgs.msg import (
    ControlCommand,
    ControlProposal,
    DetectedObjectArray,
    LatencyStatus,
    MapSegmentation,
    SensorStamp,
    StageTiming,
)
from nav_msgs.msg import Odometry, Path
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from perception_core.control.controller import Command, Controller, ControllerOptions
from perception_core.control.inbox import EgoMotion, ReferenceLine
from perception_core.control.judge import JudgedCommand, JudgeOptions, unsafe_reasons
from perception_core.control.path import FloatArray
from perception_core.control.safety_envelope import DrivingState, EnvelopeOptions
from perception_core.control.tasks import (
    detection_tasks,
    map_tasks,
    modalities_of,
    required_tasks,
    stand_in_tasks,
)
from perception_core.platform.path_latency import CONTROL
from perception_nodes import topics
from perception_nodes.nodes.control_conversions import (
    command_message,
    detection_output,
    fused_message,
    judged_command,
    latency_figures,
    learned_proposal,
    map_output,
    yaw_of,
)
from perception_nodes.nodes.number_parameter import declare_number
from perception_nodes.nodes.vehicle_messages import available_outputs
from perception_nodes.runtime.moment import at_one_moment
from perception_nodes.runtime.stack_node import ProcessContext, StackNode, monotonic_ns

NANOSECONDS = 1e-9
_REMEMBERED_FRAMES = 8
#: Commands kept for whoever judges every one and is held up meanwhile: ten seconds at the default rate. A
#: vehicle's interface asks for the newest only.
_COMMANDS_KEPT = 200


class ControlNode(StackNode):
    """Drives inside the safety envelope of `perception_core.control`; see docs/control.md for parameters
    and claims.
    """

    def __init__(self, context: ProcessContext) -> None:
        super().__init__(context, CONTROL)
        self._number = functools.partial(declare_number, self)
        self._options = self._declare_options()
        self._score_threshold = self._number(
            "object_score_threshold", 0.3, "objects with a lower score are not heeded", 0.0, 1.0
        )
        self._drivable_threshold = self._number(
            "drivable_threshold", 0.5, "probability from which a map cell is drivable", 0.0, 1.0
        )
        self._declare("drivable_layer", "drivable_area", "map layer that says where the road is")
        self._declare("engage_on_start", False, "engage by itself, once, as soon as perception is fresh")
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._controller: Controller | None = None

    def _declare(self, name: str, default: str | bool | list[str], description: str) -> None:
        self.declare_parameter(name, default, ParameterDescriptor(description=description, read_only=True))

    def _declare_options(self) -> ControllerOptions:
        """Declares the parameters that the controller's options consist of."""
        spec, number = self.process_context.bundle.spec, self._number
        default, envelope = ControllerOptions(), EnvelopeOptions()
        tasks = list(required_tasks(spec))
        self._declare(
            "required_tasks", tasks or [""], "detection tasks without which the vehicle does not drive"
        )
        self._declare(
            "stand_in_tasks",
            list(stand_in_tasks(spec)) or [""],
            "detection tasks the vehicle drives on alone while a required one is silent",
        )
        rate_hz = number("rate_hz", 20.0, "rate of the command [Hz]", 5.0, 200.0)
        law = number(
            "law_deceleration_mps2",
            0.0,
            "deceleration the speed limit counts on [m/s2], 0: the vehicle's comfortable one",
            0.0,
            12.0,
        )
        odometry = self.process_context.rig.odometry
        return ControllerOptions(
            period_s=1.0 / rate_hz,
            required_tasks=tuple(task for task in self.get_parameter("required_tasks").value if task),
            detection_tasks=detection_tasks(spec),
            stand_in_tasks=tuple(task for task in self.get_parameter("stand_in_tasks").value if task),
            odometry_age_s=default.odometry_age_s if odometry is None else odometry.max_delay_s,
            max_output_latency_s=number(
                "max_output_latency_s",
                default.max_output_latency_s,
                "an output with older sensor data is no new perception [s]",
                0.05,
                30.0,
            ),
            reference_age_s=number(
                "reference_age_s",
                default.reference_age_s,
                "an older reference path in the ego frame is dropped [s]",
                0.05,
                60.0,
            ),
            proposal_age_s=number(
                "proposal_age_s",
                default.proposal_age_s,
                "an older learned proposal is dropped [s]",
                0.05,
                5.0,
            ),
            corridor_margin_m=number(
                "corridor_margin_m",
                default.corridor_margin_m,
                "space wanted beside the vehicle [m]",
                0.0,
                5.0,
            ),
            object_gap_m=number(
                "object_gap_m", default.object_gap_m, "gap to an object when standing [m]", 0.0, 20.0
            ),
            law_deceleration_mps2=law or None,
            max_lateral_acceleration_mps2=number(
                "max_lateral_acceleration_mps2",
                default.max_lateral_acceleration_mps2,
                "sets the speed in curves [m/s2]",
                0.1,
                10.0,
            ),
            creep_mps=number(
                "creep_mps", default.creep_mps, "a lower target speed is a stop [m/s]", 0.01, 2.0
            ),
            envelope=EnvelopeOptions(
                comfortable_stop_age_s=number(
                    "comfortable_stop_age_s",
                    envelope.comfortable_stop_age_s,
                    "perception older than this: comfortable stop [s]",
                    0.05,
                    10.0,
                ),
                full_stop_age_s=number(
                    "full_stop_age_s",
                    envelope.full_stop_age_s,
                    "perception older than this: full stop [s]",
                    0.05,
                    10.0,
                ),
                monitor_age_s=number(
                    "monitor_age_s",
                    envelope.monitor_age_s,
                    "latency status older than this: full stop [s]",
                    0.05,
                    10.0,
                ),
                comfortable_hold_s=number(
                    "comfortable_hold_s",
                    envelope.comfortable_hold_s,
                    "a comfortable stop ends after this long without fault [s]",
                    0.0,
                    60.0,
                ),
                full_hold_s=number(
                    "full_hold_s",
                    envelope.full_hold_s,
                    "a full stop ends after this long without fault [s]",
                    0.0,
                    60.0,
                ),
            ),
        )

    # -- lifecycle -------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Creates controller and publishers."""
        rig, spec = self.process_context.rig, self.process_context.bundle.spec
        named = {*self._options.required_tasks, *self._options.stand_in_tasks}
        unknown = named - set(detection_tasks(spec))
        if unknown:
            raise ValueError(
                f"required_tasks, stand_in_tasks: {', '.join(sorted(unknown))} is no detection task of "
                f"bundle '{spec.name}',"
                f" which has {', '.join(detection_tasks(spec)) or 'none'}"
            )
        self._modalities = {task: modalities_of(spec, rig, task) for task in detection_tasks(spec)}
        self._newest_objects: dict[str, DetectedObjectArray] = {}
        ranges = {name: camera.trusted_range_m for name, camera in rig.cameras.items()}
        if rig.lidar is not None:
            ranges["lidar"] = rig.lidar.trusted_range_m
        self._controller = Controller(rig.vehicle, ranges, self._options)
        self._judge_options = JudgeOptions(
            comfortable_stop_age_s=self._options.envelope.comfortable_stop_age_s,
            full_stop_age_s=self._options.envelope.full_stop_age_s,
            law_deceleration_mps2=self._options.law_deceleration_mps2,
        )
        if rig.odometry is None:
            self.fault(
                "odometry", f"rig '{rig.name}' has no odometry: the vehicle will not drive", error=False
            )
        if not any(ranges.values()):
            self.fault(
                "sight",
                f"no sensor of rig '{rig.name}' looks ahead (trusted_range_m is 0):"
                " the vehicle will not drive",
                error=False,
            )
        self._sequence = 0
        self._ticks = 0
        self._unsafe_ticks = 0
        self._previous: tuple[float, JudgedCommand] | None = None
        self._last_command: Command | None = None
        self._reported_trace: int | None = None
        self._newest_queued_ns = 0
        self._stamps_of: dict[int, tuple[Any, list[SensorStamp]]] = {}
        self._odometry_pose: tuple[str, float, float, float] | None = None
        self._world_reference: tuple[str, FloatArray] | None = None
        self._may_engage_itself = bool(self.get_parameter("engage_on_start").value)
        self._command_publisher = self.create_publisher(
            ControlCommand, topics.CONTROL_COMMAND, topics.reliable(_COMMANDS_KEPT)
        )
        self._fused_publisher = self.create_publisher(
            DetectedObjectArray, topics.FUSED_OBJECTS, topics.reliable()
        )
        self._health_publisher = self.create_publisher(
            DiagnosticArray, topics.DIAGNOSTICS, topics.reliable(16)
        )
        self._vehicle_publishers = [
            (self.create_publisher(message_type, topic, topics.reliable()), convert)
            for message_type, topic, convert in available_outputs()
        ]

    def start(self) -> None:
        """Subscribes, offers the engage service and starts the clock."""
        rig, spec = self.process_context.rig, self.process_context.bundle.spec
        reliable = topics.reliable(2)
        subscribe = self.create_subscription
        self._inputs = [
            subscribe(
                DetectedObjectArray,
                topics.objects_of(task),
                functools.partial(self._on_objects, task),
                reliable,
            )
            for task in detection_tasks(spec)
        ]
        self._inputs += [
            subscribe(MapSegmentation, topics.map_of(task), self._on_map, reliable)
            for task in map_tasks(spec)
        ]
        if rig.odometry is not None:
            self._inputs.append(subscribe(Odometry, rig.odometry.topic, self._on_odometry, topics.sensor()))
        self._inputs += [
            subscribe(LatencyStatus, topics.LATENCY_STATUS, self._on_latency, reliable),
            subscribe(ControlProposal, topics.CONTROL_PROPOSAL, self._on_proposal, reliable),
            subscribe(Path, topics.REFERENCE_PATH, self._on_reference, reliable),
            subscribe(Bool, topics.DRIVER_OVERRIDE, self._on_override, reliable),
        ]
        self._engage_service = self.create_service(SetBool, topics.CONTROL_ENGAGE, self._on_engage)
        self._timers = [
            self.create_timer(self._options.period_s, self._tick, clock=self._steady_clock),
            self.create_timer(1.0, self._publish_diagnostics, clock=self._steady_clock),
        ]

    def stop(self) -> None:
        """Disengages and ends everything `start` began."""
        if self._controller is not None:
            self._controller.disengage("control is being stopped")
        for timer in self._timers:
            self.destroy_timer(timer)
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self.destroy_service(self._engage_service)
        self._timers, self._inputs = [], []

    def release(self) -> None:
        """Forgets everything received."""
        self._controller = None

    # -- inputs ----------------------------------------------------------------------------------------------

    def _on_objects(self, task: str, message: DetectedObjectArray) -> None:
        now_ns = monotonic_ns()
        if self._controller is None or not self._in_ego_frame(message.header.frame_id, f"objects of {task}"):
            return
        output = detection_output(message, task, now_ns, self._score_threshold, self._modalities[task])
        refusal = self._controller.accept_detections(output)
        if refusal:
            self.fault(f"objects of {task}", f"an output is not used: {refusal}", error=False)
            return
        self._publish_fused(task, message)
        if task in self._options.stand_in_tasks:
            self._remember_stamps(message)
        if task in self._options.required_tasks:
            self._remember_stamps(message)
            self._newest_queued_ns = now_ns
            if not self._controller.machine.engaged:
                self._report(message.trace_id, now_ns, StageTiming.OUTCOME_DROPPED, "not engaged")

    def _remember_stamps(self, message: DetectedObjectArray) -> None:
        """Keeps the stamps of the newest few frames: a command may rest on any of them."""
        self._stamps_of[message.trace_id] = (message.header.stamp, list(message.sensors))
        while len(self._stamps_of) > _REMEMBERED_FRAMES:
            self._stamps_of.pop(next(iter(self._stamps_of)))

    def _publish_fused(self, task: str, message: DetectedObjectArray) -> None:
        """Publishes the frame's objects as one list, anew with every task's output that adds to it."""
        if len(self._modalities) < 2:
            return
        others = self._newest_objects.items()
        same_frame = {name: other for name, other in others if other.trace_id == message.trace_id}
        self._newest_objects = {**same_frame, task: message}
        self._fused_publisher.publish(fused_message(self._newest_objects, self._options))

    def _on_map(self, message: MapSegmentation) -> None:
        if self._controller is None or not self._in_ego_frame(message.header.frame_id, "map"):
            return
        layer = str(self.get_parameter("drivable_layer").value)
        try:
            self._controller.accept_map(map_output(message, monotonic_ns(), layer, self._drivable_threshold))
        except ValueError as error:
            self.fault("map", f"a map is not used: {error}", error=False)

    def _on_odometry(self, message: Odometry) -> None:
        if self._controller is None:
            return
        now_s = monotonic_ns() * NANOSECONDS
        twist = message.twist.twist
        refusal = self._controller.accept_motion(EgoMotion(now_s, twist.linear.x, twist.angular.z))
        if refusal:
            self.fault("odometry", refusal)
            return
        position, yaw = message.pose.pose.position, yaw_of(message.pose.pose.orientation)
        if all(map(math.isfinite, (position.x, position.y, yaw))):
            self._odometry_pose = (message.header.frame_id, position.x, position.y, yaw)
            self._place_reference(now_s)

    def _on_reference(self, message: Path) -> None:
        if self._controller is None:
            return
        now_s = monotonic_ns() * NANOSECONDS
        points = np.array([[p.pose.position.x, p.pose.position.y] for p in message.poses]).reshape(-1, 2)
        self._world_reference = None
        if not len(points):
            self._controller.accept_reference(None)
            return
        frame = message.header.frame_id
        if frame in ("", self.process_context.rig.ego_frame):
            refusal = self._controller.accept_reference(ReferenceLine(now_s, points))
            if refusal:
                self.fault("reference path", refusal, error=False)
            return
        if not np.isfinite(points).all():
            self.fault("reference path", "it is not finite", error=False)
            return
        self._world_reference = (frame, points)
        self._place_reference(now_s)

    def _place_reference(self, now_s: float) -> None:
        """Moves a reference path in odometry's frame into the ego frame of the newest odometry."""
        if self._world_reference is None or self._odometry_pose is None or self._controller is None:
            return
        frame, points = self._world_reference
        odometry_frame, x, y, yaw = self._odometry_pose
        if frame != odometry_frame:
            self.fault(
                "reference path",
                f"frame '{frame}' is neither the ego frame '{self.process_context.rig.ego_frame}' nor"
                f" odometry's frame '{odometry_frame}'",
                error=False,
            )
            return
        cosine, sine = math.cos(yaw), math.sin(yaw)
        in_ego = (points - np.array([x, y])) @ np.array([[cosine, -sine], [sine, cosine]])
        refusal = self._controller.accept_reference(ReferenceLine(now_s, in_ego))
        if refusal:
            self.fault("reference path", refusal, error=False)

    def _on_proposal(self, message: ControlProposal) -> None:
        if self._controller is None or not self._in_ego_frame(message.header.frame_id, "control proposal"):
            return
        refusal = self._controller.accept_proposal(learned_proposal(message, monotonic_ns()))
        if refusal:
            self.fault("control proposal", f"a proposal is not used: {refusal}", error=False)

    def _on_latency(self, message: LatencyStatus) -> None:
        if self._controller is not None:
            self._controller.accept_latency(latency_figures(message, monotonic_ns()))

    def _on_override(self, message: Bool) -> None:
        if self._controller is None:
            return
        if message.data:
            self._may_engage_itself = False  # who took the wheel gives it back on purpose
        self._controller.override(message.data)

    def _on_engage(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._controller is None:
            response.success, response.message = False, "control is not active"
        elif request.data:
            refusal = self._controller.engage(monotonic_ns() * NANOSECONDS)
            response.success, response.message = not refusal, refusal or "engaged"
        else:
            self._may_engage_itself = False
            self._controller.disengage("disengaged by service")
            response.success, response.message = True, "disengaged"
        return response

    def _in_ego_frame(self, frame: str, what: str) -> bool:
        ego_frame = self.process_context.rig.ego_frame
        if frame == ego_frame:
            return True
        self.fault(f"frame of {what}", f"'{frame}' is not the ego frame '{ego_frame}'; not used", error=False)
        return False

    # -- the tick --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        controller = self._controller
        if controller is None:
            return
        started_ns, stamp_time = at_one_moment(monotonic_ns, self.get_clock().now)
        stamp = stamp_time.to_msg()
        now_s = started_ns * NANOSECONDS
        if self._may_engage_itself and not controller.engage(now_s):
            self._may_engage_itself = False
        command = self._last_command = controller.tick(now_s)
        if command.state == DrivingState.DISENGAGED:
            self._previous = None
            self._sequence = 0  # a sequence that starts again tells listeners that control was engaged anew
            return
        self._sequence += 1
        message = command_message(command, self._sequence)
        message.header.stamp = stamp
        message.header.frame_id = self.process_context.rig.ego_frame
        _, message.sensors = self._stamps_of.get(message.trace_id, (None, []))
        self._command_publisher.publish(message)
        done_ns = monotonic_ns()
        for publisher, convert in self._vehicle_publishers:
            publisher.publish(convert(message))
        if message.trace_id in self._stamps_of and message.trace_id != self._reported_trace:
            self._report(message.trace_id, started_ns, StageTiming.OUTCOME_DONE, "", done_ns)
        self._judge(now_s, judged_command(message))

    def _report(
        self, trace_id: int, started_ns: int, outcome: int, detail: str, done_ns: int | None = None
    ) -> None:
        """Tells the latency monitor when a frame became a command, or that it did not because nobody
        engaged.
        """
        stamp, sensors = self._stamps_of[trace_id]
        self._reported_trace = trace_id
        self.report_timing(
            trace_id=trace_id,
            stamp=stamp,
            sensors=sensors,
            queued_ns=min(self._newest_queued_ns, started_ns),
            started_ns=started_ns,
            done_ns=started_ns if done_ns is None else done_ns,
            compute_ns=0 if done_ns is None else done_ns - started_ns,
            task=CONTROL,
            outcome=outcome,
            detail=detail,
        )

    def _judge(self, now_s: float, judged: JudgedCommand) -> None:
        """Holds every published command against the independent rules; finding one unsafe is a defect of
        this stack.
        """
        self._ticks += 1
        previous, period_s = None, self._options.period_s
        if self._previous is not None:
            period_s, previous = now_s - self._previous[0], self._previous[1]
        reasons = unsafe_reasons(
            previous, judged, period_s, self.process_context.rig.vehicle, self._judge_options
        )
        self._previous = (now_s, judged)
        if reasons:
            self._unsafe_ticks += 1
            self.fault("unsafe command", "; ".join(reasons))

    def _publish_diagnostics(self) -> None:
        controller, command = self._controller, self._last_command
        if controller is None or command is None:
            return
        level = {
            DrivingState.DISENGAGED: DiagnosticStatus.OK,
            DrivingState.DRIVING: DiagnosticStatus.OK,
            DrivingState.COMFORTABLE_STOP: DiagnosticStatus.WARN,
            DrivingState.FULL_STOP: DiagnosticStatus.ERROR,
        }[command.state]
        figures = {
            "speed_limit_mps": command.speed_limit,
            "sight_distance_m": command.sight_distance,
            "reaction_time_s": command.reaction_time,
            "perception_age_s": command.perception_age,
            "measured_speed_mps": command.measured_speed,
            "acceleration_mps2": command.acceleration,
            "steering_angle_rad": command.steering_angle,
        }
        counts = {"commands": self._ticks, "unsafe_commands": self._unsafe_ticks}
        status = DiagnosticStatus(
            level=level,
            name=self.get_name(),
            message=f"{command.state.name.lower()}{': ' + command.reason if command.reason else ''}",
            hardware_id=self.process_context.process,
            values=[KeyValue(key=key, value=f"{value:.4g}") for key, value in figures.items()]
            + [KeyValue(key=key, value=str(value)) for key, value in counts.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._health_publisher.publish(array)
