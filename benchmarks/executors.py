"""Compares the rclpy executors a process of the stack can spin: delay of a callback and processor time for
it.

    sender (one process): 8 × std_msgs/Header (announcement-sized, reliable) at --rate each, 1 × at 10 Hz
    ─ Fast DDS ─► receiver (one process): 9 subscriptions on the executor under test, spun as the stack does

Latencies are in milliseconds on CLOCK_MONOTONIC from just before publish to the start of the callback, first
quiet (every callback is empty), then busy (the 10 Hz callback computes for --busy-ms, as a decoder would).
`lost` counts messages sent and never received, `cpu_ms` is the processor time of the receiver for each
message in the quiet part, and `stop_ms` the time from asking the executor to stop until spin() returned.
`failed` stands where a part did not come to its end, and says how.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Annotated, Any

import typer

from benchmarks._child import Ending, percentile, run_pair

NAME = "executors"

EXECUTORS = ("single", "multi", "events")
TOPICS = 8
SLOW_RATE_HZ = 10.0
WARM_UP = 20
MATCH_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


def run(
    seconds: Annotated[float, typer.Option(help="Seconds counted, quiet and busy each.", min=1.0)] = 10.0,
    rate: Annotated[
        float, typer.Option(help="Messages a second on each of the eight topics.", min=0.1)
    ] = 20.0,
    busy_ms: Annotated[float, typer.Option(help="Milliseconds the slow callback computes.", min=0.0)] = 20.0,
    threads: Annotated[int, typer.Option(help="Threads of the multi-threaded executor.", min=1)] = 2,
) -> dict[str, Any]:
    """Measures each executor in processes of its own, one after the other."""
    result: dict[str, Any] = {"rate_hz": rate, "topics": TOPICS}
    for kind in EXECUTORS:
        _log.info("%s …", kind)
        parts: dict[str, dict[str, Any]] = {}
        for part, computing_ms in (("quiet", 0.0), ("busy", busy_ms)):
            arguments = {
                "kind": kind, "threads": threads, "seconds": seconds, "rate": rate, "busy_ms": computing_ms
            }  # fmt: skip
            limit_s = MATCH_TIMEOUT_S + seconds * 4 + 30
            try:
                received, sent = run_pair("executors", "receive", "send", arguments, {}, limit_s)
            except (
                RuntimeError
            ) as error:  # an executor that hangs is a finding, not the end of the comparison
                _log.warning("%s, %s: %s", kind, part, error)
                parts[part] = {"failed": str(error)}
                continue
            parts[part] = _summary(received, sent)
        result[kind] = parts
    return result


def _summary(received: dict[str, Any], sent: int) -> dict[str, Any]:
    latencies = received["latencies_ms"]
    return {
        "sent": sent,
        "lost": sent - len(latencies),
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "max_ms": max(latencies, default=None),
        "cpu_ms": received["cpu_ms"] / len(latencies) if latencies else None,
        "stop_ms": received["stop_ms"],
    }


# -- in the child processes
# --------------------------------------------------------------------------------------------


def _topic(index: int) -> str:
    return f"bench/executors/topic_{index}"


def send(kind: str, threads: int, seconds: float, rate: float, busy_ms: float) -> int:
    """Publishes; returns how many counted messages were sent on the fast topics."""
    import rclpy
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Header

    from perception_nodes import topics

    rclpy.init()
    node = rclpy.create_node("bench_executors_sender")
    publishers = [
        node.create_publisher(Header, _topic(index), topics.reliable(32)) for index in range(TOPICS + 1)
    ]
    began = time.monotonic()
    while any(publisher.get_subscription_count() == 0 for publisher in publishers):
        if time.monotonic() - began > MATCH_TIMEOUT_S:
            raise RuntimeError(f"not all subscribers were there within {MATCH_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
    time.sleep(0.5)
    ticks = WARM_UP + max(1, round(seconds * rate))
    every = max(1, round(rate / SLOW_RATE_HZ))
    start = time.monotonic()
    for tick in range(ticks):
        time.sleep(max(0.0, start + tick / rate - time.monotonic()))
        for index, publisher in enumerate(publishers):
            if index == TOPICS and tick % every:
                continue
            now = time.monotonic_ns()
            stamp = Time(sec=now // 1_000_000_000, nanosec=now % 1_000_000_000)
            publisher.publish(Header(stamp=stamp, frame_id=str(tick)))
    time.sleep(1.0)
    rclpy.shutdown()
    return (ticks - WARM_UP) * TOPICS


def receive(kind: str, threads: int, seconds: float, rate: float, busy_ms: float) -> dict[str, Any]:
    """Receives on the executor under test, spun in a thread beside the main thread as the process runtime
    does.
    """
    import rclpy
    from rclpy.callback_groups import ReentrantCallbackGroup
    from std_msgs.msg import Header

    from perception_nodes import topics
    from perception_nodes.runtime.executor import make_executor

    rclpy.init()
    node = rclpy.create_node("bench_executors_receiver")
    latencies: list[float] = []
    group = ReentrantCallbackGroup()

    def fast(message: Header) -> None:
        now = time.monotonic_ns()
        if int(message.frame_id) >= WARM_UP:
            latencies.append((now - message.stamp.sec * 1_000_000_000 - message.stamp.nanosec) / 1e6)

    def slow(message: Header) -> None:
        until = time.thread_time_ns() + busy_ms * 1e6
        while time.thread_time_ns() < until:
            pass

    for index in range(TOPICS):
        node.create_subscription(Header, _topic(index), fast, topics.reliable(32), callback_group=group)
    node.create_subscription(Header, _topic(TOPICS), slow, topics.reliable(32), callback_group=group)
    executor = make_executor(kind, threads)  # type: ignore[arg-type]
    executor.add_node(node)
    ending = Ending(settle_s=1.0)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    cpu_before = time.process_time()
    spinning.start()
    while not ending.is_over:
        time.sleep(0.2)
    cpu_ms = (time.process_time() - cpu_before) * 1e3
    asked = time.monotonic()
    executor.shutdown(timeout_sec=5.0)
    spinning.join(5.0)
    stopped_ms = (time.monotonic() - asked) * 1e3 if not spinning.is_alive() else None
    return {"latencies_ms": latencies, "cpu_ms": cpu_ms, "stop_ms": stopped_ms}
