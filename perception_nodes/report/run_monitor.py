"""Listens to a running stack for what a progress bar shows and for the end of the recording."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import rclpy
from mmmt_msgs.msg import ControlCommand, FusionStatus, LatencyStatus, PathLatency
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy
from std_msgs.msg import Bool, Float32

from perception_nodes import topics


@dataclass
class RunStatus:
    """What is known at the moment.

    Attributes:
        progress: Share of the recording played, None where the recording has no end.
        finished: The recording was played; `whole` says whether to its end.
        frames_in, frames_out: sensor_fusion's account.
        path: The latest statistics of the path shown: the first one with outputs.
        state: Control's state, None while it publishes nothing.
        reason: Why control limits the speed or stops.
    """

    progress: float | None = None
    finished: bool = False
    whole: bool = True
    frames_in: int = 0
    frames_out: int = 0
    path: PathLatency | None = None
    state: int | None = None
    reason: str = ""


class RunMonitor:
    """A node on a context and thread of its own; cheap: it hears only small messages, and of each only the
    newest.
    """

    def __init__(self) -> None:
        """Starts listening."""
        self.status = RunStatus()
        self._context = Context()
        rclpy.init(args=[], context=self._context)
        self._node = Node("run_monitor", namespace=topics.NAMESPACE, context=self._context)
        finished = topics.latched()
        finished.durability = DurabilityPolicy.TRANSIENT_LOCAL
        newest = topics.reliable(1)
        subscribe = self._node.create_subscription
        subscribe(Float32, topics.REPLAY_PROGRESS, self._on_progress, newest)
        subscribe(Bool, topics.REPLAY_FINISHED, self._on_finished, finished)
        subscribe(FusionStatus, topics.FUSION_STATUS, self._on_fusion, newest)
        subscribe(LatencyStatus, topics.LATENCY_STATUS, self._on_latency, newest)
        subscribe(ControlCommand, topics.CONTROL_COMMAND, self._on_command, newest)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="run_monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(3.0)
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def __enter__(self) -> RunMonitor:
        """Returns itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Stops listening."""
        self.close()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _on_progress(self, message: Float32) -> None:
        self.status.progress = message.data

    def _on_finished(self, message: Bool) -> None:
        self.status.whole, self.status.finished = message.data, True

    def _on_fusion(self, message: FusionStatus) -> None:
        self.status.frames_in, self.status.frames_out = message.frames_in, message.frames_out

    def _on_latency(self, message: LatencyStatus) -> None:
        self.status.path = next((path for path in message.paths if path.count), None)

    def _on_command(self, message: ControlCommand) -> None:
        self.status.state, self.status.reason = message.state, message.reason
