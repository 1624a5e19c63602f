"""Turns items of a recording into standard ROS messages, without stamps: those are set when a message is
published.
"""

from __future__ import annotations

import array
import colorsys
import zlib
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import TransformStamped
from mmmt_msgs.msg import DetectedObject, DetectedObjectArray
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2, PointField
from visualization_msgs.msg import Marker, MarkerArray

from perception_core.geometry import quaternion_from_rotation, quaternion_from_yaw
from perception_nodes.recordings.interface import CameraIntrinsics, StaticTransform
from perception_nodes.recordings.items import (
    GroundTruthObject,
    ImageItem,
    ObjectsItem,
    OdometryItem,
    PointsItem,
)

GROUND_TRUTH_TASK = "ground_truth"
ODOMETRY_FRAME = "odom"


def byte_array(data: bytes | memoryview) -> array.array[int]:
    """Wraps bytes as the one type whose assignment to a uint8[] field is a copy and not a check of every
    byte.
    """
    values = array.array("B")
    values.frombytes(data)
    return values


def point_cloud(item: PointsItem, frame: str) -> PointCloud2:
    """Makes an unorganized cloud of float32 fields."""
    points_nc = np.ascontiguousarray(item.points_nc, dtype="<f4")
    count, columns = points_nc.shape
    message = PointCloud2(
        height=1,
        width=count,
        fields=[
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(item.fields)
        ],
        is_bigendian=False,
        point_step=4 * columns,
        row_step=4 * columns * count,
        is_dense=bool(np.isfinite(points_nc).all()),
    )
    message.header.frame_id = frame
    message.data = byte_array(points_nc.data.cast("B"))
    return message


def compressed_image(item: ImageItem, frame: str) -> CompressedImage:
    """Wraps the image file's bytes as they are."""
    message = CompressedImage(format=item.format)
    message.header.frame_id = frame
    message.data = byte_array(item.data)
    return message


def camera_info(intrinsics: CameraIntrinsics, frame: str) -> CameraInfo:
    """Makes the CameraInfo of a camera (K, D, R identity, P without a baseline)."""
    matrix = np.asarray(intrinsics.matrix_33, dtype=np.float64)
    message = CameraInfo(
        width=intrinsics.width,
        height=intrinsics.height,
        distortion_model=intrinsics.model,
        d=list(intrinsics.distortion) or [0.0] * 5,
        k=matrix.reshape(-1).tolist(),
        r=np.eye(3).reshape(-1).tolist(),
        p=np.hstack([matrix, np.zeros((3, 1))]).reshape(-1).tolist(),
    )
    message.header.frame_id = frame
    return message


def odometry(item: OdometryItem, ego_frame: str) -> Odometry:
    """Makes odometry whose twist is in the ego frame, as REP 105 and nav_msgs want it."""
    message = Odometry(child_frame_id=ego_frame)
    message.header.frame_id = ODOMETRY_FRAME
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    position.x, position.y, position.z = (float(value) for value in item.world_from_ego[:3, 3])
    quaternion = quaternion_from_rotation(item.world_from_ego[:3, :3])
    orientation.x, orientation.y, orientation.z, orientation.w = (float(value) for value in quaternion)
    linear = message.twist.twist.linear
    linear.x, linear.y, linear.z = (float(value) for value in item.velocity_3)
    message.twist.twist.angular.z = float(item.yaw_rate)
    return message


def transform(item: StaticTransform, ego_frame: str) -> TransformStamped:
    """Makes one transform of /tf_static."""
    message = TransformStamped(child_frame_id=item.child)
    message.header.frame_id = item.parent or ego_frame
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = (float(value) for value in item.parent_from_child[:3, 3])
    quaternion = quaternion_from_rotation(item.parent_from_child[:3, :3])
    rotation.x, rotation.y, rotation.z, rotation.w = (float(value) for value in quaternion)
    return message


def detected_objects(item: ObjectsItem, ego_frame: str) -> DetectedObjectArray:
    """Makes the annotated boxes as DetectedObjectArray of task `ground_truth`, score 1."""
    message = DetectedObjectArray(task=GROUND_TRUTH_TASK, objects=[_detected_object(o) for o in item.objects])
    message.header.frame_id = ego_frame
    return message


def _detected_object(item: GroundTruthObject) -> DetectedObject:
    message = DetectedObject(label=item.label, score=1.0, has_velocity=item.velocity_2 is not None)
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = item.box_7[:3]
    message.size.x, message.size.y, message.size.z = item.box_7[3:6]
    orientation.x, orientation.y, orientation.z, orientation.w = (
        float(v) for v in quaternion_from_yaw(item.box_7[6])
    )
    if item.velocity_2 is not None:
        message.velocity.x, message.velocity.y = item.velocity_2
    return message


def object_markers(objects: DetectedObjectArray) -> MarkerArray:
    """Makes translucent boxes that replace those shown before."""
    clear = Marker(header=objects.header, ns=GROUND_TRUTH_TASK, action=Marker.DELETEALL)
    return MarkerArray(markers=[clear, *_boxes(objects)])


def _boxes(objects: DetectedObjectArray) -> Sequence[Marker]:
    markers = []
    for number, item in enumerate(objects.objects):
        marker = Marker(
            header=objects.header,
            ns=GROUND_TRUTH_TASK,
            id=number,
            type=Marker.CUBE,
            action=Marker.ADD,
            pose=item.pose,
            scale=item.size,
        )
        # a hue from the label's checksum: the same class has the same colour in every process
        red, green, blue = colorsys.hsv_to_rgb(zlib.crc32(item.label.encode()) % 360 / 360, 0.7, 1.0)
        marker.color.r, marker.color.g, marker.color.b, marker.color.a = red, green, blue, 0.35
        markers.append(marker)
    return markers
