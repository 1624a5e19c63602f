"""The rclpy executors a process can spin. docs/executors.md says how each performs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from rclpy.executors import Executor

ExecutorKind = Literal["single", "multi", "events"]


def make_executor(kind: ExecutorKind, threads: int = 2) -> Executor:
    """Creates an executor.

    Args:
        kind: `single`: all callbacks in one thread; `multi`: in `threads` threads; `events`: one thread,
            woken by events instead of by a wait set.
        threads: Threads of `multi`.

    Raises:
        ConfigurationError: This ROS has no such executor.
    """
    from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor

    if kind == "multi":
        return MultiThreadedExecutor(num_threads=threads)
    if kind == "events":
        return _events_executor()()
    return SingleThreadedExecutor()


def _events_executor() -> Any:
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError as error:
        raise ConfigurationError(
            "executor 'events' needs an rclpy with rclpy.experimental.EventsExecutor (Kilted or newer); "
            "use 'single' or 'multi'"
        ) from error
    return EventsExecutor
