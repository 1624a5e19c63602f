"""Turns of the LiDAR while it and everybody else move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import inverse, transform_points
from training.synth.lidar import Lidar, measure
from training.synth.mesh import NO_INSTANCE, Semantic

if TYPE_CHECKING:
    from training.synth.world.world import Moment, World

FloatArray = NDArray[np.float64]

#: Time of one turn at 20 Hz.
TURN_S = 0.05
#: The turn starts behind the vehicle and goes clockwise; cameras release when it passes their axis: back
#: left, front left, front, front right, back right, back (shares of a turn).
CAMERA_SHARES = {
    "camera_back_left": 0.2,
    "camera_front_left": 0.35,
    "camera_front": 0.5,
    "camera_front_right": 0.65,
    "camera_back_right": 0.8,
    "camera_back": 1.0,
}
#: The moments of a turn before its end, in seconds, in the order of CAMERA_SHARES.
SLICE_TIMES = tuple((share - 1.0) * TURN_S for share in CAMERA_SHARES.values())
_SLICE_ENDS = (0.275, 0.425, 0.575, 0.725, 0.9, 1.0)
_STRAY_NEAREST_M, _STRAY_FARTHEST_M = 1.2, 14.0


@dataclass(frozen=True)
class WorldSweep:
    """One turn.

    Attributes:
        points_nc: float32 [N, 5] x y z intensity (0..255) ring, in the LiDAR frame at the end of the turn;
            the ego vehicle's own motion is compensated, that of others is not.
        instance_n: Actor index of each point, or NO_INSTANCE.
        semantic_n: Semantic class of each point.
    """

    points_nc: NDArray[np.float32]
    instance_n: NDArray[np.int64]
    semantic_n: NDArray[np.uint8]


def sweep_slices(world: World, lidar: Lidar, time_s: float, moments: list[Moment]) -> WorldSweep:
    """Measures one turn that ends at `time_s`.

    Args:
        world: Its seed, its weather and the drive.
        lidar: The sensor.
        time_s: End of the turn.
        moments: One for the whole turn, or one for each of its six parts.
    """
    generator = np.random.default_rng([world.seed, round(time_s * 1e6) % 2**31, 11])
    end = world.world_from_ego(time_s) @ lidar.ego_from_lidar
    share = (np.arange(lidar.columns) + 1) / lidar.columns
    rays = _rays(world, lidar, time_s, share)
    beams = len(lidar.elevations)
    cuts = [0, lidar.columns]
    if len(moments) > 1:
        cuts = [0, *(round(limit * lidar.columns) for limit in _SLICE_ENDS)]
    points, columns = [], []
    for moment, low, high in zip(moments, cuts[:-1], cuts[1:], strict=True):
        part = rays[low * beams : high * beams]
        back = measure(lidar, moment.scene, part, generator, world.ground.paint)
        direction = part[back.ray_n, 3:].astype(np.float64)
        points.append(part[back.ray_n, :3] + direction * back.range_n[:, None])
        columns.append(
            np.column_stack([back.intensity_n, back.ray_n % beams, back.instance_n, back.semantic_n])
        )
    found = np.concatenate(columns)
    in_lidar = transform_points(inverse(end), np.concatenate(points))
    measured = np.column_stack([in_lidar, found[:, :2]])
    instance, semantic = found[:, 2].astype(np.int64), found[:, 3].astype(np.uint8)
    stray = round(world.preset.stray_returns * world.conditions.rain)
    if stray:
        measured = np.concatenate([measured, _stray(generator, lidar, stray)])
        instance = np.concatenate([instance, np.full(stray, NO_INSTANCE)])
        semantic = np.concatenate([semantic, np.full(stray, int(Semantic.OTHER), np.uint8)])
    return WorldSweep(measured.astype(np.float32), instance, semantic)


def _rays(world: World, lidar: Lidar, time_s: float, share: FloatArray) -> NDArray[np.float32]:
    """Returns the rays of a turn, from where the sensor is when each column is measured."""
    # beginning at -y of the LiDAR frame, which is behind the vehicle, and clockwise
    azimuth = -np.pi / 2 - 2 * np.pi * share
    elevations = np.array(lidar.elevations)
    cosine = np.cos(elevations)
    local = np.stack(
        [
            np.cos(azimuth)[:, None] * cosine,
            np.sin(azimuth)[:, None] * cosine,
            np.broadcast_to(np.sin(elevations), (len(share), len(elevations))),
        ],
        axis=-1,
    )
    if world.preset.rolling_sweep:
        start = world.world_from_ego(time_s - TURN_S) @ lidar.ego_from_lidar
        end = world.world_from_ego(time_s) @ lidar.ego_from_lidar
        # over a twentieth of a second a blend of two nearly equal rotations is one, to 1e-6
        mixed = start[None] + (end - start)[None] * share[:, None, None]
    else:
        mixed = np.broadcast_to(world.world_from_ego(time_s) @ lidar.ego_from_lidar, (len(share), 4, 4))
    directions = np.einsum("cij,cbj->cbi", mixed[:, :3, :3], local)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    rays = np.empty((*directions.shape[:2], 6), dtype=np.float32)
    rays[..., :3] = mixed[:, None, :3, 3]
    rays[..., 3:] = directions
    return rays.reshape(-1, 6)


def _stray(generator: np.random.Generator, lidar: Lidar, count: int) -> FloatArray:
    """Returns points [N, 5] where drops threw the pulse back."""
    azimuth = generator.uniform(-np.pi, np.pi, count)
    ring = generator.integers(8, len(lidar.elevations), count)
    elevation = np.array(lidar.elevations)[ring]
    distance = _STRAY_NEAREST_M + (_STRAY_FARTHEST_M - _STRAY_NEAREST_M) * generator.random(count) ** 2
    return np.column_stack(
        [
            distance * np.cos(azimuth) * np.cos(elevation),
            distance * np.sin(azimuth) * np.cos(elevation),
            distance * np.sin(elevation),
            generator.integers(0, 4, count),
            ring,
        ]
    )
