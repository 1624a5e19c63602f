"""A real sensor_fusion node with real publishers beside it, for tests."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from mmmt_msgs.msg import FusionStatus, StageTiming, TensorAnnouncement
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from tf2_msgs.msg import TFMessage

from perception_core.bundle import SENSOR_FUSION
from perception_core.deployment import load_deployment
from perception_core.geometry import quaternion_from_rotation
from perception_core.rig import Rig
from perception_nodes import topics
from perception_nodes.nodes.sensor_fusion import SensorFusionNode, stamp_message
from perception_nodes.runtime.stack_node import ProcessContext
from perception_nodes.transport.transport import make_reader

SIZE = (640, 480)
#: Ego x forward to optical z forward.
EGO_FROM_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])

TEST_RIG = Rig.model_validate(
    {
        "name": "test",
        "ego_frame": "ego",
        "lidar": {"topic": "/t/points", "frame": "roof", "intensity_scale": 100.0, "min_range_m": 1.0},
        "cameras": {
            "camera_left": {"topic": "/t/left/image/compressed", "frame": "left_eye", "max_delay_s": 0.1},
            "camera_right": {"topic": "/t/right/image/compressed", "frame": "right_eye", "max_delay_s": 0.1},
        },
        "odometry": {"topic": "/t/odom", "max_delay_s": 0.3},
    }
)
RIG_WITHOUT_CAMERAS = TEST_RIG.model_copy(update={"cameras": {}})
RIG_WITHOUT_LIDAR = TEST_RIG.model_copy(update={"lidar": None})


def jpeg(size: tuple[int, int] = SIZE, rgb: tuple[int, int, int] = (200, 100, 50)) -> bytes:
    """A JPEG of one colour with some noise, so that it has a body worth cutting off."""
    noise = np.random.default_rng(0).integers(-10, 10, (size[1], size[0], 3))
    image = np.clip(np.array(rgb) + noise, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def grid_of_points(count: int = 400, height: float = -1.5) -> np.ndarray:
    """Points x y z intensity on a plane around the sensor, none nearer than 2 m."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = 2 + 10 * np.linspace(0, 1, count)
    return np.stack(
        [radius * np.cos(angle), radius * np.sin(angle), np.full(count, height), np.full(count, 50.0)], axis=1
    ).astype(np.float32)


class FusionBench:
    """Runs a SensorFusionNode on a thread and publishes to it as drivers would."""

    def __init__(self, rig: Rig = TEST_RIG, calibrated: bool = True, **parameters: Any) -> None:
        resolved = load_deployment("cpu-1process")
        given = {"fallback_after_s": 60.0, "max_in_flight": 32, "in_flight_timeout_s": 0.1} | parameters
        self.context = ProcessContext(
            deployment=resolved.deployment.model_copy(update={"parameters": {SENSOR_FUSION: given}}),
            rig=rig,
            bundle=resolved.bundle,
            process="all",
            processes={"all": (SENSOR_FUSION, *resolved.bundle.spec.components)},
            run_id=f"fusion_{time.time_ns()}",
            rig_path=Path("rig.yaml"),
        )
        self.rig = rig
        self.frames: list[TensorAnnouncement] = []
        self.timings: list[StageTiming] = []
        self.statuses: list[FusionStatus] = []
        self.faults: list[DiagnosticStatus] = []
        self._taken = 0
        self._open = ExitStack()
        try:
            self._start()
            # Stamps count from this moment, not from when a busy machine comes to publish.
            self.moment_ns = time.time_ns()
            if calibrated:
                self.calibrate()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        rig = self.rig
        # The node uses the default context, as in a process of the stack; drivers have one of their own.
        rclpy.init()
        self._open.callback(rclpy.shutdown)
        driver_context = Context()
        rclpy.init(context=driver_context)
        self._open.callback(rclpy.shutdown, context=driver_context)
        self.driver = Node("drivers", context=driver_context)
        self._open.callback(self.driver.destroy_node)
        namespace = topics.NAMESPACE
        subscribe = self.driver.create_subscription
        announcements = f"{namespace}/{topics.tensors_of(SENSOR_FUSION)}"
        subscribe(TensorAnnouncement, announcements, self.frames.append, topics.reliable(50))
        subscribe(StageTiming, f"{namespace}/{topics.TIMING}", self.timings.append, topics.reliable(50))
        subscribe(
            FusionStatus, f"{namespace}/{topics.FUSION_STATUS}", self.statuses.append, topics.reliable(50)
        )
        subscribe(
            DiagnosticArray, topics.DIAGNOSTICS, lambda m: self.faults.extend(m.status), topics.reliable(50)
        )
        publisher = self.driver.create_publisher
        self._publishers: dict[str, Any] = {"odometry": publisher(Odometry, "/t/odom", topics.reliable())}
        self._stage_reports = publisher(StageTiming, f"{namespace}/{topics.TIMING}", topics.reliable(50))
        self.tf_static = publisher(TFMessage, topics.TF_STATIC, topics.latched())
        if rig.lidar:
            self._publishers["lidar"] = publisher(PointCloud2, rig.lidar.topic, topics.reliable())
        for name, camera in rig.cameras.items():
            kind = Image if camera.type.endswith("/Image") else CompressedImage
            self._publishers[name] = publisher(kind, camera.topic, topics.reliable())
            self._publishers[f"{name} info"] = publisher(CameraInfo, camera.info_topic(), topics.reliable())
        self.node = SensorFusionNode(self.context)
        self._open.callback(self.node.destroy_node)
        self._open.callback(self.node.trigger_shutdown)
        for node, context in ((self.node, None), (self.driver, driver_context)):
            executor = SingleThreadedExecutor(context=context)
            executor.add_node(node)
            thread = threading.Thread(target=executor.spin, daemon=True)
            self._open.callback(thread.join, 5)
            self._open.callback(executor.shutdown)
            thread.start()
        self.readers = {}
        for name in self.context.bundle.consumers_of(SENSOR_FUSION):
            self.readers[name] = make_reader(self.context, name, SENSOR_FUSION)
            self._open.callback(self.readers[name].close)
        assert self.node.trigger_configure().name == "SUCCESS"
        assert self.node.trigger_activate().name == "SUCCESS"
        self.wait_for_subscriptions()
        self.wait(
            lambda: (
                self.node._announcer.get_subscription_count() > 0
                and self.node._status_publisher.get_subscription_count() > 0
                and self.node._diagnostics_publisher.get_subscription_count() > 0
            ),
            "the test's own subscriptions",
        )

    def wait_for_subscriptions(self) -> None:
        """Waits until the node hears every driver."""
        self.wait(
            lambda: (
                all(p.get_subscription_count() > 0 for p in (*self._publishers.values(), self.tf_static))
                and self._stage_reports.get_subscription_count() > 1
            ),
            "the node's subscriptions",
        )

    # -- publishing ------------------------------------------------------------------------------------------

    def calibrate(self, cameras: Iterable[str] | None = None, transforms: bool = True) -> None:
        """Publishes /tf_static and CameraInfo and waits until the node has them."""
        if transforms:
            self.publish_transforms()
        for name in self.rig.cameras if cameras is None else cameras:
            self.publish_info(name)

    def publish_transforms(self) -> None:
        items = []
        for child, position, rotation in (
            ("roof", (1.0, 0.0, 2.0), np.eye(3)),
            ("left_eye", (1.5, 0.5, 1.5), EGO_FROM_OPTICAL),
            ("right_eye", (1.5, -0.5, 1.5), EGO_FROM_OPTICAL),
        ):
            item = TransformStamped(child_frame_id=child)
            item.header.frame_id = "ego"
            t, r = item.transform.translation, item.transform.rotation
            t.x, t.y, t.z = position
            r.x, r.y, r.z, r.w = (float(v) for v in quaternion_from_rotation(rotation))
            items.append(item)
        self.tf_static.publish(TFMessage(transforms=items))
        self.wait(lambda: "roof" in self.node._book._tree, "the transforms' arrival")

    def publish_info(self, camera: str, size: tuple[int, int] = SIZE) -> None:
        info = CameraInfo(width=size[0], height=size[1], distortion_model="plumb_bob")
        info.k = [500.0, 0.0, size[0] / 2, 0.0, 500.0, size[1] / 2, 0.0, 0.0, 1.0]
        info.header.stamp = self.stamp()
        self._publishers[f"{camera} info"].publish(info)
        self.wait(lambda: camera in self.node._book._cameras, "the CameraInfo's arrival")

    def later(self, seconds: float) -> None:
        """Moves the moment from which stamps count."""
        self.moment_ns += round(seconds * 1e9)

    def stamp(self, age_s: float = 0.0) -> Any:
        return stamp_message(self.moment_ns - round(age_s * 1e9))

    def _publish(self, modality: str, message: Any) -> None:
        """Publishes and waits until the node has it, so that the order over several topics is certain."""
        before = self.received(modality)
        self._publishers[modality].publish(message)
        self.wait(lambda: self.received(modality) > before, f"the {modality}'s message")

    def received(self, modality: str) -> int:
        return self.node._account.snapshot().received[modality]

    def publish_sweep(
        self, points: np.ndarray | None = None, age_s: float = 0.0, **changed: Any
    ) -> PointCloud2:
        points = grid_of_points() if points is None else points
        cloud = PointCloud2(
            width=len(points),
            height=1,
            point_step=16,
            row_step=16 * len(points),
            fields=[
                PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
                for i, name in enumerate(("x", "y", "z", "intensity"))
            ],
            data=array.array("B", points.astype(np.float32).tobytes()),
        )
        cloud.header.stamp = self.stamp(age_s)
        cloud.header.frame_id = "roof"
        for name, value in changed.items():
            setattr(cloud, name, value)
        self._publish("lidar", cloud)

    def publish_image(self, camera: str, content: bytes | None = None, age_s: float = 0.0) -> None:
        image = CompressedImage(format="jpeg", data=array.array("B", jpeg() if content is None else content))
        image.header.stamp = self.stamp(age_s)
        self._publish(camera, image)

    def publish_raw_image(self, camera: str, image: Image) -> None:
        image.header.stamp = self.stamp()
        self._publish(camera, image)

    def publish_odometry(self, speed: float, yaw_rate: float = 0.0, age_s: float = 0.0) -> None:
        odometry = Odometry(child_frame_id="ego")
        odometry.header.stamp = self.stamp(age_s)
        odometry.twist.twist.linear.x, odometry.twist.twist.angular.z = speed, yaw_rate
        before = self.node._motion
        self._publishers["odometry"].publish(odometry)
        if np.isfinite([speed, yaw_rate]).all():
            self.wait(lambda: self.node._motion is not before, "the odometry's arrival")

    def publish_all(self, age_s: float = 0.0) -> None:
        """Every camera, then the sweep that triggers the frame."""
        for camera in self.rig.cameras:
            self.publish_image(camera, age_s=age_s + 0.05)
        if self.rig.lidar:
            self.publish_sweep(age_s=age_s)

    def report(self, trace_id: int, stage: str, outcome: int = StageTiming.OUTCOME_DONE) -> None:
        """Speaks as a component that has worked on a frame."""
        self._stage_reports.publish(StageTiming(trace_id=trace_id, stage=stage, outcome=outcome))

    # -- looking ---------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            outcome = condition()
            if outcome:
                return outcome
            assert time.monotonic() < deadline, (
                f"not within {timeout_s} s: {what}; {len(self.frames)} frames, "
                f"faults {[f.name for f in self.faults]}, "
                f"account {self.node._account.snapshot()}"
            )
            time.sleep(0.01)

    def next_frame(self, timeout_s: float = 20.0) -> TensorAnnouncement:
        """Waits for the frame after those already taken by this method."""
        self._taken += 1
        return self.wait(
            lambda: self.frames[self._taken - 1] if len(self.frames) >= self._taken else None,
            f"frame {self._taken}",
            timeout_s,
        )

    def tensors(self, frame: TensorAnnouncement) -> dict[str, np.ndarray]:
        taken: dict[str, np.ndarray] = {}
        for reader in self.readers.values():
            taken |= {
                name: tensor.numpy() for name, tensor in reader.take(frame.trace_id, frame.tensors).items()
            }
        return taken

    @staticmethod
    def valid(frame: TensorAnnouncement) -> dict[str, bool]:
        return {sensor.modality: sensor.valid for sensor in frame.sensors}

    def wait_for_fault(self, words: str, timeout_s: float = 20.0) -> DiagnosticStatus:
        return self.wait(
            lambda: next((f for f in self.faults if words in f"{f.name} {f.message}"), None),
            f"fault {words!r}",
            timeout_s,
        )

    def finish(self) -> FusionStatus:
        """Deactivates the node and returns its final account, checked for balance."""
        before = len(self.statuses)
        assert self.node.trigger_deactivate().name == "SUCCESS"
        self.wait(lambda: len(self.statuses) > before, "the final account")
        for status in self.statuses:
            assert status.frames_in == status.frames_out + status.frames_dropped
            assert sum(status.drop_counts) == status.frames_dropped
        return self.statuses[-1]

    def close(self) -> None:
        """Ends and frees everything that was started, in reverse order."""
        self._open.close()

    def __enter__(self) -> FusionBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
