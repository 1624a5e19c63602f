"""Cameras: pinhole pictures by ray casting, lit by sun and sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import rotation_about_z, transform_of
from training.synth.appearance import rgb, surface
from training.synth.mesh import Material
from training.synth.noise import lattice, value_noise
from training.synth.scene import Hits, Scene

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

_SUN_AZIMUTH, _SUN_ELEVATION = np.radians(128.0), np.radians(47.0)
TOWARDS_SUN: Float32Array = np.array(
    [
        np.cos(_SUN_AZIMUTH) * np.cos(_SUN_ELEVATION),
        np.sin(_SUN_AZIMUTH) * np.cos(_SUN_ELEVATION),
        np.sin(_SUN_ELEVATION),
    ],
    dtype=np.float32,
)
_SUNLIGHT = rgb(2.55, 2.30, 1.92)
_SKY_LIGHT = rgb(0.50, 0.62, 0.82)
_GROUND_LIGHT = rgb(0.30, 0.28, 0.25)
_ZENITH = rgb(0.16, 0.34, 0.72)
_HORIZON = rgb(0.66, 0.76, 0.86)
_HAZE_DISTANCE_M = 600.0

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
        radiance_3n[:, missed] = sky(np.ascontiguousarray(rays[missed, 3:].T))
        radiance_3n[:, hits.hit] = _shade(scene, hits)
        # the same grain turned to another place is as good as new
        values_3n = _develop(radiance_3n, np.roll(self._grain, seed * 7919 % len(self._grain)))
        return np.ascontiguousarray(values_3n.T).reshape(self.camera.height, self.camera.width, 3)


def sky(direction_3n: Float32Array) -> Float32Array:
    """Returns the radiance [3, N] of the sky: a gradient, the sun's glow and thin clouds."""
    up = np.clip(direction_3n[2], 0.0, 1.0)
    colour = _HORIZON + (_ZENITH - _HORIZON) * up**0.55
    # clouds live on a plane far above, so that they flatten towards the horizon
    scale = 1.0 / np.maximum(up, 0.03)
    u, v = direction_3n[0] * scale, direction_3n[1] * scale
    clouds = (
        0.55 * value_noise(u * 1.1, v * 0.9, 20)
        + 0.3 * value_noise(u * 2.7, v * 2.3, 21)
        + 0.15 * value_noise(u * 6.1, v * 5.3, 22)
    )
    cover = np.clip((clouds - 0.50) * 3.2, 0.0, 0.85) * np.clip(up * 7.0, 0.0, 1.0)
    colour += (rgb(1.0, 0.99, 0.97) - colour) * cover
    glow = np.clip(TOWARDS_SUN @ direction_3n, 0.0, 1.0)
    colour += (0.35 * glow**24 + 3.0 * glow**1200) * rgb(1.0, 0.93, 0.8)
    result: Float32Array = colour
    return result


def _shade(scene: Scene, hits: Hits) -> Float32Array:
    """Returns the radiance [3, H] that the hit surfaces send back along their rays."""
    normal, distance = hits.normal_3h, hits.distance_n[hits.hit]
    albedo, gloss = surface(hits.position_3h, normal, distance, hits.colour_3h, hits.material_h)
    lit = TOWARDS_SUN @ normal
    candidates = np.flatnonzero(lit > 0.0)
    np.maximum(lit, 0.0, out=lit)
    shadowed = scene.in_shadow(hits.position_3h[:, candidates], normal[:, candidates], TOWARDS_SUN)
    lit[candidates[shadowed]] = 0.0
    up = 0.5 + 0.5 * normal[2]
    radiance = lit * _SUNLIGHT
    radiance += up * (_SKY_LIGHT - _GROUND_LIGHT) + _GROUND_LIGHT
    radiance *= albedo
    radiance *= np.float32(0.62)

    shiny = np.flatnonzero(gloss > 0)
    if len(shiny):
        towards, facing = hits.direction_3h[:, shiny], normal[:, shiny]
        cosine = -(towards * facing).sum(axis=0)
        mirrored = towards + 2 * cosine * facing
        fresnel = gloss[shiny] + (1 - gloss[shiny]) * 0.55 * np.clip(1 - cosine, 0, 1) ** 4
        seen = np.where(mirrored[2] > 0, sky(mirrored), 0.22 * _HORIZON)
        # opposite houses hide the lower part of the sky from most reflections
        seen *= np.clip(0.35 + 1.4 * mirrored[2], 0.3, 1.0)
        highlight = np.clip(TOWARDS_SUN @ mirrored, 0, 1) ** 180 * (lit[shiny] > 0)
        radiance[:, shiny] = radiance[:, shiny] * (1 - fresnel) + fresnel * (seen + 2.5 * highlight)
    lamp = hits.material_h == Material.LAMP
    radiance[:, lamp] = albedo[:, lamp] * 0.95
    radiance += (_HORIZON - radiance) * (1 - np.exp(distance * np.float32(-1.0 / _HAZE_DISTANCE_M)))
    result: Float32Array = radiance
    return result


#: Entries of the tables that turn radiance into 8-bit values.
_TONE_STEPS = 4096
_BRIGHTEST = 4.0


def _tone_table() -> NDArray[np.uint8]:
    """Filmic curve (Narkowicz' fit of ACES) and sRGB-like gamma for radiance 0.._BRIGHTEST."""
    exposed = np.linspace(0.0, _BRIGHTEST, _TONE_STEPS) * 0.92
    mapped = exposed * (2.51 * exposed + 0.03) / (exposed * (2.43 * exposed + 0.59) + 0.14)
    table: NDArray[np.uint8] = np.clip(np.clip(mapped, 0, 1) ** (1 / 2.2) * 255 + 0.5, 0, 255).astype(
        np.uint8
    )
    return table


_TONE = _tone_table()


def _develop(radiance_3n: Float32Array, grain_n: Float32Array) -> NDArray[np.uint8]:
    """Turns radiance into 8-bit values with a trace of sensor noise."""
    steps = radiance_3n * np.float32((_TONE_STEPS - 1) / _BRIGHTEST)
    # noise as a photo-diode has it: growing with the signal, on top of a floor
    steps += grain_n * (np.float32(3.0) + np.float32(0.02) * steps)
    np.clip(steps, 0, _TONE_STEPS - 1, out=steps)
    values: NDArray[np.uint8] = _TONE[steps.astype(np.int16)]
    return values
