"""Hands a frame of six 1600x900 RGB images (25.9 MB) from a producer to a consumer at 10 Hz by each route.

    by_reference    one process:   put ─ TensorAnnouncement ─► take
    shared_memory   two processes: put ─ TensorAnnouncement ─► take, the tensor through iceoryx2
    dds             two processes: publish ─ sensor_msgs/Image ─► callback, Fast DDS as it comes
    dds_profile     two processes: the same with the profile in hw_configs/dds

Latencies are in milliseconds on CLOCK_MONOTONIC, from just before put (publish) to the return of take (start
of the callback), the announcement's way through rclpy and the copy into shared memory included. `lost` counts
frames sent and never received; a first few frames are not counted, so that memory is there. The image message
is filled once beforehand: DDS pays for its transport alone. Percentiles are over what arrived, null where
nothing did.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from typing import Annotated, Any

import typer

from benchmarks._child import Child, Ending, dds_environments, percentile, run_pair

NAME = "transport"

VIEWS, HEIGHT, WIDTH = 6, 900, 1600
WARM_UP = 5
MATCH_TIMEOUT_S = 120.0  # a loaded machine starts processes slowly
START_TIMEOUT_S = 400.0

_log = logging.getLogger(__name__)


def run(
    frames: Annotated[int, typer.Option(help="Frames counted in each leg.", min=1)] = 60,
    rate: Annotated[float, typer.Option(help="Frames a second.", min=0.1)] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of the image content.")] = 0,
    settle: Annotated[float, typer.Option(help="Seconds to wait for late frames after the last.")] = 5.0,
) -> dict[str, Any]:
    """Runs the four legs one after the other."""
    default, ours = dds_environments()
    arguments = {
        "frames": frames,
        "period_s": 1.0 / rate,
        "seed": seed,
        "settle_s": settle,
        "run_id": f"bench-{os.getpid()}-{secrets.token_hex(4)}",
    }
    timeout_s = START_TIMEOUT_S + (frames + WARM_UP) / rate * 4 + settle
    result: dict[str, Any] = {"frame_mb": VIEWS * HEIGHT * WIDTH * 3 / 1e6, "rate_hz": rate, "frames": frames}
    _log.info("by reference …")
    child = Child("transport", "by_reference", arguments, ours)
    try:
        result["by_reference"] = _summary(child.result(timeout_s), frames)
    finally:
        child.kill()
    for leg, receiver, sender, environment in (
        ("shared_memory", "receive_tensors", "send_tensors", ours),
        ("dds", "receive_images", "send_images", default),
        ("dds_profile", "receive_images", "send_images", ours),
    ):
        _log.info("%s …", leg.replace("_", " "))
        latencies, _ = run_pair("transport", receiver, sender, arguments, environment, timeout_s)
        result[leg] = _summary(latencies, frames)
    fast, slow = result["shared_memory"]["p50_ms"], result["dds"]["p50_ms"]
    result["shared_memory_speedup_over_dds"] = slow / fast if fast and slow else None
    return result


def _summary(latencies_ms: list[float], frames: int) -> dict[str, Any]:
    return {
        "p50_ms": percentile(latencies_ms, 0.5),
        "p99_ms": percentile(latencies_ms, 0.99),
        "max_ms": max(latencies_ms, default=None),
        "received": len(latencies_ms),
        "lost": frames - len(latencies_ms),
    }


# -- in the child processes
# ---------------------------------------------------------------------------------------------


class _Received:
    """Latencies by sequence number; those of the warm-up are left out."""

    def __init__(self, frames: int) -> None:
        self.latency_ms: dict[int, float] = {}
        self._last = frames + WARM_UP - 1
        self.has_last = False

    def note(self, sequence: int, stamp: Any) -> None:
        now = time.monotonic_ns()
        if sequence >= WARM_UP:
            self.latency_ms[sequence] = (now - stamp.sec * 1_000_000_000 - stamp.nanosec) / 1e6
        self.has_last = self.has_last or sequence == self._last

    def values(self) -> list[float]:
        return [self.latency_ms[sequence] for sequence in sorted(self.latency_ms)]


def _stamp() -> Any:
    """Returns the monotonic time as a message's stamp."""
    from builtin_interfaces.msg import Time

    now = time.monotonic_ns()
    return Time(sec=now // 1_000_000_000, nanosec=now % 1_000_000_000)


def _context(process: str, processes: dict[str, tuple[str, ...]], run_id: str) -> Any:
    """Returns a context in which `camera_net` takes sensor_fusion's images."""
    from pathlib import Path

    from perception_core.bundle import Bundle, BundleSpec
    from perception_core.deployment import Deployment
    from perception_core.rig import CameraSensor, Rig
    from perception_nodes.runtime.stack_node import ProcessContext

    spec = BundleSpec.model_validate(
        {
            "format": 1,
            "name": "bench-transport",
            "model": {"name": "none"},
            "input": {"image": {"height": HEIGHT, "width": WIDTH}},
            "tensors": {"feature_n": {"dtype": "float32", "shape": ["N"]}},
            "components": {"camera_net": {"inputs": ["images_vhwc"], "outputs": ["feature_n"]}},
            "weights_sha256": "0" * 64,
            "training": {"trained": False, "seed": 0},
        }
    )
    deployment = Deployment.model_validate(
        {
            "name": "bench-transport",
            "bundle": "none",
            "devices": {"cpu": {"kind": "cpu"}},
            "processes": {name: {"nodes": nodes} for name, nodes in processes.items()},
            "placement": {"camera_net": "cpu"},
        }
    )
    rig = Rig(name="bench", cameras={"camera_front": CameraSensor(topic="/image")})
    return ProcessContext(
        deployment, rig, Bundle(Path("none"), spec), process, processes, run_id, Path("none")
    )


def _images(seed: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (VIEWS, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)


class _Sender:
    """Sends on a timer once a subscriber is there, until all frames are out."""

    def __init__(self, node: Any, publisher: Any, send: Any, frames: int, period_s: float) -> None:
        self._publisher = publisher
        self._send = send
        self._total = frames + WARM_UP
        self.sent = 0
        self._began = time.monotonic()
        self._timer = node.create_timer(period_s, self._tick)

    @property
    def is_done(self) -> bool:
        return self.sent >= self._total

    def _tick(self) -> None:
        if self.is_done:
            return
        if self.sent == 0 and self._publisher.get_subscription_count() == 0:
            if time.monotonic() - self._began > MATCH_TIMEOUT_S:
                raise RuntimeError(f"no subscriber within {MATCH_TIMEOUT_S:.0f} s")
            return
        self._send(self.sent)
        self.sent += 1


def _tensor_sender(node: Any, context: Any, frames: int, period_s: float, seed: int) -> tuple[_Sender, Any]:
    from mmmt_msgs.msg import TensorAnnouncement

    from perception_core.bundle import SENSOR_FUSION
    from perception_nodes.transport.announcement import Announcer
    from perception_nodes.transport.transport import make_writer

    writer = make_writer(context, SENSOR_FUSION)
    publisher = Announcer(node, context, SENSOR_FUSION)
    images = _images(seed)

    def send(sequence: int) -> None:
        frame = images.clone()  # a tensor handed over by reference belongs to its readers
        frame[0, 0, 0, 0] = sequence % 256
        announcement = TensorAnnouncement(trace_id=sequence, producer=SENSOR_FUSION)
        announcement.header.stamp = _stamp()
        announcement.tensors = writer.put(sequence, {"images_vhwc": frame})
        publisher.publish(announcement)

    return _Sender(node, publisher, send, frames, period_s), writer


def _tensor_receiver(node: Any, context: Any, received: _Received) -> Any:
    from mmmt_msgs.msg import TensorAnnouncement

    from perception_core.bundle import SENSOR_FUSION
    from perception_nodes.transport.announcement import Listening
    from perception_nodes.transport.transport import make_reader

    reader = make_reader(context, "camera_net", SENSOR_FUSION)

    def receive(announcement: TensorAnnouncement) -> None:
        images = reader.take(announcement.trace_id, announcement.tensors)["images_vhwc"]
        received.note(announcement.trace_id, announcement.header.stamp)
        if int(images[0, 0, 0, 0]) != announcement.trace_id % 256:
            raise RuntimeError(f"frame {announcement.trace_id} arrived with the content of another")

    Listening(node, context, SENSOR_FUSION, receive)
    return reader


def by_reference(frames: int, period_s: float, seed: int, settle_s: float, run_id: str) -> list[float]:
    """Producer and consumer as two nodes of one process and executor."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    rclpy.init()
    context = _context("all", {"all": ("sensor_fusion", "camera_net")}, run_id)
    executor = SingleThreadedExecutor()
    producer, consumer = rclpy.create_node("bench_producer"), rclpy.create_node("bench_consumer")
    received = _Received(frames)
    reader = _tensor_receiver(consumer, context, received)
    sender, writer = _tensor_sender(producer, context, frames, period_s, seed)
    for node in (producer, consumer):
        executor.add_node(node)
    ended: float | None = None
    while not received.has_last and (ended is None or time.monotonic() < ended + settle_s):
        executor.spin_once(timeout_sec=0.1)
        if sender.is_done and ended is None:
            ended = time.monotonic()
    reader.close()
    writer.close()
    rclpy.shutdown()
    return received.values()


_PROCESSES = {"sensing": ("sensor_fusion",), "perception": ("camera_net",)}


def send_tensors(frames: int, period_s: float, seed: int, settle_s: float, run_id: str) -> int:
    """Producer process of the shared-memory leg."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    rclpy.init()
    node = rclpy.create_node("bench_producer")
    sender, writer = _tensor_sender(node, _context("sensing", _PROCESSES, run_id), frames, period_s, seed)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not sender.is_done:
        executor.spin_once(timeout_sec=0.1)
    time.sleep(settle_s)  # the last frame's memory must outlive its announcement
    writer.close()
    rclpy.shutdown()
    return sender.sent


def receive_tensors(frames: int, period_s: float, seed: int, settle_s: float, run_id: str) -> list[float]:
    """Consumer process of the shared-memory leg."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    rclpy.init()
    node = rclpy.create_node("bench_consumer")
    received = _Received(frames)
    reader = _tensor_receiver(node, _context("perception", _PROCESSES, run_id), received)
    _receive_until_over(node, received, settle_s, SingleThreadedExecutor())
    reader.close()
    rclpy.shutdown()
    return received.values()


def send_images(frames: int, period_s: float, seed: int, settle_s: float, run_id: str) -> int:
    """Producer process of the DDS legs."""
    import array

    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    from perception_nodes import topics

    rclpy.init()
    node = rclpy.create_node("bench_producer")
    publisher = node.create_publisher(Image, "bench/image", topics.reliable())
    octets = array.array("B")
    octets.frombytes(memoryview(_images(seed).reshape(-1).numpy()))
    message = Image(height=VIEWS * HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3)
    message.data = octets

    def send(sequence: int) -> None:
        message.header.frame_id = str(sequence)
        message.header.stamp = _stamp()
        publisher.publish(message)

    sender = _Sender(node, publisher, send, frames, period_s)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not sender.is_done:
        executor.spin_once(timeout_sec=0.1)
    ended = time.monotonic()
    while time.monotonic() < ended + settle_s:  # the writer's history serves late acknowledgements
        executor.spin_once(timeout_sec=0.1)
    rclpy.shutdown()
    return sender.sent


def receive_images(frames: int, period_s: float, seed: int, settle_s: float, run_id: str) -> list[float]:
    """Consumer process of the DDS legs."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    from perception_nodes import topics

    rclpy.init()
    node = rclpy.create_node("bench_consumer")
    received = _Received(frames)
    node.create_subscription(
        Image,
        "bench/image",
        lambda message: received.note(int(message.header.frame_id), message.header.stamp),
        topics.reliable(),
    )
    _receive_until_over(node, received, settle_s, SingleThreadedExecutor())
    rclpy.shutdown()
    return received.values()


def _receive_until_over(node: Any, received: _Received, settle_s: float, executor: Any) -> None:
    ending = Ending(settle_s)
    executor.add_node(node)
    while not received.has_last and not ending.is_over:
        executor.spin_once(timeout_sec=0.1)
