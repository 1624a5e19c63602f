"""One frame through every component of the shipped bundle, with the real nodes, transport and messages."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
import torch
from mmmt_msgs.msg import DetectedObjectArray, MapSegmentation, SensorStamp, StageTiming, TensorAnnouncement
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from perception_core.bundle import SENSOR_FUSION
from perception_core.deployment import load_deployment
from perception_nodes import topics
from perception_nodes.nodes.component import ComponentNode
from perception_nodes.nodes.task_head import TaskHeadNode
from perception_nodes.runtime.stack_node import ProcessContext, monotonic_ns
from perception_nodes.transport.announcement import Announcer
from perception_nodes.transport.transport import make_writer


class Chain:
    """All components in this process, and a stand-in producer of frames beside them."""

    def __init__(self) -> None:
        resolved = load_deployment("cpu-1process")
        self.context = ProcessContext(
            deployment=resolved.deployment,
            rig=resolved.rig,
            bundle=resolved.bundle,
            process="all",
            processes={"all": (SENSOR_FUSION, *resolved.bundle.spec.components)},
            run_id=f"chain_{time.time_ns()}",
            rig_path=resolved.rig_path,
        )
        self.components: dict[str, ComponentNode] = {
            name: (TaskHeadNode if spec.task else ComponentNode)(self.context, name)
            for name, spec in resolved.bundle.spec.components.items()
        }
        self.node = Node("frames", namespace=topics.NAMESPACE)
        self.announcer = Announcer(self.node, self.context, SENSOR_FUSION)
        self.writer = make_writer(self.context, SENSOR_FUSION)
        self.timings: list[StageTiming] = []
        self.objects: list[DetectedObjectArray] = []
        self.maps: list[MapSegmentation] = []
        self.node.create_subscription(StageTiming, topics.TIMING, self.timings.append, topics.reliable(100))
        self.node.create_subscription(
            DetectedObjectArray, topics.objects_of("detection3d"), self.objects.append, topics.reliable()
        )
        self.node.create_subscription(
            MapSegmentation, topics.map_of("map_segmentation"), self.maps.append, topics.reliable()
        )
        self.executor = SingleThreadedExecutor()
        for node in (*self.components.values(), self.node):
            self.executor.add_node(node)
        for component in self.components.values():
            assert component.trigger_configure().name == "SUCCESS"
            assert component.trigger_activate().name == "SUCCESS"
        self.spin_until(lambda: self.announcer.get_subscription_count() >= 2)

    def spin_until(self, condition, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, [(t.stage, t.outcome, t.detail) for t in self.timings]
            self.executor.spin_once(timeout_sec=0.05)

    def send(self, trace_id: int, **replaced: torch.Tensor) -> None:
        generator = np.random.default_rng(trace_id)
        cameras = len(self.context.rig.cameras)
        image = self.context.bundle.spec.input.image
        points = generator.uniform(-40, 40, (2000, 5)).astype(np.float32)
        frame = {
            "points_nc": torch.from_numpy(points),
            "lidar_valid": torch.tensor([True]),
            "images_vhwc": torch.full((cameras, image.height, image.width, 3), 90, dtype=torch.uint8),
            "camera_valid_v": torch.ones(cameras, dtype=torch.bool),
            "intrinsics_v33": torch.tensor([[200.0, 0, 176], [0, 200, 64], [0, 0, 1]]).repeat(cameras, 1, 1),
            "camera_from_ego_v44": torch.eye(4).repeat(cameras, 1, 1),
            "ego_motion_c": torch.tensor([5.0, 0.0, 1.0]),
        } | replaced
        announcement = TensorAnnouncement(
            trace_id=trace_id,
            producer=SENSOR_FUSION,
            sensors=[SensorStamp(modality="lidar", valid=True, received_ns=monotonic_ns())],
            tensors=self.writer.put(trace_id, frame),
        )
        announcement.header.stamp = self.node.get_clock().now().to_msg()
        self.announcer.publish(announcement)

    def close(self) -> None:
        for component in self.components.values():
            component.trigger_shutdown()
            component.destroy_node()
        self.writer.close()
        self.node.destroy_node()
        self.executor.shutdown()


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    rclpy.init()
    chain = Chain()
    yield chain
    chain.close()
    rclpy.shutdown()


def timing_of(chain: Chain, trace_id: int, stage: str) -> StageTiming | None:
    return next((t for t in chain.timings if t.trace_id == trace_id and t.stage == stage), None)


def test_a_frame_reaches_every_task_and_every_stage_reports(chain: Chain) -> None:
    chain.send(1)
    chain.spin_until(lambda: all(timing_of(chain, 1, name) for name in chain.components))
    chain.spin_until(lambda: chain.objects and chain.maps)
    objects, layers = chain.objects[-1], chain.maps[-1]
    assert objects.trace_id == layers.trace_id == 1
    assert [sensor.modality for sensor in objects.sensors] == ["lidar"]
    assert len(layers.probability) == len(layers.layers) * layers.info.width * layers.info.height
    for name in chain.components:
        timing = timing_of(chain, 1, name)
        assert timing is not None
        assert timing.outcome == StageTiming.OUTCOME_DONE, timing.detail
        assert timing.queued_ns <= timing.started_ns <= timing.done_ns
        assert 0 < timing.compute_ns <= timing.done_ns - timing.started_ns
        assert timing.device == "cpu0"
    assert timing_of(chain, 1, "detection3d_head").task == "detection3d"
    assert timing_of(chain, 1, "lidar_net").task == ""


def test_slow_down_shows_in_the_timing(chain: Chain) -> None:
    fuser = chain.components["bev_fuser"]
    assert not fuser.set_parameters([Parameter("slow_down_ms", value=-1.0)])[0].successful
    assert fuser.set_parameters([Parameter("slow_down_ms", value=150.0)])[0].successful
    try:
        chain.send(2)
        chain.spin_until(lambda: timing_of(chain, 2, "bev_fuser"))
    finally:
        fuser.set_parameters([Parameter("slow_down_ms", value=0.0)])
    assert timing_of(chain, 2, "bev_fuser").compute_ns > 150e6


def test_a_frame_whose_tensors_are_gone_is_dropped_and_said(chain: Chain) -> None:
    lidar = chain.components["lidar_net"]
    announcement = TensorAnnouncement(trace_id=99, producer=SENSOR_FUSION)
    with_handles = chain.writer.put(
        3,
        {
            name: torch.zeros(
                tuple(
                    3 if isinstance(d, str) and d != "V" else d if not isinstance(d, str) else 1
                    for d in spec.shape
                ),
                dtype=getattr(torch, spec.dtype),
            )
            for name in (
                "points_nc",
                "lidar_valid",
                "images_vhwc",
                "camera_valid_v",
                "intrinsics_v33",
                "camera_from_ego_v44",
            )
            for spec in [chain.context.bundle.tensor_spec(name)]
        },
    )
    announcement.tensors = with_handles
    lidar._on_announcement(SENSOR_FUSION, announcement)
    chain.spin_until(lambda: timing_of(chain, 99, "lidar_net"))
    timing = timing_of(chain, 99, "lidar_net")
    assert timing.outcome == StageTiming.OUTCOME_DROPPED
    assert timing.detail


def test_deactivated_component_ignores_frames_and_activates_again(chain: Chain) -> None:
    head = chain.components["map_segmentation_head"]
    assert head.trigger_deactivate().name == "SUCCESS"
    count = len(chain.maps)
    chain.send(4)
    chain.spin_until(lambda: timing_of(chain, 4, "detection3d_head"))
    assert len(chain.maps) == count
    assert head.trigger_activate().name == "SUCCESS"
    trace = iter(range(5, 50))

    def heard_again() -> bool:
        chain.send(next(trace))
        until = time.monotonic() + 1.0
        while time.monotonic() < until and len(chain.maps) == count:
            chain.executor.spin_once(timeout_sec=0.05)
        return len(chain.maps) > count

    chain.spin_until(heard_again)
