"""Cameras: pinhole pictures by ray casting, lit by sun and sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import rotation_about_z, transform_of
from training.synth.noise import lattice
from training.synth.scene import Scene
from training.synth.shading import DAYLIGHT, develop, shade, sky

FloatArray = NDArray[np.float64]

#: Camera axes (x right, y down, z forward) of a camera that looks along the vehicle's x axis.
_EGO_FROM_FORWARD_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on the vehicle.

    Attributes:
        modality: Rig modality.
        ego_from_camera: 4x4 pose.
        matrix_33: Intrinsic matrix in pixels.
        width: Pixels.
        height: Pixels.
    """

    modality: str
    ego_from_camera: FloatArray
    matrix_33: FloatArray
    width: int
    height: int

    def directions(self) -> FloatArray:
        """Returns the unit direction of each pixel's centre in the ego frame, [height x width, 3], row by
        row.
        """
        columns, rows = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        rays = np.stack([columns, rows, np.ones_like(columns)], axis=-1).reshape(-1, 3)
        # pixel coordinates name pixel centres by whole numbers in CameraInfo's convention
        rays[:, :2] -= 0.5
        rays = rays @ np.linalg.inv(self.matrix_33).T @ self.ego_from_camera[:3, :3].T
        directions: FloatArray = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return directions


def nuscenes_like_cameras(width: int = 800, height: int = 450) -> tuple[Camera, ...]:
    """Makes six cameras placed and with fields of view as on the nuScenes vehicle (whose images are
    1600x900).

    Args:
        width: Pixels.
        height: Pixels.
    """
    scale = width / 1600.0
    mounts = (
        # modality, x, y, z [m], yaw [deg], focal length [px at 1600]
        ("camera_front", 1.70, 0.00, 1.51, 0.0, 1266.0),
        ("camera_front_right", 1.55, -0.49, 1.50, -56.0, 1261.0),
        ("camera_front_left", 1.52, 0.49, 1.51, 55.0, 1273.0),
        ("camera_back", 0.03, 0.00, 1.57, 180.0, 809.0),
        ("camera_back_left", 1.04, 0.48, 1.59, 108.5, 1257.0),
        ("camera_back_right", 1.01, -0.48, 1.56, -110.5, 1260.0),
    )
    cameras = []
    for modality, x, y, z, yaw, focal in mounts:
        matrix = np.array(
            [[focal * scale, 0.0, width / 2 - 0.5], [0.0, focal * scale, height * 0.545], [0.0, 0.0, 1.0]]
        )
        rotation = rotation_about_z(np.radians(yaw)) @ _EGO_FROM_FORWARD_CAMERA
        cameras.append(Camera(modality, transform_of(rotation, [x, y, z]), matrix, width, height))
    return tuple(cameras)


class CameraRenderer:
    """Renders one camera; the ray directions are computed once."""

    def __init__(self, camera: Camera) -> None:
        """Prepares a camera's rays."""
        self.camera = camera
        self._directions = camera.directions()
        rows, columns = np.divmod(
            np.arange(camera.width * camera.height, dtype=np.int32), np.int32(camera.width)
        )
        self._grain = 2 * (lattice(columns, rows, 17) + lattice(columns, rows, 18) - 1)

    def render(self, scene: Scene, world_from_ego: FloatArray, seed: int = 0) -> NDArray[np.uint8]:
        """Renders the scene.

        Args:
            scene: The street at one moment.
            world_from_ego: 4x4 pose of the vehicle.
            seed: Of the sensor noise.

        Returns:
            uint8 [height, width, 3] RGB.
        """
        rays = np.empty((len(self._directions), 6), dtype=np.float32)
        rays[:, :3] = (world_from_ego @ self.camera.ego_from_camera)[:3, 3]
        rays[:, 3:] = self._directions @ world_from_ego[:3, :3].T
        hits = scene.cast(rays)
        radiance_3n = np.empty((3, len(rays)), dtype=np.float32)
        missed = np.ones(len(rays), dtype=bool)
        missed[hits.hit] = False
        radiance_3n[:, missed] = sky(np.ascontiguousarray(rays[missed, 3:].T), DAYLIGHT)
        radiance_3n[:, hits.hit] = shade(scene, hits, DAYLIGHT)
        # the same grain turned to another place is as good as new
        values_3n = develop(radiance_3n, np.roll(self._grain, seed * 7919 % len(self._grain)), DAYLIGHT)
        return np.ascontiguousarray(values_3n.T).reshape(self.camera.height, self.camera.width, 3)
