"""The street at one moment, ready to be hit by rays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from training.synth.mesh import NO_INSTANCE, merged
from training.synth.street import VIEW_AHEAD_M, VIEW_BEHIND_M, Actor, Street

Float32Array = NDArray[np.float32]

#: Shadow rays begin this far above the surface.
_SURFACE_OFFSET_M = 0.012


@dataclass(frozen=True)
class Hits:
    """Where rays ended.

    Coordinates and colours are stored channel by channel: arithmetic on [3, N] runs along N and is several
    times faster.

    Attributes:
        distance_n: Metres along each ray, inf for those that hit nothing.
        hit: Indices of the rays that hit something; the other arrays are only for these.
        direction_3h: Unit directions of the rays that hit, world frame.
        position_3h: World coordinates.
        normal_3h: Unit normals towards the viewer.
        colour_3h: Base colours.
        material_h: Materials.
        instance_h: Actor indices or NO_INSTANCE.
    """

    distance_n: Float32Array
    hit: NDArray[np.int64]
    direction_3h: Float32Array
    position_3h: Float32Array
    normal_3h: Float32Array
    colour_3h: Float32Array
    material_h: NDArray[np.int64]
    instance_h: NDArray[np.int64]


class Scene:
    """The street with all actors where they are at one time.

    Attributes:
        time_s: That time.
        visible: (instance, actor) of the actors that are within view.
    """

    def __init__(self, street: Street, time_s: float, threads: int = 1) -> None:
        """Builds the scene.

        Args:
            street: The world.
            time_s: Seconds into the drive.
            threads: Threads of one ray cast; 0: all cores.
        """
        # Open3D takes a second to import and is needed only where rays are cast
        import open3d as o3d

        self.time_s = time_s
        self._threads = threads
        ego_x = float(street.ego.position(time_s)[0])
        self.visible: list[tuple[int, Actor]] = [
            (instance, actor)
            for instance, actor in enumerate(street.actors)
            if ego_x - VIEW_BEHIND_M < actor.state(time_s).position_3[0] < ego_x + VIEW_AHEAD_M
        ]
        mesh = merged([street.static, *(actor.mesh(time_s, instance) for instance, actor in self.visible)])
        self._colour_3m = np.ascontiguousarray(mesh.colour_m3.T, dtype=np.float32)
        self._material_m = mesh.material_m
        self._instance_m = mesh.instance_m
        self._tensor = cast(Any, o3d.core.Tensor)
        self._no_hit = o3d.t.geometry.RaycastingScene.INVALID_ID
        self._scene = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            self._tensor(mesh.vertices_n3.astype(np.float32)),
            self._tensor(mesh.triangles_m3.astype(np.uint32)),
        )

    def cast(self, rays_n6: Float32Array) -> Hits:
        """Casts rays.

        Args:
            rays_n6: Origins and unit directions in the world frame.
        """
        answer = self._scene.cast_rays(self._tensor(rays_n6), nthreads=self._threads)
        triangle_n = answer["primitive_ids"].numpy()
        distance_n = answer["t_hit"].numpy()
        hit = np.flatnonzero(triangle_n != self._no_hit)
        triangle_h = triangle_n[hit]
        normal_3h = np.ascontiguousarray(answer["primitive_normals"].numpy()[hit].T)
        origin_direction_6h = np.ascontiguousarray(rays_n6[hit].T)
        direction_3h = origin_direction_6h[3:]
        # thin parts may be seen from inside; light them as seen
        normal_3h *= np.where((normal_3h * direction_3h).sum(axis=0) > 0, np.float32(-1), np.float32(1))
        return Hits(
            distance_n,
            hit,
            direction_3h,
            origin_direction_6h[:3] + direction_3h * distance_n[hit],
            normal_3h,
            self._colour_3m[:, triangle_h],
            self._material_m[triangle_h],
            self._instance_m[triangle_h],
        )

    def in_shadow(
        self, position_3n: Float32Array, normal_3n: Float32Array, towards_light_3: Float32Array
    ) -> NDArray[np.bool_]:
        """Tells for points on surfaces whether something stands between them and a distant light."""
        rays = np.empty((position_3n.shape[1], 6), dtype=np.float32)
        rays[:, :3] = (position_3n + np.float32(_SURFACE_OFFSET_M) * normal_3n).T
        rays[:, 3:] = towards_light_3
        result: NDArray[np.bool_] = self._scene.test_occlusions(
            self._tensor(rays), nthreads=self._threads
        ).numpy()
        return result


def points_per_instance(instances: NDArray[np.int64]) -> dict[int, int]:
    """Counts hits of each actor."""
    found, counts = np.unique(instances[instances != NO_INSTANCE], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
