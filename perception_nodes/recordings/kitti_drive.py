"""A KITTI raw drive: rectified left colour camera and Velodyne sweeps, numbered alike, at a fixed rate.

The vehicle frame is not part of the recording's calibration: the LiDAR's place is taken from the published
sensor set-up
(Geiger et al., "Vision meets Robotics: The KITTI Dataset", 2013, figure 3): 1.73 m above the ground, about
0.76 m ahead of the
rear axle, axes parallel to the vehicle's. There is no odometry and none is made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from perception_core.geometry import compose, inverse, transform_of
from perception_nodes.recordings.image_files import (
    ImageFileError,
    image_format,
    image_size,
)
from perception_nodes.recordings.interface import (
    CameraIntrinsics,
    RecordingError,
    StaticTransform,
)
from perception_nodes.recordings.items import FaultItem, ImageItem, Item, PointsItem

CALIBRATION_FILE = "calib.yaml"
LIDAR_FRAME = "velodyne"
CAMERA_FRAME = "camera_left"
CAMERA_MODALITY = "camera_front"
POINT_FIELDS = ("x", "y", "z", "intensity")

_EGO_FROM_LIDAR = transform_of(None, [0.76, 0.0, 1.73])
#: KITTI raw drives carry absolute times in separate files that this layout leaves out; any fixed start does.
_START_NS = 1_000_000_000_000


def is_kitti_drive(path: Path) -> bool:
    """Tells whether a folder has the layout this reader knows."""
    return (path / CALIBRATION_FILE).is_file() and (path / "velodyne").is_dir()


class KittiDriveRecording:
    """A KITTI drive folder with calib.yaml, image_02/*.png and velodyne/*.bin."""

    kind = "kitti_drive"
    endless = False
    rig_name: str | None = "kitti"
    clock_offset_ns = 0
    end_fault: str | None = None
    start_ns = _START_NS

    def __init__(self, path: str | Path) -> None:
        """Reads the calibration and lists the files.

        Args:
            path: The drive's folder.

        Raises:
            RecordingError: The calibration is wrong or there are no sweeps and images.
        """
        self.path = Path(path)
        self.name = self.path.resolve().name
        self._sweeps = sorted((self.path / "velodyne").glob("*.bin"))
        self._images = sorted((self.path / "image_02").glob("*.png"))
        try:
            calibration = yaml.safe_load((self.path / CALIBRATION_FILE).read_text(encoding="utf-8"))
            rate_hz = float(calibration.get("rate_hz", 10.0))
            projection_34 = np.array(calibration["P_rect"], dtype=np.float64).reshape(3, 4)
            rectification = np.array(calibration["R_rect"], dtype=np.float64).reshape(4, 4)
            camera_from_lidar = np.array(calibration["T_cam_velo"], dtype=np.float64).reshape(4, 4)
            if not rate_hz > 0:
                raise ValueError(f"rate_hz is {rate_hz}")
        except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordingError(
                f"{self.path / CALIBRATION_FILE}: needs T_cam_velo (4x4), R_rect (4x4) and P_rect (3x4): "
                f"{type(error).__name__}: {error}"
            ) from error
        numbers = sorted({file.stem for file in (*self._sweeps, *self._images)})
        if not numbers:
            raise RecordingError(f"{self.path}: neither velodyne/*.bin nor image_02/*.png")
        self._period_ns = round(1e9 / rate_hz)
        self._times = {stem: _START_NS + index * self._period_ns for index, stem in enumerate(numbers)}
        self._matrix_33 = projection_34[:, :3]
        # the fourth column of P_rect is this camera's offset from the reference camera, multiplied by the
        # intrinsic matrix
        offset = transform_of(None, np.linalg.solve(self._matrix_33, projection_34[:, 3]))
        rectified_from_lidar = compose(offset, rectification, camera_from_lidar)
        self._ego_from_camera = compose(_EGO_FROM_LIDAR, inverse(rectified_from_lidar))
        self.duration_s = len(numbers) / rate_hz
        self.sensor_frames = {"lidar": LIDAR_FRAME, CAMERA_MODALITY: CAMERA_FRAME}
        self.description = (
            f"KITTI drive: {len(self._sweeps)} sweeps, {len(self._images)} images of one camera at "
            f"{rate_hz:g} Hz; no odometry; LiDAR mounting from KITTI's published set-up"
        )

    def static_transforms(self) -> tuple[StaticTransform, ...]:
        """Returns ego to LiDAR and ego to the rectified camera."""
        return (
            StaticTransform("", LIDAR_FRAME, _EGO_FROM_LIDAR),
            StaticTransform("", CAMERA_FRAME, self._ego_from_camera),
        )

    def camera_intrinsics(self) -> dict[str, CameraIntrinsics]:
        """Returns the intrinsics of the rectified camera, its size from the first readable image."""
        for file in self._images:
            try:
                with file.open("rb") as stream:
                    width, height = image_size(stream.read(64))
            except (OSError, ImageFileError):
                continue  # `messages` reports the file
            return {CAMERA_MODALITY: CameraIntrinsics(CAMERA_FRAME, width, height, self._matrix_33)}
        return {}

    def messages(self, start_s: float = 0.0) -> Iterator[Item]:
        """Yields an image and a sweep for each number."""
        images = {file.stem: file for file in self._images}
        sweeps = {file.stem: file for file in self._sweeps}
        for stem, time_ns in self._times.items():
            if time_ns < _START_NS + round(start_s * 1e9):
                continue
            if stem in images:
                try:
                    data = images[stem].read_bytes()
                    yield ImageItem(time_ns, CAMERA_MODALITY, data, image_format(data))
                except (OSError, ImageFileError) as error:
                    yield FaultItem(time_ns, f"unreadable {CAMERA_MODALITY}", f"{images[stem]}: {error}")
            if stem in sweeps:
                yield self._sweep(sweeps[stem], time_ns)

    @staticmethod
    def _sweep(file: Path, time_ns: int) -> Item:
        try:
            values = np.fromfile(file, dtype=np.float32)
        except OSError as error:
            return FaultItem(time_ns, "unreadable lidar", f"{file}: {error}")
        if values.size % len(POINT_FIELDS):
            return FaultItem(
                time_ns,
                "unreadable lidar",
                f"{file}: {values.nbytes} bytes are no whole number of points; cut off?",
            )
        return PointsItem(time_ns, "lidar", values.reshape(-1, len(POINT_FIELDS)), POINT_FIELDS)

    def close(self) -> None:
        """Does nothing."""
