"""What a recording holds: timed items, typed by what they are. Times are nanoseconds of the recording's own
clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PointsItem:
    """One LiDAR sweep.

    Attributes:
        time_ns: Measurement time.
        modality: Rig modality, `lidar`.
        points_nc: float32 [N, C] in the sensor's frame, as stored.
        fields: Names of the C columns; the first three are x, y, z.
    """

    time_ns: int
    modality: str
    points_nc: NDArray[np.float32]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class ImageItem:
    """One camera image, still compressed as it was stored.

    Attributes:
        time_ns: Measurement time.
        modality: Rig modality, `camera_<name>`.
        data: The bytes of the image file.
        format: What the bytes are.
    """

    time_ns: int
    modality: str
    data: bytes
    format: Literal["jpeg", "png"]


@dataclass(frozen=True)
class OdometryItem:
    """Where the vehicle is and how it moves.

    Attributes:
        time_ns: Time of the state.
        world_from_ego: 4x4 pose in a fixed frame.
        velocity_3: Metres a second in the ego frame.
        yaw_rate: Radians a second, positive left.
    """

    time_ns: int
    world_from_ego: NDArray[np.float64]
    velocity_3: NDArray[np.float64]
    yaw_rate: float


@dataclass(frozen=True)
class GroundTruthObject:
    """One annotated box in the ego frame.

    Attributes:
        label: Class name.
        box_7: x y z of the centre, length width height in metres, yaw in radians.
        velocity_2: vx vy in metres a second in the ego frame, None where not annotated.
        points: LiDAR points inside according to the annotation, None where not known.
    """

    label: str
    box_7: tuple[float, float, float, float, float, float, float]
    velocity_2: tuple[float, float] | None = None
    points: int | None = None


@dataclass(frozen=True)
class ObjectsItem:
    """Annotations of one moment, in the ego frame of that moment."""

    time_ns: int
    objects: tuple[GroundTruthObject, ...]


@dataclass(frozen=True)
class SerializedItem:
    """A ROS message as recorded, played on the topic it was recorded on.

    Attributes:
        time_ns: When it was recorded.
        topic: Recorded topic.
        message_type: e.g. `sensor_msgs/msg/PointCloud2`.
        data: CDR bytes.
        latched: It was offered with transient-local durability.
        shift: Returns `data` with every non-zero stamp moved by nanoseconds; None where the message has no
            stamp.
    """

    time_ns: int
    topic: str
    message_type: str
    data: bytes
    latched: bool
    shift: Callable[[bytes, int], bytes] | None


@dataclass(frozen=True)
class FaultItem:
    """Something of the recording could not be read; what follows still plays.

    Attributes:
        time_ns: About when it would have been played.
        source: Short stable name of what is broken.
        message: What is wrong, where.
    """

    time_ns: int
    source: str
    message: str


Item = PointsItem | ImageItem | OdometryItem | ObjectsItem | SerializedItem | FaultItem
