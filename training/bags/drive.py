"""Writes what a vehicle recorded as a bag laid out by a rig: its topics and its frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception_core.configuration import nearest
from perception_core.rig import CameraSensor, Rig, Sensor
from training.bags.messages import AnnotatedBox
from training.bags.writer import BagWriter

#: Key of the bag's metadata that names the rig it was made for.
RIG_KEY = "mmmt_rig"
ODOMETRY_FRAME = "odom"
GROUND_TRUTH_OBJECTS, GROUND_TRUTH_MARKERS = "/mmmt/ground_truth/objects", "/mmmt/ground_truth/markers"

#: Columns that drivers give as whole numbers, and their types in a PointCloud2.
_WHOLE_NUMBERS = {"ring": "<u2"}


class BagLayoutError(ValueError):
    """The recording has something the rig has no place for; the message says what."""


class DriveBag:
    """Puts sensor data on the topics of a rig; all messages are recorded at their stamps."""

    def __init__(self, bag: BagWriter, rig: Rig) -> None:
        """Takes an open bag.

        Args:
            bag: Open; `mmmt_rig` in its metadata (RIG_KEY) lets replay find the rig.
            rig: Whose topics and frames are used.
        """
        self._bag = bag
        self._rig = rig
        self._intrinsics: dict[str, tuple[NDArray[np.float64], int, int]] = {}
        self._annotates = bag.knows("mmmt_msgs/msg/DetectedObjectArray")

    def _sensor(self, modality: str) -> Sensor:
        sensor = self._rig.lidar if modality == "lidar" else self._rig.cameras.get(modality)
        if sensor is None:
            raise BagLayoutError(
                f"rig '{self._rig.name}' has no '{modality}'" + nearest(modality, self._rig.modalities)
            )
        return sensor

    def calibrate(
        self,
        stamp_ns: int,
        ego_from_sensor: Mapping[str, NDArray[np.float64]],
        intrinsics: Mapping[str, tuple[NDArray[np.float64], int, int]],
    ) -> None:
        """Writes /tf_static and keeps the cameras' calibration for their CameraInfo.

        Args:
            stamp_ns: Time of the first message.
            ego_from_sensor: 4x4 by modality.
            intrinsics: Intrinsic matrix, width and height of each camera, without distortion.

        Raises:
            BagLayoutError: The rig has no such sensor.
        """
        transforms = [
            (self._rig.ego_frame, self._sensor(modality).frame, matrix)
            for modality, matrix in ego_from_sensor.items()
        ]
        self._intrinsics.update(intrinsics)
        message = self._bag.messages.transforms(stamp_ns, transforms)
        self._bag.write("/tf_static", message, stamp_ns, latched=True)

    def write_points(
        self, stamp_ns: int, modality: str, points_nc: NDArray[np.float32], fields: Sequence[str]
    ) -> None:
        """Writes a sweep: float32 fields, but whole numbers for the ring, as drivers give it."""
        sensor = self._sensor(modality)
        layout = np.dtype([(name, _WHOLE_NUMBERS.get(name, "<f4")) for name in fields])
        points_n = np.empty(len(points_nc), dtype=layout)
        for column, name in enumerate(fields):
            points_n[name] = points_nc[:, column]
        message = self._bag.messages.structured_point_cloud(stamp_ns, sensor.frame, points_n)
        self._bag.write(sensor.topic, message, stamp_ns)

    def write_image(self, stamp_ns: int, modality: str, data: bytes, image_format: str) -> None:
        """Writes an image file's bytes as they are, and before it the camera's calibration.

        Raises:
            BagLayoutError: The rig has no such camera, or `calibrate` was not told of it.
        """
        sensor = self._sensor(modality)
        if not isinstance(sensor, CameraSensor) or modality not in self._intrinsics:
            raise BagLayoutError(f"no intrinsics of '{modality}' were given")
        matrix_33, width, height = self._intrinsics[modality]
        messages = self._bag.messages
        info = messages.camera_info(stamp_ns, sensor.frame, matrix_33, width, height)
        self._bag.write(sensor.info_topic(), info, stamp_ns)
        self._bag.write(
            sensor.topic, messages.compressed_image(stamp_ns, sensor.frame, data, image_format), stamp_ns
        )

    def write_odometry(
        self, stamp_ns: int, world_from_ego_44: NDArray[np.float64], velocity_3: ArrayLike, yaw_rate: float
    ) -> None:
        """Writes odometry; the twist is in the ego frame. A rig without odometry gets none."""
        if self._rig.odometry is None:
            return
        message = self._bag.messages.odometry(
            stamp_ns, ODOMETRY_FRAME, self._rig.ego_frame, world_from_ego_44, velocity_3, yaw_rate
        )
        self._bag.write(self._rig.odometry.topic, message, stamp_ns)

    def write_objects(self, stamp_ns: int, boxes: Sequence[AnnotatedBox]) -> None:
        """Writes annotated boxes of the ego frame as markers and, where mmmt_msgs is there, as objects."""
        messages, frame = self._bag.messages, self._rig.ego_frame
        if self._annotates:
            objects = messages.detected_objects(stamp_ns, frame, "ground_truth", boxes)
            self._bag.write(GROUND_TRUTH_OBJECTS, objects, stamp_ns)
        markers = messages.markers(stamp_ns, frame, "ground_truth", boxes)
        self._bag.write(GROUND_TRUTH_MARKERS, markers, stamp_ns)
