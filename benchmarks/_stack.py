"""Runs a stack on a recording for a benchmark, and hears what its stages report."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

START_LIMIT_S = 180.0

_log = logging.getLogger(__name__)


def recording_and_rig(recording: Path | None, rig: str | None) -> tuple[Path, str]:
    """Returns what to play and its rig: the generated demo drive and the recording's own where not given."""
    from mmmt_cli.demo import default_recording, rig_of

    if recording is None:
        recording = default_recording()
    return recording.resolve(), rig or rig_of(recording)


def replay_overrides(recording: Path, rig: str, rate: float) -> list[str]:
    """Overrides of a deployment that play a recording again and again."""
    return [
        f"rig:={rig}",
        f"parameters.replay.recording:={recording}",
        f"parameters.replay.rate:={rate}",
        "parameters.replay.loop:=0",
    ]


@contextlib.contextmanager
def running(deployment: str | Path, overrides: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Starts a stack with replay; yields its deployment and supervisor when it is ready, and stops it.

    Raises:
        RuntimeError: It does not start.
    """
    from perception_core.deployment import load_deployment
    from perception_nodes.runtime.process_list import REPLAY, build_process_list
    from perception_nodes.runtime.supervisor import Supervisor

    resolved = load_deployment(deployment, overrides)
    supervisor = Supervisor(
        build_process_list(resolved, extra=[REPLAY]),
        on_line=lambda name, line: _log.info("[%s] %s", name, line),
    )
    supervisor.start()
    try:
        if not supervisor.wait_ready(START_LIMIT_S):
            raise RuntimeError(f"{deployment} did not start within {START_LIMIT_S:g} s, see its output above")
        yield resolved, supervisor
    finally:
        supervisor.stop()


class StageListener:
    """Hears StageTiming on an rclpy context of its own.

    Attributes:
        timings: All that was heard, oldest first.
    """

    def __init__(self) -> None:
        import rclpy
        from mmmt_msgs.msg import StageTiming
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        from perception_nodes import topics

        self._rclpy = rclpy
        self._context = Context()
        rclpy.init(args=[], context=self._context)
        self._node = Node(f"bench_stages_{os.getpid()}", namespace=topics.NAMESPACE, context=self._context)
        self.timings: list[Any] = []
        self._node.create_subscription(StageTiming, topics.TIMING, self.timings.append, topics.reliable(256))
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def __enter__(self) -> StageListener:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops listening."""
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(3.0)
        self._node.destroy_node()
        self._rclpy.shutdown(context=self._context)
