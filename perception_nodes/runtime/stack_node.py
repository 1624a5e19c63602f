"""What every node of the stack has: a lifecycle, the process' context, timing reports, throttled faults."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from mmmt_msgs.msg import SensorStamp, StageTiming
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from perception_core.bundle import Bundle
from perception_core.deployment import Deployment
from perception_core.rig import Rig
from perception_nodes import topics
from perception_nodes.runtime.fault_log import FaultLog


def monotonic_ns() -> int:
    """CLOCK_MONOTONIC in nanoseconds: the clock of every StageTiming, the same in all processes of a host."""
    return time.monotonic_ns()


def host_id() -> str:
    """Identifies the host whose monotonic clock timings are on; changes with every boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.uname().nodename


@dataclass(frozen=True)
class ProcessContext:
    """What a process knows of the stack it belongs to.

    Attributes:
        deployment: The resolved deployment, overrides applied, placement complete.
        rig: The vehicle.
        bundle: The opened bundle.
        process: Name of this process in the deployment.
        processes: Every process' name to the names of the nodes it hosts, placeholders expanded.
        run_id: Names this run of the stack; part of every shared-memory name.
        rig_path: Where the rig was read from; calibration files are relative to it.
        homes: The processes each movable component may come to be in; empty where none is movable.
    """

    deployment: Deployment
    rig: Rig
    bundle: Bundle
    process: str
    processes: dict[str, tuple[str, ...]]
    run_id: str
    rig_path: Path
    homes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def processes_of(self, node: str) -> tuple[str, ...]:
        """Returns every process that a node may come to be in: one, unless it is a movable component."""
        return self.homes.get(node) or (self.process_of(node),)

    def process_of(self, node: str) -> str:
        """Returns the process that hosts a node or component."""
        for process, nodes in self.processes.items():
            if node in nodes:
                return process
        raise KeyError(f"node '{node}' is in no process of deployment '{self.deployment.name}'")


class StackNode(LifecycleNode):
    """Base of the stack's nodes.

    Subclasses create parameters in their constructor, and override `setup` (publishers, models: may be slow),
    `start` (subscriptions, timers), `stop` and `release`. An exception in one of them fails the transition
    with its message logged; it does not end the process.
    """

    def __init__(self, context: ProcessContext, name: str, node_name: str | None = None) -> None:
        """Creates the node with the parameters the deployment gives it.

        Args:
            context: The process' context.
            name: Name in the deployment, the component's name for components.
            node_name: ROS name where it differs.
        """
        given = dict(context.deployment.parameters.get("all", {}))
        given.update(context.deployment.parameters.get(name, {}))
        super().__init__(
            node_name or name,
            namespace=topics.NAMESPACE,
            parameter_overrides=[Parameter(key, value=value) for key, value in given.items()],
        )
        self.process_context = context
        self._host = host_id()
        self._faults = FaultLog()
        self._timing_publisher: Any = None
        self._diagnostics_publisher: Any = None

    # -- lifecycle
    # ---------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Creates publishers and loads what is slow to load."""

    def start(self) -> None:
        """Creates subscriptions and timers: from here on the node works."""

    def stop(self) -> None:
        """Ends what `start` began."""

    def release(self) -> None:
        """Frees what `setup` took."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition; calls `setup`."""
        self._timing_publisher = self.create_publisher(StageTiming, topics.TIMING, topics.reliable(32))
        self._diagnostics_publisher = self.create_publisher(
            DiagnosticArray, topics.DIAGNOSTICS, topics.reliable(16)
        )
        return self._transition(self.setup, "configure")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition; calls `start`."""
        outcome = super().on_activate(state)
        return (
            outcome
            if outcome != TransitionCallbackReturn.SUCCESS
            else self._transition(self.start, "activate")
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition; calls `stop`."""
        outcome = self._transition(self.stop, "deactivate")
        super().on_deactivate(state)
        return outcome

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition; calls `release`."""
        return self._transition(self.release, "clean up")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition; calls `stop` and `release`."""
        self._transition(self.stop, "shut down")
        return self._transition(self.release, "shut down")

    def _transition(self, action: Any, verb: str) -> TransitionCallbackReturn:
        try:
            action()
        except (
            Exception
        ) as error:  # a failed transition is reported to the lifecycle's manager, not raised through rclpy
            self.get_logger().error(f"{self.get_name()} could not {verb}: {type(error).__name__}: {error}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    # -- reports
    # -----------------------------------------------------------------------------------------------------

    def fault(self, kind: str, message: str, error: bool = True) -> None:
        """Reports a fault: a log line, rarer the longer it lasts, and a /diagnostics entry a second.

        Args:
            kind: Short stable name, e.g. `corrupt_image camera_front`.
            message: What is wrong and what to do.
            error: Error level, else warning.
        """
        telling = self._faults.tell(kind, time.monotonic())
        if telling.log:
            text = f"{kind}: {message}" + (f" (seen {telling.count} times)" if telling.count > 1 else "")
            if error:
                self.get_logger().error(text)
            else:
                self.get_logger().warning(text)
        if telling.publish and self._diagnostics_publisher is not None:
            status = DiagnosticStatus(
                level=DiagnosticStatus.ERROR if error else DiagnosticStatus.WARN,
                name=f"{self.get_name()}: {kind}",
                message=message,
                hardware_id=self.process_context.process,
                values=[KeyValue(key="count", value=str(telling.count))],
            )
            array = DiagnosticArray(status=[status])
            array.header.stamp = self.get_clock().now().to_msg()
            self._diagnostics_publisher.publish(array)

    def report_timing(
        self,
        *,
        trace_id: int,
        stamp: Any,
        sensors: Sequence[SensorStamp],
        queued_ns: int,
        started_ns: int,
        done_ns: int,
        compute_ns: int = 0,
        task: str = "",
        device: str = "",
        stage: str = "",
        outcome: int = StageTiming.OUTCOME_DONE,
        detail: str = "",
    ) -> None:
        """Publishes what this stage did for one frame; all times are `monotonic_ns`."""
        timing = StageTiming(
            trace_id=trace_id,
            stage=stage or self.get_name(),
            task=task,
            device=device,
            process=self.process_context.process,
            host=self._host,
            queued_ns=queued_ns,
            started_ns=started_ns,
            done_ns=done_ns,
            compute_ns=compute_ns,
            outcome=outcome,
            detail=detail,
            sensors=list(sensors),
        )
        timing.header.stamp = stamp
        timing.header.frame_id = self.process_context.rig.ego_frame
        self._timing_publisher.publish(timing)
