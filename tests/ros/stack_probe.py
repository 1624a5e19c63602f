"""A node that listens to a running stack and judges every control tick: the tests' eyes."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from mmmt_msgs.msg import ControlCommand, DetectedObjectArray, FusionStatus, LatencyStatus, StageTiming
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from perception_nodes import topics


class StackProbe:
    """Collects what a stack publishes, on a thread and an rclpy context of its own."""

    def __init__(self, tasks: tuple[str, ...] = ("detection3d",)) -> None:
        """Starts listening.

        Args:
            tasks: Detection tasks whose objects are collected.
        """
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("stack_probe", namespace=topics.NAMESPACE, context=self._context)
        self.commands: list[tuple[float, ControlCommand]] = []
        self.latency: list[tuple[float, LatencyStatus]] = []
        self.timings: list[tuple[float, StageTiming]] = []
        self.objects: dict[str, list[tuple[float, DetectedObjectArray]]] = defaultdict(list)
        self.fusion: list[tuple[float, FusionStatus]] = []
        self.diagnostics: list[tuple[float, Any]] = []
        subscribe = self.node.create_subscription
        subscribe(ControlCommand, topics.CONTROL_COMMAND, self._keep(self.commands), topics.reliable(100))
        subscribe(LatencyStatus, topics.LATENCY_STATUS, self._keep(self.latency), topics.reliable(20))
        subscribe(StageTiming, topics.TIMING, self._keep(self.timings), topics.reliable(200))
        subscribe(FusionStatus, topics.FUSION_STATUS, self._keep(self.fusion), topics.reliable(20))
        subscribe(DiagnosticArray, topics.DIAGNOSTICS, self._keep(self.diagnostics), topics.reliable(100))
        for task in tasks:
            subscribe(
                DetectedObjectArray,
                topics.objects_of(task),
                self._keep(self.objects[task]),
                topics.reliable(50),
            )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, name="probe", daemon=True)
        self._thread.start()

    @staticmethod
    def _keep(store: list[tuple[float, Any]]) -> Callable[[Any], None]:
        return lambda message: store.append((time.monotonic(), message))

    def close(self) -> None:
        """Stops listening."""
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def __enter__(self) -> StackProbe:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops listening."""
        self.close()

    # -- waiting
    # -----------------------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """Polls until the condition gives something true and returns that.

        Raises:
            AssertionError: It did not within the time; says what was waited for and what was last seen.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            outcome = condition()
            if outcome:
                return outcome
            time.sleep(0.02)
        raise AssertionError(f"not within {timeout_s} s: {what}; {self.describe()}")

    def describe(self) -> str:
        """One line about what was last heard, for failed assertions."""
        command = self.commands[-1][1] if self.commands else None
        latency = self.latency[-1][1] if self.latency else None
        return (
            f"{len(self.commands)} commands, last state={command and command.state} "
            f"reason={command and command.reason!r}; {len(self.timings)} timings; "
            f"latency level={latency and latency.level} message={latency and latency.message!r}; "
            f"faults={[s.name for _, a in self.diagnostics[-5:] for s in a.status][:8]}"
        )

    def wait_for_state(self, state: int, timeout_s: float, since: float = 0.0) -> ControlCommand:
        """Waits for a command in a state that was received after `since` (monotonic seconds)."""

        def newest() -> ControlCommand | None:
            if not self.commands or self.commands[-1][0] < since:
                return None
            return self.commands[-1][1] if self.commands[-1][1].state == state else None

        return self.wait_for(newest, timeout_s, f"control state {state}")

    def wait_for_outputs(
        self, count: int, timeout_s: float, task: str = "detection3d", since: float = 0.0
    ) -> None:
        """Waits for `count` outputs of a task received after `since`."""
        self.wait_for(
            lambda: sum(1 for at, _ in list(self.objects[task]) if at >= since) >= count,
            timeout_s,
            f"{count} outputs of {task}",
        )

    def wait_for_fault(self, words: str, timeout_s: float, since: float = 0.0) -> Any:
        """Waits for a diagnostic above OK whose name or message contains `words`, received after `since`."""

        def find() -> Any:
            for at, array in list(self.diagnostics):
                for status in array.status:
                    text = f"{status.name} {status.message}"
                    if at >= since and words in text and status.level != status.OK:
                        return status
            return None

        return self.wait_for(find, timeout_s, f"a fault containing {words!r}")

    # -- judging
    # -----------------------------------------------------------------------------------------------------

    def finite_commands(self) -> bool:
        """Says whether every number of every command is finite."""
        return all(
            math.isfinite(value)
            for _, c in self.commands
            for value in (
                c.steering_angle,
                c.steering_rate,
                c.speed,
                c.acceleration,
                c.speed_limit,
                c.sight_distance,
            )
        )
