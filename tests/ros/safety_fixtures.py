"""The safety side alone: real latency monitor and control nodes over DDS, and a thread that publishes what
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
from mmmt_msgs.msg import (
    ControlCommand,
    DetectedObject,
    DetectedObjectArray,
    LatencyStatus,
    SensorStamp,
    StageTiming,
)
from nav_msgs.msg import Odometry, Path
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from perception_core.bundle import SENSOR_FUSION
from perception_core.control.judge import JudgedCommand, unsafe_reasons
from perception_core.deployment import load_deployment
from perception_nodes import topics
from perception_nodes.nodes.control import ControlNode
from perception_nodes.nodes.control_conversions import judged_command
from perception_nodes.nodes.latency_monitor import LatencyMonitorNode
from perception_nodes.runtime.drain import drained
from perception_nodes.runtime.stack_node import ProcessContext, host_id

FRAME_PERIOD_S = 0.1
MOTION_PERIOD_S = 0.1
ALIVE_AGE_NS = 5_000_000


def safety_context(parameters: dict[str, dict[str, Any]], budgets_ms: dict[str, float]) -> ProcessContext:
    """The shipped one-process deployment with other parameters and budgets."""
    resolved = load_deployment("cpu-1process")
    deployment = resolved.deployment.model_copy(update={"parameters": parameters, "budgets_ms": budgets_ms})
    return ProcessContext(
        deployment=deployment,
        rig=resolved.rig,
        bundle=resolved.bundle,
        process="safety",
        processes={"safety": (SENSOR_FUSION, *resolved.bundle.spec.components, "latency_monitor", "control")},
        run_id=f"safety_{time.time_ns()}",
        rig_path=resolved.rig_path,
    )


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

    def __init__(self, context: ProcessContext, node: Node) -> None:
        self._context = context
        self._node = node
        self.extra_s: dict[str, float] = defaultdict(float)
        self.dead: set[str] = set()
        self.masked: set[str] = set()
        self.objects: list[DetectedObject] = []
        self.speed = 5.0
        self.publish_odometry = True
        self.publish_path = True
        self._trace = 1000
        publisher = node.create_publisher
        self.timing = publisher(StageTiming, topics.TIMING, topics.reliable(32))
        self.detections = publisher(DetectedObjectArray, topics.objects_of("detection3d"), topics.reliable())
        self.odometry = publisher(Odometry, context.rig.odometry.topic, topics.reliable())
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
        frame = self._context.rig.ego_frame
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
            for name in self._context.rig.modalities
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
                host=host_id(),
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
                objects.header.stamp, objects.header.frame_id = stamp, self._context.rig.ego_frame
                self._at(done[stage], lambda objects=objects: self.detections.publish(objects))


class SafetySide:
    """Monitor and control in one process, the stand-in stages in another context, and ears for everything."""

    def __init__(
        self, parameters: dict[str, dict[str, Any]] | None = None, engage_on_start: bool = False
    ) -> None:
        given = {"control": {"engage_on_start": engage_on_start}, "latency_monitor": {"rate_hz": 10}}
        for node, values in (parameters or {}).items():
            given.setdefault(node, {}).update(values)
        self.context = safety_context(given, {"*->detection3d": 250, "*->control": 400})
        self._ros = Context()
        rclpy.init(context=self._ros)
        self.probe = Node("safety_probe", namespace=topics.NAMESPACE, context=self._ros)
        self.stages = OtherStages(self.context, self.probe)
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
        self.monitor = LatencyMonitorNode(self.context)
        self.control = ControlNode(self.context)
        self._node_executor = SingleThreadedExecutor()
        self._probe_executor = SingleThreadedExecutor(context=self._ros)
        for node in (self.monitor, self.control):
            self._node_executor.add_node(node)
            assert node.trigger_configure().name == "SUCCESS"
            assert node.trigger_activate().name == "SUCCESS"
        self._probe_executor.add_node(self.probe)
        self._threads = [
            threading.Thread(target=executor.spin, daemon=True)
            for executor in (self._node_executor, self._probe_executor)
        ]
        for thread in self._threads:
            thread.start()
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
        self._node_executor.shutdown(5)
        self._probe_executor.shutdown(5)
        for thread in self._threads:
            thread.join(5)
        for node in (self.monitor, self.control):
            node.trigger_shutdown()
            node.destroy_node()
        self.probe.destroy_node()
        rclpy.shutdown(context=self._ros)

    def wait_for(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
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

    def unsafe_ticks(self) -> list[tuple[int, list[str]]]:
        """What the judge finds in all commands heard, by sequence number."""
        found, previous = [], None
        for _, message in list(self.commands):
            command = judged_command(message)
            follows = previous is not None and message.sequence == previous[0] + 1
            stamp_s = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
            before: JudgedCommand | None = previous[1] if follows else None
            elapsed_s = stamp_s - previous[2] if follows else 0.05
            # A first command after a pause has no predecessor to compare with.
            if previous is None or follows:
                reasons = unsafe_reasons(before, command, elapsed_s, self.context.rig.vehicle)
                if reasons:
                    found.append((message.sequence, reasons))
            previous = (message.sequence, command, stamp_s)
        return found
