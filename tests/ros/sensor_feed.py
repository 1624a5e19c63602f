"""Drives a whole stack as a vehicle's drivers would, and breaks what a test asks it to break."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry, Path
from rclpy.context import Context
from rclpy.node import Node
from sensor_fusion_fixtures import EGO_FROM_OPTICAL, grid_of_points, jpeg
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2, PointField
from tf2_msgs.msg import TFMessage

from perception_core.geometry import quaternion_from_rotation, rotation_about_z
from perception_core.rig import Rig
from perception_nodes import topics
from perception_nodes.nodes.sensor_fusion import stamp_message

SIZE = (320, 180)
SPEED_M_S = 2.0
_CAMERA_YAWS_DEG = {"front": 0.0, "front_left": 55.0, "front_right": -55.0, "back": 180.0, "back_left": 110.0}
_ODOMETRY_PERIOD_S = 0.1

#: Changes a message, or returns None so that nothing is published.
Fault = Callable[[Any], Any]


class SensorFeed:
    """Publishes sweeps, pictures with their CameraInfo, odometry, a straight path, /tf_static."""

    def __init__(self, rig: Rig, period_s: float = 0.5) -> None:
        """Starts publishing.

        Args:
            rig: Its topics and frames; all cameras compressed.
            period_s: Time between two sweeps.
        """
        assert rig.lidar is not None
        assert rig.odometry is not None
        self._rig, self._period_s = rig, period_s
        self._faults: dict[str, Fault] = {}
        self._sent: dict[str, int] = dict.fromkeys(rig.modalities, 0)
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("sensor_feed", context=self._context)
        create, reliable = self.node.create_publisher, topics.reliable()
        self._lidar = create(PointCloud2, rig.lidar.topic, reliable)
        self._images = {name: create(CompressedImage, c.topic, reliable) for name, c in rig.cameras.items()}
        self._infos = {name: create(CameraInfo, c.info_topic(), reliable) for name, c in rig.cameras.items()}
        self._odometry = create(Odometry, rig.odometry.topic, reliable)
        self._path = create(Path, f"{topics.NAMESPACE}/{topics.REFERENCE_PATH}", reliable)
        self._transforms = create(TFMessage, topics.TF_STATIC, topics.latched())
        self._transforms.publish(TFMessage(transforms=list(self._fixed_transforms())))
        self._points = grid_of_points(2000)
        self._jpeg = jpeg(SIZE)
        self._begun = time.monotonic()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(publish, period), daemon=True)
            for publish, period in (
                (self._publish_sensors, period_s),
                (self._publish_motion, _ODOMETRY_PERIOD_S),
            )
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stops publishing."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def __enter__(self) -> SensorFeed:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops publishing."""
        self.close()

    @contextmanager
    def broken(self, sensor: str, fault: Fault) -> Iterator[None]:
        """Breaks a sensor for a while.

        Args:
            sensor: A modality; `<modality> info` for a camera's CameraInfo.
            fault: What happens to its messages.
        """
        self._faults[sensor] = fault
        try:
            yield
        finally:
            del self._faults[sensor]

    def sent(self, modality: str) -> int:
        """Messages of a modality published so far."""
        return self._sent[modality]

    # -- threads ---------------------------------------------------------------------------------------------

    def _repeat(self, publish: Callable[[], None], period_s: float) -> None:
        while not self._stopping.wait(period_s):
            publish()

    def _send(self, sensor: str, publisher: Any, message: Any) -> None:
        fault = self._faults.get(sensor)
        if fault is not None:
            message = fault(message)
        if message is None:
            return
        publisher.publish(message)
        if sensor in self._sent:
            self._sent[sensor] += 1

    def _publish_sensors(self) -> None:
        stamp = stamp_message(time.time_ns())
        for name, camera in self._rig.cameras.items():
            info = CameraInfo(width=SIZE[0], height=SIZE[1], distortion_model="plumb_bob")
            info.k = [250.0, 0.0, SIZE[0] / 2, 0.0, 250.0, SIZE[1] / 2, 0.0, 0.0, 1.0]
            image = CompressedImage(format="jpeg", data=array.array("B", self._jpeg))
            for message in (info, image):
                message.header.stamp, message.header.frame_id = stamp, camera.frame
            self._send(f"{name} info", self._infos[name], info)
            self._send(name, self._images[name], image)
        assert self._rig.lidar is not None
        cloud = cloud_of(self._points)
        cloud.header.stamp, cloud.header.frame_id = stamp, self._rig.lidar.frame
        self._send("lidar", self._lidar, cloud)

    def _publish_motion(self) -> None:
        stamp = stamp_message(time.time_ns())
        travelled_m = SPEED_M_S * (time.monotonic() - self._begun)
        odometry = Odometry(child_frame_id=self._rig.ego_frame)
        odometry.header.stamp, odometry.header.frame_id = stamp, "odom"
        odometry.pose.pose.position.x = travelled_m
        odometry.twist.twist.linear.x = SPEED_M_S
        self._send("odometry", self._odometry, odometry)
        path = Path()
        path.header = odometry.header
        for ahead_m in range(-10, 120, 2):
            pose = PoseStamped()
            pose.pose.position.x = travelled_m + ahead_m
            path.poses.append(pose)
        self._send("path", self._path, path)

    def _fixed_transforms(self) -> Iterator[TransformStamped]:
        assert self._rig.lidar is not None
        mounts = {self._rig.lidar.frame: np.eye(3)}
        for name, camera in self._rig.cameras.items():
            yaw = _CAMERA_YAWS_DEG.get(name.removeprefix("camera_"), -110.0)
            mounts[camera.frame] = rotation_about_z(np.radians(yaw)) @ EGO_FROM_OPTICAL
        for frame, rotation in mounts.items():
            item = TransformStamped(child_frame_id=frame)
            item.header.frame_id = self._rig.ego_frame
            item.transform.translation.x, item.transform.translation.z = 1.0, 1.8
            r = item.transform.rotation
            r.x, r.y, r.z, r.w = (float(value) for value in quaternion_from_rotation(rotation))
            yield item


def cloud_of(points_n4: np.ndarray) -> PointCloud2:
    """A PointCloud2 of float32 x y z intensity, without stamp and frame."""
    return PointCloud2(
        width=len(points_n4),
        height=1,
        point_step=16,
        row_step=16 * len(points_n4),
        fields=[
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(("x", "y", "z", "intensity"))
        ],
        data=array.array("B", points_n4.astype(np.float32).tobytes()),
    )
