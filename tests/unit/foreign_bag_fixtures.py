"""Writes small rosbag2 recordings of vehicles the project has never seen: other names, sizes, formats and
layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from perception_core.geometry import quaternion_from_rotation, rotation_about_z

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
#: Optical axes (x right, y down, z forward) of a camera that looks along x.
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class ForeignCamera:
    """One camera of the foreign vehicle."""

    topic: str
    info_topic: str | None
    frame: str
    azimuth_deg: float = 0.0
    size: tuple[int, int] = (320, 200)
    image_format: Literal["jpeg", "png", "bgr8", "mono8", "32FC1"] = "jpeg"
    period_s: float = 0.1
    clock_offset_s: float = 0.0
    info_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class ForeignVehicle:
    """Everything of the foreign vehicle."""

    cameras: Sequence[ForeignCamera] = ()
    lidar_topic: str | None = "/velodyne/points_raw"
    lidar_frame: str = "velo_link"
    second_lidar_topic: str | None = None
    intensity: str | None = "intensity"
    highest_intensity: float = 200.0
    ego_frame: str = "base_link"
    odometry_topic: str | None = "/localization/odometry"
    odometry_frame: str | None = None
    tf_static: bool = True
    duration_s: float = 1.5
    extra_transforms: Mapping[str, tuple[str, np.ndarray, tuple[float, float, float]]] = field(
        default_factory=dict
    )


def write_bag(path: Path, vehicle: ForeignVehicle, storage: Literal["mcap", "sqlite3"] = "mcap") -> Path:
    """Writes a rosbag2 folder and returns it."""
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    messages: list[tuple[int, str, str, Any]] = []
    if vehicle.tf_static:
        messages.append((START_NS, "/tf_static", "tf2_msgs/msg/TFMessage", _transforms(vehicle)))
    for topic, count in ((vehicle.lidar_topic, 1500), (vehicle.second_lidar_topic, 300)):
        for stamp in _times(0.1, vehicle.duration_s) if topic else ():
            cloud = _cloud(vehicle, stamp, count)
            messages.append((stamp + 20_000_000, str(topic), "sensor_msgs/msg/PointCloud2", cloud))
    for camera in vehicle.cameras:
        for stamp in _times(camera.period_s, vehicle.duration_s):
            recorded = stamp + 30_000_000
            kind, image = _image(camera, stamp - round(camera.clock_offset_s * 1e9))
            messages.append((recorded, camera.topic, kind, image))
            if camera.info_topic:
                info = _camera_info(camera, stamp - round(camera.clock_offset_s * 1e9))
                messages.append((recorded, camera.info_topic, "sensor_msgs/msg/CameraInfo", info))
    if vehicle.odometry_topic:
        for stamp in _times(0.05, vehicle.duration_s):
            messages.append(
                (stamp, vehicle.odometry_topic, "nav_msgs/msg/Odometry", _odometry(vehicle, stamp))
            )
    messages.append(
        (START_NS, "/rosout_like", "std_msgs/msg/String", TYPES["std_msgs/msg/String"](data="hello"))
    )
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for time_ns, topic, kind, message in sorted(messages, key=lambda entry: entry[0]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], time_ns, STORE.serialize_cdr(message, kind))
    return path


def _times(period_s: float, duration_s: float) -> list[int]:
    return [START_NS + round(index * period_s * 1e9) for index in range(int(duration_s / period_s) + 1)]


def _header(stamp_ns: int, frame: str) -> Any:
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def _transforms(vehicle: ForeignVehicle) -> Any:
    entries = {vehicle.lidar_frame: (vehicle.ego_frame, np.eye(3), (1.0, 0.0, 1.8))}
    for camera in vehicle.cameras:
        rotation = rotation_about_z(np.deg2rad(camera.azimuth_deg)) @ OPTICAL
        entries[camera.frame] = (vehicle.ego_frame, rotation, (1.5, 0.0, 1.5))
    entries |= vehicle.extra_transforms
    transforms = []
    for child, (parent, rotation, position) in entries.items():
        x, y, z, w = (float(value) for value in quaternion_from_rotation(rotation))
        transforms.append(
            TYPES["geometry_msgs/msg/TransformStamped"](
                header=_header(START_NS, parent),
                child_frame_id=child,
                transform=TYPES["geometry_msgs/msg/Transform"](
                    translation=TYPES["geometry_msgs/msg/Vector3"](*position),
                    rotation=TYPES["geometry_msgs/msg/Quaternion"](x, y, z, w),
                ),
            )
        )
    return TYPES["tf2_msgs/msg/TFMessage"](transforms=transforms)


def _cloud(vehicle: ForeignVehicle, stamp_ns: int, count: int) -> Any:
    generator = np.random.default_rng(0)
    angle, distance = generator.uniform(-np.pi, np.pi, count), generator.uniform(3, 30, count)
    names = ["x", "y", "z", *([vehicle.intensity] if vehicle.intensity else []), "ring"]
    values = np.zeros((count, 8), np.float32)  # more bytes a point than its fields take
    values[:, 0], values[:, 1] = distance * np.cos(angle), distance * np.sin(angle)
    values[:, 2] = -1.8 + generator.normal(0, 0.02, count)
    values[:, 3] = generator.uniform(0, vehicle.highest_intensity, count)
    values[:, len(names) - 1] = np.arange(count) % 32
    field_type = TYPES["sensor_msgs/msg/PointField"]
    return TYPES["sensor_msgs/msg/PointCloud2"](
        header=_header(stamp_ns, vehicle.lidar_frame),
        height=1,
        width=count,
        fields=[
            field_type(name=name, offset=4 * index, datatype=7, count=1) for index, name in enumerate(names)
        ],
        is_bigendian=False,
        point_step=32,
        row_step=32 * count,
        data=np.frombuffer(values.tobytes(), np.uint8),
        is_dense=True,
    )


def _image(camera: ForeignCamera, stamp_ns: int) -> tuple[str, Any]:
    width, height = camera.size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2 :] = (90, 120, 60)
    cv2.rectangle(pixels, (width // 4, height // 3), (width // 2, height - 10), (40, 60, 200), -1)
    header = _header(stamp_ns, camera.frame)
    if camera.image_format in ("jpeg", "png"):
        data = cv2.imencode("." + camera.image_format, pixels)[1].reshape(-1)
        return "sensor_msgs/msg/CompressedImage", TYPES["sensor_msgs/msg/CompressedImage"](
            header=header, format=camera.image_format, data=data
        )
    raw = {"bgr8": pixels, "mono8": pixels[..., 0].copy(), "32FC1": pixels[..., 0].astype(np.float32)}[
        camera.image_format
    ]
    return "sensor_msgs/msg/Image", TYPES["sensor_msgs/msg/Image"](
        header=header,
        height=height,
        width=width,
        encoding=camera.image_format,
        is_bigendian=0,
        step=raw[0].nbytes,
        data=np.frombuffer(raw.tobytes(), np.uint8),
    )


def _camera_info(camera: ForeignCamera, stamp_ns: int) -> Any:
    width, height = camera.info_size or camera.size
    focal = 0.8 * width
    matrix = np.array([focal, 0, width / 2, 0, focal, height / 2, 0, 0, 1])
    projection = np.array([focal, 0, width / 2, 0, 0, focal, height / 2, 0, 0, 0, 1, 0])
    region = TYPES["sensor_msgs/msg/RegionOfInterest"](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    return TYPES["sensor_msgs/msg/CameraInfo"](
        header=_header(stamp_ns, camera.frame),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=matrix,
        r=np.eye(3).reshape(-1),
        p=projection,
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def _odometry(vehicle: ForeignVehicle, stamp_ns: int) -> Any:
    vector = TYPES["geometry_msgs/msg/Vector3"]
    travelled = 5.0 * (stamp_ns - START_NS) * 1e-9
    pose = TYPES["geometry_msgs/msg/Pose"](
        position=TYPES["geometry_msgs/msg/Point"](travelled, 0.0, 0.0),
        orientation=TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
    )
    return TYPES["nav_msgs/msg/Odometry"](
        header=_header(stamp_ns, "odom"),
        child_frame_id=vehicle.odometry_frame or vehicle.ego_frame,
        pose=TYPES["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36)),
        twist=TYPES["geometry_msgs/msg/TwistWithCovariance"](
            twist=TYPES["geometry_msgs/msg/Twist"](
                linear=vector(5.0, 0.0, 0.0), angular=vector(0.0, 0.0, 0.0)
            ),
            covariance=np.zeros(36),
        ),
    )


def three_cameras(**changed: Any) -> ForeignVehicle:
    """A vehicle with three PNG cameras whose names say nothing of where they look."""
    cameras = tuple(
        ForeignCamera(
            f"/sensing/camera/{name}/image_raw/compressed",
            f"/sensing/camera/{name}/camera_info",
            f"{name}_optical",
            azimuth,
            image_format="png",
            period_s=0.05,
        )
        for name, azimuth in (("alpha", 100.0), ("bravo", -100.0), ("charlie", 0.0))
    )
    return ForeignVehicle(cameras=cameras, **changed)


def six_cameras(**changed: Any) -> ForeignVehicle:
    """A vehicle with six JPEG cameras, frames named with a slash as ROS 1 did, and no LiDAR intensity."""
    cameras = tuple(
        ForeignCamera(
            f"/cam_{index}/image", f"/cam_{index}/camera_info", f"/cam{index}", azimuth, size=(480, 300)
        )
        for index, azimuth in enumerate((55.0, 0.0, -55.0, 110.0, 180.0, -110.0))
    )
    return ForeignVehicle(
        **{
            "cameras": cameras,
            "lidar_topic": "/os1/pts",
            "lidar_frame": "os1",
            "ego_frame": "chassis",
            "intensity": None,
        }
        | changed
    )
