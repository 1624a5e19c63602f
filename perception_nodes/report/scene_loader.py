"""Decodes a recorded frame into a scene, through the same calibration and decoding code that sensor_fusion
uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmmt_msgs.msg import ControlCommand, DetectedObject, DetectedObjectArray, MapSegmentation
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from perception_core import geometry
from perception_core.bundle import ImageInput
from perception_core.calibration import CalibrationError, ImageRectifier
from perception_core.deployment import ResolvedDeployment
from perception_core.pointcloud import PointCloudError, PointField, decode_point_cloud, prepare_points
from perception_core.rig import CameraSensor
from perception_nodes import topics
from perception_nodes.fusion.calibration_book import CalibrationBook
from perception_nodes.fusion.image_decoding import ImageError, decode_compressed, decode_raw
from perception_nodes.report.frame_scene import FrameScene, SceneCamera, SceneMap, SceneObject, arc
from perception_nodes.report.message_log import LoggedMessage, read_log
from perception_nodes.report.recorded_run import RecordedRun, task_of

#: Width in pixels of the report's camera pictures.
PICTURE_WIDTH = 720
#: Length of the planned path that is drawn, in seconds at the commanded speed, and its bounds in metres.
_PATH_SECONDS, _PATH_BOUNDS = 4.0, (8.0, 45.0)


def load_scene(path: Path, run: RecordedRun, resolved: ResolvedDeployment) -> FrameScene:
    """Reads one snapshot file.

    What of it cannot be decoded is left out and named in the scene's notes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no snapshot.
    """
    return _SceneLoader(list(read_log(path)), run, resolved).load()


class _SceneLoader:
    """Takes one snapshot apart."""

    def __init__(self, messages: list[LoggedMessage], run: RecordedRun, resolved: ResolvedDeployment) -> None:
        self._run = run
        self._rig = resolved.rig
        self._notes: list[str] = []
        self._by_topic: dict[str, list[LoggedMessage]] = {}
        for message in messages:
            self._by_topic.setdefault(message.topic, []).append(message)
        # The size is of no matter here: pictures are mapped to the report's own size.
        self._book = CalibrationBook(self._rig, resolved.rig_path, ImageInput(height=256, width=512))

    def load(self) -> FrameScene:
        """Decodes everything."""
        self._read_calibration()
        outputs = self._outputs()
        trace_id, frame_ns = self._identity(outputs)
        taken_ns = max(
            (m.received_ns for found in self._by_topic.values() for m in found), default=self._run.begun_ns
        )
        truth = self._newest(f"{topics.NAMESPACE}/{topics.GROUND_TRUTH_OBJECTS}")
        return FrameScene(
            trace_id=trace_id,
            time_s=self._run.seconds(taken_ns),
            points_n3=self._points(),
            cameras=tuple(self._camera(name, camera, frame_ns) for name, camera in self._rig.cameras.items()),
            objects={
                task: tuple(_scene_object(item) for item in message.objects)
                for task, message in outputs.items()
                if isinstance(message, DetectedObjectArray)
            },
            ground_truth=None
            if truth is None
            else tuple(
                _scene_object(item) for item in deserialize_message(truth.data, DetectedObjectArray).objects
            ),
            map=next((_scene_map(m) for m in outputs.values() if isinstance(m, MapSegmentation)), None),
            path_xy=self._planned_path(trace_id),
            notes=tuple(self._notes),
        )

    def _newest(self, topic: str) -> LoggedMessage | None:
        found = self._by_topic.get(topic)
        return found[-1] if found else None

    def _read_calibration(self) -> None:
        for name, camera in self._rig.cameras.items():
            info = self._newest(camera.info_topic())
            if info is None or not self._book.listens_to_camera_info:
                continue
            try:
                self._book.add_camera_info(name, deserialize_message(info.data, CameraInfo))
            except CalibrationError as error:
                self._notes.append(f"{name}: {error}")
        if not self._book.listens_to_tf_static:
            return
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            return
        for message in self._by_topic.get(topics.TF_STATIC, []):
            for transform in deserialize_message(message.data, TFMessage).transforms:
                moved, turned = transform.transform.translation, transform.transform.rotation
                try:
                    self._book.add_transform(
                        transform.header.frame_id,
                        transform.child_frame_id,
                        (moved.x, moved.y, moved.z),
                        (turned.x, turned.y, turned.z, turned.w),
                    )
                except CalibrationError as error:
                    self._notes.append(str(error))

    def _outputs(self) -> dict[str, Any]:
        """Task outputs by task, decoded."""
        found: dict[str, Any] = {}
        for topic, messages in self._by_topic.items():
            if not topic.startswith(f"{topics.NAMESPACE}/tasks/"):
                continue
            is_map = messages[-1].type_name.endswith("/MapSegmentation")
            message_type = MapSegmentation if is_map else DetectedObjectArray
            found[task_of(topic)] = deserialize_message(messages[-1].data, message_type)
        return found

    def _identity(self, outputs: Mapping[str, Any]) -> tuple[int, int | None]:
        """Trace id and stamp in nanoseconds of the frame."""
        for message in outputs.values():
            return message.trace_id, _stamp_ns(message)
        lidar = self._newest(self._rig.lidar.topic) if self._rig.lidar else None
        return 0, None if lidar is None else _stamp_ns(deserialize_message(lidar.data, PointCloud2))

    def _points(self) -> NDArray[np.float32] | None:
        lidar = self._rig.lidar
        logged = self._newest(lidar.topic) if lidar else None
        if lidar is None or logged is None:
            return None
        cloud = deserialize_message(logged.data, PointCloud2)
        try:
            points_n5 = decode_point_cloud(
                cloud.data,
                fields=[PointField(f.name, f.offset, f.datatype, f.count) for f in cloud.fields],
                width=cloud.width,
                height=cloud.height,
                point_step=cloud.point_step,
                row_step=cloud.row_step,
                is_bigendian=cloud.is_bigendian,
            )
            ego_from_lidar = self._book.ego_from_lidar(cloud.header.frame_id)
        except (PointCloudError, CalibrationError) as error:
            self._notes.append(f"lidar: {error}")
            return None
        return prepare_points(points_n5, ego_from_lidar, min_range_m=lidar.min_range_m)[:, :3]

    def _camera(self, name: str, camera: CameraSensor, frame_ns: int | None) -> SceneCamera:
        logged = self._newest(camera.topic)
        if logged is None:
            return SceneCamera(name, None)
        compressed = camera.type.endswith("CompressedImage")
        message = deserialize_message(logged.data, CompressedImage if compressed else Image)
        try:
            image = decode_compressed(message.data) if compressed else _decode_raw(message)
        except ImageError as error:
            self._notes.append(f"{name}: {error}")
            return SceneCamera(name, None)
        try:
            calibration = self._book.rectifier(name).calibration
            camera_from_ego = self._book.camera_from_ego(name, message.header.frame_id)
        except CalibrationError as error:
            self._notes.append(f"{name}: boxes cannot be drawn: {error}")
            return SceneCamera(name, image)
        width = min(PICTURE_WIDTH, calibration.width)
        height = round(width * calibration.height / calibration.width)
        rectifier = ImageRectifier(calibration, ImageInput(height=height, width=width))
        if frame_ns is not None:
            offset_ns = round(camera.offset_s * 1e9)
            moved = self._motion(frame_ns, _stamp_ns(message) + offset_ns, logged.received_ns)
            camera_from_ego = camera_from_ego @ geometry.inverse(moved)
        try:
            picture = rectifier.apply(image)
        except ValueError as error:
            self._notes.append(f"{name}: {error}")
            return SceneCamera(name, image)
        return SceneCamera(name, picture, camera_from_ego, rectifier.intrinsics_33)

    def _motion(self, frame_ns: int, camera_ns: int, received_ns: int) -> NDArray[np.float64]:
        """Motion of the vehicle from the frame's stamp to the picture's: ego(frame) from ego(picture)."""
        near = min(self._run.odometry, key=lambda item: abs(item.received_ns - received_ns), default=None)
        elapsed_s = (camera_ns - frame_ns) * 1e-9
        if near is None or abs(elapsed_s) > 1.0:
            return np.eye(4)
        twist = near.message.twist.twist
        if not (math.isfinite(twist.linear.x) and math.isfinite(twist.angular.z)):
            return np.eye(4)
        return geometry.planar_motion(twist.linear.x, twist.angular.z, elapsed_s)

    def _planned_path(self, trace_id: int) -> NDArray[np.float64] | None:
        """The arc that the command given on this frame drives."""
        command = next(
            (item.message for item in self._run.commands if item.message.trace_id == trace_id and trace_id),
            None,
        )
        if command is None or command.state == ControlCommand.STATE_DISENGAGED:
            return None
        if not math.isfinite(command.steering_angle) or not math.isfinite(command.speed):
            return None
        length = min(max(abs(command.speed) * _PATH_SECONDS, _PATH_BOUNDS[0]), _PATH_BOUNDS[1])
        return arc(command.steering_angle, self._rig.vehicle.wheelbase_m, length)


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _decode_raw(message: Image) -> NDArray[np.uint8]:
    return decode_raw(
        message.data,
        encoding=message.encoding,
        width=message.width,
        height=message.height,
        step=message.step,
        is_bigendian=bool(message.is_bigendian),
    )


def _scene_object(item: DetectedObject) -> SceneObject:
    position, turned, size = item.pose.position, item.pose.orientation, item.size
    yaw = math.atan2(
        2 * (turned.w * turned.z + turned.x * turned.y), 1 - 2 * (turned.y * turned.y + turned.z * turned.z)
    )
    return SceneObject(
        label=item.label,
        score=item.score,
        box_7=(position.x, position.y, position.z, size.x, size.y, size.z, yaw),
        velocity_2=(item.velocity.x, item.velocity.y) if item.has_velocity else None,
    )


def _scene_map(message: MapSegmentation) -> SceneMap | None:
    info = message.info
    values = np.frombuffer(message.probability, dtype=np.uint8)
    if values.size != len(message.layers) * info.height * info.width or not values.size:
        return None
    probability = values.reshape(len(message.layers), info.height, info.width).astype(np.float32) / 255.0
    return SceneMap(
        layers=tuple(message.layers),
        probability_khw=probability,
        resolution=info.resolution,
        origin_xy=(info.origin.position.x, info.origin.position.y),
    )
