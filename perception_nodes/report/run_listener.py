"""Listens to a running stack and writes its status to standard output, a line a change.

A process of its own (`python -m perception_nodes.report.run_listener`): while other processes leave, Fast DDS
can lock itself up for good (eProsima/Fast-DDS issue 6502), and what started the stack must still be able to
stop it and to write its report.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from typing import Any

import rclpy
from mmmt_msgs.msg import ControlCommand, FusionStatus, LatencyStatus
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from std_msgs.msg import Bool, Float32

from perception_nodes import topics
from perception_nodes.report.run_status import PathFigures, RunStatus
from perception_nodes.runtime.parent_death import die_with_parent

#: Seconds between two looks at whether anything has changed.
_PERIOD_S = 0.2


class RunListener(Node):
    """Cheap: it hears only small messages, and of each only the newest."""

    def __init__(self) -> None:
        """Starts listening."""
        super().__init__("run_monitor", namespace=topics.NAMESPACE)
        self._status = RunStatus()
        self._told: RunStatus | None = None
        newest = topics.reliable(1)
        subscribe = self.create_subscription
        subscribe(Float32, topics.REPLAY_PROGRESS, self._on_progress, newest)
        subscribe(Bool, topics.REPLAY_FINISHED, self._on_finished, topics.latched())
        subscribe(FusionStatus, topics.FUSION_STATUS, self._on_fusion, newest)
        subscribe(LatencyStatus, topics.LATENCY_STATUS, self._on_latency, newest)
        subscribe(ControlCommand, topics.CONTROL_COMMAND, self._on_command, newest)
        self.create_timer(_PERIOD_S, self._tell)

    def _know(self, **values: Any) -> None:
        self._status = dataclasses.replace(self._status, **values)

    def _tell(self) -> None:
        if self._status != self._told:
            self._told = self._status
            print(self._status.to_line(), flush=True)

    def _on_progress(self, message: Float32) -> None:
        self._know(progress=message.data)

    def _on_finished(self, message: Bool) -> None:
        self._know(whole=message.data, finished=True)

    def _on_fusion(self, message: FusionStatus) -> None:
        self._know(frames_in=message.frames_in, frames_out=message.frames_out)

    def _on_latency(self, message: LatencyStatus) -> None:
        path = next((path for path in message.paths if path.count), None)
        if path is not None:
            self._know(path=PathFigures(path.modality, path.task, path.p50_ms, path.p99_ms))

    def _on_command(self, message: ControlCommand) -> None:
        self._know(state=message.state)


def main() -> None:
    """Listens until the process is asked to end."""
    die_with_parent(signal.SIGKILL)
    rclpy.init(args=[])
    # A terminal's Ctrl-C is for whoever started us; that one says with SIGTERM when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = RunListener()
    try:
        rclpy.spin(listener)
    except ExternalShutdownException:
        pass
    except BrokenPipeError:  # nobody listens to us any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    listener.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
