"""Recordings that `replay` can play: one reader a file, all with the interface of `interface.Recording`. No
ROS needed.
"""

from perception_nodes.recordings.interface import (
    CameraIntrinsics,
    Recording,
    RecordingError,
    StaticTransform,
)
from perception_nodes.recordings.opening import open_recording

__all__ = ["CameraIntrinsics", "Recording", "RecordingError", "StaticTransform", "open_recording"]
