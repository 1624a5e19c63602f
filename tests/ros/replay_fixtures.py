"""A replay node in a test's own process, and ears for what it publishes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from perception_core.bundle import Bundle
from perception_core.deployment import Deployment
from perception_core.rig import CameraSensor, LidarSensor, OdometrySource, Rig
from perception_nodes import topics
from perception_nodes.nodes.replay import ReplayNode
from perception_nodes.runtime.stack_node import ProcessContext

CAMERAS = ("front", "front_right", "front_left", "back", "back_left", "back_right")
RECORDINGS = Path(__file__).resolve().parents[2].parent / "shared" / "recordings"


def rig_of(cameras: tuple[str, ...] = CAMERAS, odometry: bool = True) -> Rig:
    """Makes a rig in memory, so that these tests do not depend on the shipped ones."""
    return Rig(
        name="test",
        lidar=LidarSensor(topic="/sensors/lidar/points"),
        cameras={
            f"camera_{name}": CameraSensor(topic=f"/sensors/camera_{name}/image/compressed")
            for name in cameras
        },
        odometry=OdometrySource() if odometry else None,
    )


def process_context(rig: Rig, tmp_path: Path, **parameters: Any) -> ProcessContext:
    """Makes the context of a process that only replays: no device, no component, a bundle that is never
    opened."""
    deployment = Deployment(
        name="replay_test",
        bundle="none",
        devices={},
        processes={},
        placement={},
        parameters={"replay": parameters},
    )
    return ProcessContext(
        deployment=deployment,
        rig=rig,
        bundle=Bundle(tmp_path, None),  # type: ignore[arg-type]
        process="replay",
        processes={"replay": ("replay",)},
        run_id="test",
        rig_path=tmp_path / "rig.yaml",
    )


class Ears:
    """Subscribes to topics on an rclpy context of its own and keeps what comes, with the time of arrival."""

    def __init__(self, wanted: dict[str, Any], depth: int = 500, latched: tuple[str, ...] = ()) -> None:
        """Starts listening.

        Args:
            wanted: Message class by topic; relative topics are in the stack's namespace.
            depth: Queue depth.
            latched: Those of `wanted` to hear as a late joiner.
        """
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("ears", namespace=topics.NAMESPACE, context=self._context)
        self.heard: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        self.faults: list[str] = []
        for topic, kind in wanted.items():
            qos = topics.latched() if topic in latched else topics.reliable(depth)
            self.node.create_subscription(kind, topic, self._keeper(topic), qos)
        self.node.create_subscription(
            DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.reliable(100)
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, name="ears", daemon=True)
        self._thread.start()

    def _keeper(self, topic: str) -> Callable[[Any], None]:
        return lambda message: self.heard[topic].append((time.time_ns(), message))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.faults += [f"{status.name}: {status.message}" for status in message.status]

    def stamps(self, topic: str) -> list[int]:
        """Header stamps in nanoseconds, in order of arrival."""
        return [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for _, m in self.heard[topic]]

    def wait_for(self, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
        """Polls until the condition holds; fails naming what was heard instead."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                counts = {topic: len(messages) for topic, messages in self.heard.items()}
                raise AssertionError(
                    f"not within {timeout_s} s: {what}; heard {counts}; faults {self.faults}"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """Stops listening."""
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@contextmanager
def listening(wanted: dict[str, Any], **options: Any) -> Iterator[Ears]:
    """Opens ears for the duration of a block."""
    ears = Ears(wanted, **options)
    try:
        yield ears
    finally:
        ears.close()


@contextmanager
def replaying(rig: Rig, tmp_path: Path, **parameters: Any) -> Iterator[ReplayNode]:
    """Runs a configured and active replay node on the default rclpy context."""
    rclpy.init()
    try:
        node = ReplayNode(process_context(rig, tmp_path, **parameters))
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin, name="replay", daemon=True)
        thread.start()
        try:
            node.trigger_configure()
            node.trigger_activate()
            yield node
        finally:
            node.trigger_deactivate()
            node.trigger_cleanup()
            executor.shutdown()
            thread.join(5)
            node.destroy_node()
    finally:
        rclpy.shutdown()
