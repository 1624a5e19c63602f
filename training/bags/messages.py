"""Makes ROS messages from arrays, without ROS, through the `rosbags` library."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception_core.geometry import quaternion_from_rotation, quaternion_from_yaw

#: Numbers of sensor_msgs/PointField by NumPy type.
_POINT_FIELD_TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
_FLOAT32_FIELD = _POINT_FIELD_TYPES["f4"]

#: One annotated object: label, box x y z l w h yaw, velocity vx vy or None where it is not known; all in the
#: frame of the message.
AnnotatedBox = tuple[str, Sequence[float], Sequence[float] | None]


def _colour(label: str) -> tuple[float, float, float]:
    """A hue from the label's checksum: the same class has the same colour in every bag."""
    return colorsys.hsv_to_rgb(zlib.crc32(label.encode()) % 360 / 360, 0.7, 1.0)


class Messages:
    """Makes messages of the `rosbags` library from arrays."""

    def __init__(self, store: Any) -> None:
        """Takes the types.

        Args:
            store: From `make_typestore`.
        """
        self._types = store.types

    def _new(self, message_type: str, **fields: Any) -> Any:
        return self._types[message_type](**fields)

    def header(self, stamp_ns: int, frame: str) -> Any:
        """Makes a std_msgs/Header."""
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        stamp = self._new("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._new("std_msgs/msg/Header", stamp=stamp, frame_id=frame)

    def point_cloud(
        self, stamp_ns: int, frame: str, points_nc: NDArray[np.float32], fields: Sequence[str]
    ) -> Any:
        """Makes a PointCloud2 of float32 columns."""
        points_nc = np.ascontiguousarray(points_nc, dtype=np.float32)
        return self._new(
            "sensor_msgs/msg/PointCloud2",
            header=self.header(stamp_ns, frame),
            height=1,
            width=len(points_nc),
            fields=[
                self._new(
                    "sensor_msgs/msg/PointField",
                    name=name,
                    offset=4 * index,
                    datatype=_FLOAT32_FIELD,
                    count=1,
                )
                for index, name in enumerate(fields)
            ],
            is_bigendian=False,
            point_step=4 * len(fields),
            row_step=4 * len(fields) * len(points_nc),
            data=points_nc.view(np.uint8).reshape(-1),
            is_dense=True,
        )

    def structured_point_cloud(self, stamp_ns: int, frame: str, points_n: NDArray[np.void]) -> Any:
        """Makes a PointCloud2 of a structured array with any layout of fields and padding."""
        fields = points_n.dtype.fields
        if fields is None:
            raise ValueError("points without named fields")
        step = points_n.dtype.itemsize
        return self._new(
            "sensor_msgs/msg/PointCloud2",
            header=self.header(stamp_ns, frame),
            height=1,
            width=len(points_n),
            fields=[
                self._new(
                    "sensor_msgs/msg/PointField",
                    name=name,
                    offset=offset,
                    datatype=_POINT_FIELD_TYPES[kind.str[1:]],
                    count=1,
                )
                for name, (kind, offset, *_) in fields.items()
            ],
            is_bigendian=False,
            point_step=step,
            row_step=step * len(points_n),
            data=np.frombuffer(points_n.tobytes(), dtype=np.uint8),
            is_dense=True,
        )

    def compressed_image(self, stamp_ns: int, frame: str, data: bytes, image_format: str) -> Any:
        """Makes a CompressedImage of an image file's bytes."""
        return self._new(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(stamp_ns, frame),
            format=image_format,
            data=np.frombuffer(data, dtype=np.uint8),
        )

    def image(self, stamp_ns: int, frame: str, image_hwc: NDArray[np.uint8], encoding: str) -> Any:
        """Makes a raw Image of three channels."""
        height, width, channels = image_hwc.shape
        return self._new(
            "sensor_msgs/msg/Image",
            header=self.header(stamp_ns, frame),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=width * channels,
            data=np.ascontiguousarray(image_hwc).reshape(-1),
        )

    def camera_info(self, stamp_ns: int, frame: str, matrix_33: ArrayLike, width: int, height: int) -> Any:
        """Makes the CameraInfo of a camera without distortion."""
        matrix = np.asarray(matrix_33, dtype=np.float64)
        region = self._new(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._new(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, frame),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=matrix.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([matrix, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def _point(self, values: ArrayLike) -> Any:
        x, y, z = (float(value) for value in np.asarray(values))
        return self._new("geometry_msgs/msg/Point", x=x, y=y, z=z)

    def _vector(self, values: ArrayLike) -> Any:
        x, y, z = (float(value) for value in np.asarray(values))
        return self._new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def _quaternion(self, values: ArrayLike) -> Any:
        x, y, z, w = (float(value) for value in np.asarray(values))
        return self._new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def transforms(self, stamp_ns: int, transforms: Iterable[tuple[str, str, NDArray[np.float64]]]) -> Any:
        """Makes a TFMessage of (parent, child, parent_from_child 4x4)."""
        return self._new(
            "tf2_msgs/msg/TFMessage",
            transforms=[
                self._new(
                    "geometry_msgs/msg/TransformStamped",
                    header=self.header(stamp_ns, parent),
                    child_frame_id=child,
                    transform=self._new(
                        "geometry_msgs/msg/Transform",
                        translation=self._vector(matrix[:3, 3]),
                        rotation=self._quaternion(quaternion_from_rotation(matrix[:3, :3])),
                    ),
                )
                for parent, child, matrix in transforms
            ],
        )

    def odometry(
        self,
        stamp_ns: int,
        frame: str,
        ego_frame: str,
        world_from_ego: NDArray[np.float64],
        velocity_3: ArrayLike,
        yaw_rate: float,
    ) -> Any:
        """Makes odometry; the twist is in the ego frame."""
        pose = self._new(
            "geometry_msgs/msg/Pose",
            position=self._point(world_from_ego[:3, 3]),
            orientation=self._quaternion(quaternion_from_rotation(world_from_ego[:3, :3])),
        )
        twist = self._new(
            "geometry_msgs/msg/Twist",
            linear=self._vector(velocity_3),
            angular=self._vector([0.0, 0.0, yaw_rate]),
        )
        return self._new(
            "nav_msgs/msg/Odometry",
            header=self.header(stamp_ns, frame),
            child_frame_id=ego_frame,
            pose=self._new("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
            twist=self._new("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
        )

    def path(self, stamp_ns: int, frame: str, points_n3: NDArray[np.float64]) -> Any:
        """Makes a path of positions; the poses' headings are left at zero."""
        upright = self._quaternion([0.0, 0.0, 0.0, 1.0])
        return self._new(
            "nav_msgs/msg/Path",
            header=self.header(stamp_ns, frame),
            poses=[
                self._new(
                    "geometry_msgs/msg/PoseStamped",
                    header=self.header(stamp_ns, frame),
                    pose=self._new(
                        "geometry_msgs/msg/Pose", position=self._point(point_3), orientation=upright
                    ),
                )
                for point_3 in points_n3
            ],
        )

    def _box_pose(self, box_7: Sequence[float]) -> Any:
        return self._new(
            "geometry_msgs/msg/Pose",
            position=self._point(box_7[:3]),
            orientation=self._quaternion(quaternion_from_yaw(box_7[6])),
        )

    def detected_objects(self, stamp_ns: int, frame: str, task: str, boxes: Iterable[AnnotatedBox]) -> Any:
        """Makes a DetectedObjectArray of certain objects."""
        return self._new(
            "mmmt_msgs/msg/DetectedObjectArray",
            header=self.header(stamp_ns, frame),
            trace_id=0,
            task=task,
            sensors=[],
            objects=[
                self._new(
                    "mmmt_msgs/msg/DetectedObject",
                    label=label,
                    score=1.0,
                    pose=self._box_pose(box_7),
                    size=self._vector(box_7[3:6]),
                    has_velocity=velocity_2 is not None,
                    velocity=self._vector([*(velocity_2 or (0.0, 0.0)), 0.0]),
                    has_covariance=False,
                    pose_covariance=np.zeros(36),
                )
                for label, box_7, velocity_2 in boxes
            ],
        )

    def markers(self, stamp_ns: int, frame: str, namespace: str, boxes: Iterable[AnnotatedBox]) -> Any:
        """Makes translucent boxes for RViz and Foxglove that replace those shown before."""
        delete_all, add, cube = 3, 0, 1
        drawn = [
            self._marker(stamp_ns, frame, namespace, 0, cube, delete_all, (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0))
        ]
        drawn += [
            self._marker(stamp_ns, frame, namespace, number, cube, add, box_7, _colour(label))
            for number, (label, box_7, _) in enumerate(boxes)
        ]
        return self._new("visualization_msgs/msg/MarkerArray", markers=drawn)

    def _marker(
        self,
        stamp_ns: int,
        frame: str,
        namespace: str,
        key: int,
        kind: int,
        action: int,
        box_7: Sequence[float],
        colour: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Any:
        red, green, blue = colour
        return self._new(
            "visualization_msgs/msg/Marker",
            header=self.header(stamp_ns, frame),
            ns=namespace,
            id=key,
            type=kind,
            action=action,
            pose=self._box_pose(box_7),
            scale=self._vector(box_7[3:6]),
            color=self._new("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=0.35),
            lifetime=self._new("builtin_interfaces/msg/Duration", sec=0, nanosec=0),
            frame_locked=False,
            points=[],
            colors=[],
            texture_resource="",
            texture=self.compressed_image(0, "", b"", ""),
            uv_coordinates=[],
            text="",
            mesh_resource="",
            mesh_file=self._new(
                "visualization_msgs/msg/MeshFile", filename="", data=np.zeros(0, dtype=np.uint8)
            ),
            mesh_use_embedded_materials=False,
        )
