"""A spinning LiDAR: 32 beams, intensity by material and angle, range noise and lost returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import inverse, transform_of, transform_points
from training.synth.appearance import Painter, surface
from training.synth.mesh import Material
from training.synth.scene import RayScene

FloatArray = NDArray[np.float64]

#: Share of a pulse that comes back per material, on top of how bright the surface is.
_RETURN = {
    Material.GLASS: 0.05,
    Material.RUBBER: 0.35,
    Material.CAR_PAINT: 1.1,
    Material.SIGN: 3.0,
    Material.LAMP: 1.5,
    Material.FOLIAGE: 1.6,
    Material.METAL: 1.2,
}
_GLASS_LOSS, _FOLIAGE_LOSS = 0.75, 0.25
#: Ranges are multiples of this, as a real sensor's are.
RANGE_STEP_M = 0.002
_REFERENCE_RANGE_M = 30.0


@dataclass(frozen=True)
class Lidar:
    """A LiDAR on the vehicle.

    Attributes:
        ego_from_lidar: 4x4 pose.
        elevations: Beam elevations in radians, lowest first; the beam's index is its ring.
        columns: Measurements per turn.
        max_range_m: Farther returns are lost.
        range_noise_m: Standard deviation.
        random_loss: Share of returns that are lost whatever they hit.
    """

    ego_from_lidar: FloatArray
    elevations: tuple[float, ...]
    columns: int = 1084
    max_range_m: float = 90.0
    range_noise_m: float = 0.02
    random_loss: float = 0.02

    def directions(self) -> FloatArray:
        """Returns unit directions in the LiDAR frame, [columns x beams, 3], column by column as the sensor
        turns.
        """
        azimuths = -np.arange(self.columns) * (2 * np.pi / self.columns)  # clockwise seen from above
        elevations = np.array(self.elevations)
        cosine = np.cos(elevations)
        directions: FloatArray = np.stack(
            [
                np.cos(azimuths)[:, None] * cosine,
                np.sin(azimuths)[:, None] * cosine,
                np.broadcast_to(np.sin(elevations), (self.columns, len(elevations))),
            ],
            axis=-1,
        ).reshape(-1, 3)
        return directions


def nuscenes_like_lidar() -> Lidar:
    """Makes a roof-mounted sensor with the beams of the nuScenes vehicle's (32 between -30.67 and +10.67
    degrees).

    Its frame is turned as on that vehicle: x to the right, y forward.
    """
    rotation = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    elevations = np.radians(np.linspace(-30.67, 10.67, 32))
    return Lidar(transform_of(rotation, [0.94, 0.0, 1.84]), tuple(elevations.tolist()))


@dataclass(frozen=True)
class Sweep:
    """One turn.

    Attributes:
        points_nc: float32 [N, 5] x y z intensity (0..255) ring, in the LiDAR frame.
        instance_n: Actor index of each point, or NO_INSTANCE.
    """

    points_nc: NDArray[np.float32]
    instance_n: NDArray[np.int64]


@dataclass(frozen=True)
class Returns:
    """What came back of a set of pulses.

    Attributes:
        ray_n: Which pulses.
        range_n: Metres, with noise, in steps of RANGE_STEP_M.
        intensity_n: 0..255.
        instance_n: Actor index, or NO_INSTANCE.
        semantic_n: Semantic class of what was hit.
    """

    ray_n: NDArray[np.int64]
    range_n: FloatArray
    intensity_n: FloatArray
    instance_n: NDArray[np.int64]
    semantic_n: NDArray[np.uint8]


def measure(
    lidar: Lidar,
    scene: RayScene,
    rays_n6: NDArray[np.float32],
    generator: np.random.Generator,
    paint_ground: Painter | None = None,
) -> Returns:
    """Sends pulses along rays and returns what comes back.

    Args:
        lidar: Its noise, losses and range.
        scene: What can be hit.
        rays_n6: Origins and unit directions in the world frame.
        generator: Of noise and losses.
        paint_ground: Passed to `appearance.surface`.
    """
    hits = scene.cast(rays_n6)
    distance = hits.distance_n[hits.hit]
    albedo, _ = surface(
        hits.position_3h, hits.normal_3h, distance, hits.colour_3h, hits.material_h, paint_ground
    )
    cosine = np.clip(-(hits.normal_3h * hits.direction_3h).sum(axis=0), 0.0, 1.0)
    returned = albedo.mean(axis=0)
    for material, factor in _RETURN.items():
        returned[hits.material_h == material] *= factor
    returned *= np.sqrt(cosine)
    # the receiver evens out distance up to a point; beyond it weak returns fade
    strength = returned * np.minimum(1.0, (_REFERENCE_RANGE_M / np.maximum(distance, 1.0)) ** 1.5)
    luck = generator.random(len(distance))
    loss = np.full(len(distance), lidar.random_loss)
    loss[hits.material_h == Material.GLASS] = _GLASS_LOSS
    loss[hits.material_h == Material.FOLIAGE] = _FOLIAGE_LOSS
    loss = np.maximum(loss, 1.0 - strength / 0.006)
    kept = (luck > loss) & (distance < lidar.max_range_m) & (distance > 0.8)
    measured = distance + generator.normal(0.0, lidar.range_noise_m, len(distance))
    measured = np.round(measured / RANGE_STEP_M) * RANGE_STEP_M
    intensity = np.clip(np.round(returned * 255 * 0.75), 0, 255)
    return Returns(
        hits.hit[kept], measured[kept], intensity[kept], hits.instance_h[kept], hits.semantic_h[kept]
    )


def sweep(lidar: Lidar, scene: RayScene, world_from_ego: FloatArray, generator: np.random.Generator) -> Sweep:
    """Measures the scene once all round, at one instant.

    Args:
        lidar: The sensor.
        scene: The street at one moment.
        world_from_ego: 4x4 pose of the vehicle.
        generator: Of noise and losses.
    """
    world_from_lidar = world_from_ego @ lidar.ego_from_lidar
    directions = lidar.directions()
    rays = np.empty((len(directions), 6), dtype=np.float32)
    rays[:, :3] = world_from_lidar[:3, 3]
    rays[:, 3:] = directions @ world_from_lidar[:3, :3].T
    back = measure(lidar, scene, rays, generator)
    points = transform_points(
        inverse(world_from_lidar),
        rays[back.ray_n, :3] + rays[back.ray_n, 3:].astype(np.float64) * back.range_n[:, None],
    )
    ring = back.ray_n % len(lidar.elevations)
    points_nc = np.column_stack([points, back.intensity_n, ring]).astype(np.float32)
    return Sweep(points_nc, back.instance_n)
