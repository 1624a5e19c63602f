"""The rig: which sensors a vehicle has, where they are heard and how far they are trusted. Schema of
hw_configs/rigs/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic

from perception_core.configuration import ConfigurationFile, StrictModel


class CalibrationSource(StrictModel):
    """Where extrinsics and intrinsics come from.

    Attributes:
        extrinsics: `tf_static` listens to /tf_static; `file` reads `file`.
        intrinsics: `camera_info` listens to each camera's CameraInfo topic; `file` reads `file`.
        file: YAML of perception_core.calibration, relative to the rig file.
    """

    extrinsics: Literal["tf_static", "file"] = "tf_static"
    intrinsics: Literal["camera_info", "file"] = "camera_info"
    file: str | None = None

    @pydantic.model_validator(mode="after")
    def _file_is_named(self) -> CalibrationSource:
        if "file" in (self.extrinsics, self.intrinsics) and self.file is None:
            raise ValueError("calibration from a file needs the key 'file'")
        return self


class Sensor(StrictModel):
    """What every sensor has.

    Attributes:
        topic: Absolute ROS topic.
        frame: tf frame of the sensor; empty: taken from each message's header.
        offset_s: Added to every stamp (a driver that stamps late has a negative offset).
        max_delay_s: A message whose stamp is further than this from the frame's stamp is masked.
        trusted_range_m: Range to which this sensor alone lets the vehicle see the road ahead; 0 where it
            does not look ahead.
    """

    topic: str = pydantic.Field(min_length=1)
    frame: str = ""
    offset_s: float = 0.0
    max_delay_s: float = pydantic.Field(default=0.12, gt=0)
    trusted_range_m: float = pydantic.Field(default=0.0, ge=0)


class LidarSensor(Sensor):
    """A LiDAR publishing sensor_msgs/PointCloud2 with at least x, y and z fields in any layout.

    Attributes:
        intensity_field: Name of the intensity field; empty: the first of intensity, reflectance, i, or none.
        intensity_scale: Divides the intensity so that it lies in 0..1 (nuScenes 255, KITTI 1).
        min_range_m: Closer points are the vehicle itself and are removed.
    """

    type: Literal["sensor_msgs/msg/PointCloud2"] = "sensor_msgs/msg/PointCloud2"
    intensity_field: str = ""
    intensity_scale: float = pydantic.Field(default=255.0, gt=0)
    min_range_m: float = pydantic.Field(default=1.0, ge=0)


class CameraSensor(Sensor):
    """A camera publishing images and, unless calibration comes from a file, CameraInfo.

    Attributes:
        camera_info_topic: Empty: the image topic's parent plus /camera_info.
        expected_size: (width, height) of the driver's images; other sizes are refused. None: taken from
            CameraInfo.
    """

    type: Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"] = (
        "sensor_msgs/msg/CompressedImage"
    )
    camera_info_topic: str = ""
    expected_size: tuple[int, int] | None = None

    def info_topic(self) -> str:
        """Returns the CameraInfo topic, derived from the image topic where the rig does not name one."""
        if self.camera_info_topic:
            return self.camera_info_topic
        return self.topic.rsplit("/", 1)[0] + "/camera_info"


class OdometrySource(StrictModel):
    """The ego vehicle's motion (nav_msgs/Odometry); its twist is in the child (ego) frame."""

    topic: str = "/odom"
    max_delay_s: float = pydantic.Field(default=0.5, gt=0)


class VehicleLimits(StrictModel):
    """What the vehicle can do; SI units. Used by the control node's safety envelope."""

    wheelbase_m: float = pydantic.Field(default=2.7, gt=0)
    width_m: float = pydantic.Field(default=1.9, gt=0)
    front_overhang_m: float = pydantic.Field(default=3.7, ge=0, description="ego origin to front bumper")
    max_speed_mps: float = pydantic.Field(default=13.9, gt=0)
    max_acceleration_mps2: float = pydantic.Field(default=1.5, gt=0)
    comfortable_deceleration_mps2: float = pydantic.Field(default=2.0, gt=0)
    full_deceleration_mps2: float = pydantic.Field(default=5.0, gt=0)
    max_jerk_mps3: float = pydantic.Field(default=20.0, gt=0)
    max_steering_angle_rad: float = pydantic.Field(default=0.55, gt=0)
    max_steering_rate_rad_s: float = pydantic.Field(default=0.6, gt=0)
    actuation_delay_s: float = pydantic.Field(default=0.15, ge=0)


class Rig(StrictModel):
    """A vehicle's sensors by modality name.

    Attributes:
        name: The rig's name.
        ego_frame: tf frame of the vehicle (rear axle centre on the ground, x forward, y left, z up).
        lidar: The LiDAR modality `lidar`, or None for a camera-only vehicle.
        cameras: Cameras by modality name, each starting with `camera_`, in the order of the network's view
            axis.
    """

    name: str
    ego_frame: str = "base_link"
    lidar: LidarSensor | None = None
    cameras: dict[str, CameraSensor] = {}
    odometry: OdometrySource | None = OdometrySource()
    calibration: CalibrationSource = CalibrationSource()
    vehicle: VehicleLimits = VehicleLimits()
    description: str = ""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Rig:
        if self.lidar is None and not self.cameras:
            raise ValueError("a rig needs a lidar or at least one camera")
        for name in self.cameras:
            if not name.startswith("camera_"):
                raise ValueError(f"camera '{name}' must be named camera_<name>")
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modality names: `lidar` first where there is one, then the cameras in order."""
        return (("lidar",) if self.lidar else ()) + tuple(self.cameras)

    @property
    def trigger(self) -> str:
        """The modality whose messages emit frames."""
        return self.modalities[0]


def load_rig(path: str | Path) -> Rig:
    """Reads a rig file.

    Raises:
        ConfigurationError: The file cannot be read or is wrong; names file and line.
    """
    return ConfigurationFile.read(path).validate(Rig)
