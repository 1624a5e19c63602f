"""Bags as other vehicles record them: other names, other cameras, other layouts, and bags that were cut
off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import planar_motion, rotation_about_z, transform_of
from training.bags.writer import BagWriter

START_NS = 1_700_000_000_000_000_000

#: How a real driver lays points out: bytes of several widths with a gap.
FOREIGN_POINT = np.dtype(
    {
        "names": ["x", "y", "z", "reflectivity", "ring", "time_offset"],
        "formats": ["<f4", "<f4", "<f4", "u1", "<u2", "<u4"],
        "offsets": [0, 4, 8, 16, 18, 20],
        "itemsize": 32,
    }
)
_EGO_FROM_FORWARD_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_CAMERA_YAWS = {
    "front_center": 0.0,
    "left": 100.0,
    "right": -100.0,
    "rear_center": 180.0,
    "rear_left": 140.0,
    "rear_right": -140.0,
}


@dataclass(frozen=True)
class ForeignVehicle:
    """What a foreign bag looks like.

    Attributes:
        cameras: Three or six.
        size: Width and height of its pictures.
        image: How pictures are stored.
        odometry: There is an odometry topic.
        camera_info: There are CameraInfo topics.
        clock_offset_s: The messages' stamps are this much behind the recorder's clock.
    """

    cameras: Literal[3, 6] = 6
    size: tuple[int, int] = (640, 360)
    image: Literal["jpeg", "png", "raw"] = "jpeg"
    odometry: bool = True
    camera_info: bool = True
    clock_offset_s: float = 0.0

    lidar_topic = "/roof/ouster/points"
    lidar_frame = "os_sensor"
    base_frame = "vehicle"
    odometry_topic = "/localization/kinematic_state"

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of its cameras."""
        return tuple(_CAMERA_YAWS)[: self.cameras]

    def image_topic(self, camera: str) -> str:
        """Topic of a camera's pictures."""
        return f"/cam/{camera}/image_raw" + ("" if self.image == "raw" else "/compressed")

    def info_topic(self, camera: str) -> str:
        """Topic of a camera's CameraInfo."""
        return f"/cam/{camera}/camera_info"

    def camera_frame(self, camera: str) -> str:
        """Optical frame of a camera."""
        return f"{camera}_optical"

    def transforms(self) -> list[tuple[str, str, NDArray[np.float64]]]:
        """Its fixed transforms: cameras hang on a mount of their own, as on real vehicles."""
        chain = [
            (self.base_frame, "roof_rack", transform_of(None, [0.8, 0.0, 1.6])),
            ("roof_rack", self.lidar_frame, transform_of(rotation_about_z(np.pi / 2), [0.0, 0.0, 0.3])),
        ]
        for camera in self.camera_names:
            yaw = np.radians(_CAMERA_YAWS[camera])
            chain.append(
                ("roof_rack", f"{camera}_mount", transform_of(rotation_about_z(yaw), [0.3, 0.0, -0.1]))
            )
            chain.append(
                (f"{camera}_mount", self.camera_frame(camera), transform_of(_EGO_FROM_FORWARD_CAMERA))
            )
        return chain

    def matrix_33(self) -> NDArray[np.float64]:
        """Intrinsics of every camera."""
        width, height = self.size
        return np.array(
            [[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]], dtype=np.float64
        )


def foreign_points(count: int, seed: int) -> NDArray[np.void]:
    """A made-up sweep in the layout of FOREIGN_POINT."""
    generator = np.random.default_rng(seed)
    points = np.zeros(count, dtype=FOREIGN_POINT)
    angle, distance = generator.uniform(0, 2 * np.pi, count), generator.uniform(3, 50, count)
    points["x"], points["y"] = distance * np.cos(angle), distance * np.sin(angle)
    points["z"] = generator.uniform(-1.8, 1.0, count)
    points["reflectivity"] = generator.integers(0, 256, count)
    points["ring"] = generator.integers(0, 64, count)
    return points


def picture(size: tuple[int, int], shade: int) -> NDArray[np.uint8]:
    """A picture of smooth colours, cheap to encode, [height, width, 3]."""
    width, height = size
    columns = np.linspace(0, 255, width, dtype=np.uint8)
    rows = np.linspace(0, 255, height, dtype=np.uint8)
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = columns, rows[:, None], shade % 256
    return image


def write_foreign_bag(
    folder: Path,
    vehicle: ForeignVehicle | None = None,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    sweeps: int = 10,
    points: int = 2000,
    compressed: bool = False,
) -> Path:
    """Writes a bag of a foreign vehicle: sweeps and pictures at 10 Hz, odometry at 50 Hz, transforms once.

    Args:
        folder: New folder.
        vehicle: What it looks like.
        storage: Storage plugin.
        sweeps: Number of sweeps and of pictures of each camera.
        points: Points in a sweep.
        compressed: Compress with zstd.

    Returns:
        `folder`.
    """
    vehicle = vehicle or ForeignVehicle()
    behind_ns = round(vehicle.clock_offset_s * 1e9)
    with BagWriter(folder, storage=storage, compressed=compressed) as bag:
        make = bag.messages
        bag.write(
            "/tf_static", make.transforms(START_NS - behind_ns, vehicle.transforms()), START_NS, latched=True
        )
        for index in range(sweeps):
            log_ns = START_NS + index * 100_000_000
            stamp_ns = log_ns - behind_ns
            if vehicle.odometry:
                for part in range(5):
                    at_ns = log_ns + part * 20_000_000
                    pose = planar_motion(5.0, 0.1, (at_ns - START_NS) * 1e-9)
                    message = make.odometry(
                        at_ns - behind_ns, "map", vehicle.base_frame, pose, [5.0, 0, 0], 0.1
                    )
                    bag.write(vehicle.odometry_topic, message, at_ns)
            for number, camera in enumerate(vehicle.camera_names):
                frame = vehicle.camera_frame(camera)
                image = picture(vehicle.size, 40 * number + index)
                if vehicle.camera_info:
                    info = make.camera_info(stamp_ns, frame, vehicle.matrix_33(), *vehicle.size)
                    bag.write(vehicle.info_topic(camera), info, log_ns + 1_000_000)
                if vehicle.image == "raw":
                    message = make.image(stamp_ns, frame, image, "bgr8")
                else:
                    suffix = ".jpg" if vehicle.image == "jpeg" else ".png"
                    data = cv2.imencode(suffix, image)[1].tobytes()
                    message = make.compressed_image(
                        stamp_ns, frame, data, f"bgr8; {vehicle.image} compressed bgr8"
                    )
                bag.write(vehicle.image_topic(camera), message, log_ns + 1_000_000)
            cloud = make.structured_point_cloud(stamp_ns, vehicle.lidar_frame, foreign_points(points, index))
            bag.write(vehicle.lidar_topic, cloud, log_ns + 2_000_000)
    return folder


def cut_bag(folder: Path, share: float = 0.6, without_metadata: bool = False) -> Path:
    """Cuts a bag's storage file off, as a recorder does that loses power.

    Args:
        folder: The bag; changed in place.
        share: Part of the file that stays.
        without_metadata: Remove metadata.yaml too, which a recorder writes last.

    Returns:
        `folder`.
    """
    (storage,) = [*folder.glob("*.mcap"), *folder.glob("*.db3")]
    with storage.open("r+b") as stream:
        stream.truncate(round(storage.stat().st_size * share))
    if without_metadata:
        (folder / "metadata.yaml").unlink()
    return folder
