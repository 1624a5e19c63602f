"""The one interface of every recording, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_nodes.recordings.items import Item


class RecordingError(RuntimeError):
    """A recording cannot be opened; the message says which, why and what to do."""


@dataclass(frozen=True)
class StaticTransform:
    """A fixed transform of the vehicle.

    Attributes:
        parent: tf frame, empty for the rig's ego frame.
        child: tf frame of a sensor.
        parent_from_child: 4x4.
    """

    parent: str
    child: str
    parent_from_child: NDArray[np.float64]


@dataclass(frozen=True)
class CameraIntrinsics:
    """Pinhole calibration of one camera.

    Attributes:
        frame: tf frame of the camera (z forward, x right, y down).
        width: Pixels.
        height: Pixels.
        matrix_33: Intrinsic matrix in pixels.
        distortion: Coefficients of `model`, empty for rectified images.
        model: Distortion model as in sensor_msgs/CameraInfo.
    """

    frame: str
    width: int
    height: int
    matrix_33: NDArray[np.float64]
    distortion: tuple[float, ...] = ()
    model: str = "plumb_bob"


class Recording(Protocol):
    """A recording that `replay` can play. Reading it needs no ROS.

    Attributes:
        name: Short name for reports.
        kind: Which reader this is, e.g. `rosbag2`.
        description: One line: what is in it and what was assumed.
        rig_name: Rig of hw_configs/rigs that fits, None where one must be drafted.
        start_ns: Time of the first item on the recording's clock.
        duration_s: Length of one pass, one period of its slowest regular sensor included so that passes can
            follow each other.
        endless: `messages` never ends; `duration_s` is then only the default length.
        clock_offset_ns: Recorded time minus message stamps where the two were on different clocks, else 0.
        sensor_frames: tf frame by modality; empty for bags, whose messages carry their own.
        end_fault: None, or why the recording ends early (known once it was played).
    """

    name: str
    kind: str
    description: str
    rig_name: str | None
    start_ns: int
    duration_s: float
    endless: bool
    clock_offset_ns: int
    sensor_frames: dict[str, str]
    end_fault: str | None

    def static_transforms(self) -> tuple[StaticTransform, ...]:
        """Returns the vehicle's fixed transforms."""
        ...

    def camera_intrinsics(self) -> dict[str, CameraIntrinsics]:
        """Returns the calibration of each camera by modality; empty for bags, which hold CameraInfo
        messages.
        """
        ...

    def messages(self, start_s: float = 0.0) -> Iterator[Item]:
        """Yields everything in order of time, beginning `start_s` seconds into the recording.

        What cannot be read is yielded as a FaultItem; the iterator itself never raises for bad data.
        """
        ...

    def close(self) -> None:
        """Frees files."""
        ...
