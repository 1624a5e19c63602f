"""Finds out what a recording is and opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perception_nodes.recordings.interface import Recording, RecordingError

SUPPORTED = """supported recordings are
  a rosbag2 folder (metadata.yaml with .mcap or .db3 files) or one .mcap or .db3 file,
  a nuScenes data set folder (v1.0-*/scene.json beside samples/ and sweeps/),
  a folder with one annotated nuScenes frame (frame.json),
  a KITTI drive folder (calib.yaml, image_02/*.png, velodyne/*.bin)"""


def open_recording(path: str | Path, **options: Any) -> Recording:
    """Opens a recording of any supported kind.

    Args:
        path: File or folder.
        options: Passed to the reader, e.g. `scene` for a nuScenes data set, `rate_hz` for a single frame.

    Raises:
        RecordingError: Nothing is there, the kind is not known or the reader refused it; lists what is
            supported.
    """
    # readers are imported here so that a missing optional package of one does not take the others away
    path = Path(path).expanduser()
    if not path.exists():
        raise RecordingError(f"recording {path} does not exist; {SUPPORTED}")
    if not (path.is_file() or path.is_dir()):
        raise RecordingError(f"recording {path} is neither file nor folder; {SUPPORTED}")
    from perception_nodes.recordings import (
        kitti_drive,
        nuscenes_dataset,
        nuscenes_frame,
        rosbag2,
    )

    try:
        if path.is_dir() and (path / nuscenes_frame.FRAME_FILE).is_file():
            return nuscenes_frame.NuscenesFrameRecording(path, **options)
        if path.is_dir() and kitti_drive.is_kitti_drive(path):
            return kitti_drive.KittiDriveRecording(path, **options)
        if path.is_dir() and nuscenes_dataset.find_tables(path) is not None:
            return nuscenes_dataset.NuscenesDatasetRecording(path, **options)
        if rosbag2.storage_files(path) or (path / "metadata.yaml").is_file():
            return rosbag2.Rosbag2Recording(path, **options)
    except TypeError as error:
        if options:  # an option the reader of this kind does not know
            raise RecordingError(f"recording {path}: {error}") from error
        raise
    raise RecordingError(f"recording {path} is of no known kind; {SUPPORTED}")
