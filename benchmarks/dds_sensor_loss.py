"""Counts the sensor messages DDS loses between drivers and stack, with and without the shipped profile.

    drivers (one process): 6 × sensor_msgs/CompressedImage (140 KB) + sensor_msgs/PointCloud2 (0.7 MB), all at
    one rate ─ Fast DDS ─► stack (one process): 7 subscriptions with the stack's sensor QoS on one executor
    thread

The drivers publish reliably with a history of 2, as camera and LiDAR drivers do; the stack subscribes best
effort, as it does on a vehicle (--reliable: reliably). Latencies are in milliseconds on CLOCK_MONOTONIC from
just before publish to the start of the callback, over images and clouds that arrived. `lost` counts messages
published and never received; a first few ticks are not counted.
"""

from __future__ import annotations

import logging
import time
from typing import Annotated, Any

import typer

from benchmarks._child import Ending, dds_environments, percentile, run_pair

NAME = "sensor-loss"

CAMERAS = 6
IMAGE_BYTES = 140_000
CLOUD_POINTS = 35_000  # of 20 bytes: x y z intensity ring
CLOUD_POINT_BYTES = 20
WARM_UP = 10
MATCH_TIMEOUT_S = 120.0  # a loaded machine starts processes slowly
START_TIMEOUT_S = 400.0

_log = logging.getLogger(__name__)


def run(
    seconds: Annotated[float, typer.Option(help="Seconds counted for each profile.", min=1.0)] = 15.0,
    rate: Annotated[
        float, typer.Option(help="Ticks a second; each tick publishes all seven.", min=0.1)
    ] = 10.0,
    reliable: Annotated[bool, typer.Option("--reliable", help="Subscribe reliably.")] = False,
    settle: Annotated[float, typer.Option(help="Seconds to wait for late messages after the last.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Seed of the payloads.")] = 0,
) -> dict[str, Any]:
    """Runs the drivers and the stack with the default profile, then with ours."""
    ticks = max(1, round(seconds * rate))
    arguments = {
        "ticks": ticks, "period_s": 1.0 / rate, "reliable": reliable, "settle_s": settle, "seed": seed
    }  # fmt: skip
    result: dict[str, Any] = {
        "rate_hz": rate,
        "ticks": ticks,
        "cameras": CAMERAS,
        "image_bytes": IMAGE_BYTES,
        "cloud_bytes": CLOUD_POINTS * CLOUD_POINT_BYTES,
        "subscription": "reliable" if reliable else "best_effort",
    }  # fmt: skip
    default, ours = dds_environments()
    for leg, environment in (("dds", default), ("dds_profile", ours)):
        _log.info("%s …", leg.replace("_", " "))
        timeout_s = START_TIMEOUT_S + (ticks + WARM_UP) / rate * 4 + settle
        received, _ = run_pair("dds_sensor_loss", "receive", "send", arguments, environment, timeout_s)
        images = [latency for camera in range(CAMERAS) for latency in received[str(camera)]]
        clouds = received["cloud"]
        result[leg] = {
            "images": _summary(images, ticks * CAMERAS),
            "clouds": _summary(clouds, ticks),
        }
    return result


def _summary(latencies_ms: list[float], sent: int) -> dict[str, Any]:
    lost = sent - len(latencies_ms)
    return {
        "sent": sent,
        "lost": lost,
        "lost_percent": 100.0 * lost / sent,
        "p50_ms": percentile(latencies_ms, 0.5),
        "p99_ms": percentile(latencies_ms, 0.99),
        "max_ms": max(latencies_ms, default=None),
    }


# -- in the child processes
# ---------------------------------------------------------------------------------------------


def send(ticks: int, period_s: float, reliable: bool, settle_s: float, seed: int) -> int:
    """The drivers' process."""
    import array
    import random

    import rclpy
    from builtin_interfaces.msg import Time
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import CompressedImage, PointCloud2, PointField

    from perception_nodes import topics

    generator = random.Random(seed)

    def octets(size: int) -> array.array[int]:
        return array.array("B", generator.randbytes(size))

    rclpy.init()
    node = rclpy.create_node("bench_drivers")
    fields = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate(("x", "y", "z", "intensity", "ring"))
    ]
    cloud = PointCloud2(
        height=1, width=CLOUD_POINTS, fields=fields, point_step=CLOUD_POINT_BYTES,
        row_step=CLOUD_POINTS * CLOUD_POINT_BYTES, is_dense=True,
    )  # fmt: skip
    cloud.data = octets(CLOUD_POINTS * CLOUD_POINT_BYTES)
    messages: list[Any] = [cloud]
    publishers = [node.create_publisher(PointCloud2, "bench/cloud", topics.reliable(2))]
    for camera in range(CAMERAS):
        message = CompressedImage(format="jpeg")
        message.data = octets(IMAGE_BYTES)
        messages.append(message)
        publishers.append(
            node.create_publisher(CompressedImage, f"bench/camera_{camera}", topics.reliable(2))
        )
    began = time.monotonic()
    sent = 0

    def tick() -> None:
        nonlocal sent
        if sent >= ticks + WARM_UP:
            return
        if sent == 0 and any(publisher.get_subscription_count() == 0 for publisher in publishers):
            if time.monotonic() - began > MATCH_TIMEOUT_S:
                raise RuntimeError(f"not all subscribers were there within {MATCH_TIMEOUT_S:.0f} s")
            return
        for publisher, message in zip(publishers, messages, strict=True):
            message.header.frame_id = str(sent)
            now = time.monotonic_ns()
            message.header.stamp = Time(sec=now // 1_000_000_000, nanosec=now % 1_000_000_000)
            publisher.publish(message)
        sent += 1

    node.create_timer(period_s, tick)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended: float | None = None
    while ended is None or time.monotonic() < ended + settle_s:
        executor.spin_once(timeout_sec=0.1)
        if ended is None and sent >= ticks + WARM_UP:
            ended = time.monotonic()
    rclpy.shutdown()
    return sent


def receive(
    ticks: int, period_s: float, reliable: bool, settle_s: float, seed: int
) -> dict[str, list[float]]:
    """The stack's process."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import CompressedImage, PointCloud2

    from perception_nodes import topics

    rclpy.init()
    node = rclpy.create_node("bench_stack")
    latencies: dict[str, list[float]] = {str(camera): [] for camera in range(CAMERAS)} | {"cloud": []}

    def noting(name: str) -> Any:
        def callback(message: Any) -> None:
            now = time.monotonic_ns()
            if int(message.header.frame_id) >= WARM_UP:
                stamp = message.header.stamp
                latencies[name].append((now - stamp.sec * 1_000_000_000 - stamp.nanosec) / 1e6)

        return callback

    quality = topics.reliable(4) if reliable else topics.sensor()
    node.create_subscription(PointCloud2, "bench/cloud", noting("cloud"), quality)
    for camera in range(CAMERAS):
        node.create_subscription(CompressedImage, f"bench/camera_{camera}", noting(str(camera)), quality)
    ending = Ending(settle_s)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not ending.is_over:
        executor.spin_once(timeout_sec=0.1)
    rclpy.shutdown()
    return latencies
