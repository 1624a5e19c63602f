"""The safety side alone: the real process with latency monitor and control, and a thread that publishes what
the other stages would.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState
from mmmt_msgs.msg import (
    ControlCommand,
    DetectedObject,
    DetectedObjectArray,
    LatencyStatus,
    SensorStamp,
    StageTiming,
)
from nav_msgs.msg import Odometry, Path
from patient_stack import patient_rig
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from stack_fixtures import StallMeter
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from perception_core.bundle import SENSOR_FUSION
from perception_core.control.judge import JudgedCommand, unsafe_reasons
from perception_core.deployment import load_deployment
from perception_core.rig import Rig
from perception_nodes import topics
from perception_nodes.nodes.control_conversions import judged_command
from perception_nodes.report.control_judge import judge_options
from perception_nodes.runtime.drain import drained
from perception_nodes.runtime.process_list import build_process_list
from perception_nodes.runtime.stack_node import host_id
from perception_nodes.runtime.supervisor import Supervisor

#: Slow enough for a machine that stands still for half a second now and then; ages are wide for that, too.
FRAME_PERIOD_S = 0.5
MOTION_PERIOD_S = 0.5
CONTROL_RATE_HZ = 10
COMFORTABLE_STOP_AGE_S, FULL_STOP_AGE_S, MONITOR_AGE_S = 3.0, 5.0, 3.0
BUDGET_MS = 1500.0
ALIVE_AGE_NS = 5_000_000
START_LIMIT_S = 90.0


class OtherStages:
    """Publishes timings, objects, odometry and a reference path as a running stack would, with faults on
    request.
    """

    #: Stage, what it waits for, and how long it usually takes.
    GRAPH: dict[str, tuple[tuple[str, ...], float]] = {
        SENSOR_FUSION: ((), 0.002),
        "lidar_net": ((SENSOR_FUSION,), 0.02),
        "camera_net": ((SENSOR_FUSION,), 0.03),
        "bev_fuser": (("lidar_net", "camera_net"), 0.01),
        "detection3d_head": (("bev_fuser",), 0.01),
        "map_segmentation_head": (("bev_fuser",), 0.01),
    }
    TASKS = {"detection3d_head": "detection3d", "map_segmentation_head": "map_segmentation"}

    def __init__(self, rig: Rig, node: Node) -> None:
        self._rig = rig
        self._node = node
        self.extra_s: dict[str, float] = defaultdict(float)
        self.dead: set[str] = set()
        self.masked: set[str] = set()
        self.objects: list[DetectedObject] = []
        self.speed = 5.0
        self.publish_odometry = True
        self.publish_path = True
        self._trace = 1000
        self._host = host_id()
        self._modalities = rig.modalities
        publisher = node.create_publisher
        self.timing = publisher(StageTiming, topics.TIMING, topics.reliable(32))
        self.detections = publisher(DetectedObjectArray, topics.objects_of("detection3d"), topics.reliable())
        self.odometry = publisher(Odometry, rig.odometry.topic, topics.reliable())
        self.path = publisher(Path, topics.REFERENCE_PATH, topics.reliable())
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="other stages", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    def _at(self, due_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (due_s, self._count, action))

    def _run(self) -> None:
        next_frame = next_motion = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= next_frame:
                next_frame = max(next_frame + FRAME_PERIOD_S, now)
                self._frame(now)
            if now >= next_motion:
                next_motion = max(next_motion + MOTION_PERIOD_S, now)
                self._motion()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            next_due = self._due[0][0] if self._due else now + 1.0
            self._stopping.wait(max(0.001, min(next_frame, next_motion, next_due) - time.monotonic()))

    def _stamp(self) -> Time:
        return self._node.get_clock().now().to_msg()

    def _motion(self) -> None:
        frame = self._rig.ego_frame
        if self.publish_odometry:
            odometry = Odometry(child_frame_id=frame)
            odometry.header.stamp, odometry.header.frame_id = self._stamp(), "odom"
            odometry.twist.twist.linear.x = self.speed
            odometry.pose.pose.orientation.w = 1.0
            self.odometry.publish(odometry)
        if self.publish_path:
            path = Path()
            path.header.stamp, path.header.frame_id = self._stamp(), frame
            for x in range(0, 160, 20):
                pose = PoseStamped()
                pose.pose.position.x = float(x)
                path.poses.append(pose)
            self.path.publish(path)

    def _frame(self, now: float) -> None:
        self._trace += 1
        trace_id, stamp, received_ns = self._trace, self._stamp(), int(now * 1e9)
        sensors = [
            SensorStamp(
                modality=name,
                stamp=stamp,
                valid=name not in self.masked,
                received_ns=received_ns,
                age_at_reception_ns=ALIVE_AGE_NS,
            )
            for name in self._modalities
        ]
        done: dict[str, float] = {}
        for stage, (waits, usual_s) in self.GRAPH.items():
            if stage in self.dead or any(feeder not in done for feeder in waits):
                continue
            queued = max((done[feeder] for feeder in waits), default=now)
            done[stage] = queued + usual_s + self.extra_s[stage]
            timing = StageTiming(
                trace_id=trace_id,
                stage=stage,
                task=self.TASKS.get(stage, ""),
                host=self._host,
                queued_ns=int(queued * 1e9),
                started_ns=int(queued * 1e9),
                done_ns=int(done[stage] * 1e9),
                sensors=sensors,
            )
            self._at(done[stage], lambda timing=timing: self.timing.publish(timing))
            if stage == "detection3d_head":
                objects = DetectedObjectArray(
                    trace_id=trace_id, task="detection3d", sensors=sensors, objects=list(self.objects)
                )
                objects.header.stamp, objects.header.frame_id = stamp, self._rig.ego_frame
                self._at(done[stage], lambda objects=objects: self.detections.publish(objects))


class SafetySide:
    """The stack's real safety process, the stand-in stages and ears for everything in this one."""

    def __init__(
        self, parameters: dict[str, dict[str, Any]] | None = None, engage_on_start: bool = False
    ) -> None:
        given: dict[str, dict[str, Any]] = {
            "control": {
                "engage_on_start": engage_on_start,
                "rate_hz": CONTROL_RATE_HZ,
                "comfortable_stop_age_s": COMFORTABLE_STOP_AGE_S,
                "full_stop_age_s": FULL_STOP_AGE_S,
                "monitor_age_s": MONITOR_AGE_S,
                "max_output_latency_s": 30.0,
                "reference_age_s": 10.0,
            },
            "latency_monitor": {"rate_hz": 5},
        }
        for node, values in (parameters or {}).items():
            given.setdefault(node, {}).update(values)
        resolved = load_deployment(
            "cpu-2core",
            [
                *(
                    f"parameters.{node}.{key}:={value}"
                    for node in given
                    for key, value in given[node].items()
                ),
                f"rig:={patient_rig('nuscenes')}",
                *(
                    f"budgets_ms.{modality}->{task}:={BUDGET_MS}"
                    for modality in ("*", "lidar")
                    for task in ("detection3d", "control")
                ),
                f"budgets_ms.*->map_segmentation:={BUDGET_MS}",
            ],
        )
        self.rig = resolved.rig
        self._judge_options = judge_options(resolved)
        (safety,) = (process for process in build_process_list(resolved) if process.name == "safety")
        self.lines: list[str] = []
        self.process = Supervisor([safety], on_line=lambda _, line: self.lines.append(line), fork=False)
        self.stalls = StallMeter()
        self._ros = Context()
        rclpy.init(context=self._ros)
        self.probe = Node("safety_probe", namespace=topics.NAMESPACE, context=self._ros)
        self.stages = OtherStages(self.rig, self.probe)
        self.commands: list[tuple[float, ControlCommand]] = []
        self.latency: list[tuple[float, LatencyStatus]] = []
        self.timings: list[tuple[float, StageTiming]] = []
        self.diagnostics: list[tuple[float, Any]] = []
        self._listen(ControlCommand, topics.CONTROL_COMMAND, self.commands)
        self._listen(LatencyStatus, topics.LATENCY_STATUS, self.latency)
        self._listen(StageTiming, topics.TIMING, self.timings)
        self.probe.create_subscription(
            DiagnosticArray,
            topics.DIAGNOSTICS,
            lambda array: self.diagnostics.extend((time.monotonic(), status) for status in array.status),
            topics.reliable(100),
        )
        self.override = self.probe.create_publisher(Bool, topics.DRIVER_OVERRIDE, topics.reliable())
        self._engage_client = self.probe.create_client(SetBool, topics.CONTROL_ENGAGE)
        self._change_client = self.probe.create_client(
            ChangeState, f"{topics.NAMESPACE}/latency_monitor/change_state"
        )
        self._probe_executor = SingleThreadedExecutor(context=self._ros)
        self._probe_executor.add_node(self.probe)
        self._thread = threading.Thread(target=self._probe_executor.spin, daemon=True)
        self._thread.start()
        self.process.start()
        assert self.process.wait_ready(START_LIMIT_S), "\n".join(self.lines)
        self.stages.start()

    def _listen(self, message_type: type[Any], topic: str, store: list[tuple[float, Any]]) -> None:
        """Stores messages with the time at which they were taken; takes all that wait, or a busy machine
        fools the test.
        """

        def take(first: Any) -> None:
            messages = drained(subscription, first)
            store.extend((time.monotonic(), message) for message in messages)

        subscription = self.probe.create_subscription(message_type, topic, take, topics.reliable(200))

    def close(self) -> None:
        self.stages.close()
        code = self.process.stop()
        self._probe_executor.shutdown(5)
        self._thread.join(5)
        self.probe.destroy_node()
        rclpy.shutdown(context=self._ros)
        self.stalls.close()
        assert code == 0, "\n".join(self.lines)

    def change_monitor(self, *transitions: int) -> None:
        """Takes the latency monitor through transitions of `lifecycle_msgs/Transition`."""
        assert self._change_client.wait_for_service(10.0)
        for transition in transitions:
            request = ChangeState.Request()
            request.transition.id = transition
            future = self._change_client.call_async(request)
            self.wait_for(future.done, 10.0, f"an answer to transition {transition}")
            assert future.result().success

    def wait_for(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """Waits until something holds; what the machine stood still meanwhile is not counted."""
        since = time.monotonic()
        while time.monotonic() - since < timeout_s + self.stalls.stalled_s(since):
            outcome = condition()
            if outcome:
                return outcome
            time.sleep(0.01)
        command = self.commands[-1][1] if self.commands else None
        status = self.latency[-1][1] if self.latency else None
        raise AssertionError(
            f"not within {timeout_s} s: {what}; command {command and (command.state, command.reason)},"
            f" latency status {status and (status.level, status.message)},"
            f" diagnostics {[s.message for _, s in self.diagnostics[-6:]]}"
        )

    def wait_for_state(self, state: int, timeout_s: float) -> ControlCommand:
        since = time.monotonic()
        return self.wait_for(
            lambda: next((c for at, c in self.commands[-5:] if at >= since and c.state == state), None),
            timeout_s,
            f"state {state}",
        )

    def engage(self, engaged: bool = True) -> SetBool.Response:
        assert self._engage_client.wait_for_service(10.0)
        future = self._engage_client.call_async(SetBool.Request(data=engaged))
        return self.wait_for(
            lambda: future.done() and future.result(), 5.0, "an answer of the engage service"
        )

    def drive(self) -> None:
        """Brings the vehicle to driving, whatever it did before."""
        self.stages.dead.clear()
        self.stages.extra_s.clear()
        self.stages.masked.clear()
        self.stages.objects = []
        self.override.publish(Bool(data=False))
        self.wait_for(lambda: self.engage().success, 10.0, "engaging")
        self.wait_for_state(ControlCommand.STATE_DRIVING, 10.0)

    def count_when_silent(self) -> int:
        """Waits until control has said nothing for a second; returns how many commands there are."""
        self.wait_for(
            lambda: not self.commands or time.monotonic() - self.commands[-1][0] > 1.0,
            10.0,
            "no more commands",
        )
        return len(self.commands)

    def unsafe_ticks(self) -> list[tuple[int, list[str]]]:
        """What the judge finds in all commands heard, by sequence number."""
        found, previous = [], None
        for _, message in list(self.commands):
            command = judged_command(message)
            follows = previous is not None and message.sequence == previous[0] + 1
            stamp_s = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
            before: JudgedCommand | None = previous[1] if follows else None
            elapsed_s = stamp_s - previous[2] if follows else 1 / CONTROL_RATE_HZ
            # A first command after a pause has no predecessor to compare with.
            if previous is None or follows:
                reasons = unsafe_reasons(before, command, elapsed_s, self.rig.vehicle, self._judge_options)
                if reasons:
                    found.append((message.sequence, reasons))
            previous = (message.sequence, command, stamp_s)
        return found
