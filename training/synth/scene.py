"""Meshes ready to be hit by rays, and the demo's street at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from training.synth.mesh import NO_INSTANCE, Mesh, merged
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
        semantic_h: Semantic classes.
    """

    distance_n: Float32Array
    hit: NDArray[np.int64]
    direction_3h: Float32Array
    position_3h: Float32Array
    normal_3h: Float32Array
    colour_3h: Float32Array
    material_h: NDArray[np.int64]
    instance_h: NDArray[np.int64]
    semantic_h: NDArray[np.uint8]


class RayScene(Protocol):
    """What can be hit by rays; implemented with Open3D here and in plain torch by `analytic`."""

    def cast(self, rays_n6: Float32Array) -> Hits:
        """Casts rays: origins and unit directions in the world frame."""
        ...

    def in_shadow(
        self, position_3n: Float32Array, normal_3n: Float32Array, towards_light_3: Float32Array
    ) -> NDArray[np.bool_]:
        """Tells for points on surfaces whether something stands between them and a distant light."""
        ...


class CompiledMesh:
    """A mesh in Embree's structures; building one takes time, casting rays at it does not."""

    def __init__(self, mesh: Mesh) -> None:
        """Builds the structures."""
        # Open3D takes a second to import and is needed only where rays are cast
        import open3d as o3d

        self.colour_3m = np.ascontiguousarray(mesh.colour_m3.T, dtype=np.float32)
        self.material_m = mesh.material_m
        self.instance_m = mesh.instance_m
        self.semantic_m = mesh.semantic_m
        self._tensor = cast(Any, o3d.core.Tensor)
        self._no_hit = o3d.t.geometry.RaycastingScene.INVALID_ID
        self._scene = o3d.t.geometry.RaycastingScene()
        self.empty = len(mesh.triangles_m3) == 0
        if not self.empty:
            self._scene.add_triangles(
                self._tensor(mesh.vertices_n3.astype(np.float32)),
                self._tensor(mesh.triangles_m3.astype(np.uint32)),
            )

    def cast(
        self, rays_n6: Float32Array, threads: int
    ) -> tuple[Float32Array, NDArray[np.int64], Float32Array]:
        """Returns distance [N], triangle [N] (-1: none) and unit normal [N, 3] of the first hits."""
        if self.empty:
            count = len(rays_n6)
            return (
                np.full(count, np.inf, np.float32),
                np.full(count, -1, np.int64),
                np.zeros((count, 3), np.float32),
            )
        answer = self._scene.cast_rays(self._tensor(rays_n6), nthreads=threads)
        ids = answer["primitive_ids"].numpy()
        triangle_n = np.where(ids == self._no_hit, np.int64(-1), ids.astype(np.int64))
        return answer["t_hit"].numpy(), triangle_n, answer["primitive_normals"].numpy()

    def occluded(self, rays_n6: Float32Array, threads: int) -> NDArray[np.bool_]:
        """Tells which rays hit anything."""
        if self.empty:
            return np.zeros(len(rays_n6), dtype=bool)
        result: NDArray[np.bool_] = self._scene.test_occlusions(
            self._tensor(rays_n6), nthreads=threads
        ).numpy()
        return result


class MeshScene:
    """Several compiled meshes seen as one: what stands still is compiled once, what moves for each moment."""

    def __init__(self, parts: Sequence[CompiledMesh], threads: int = 1) -> None:
        """Joins the parts.

        Args:
            parts: At least one.
            threads: Threads of one ray cast; 0: all cores.
        """
        self._parts = list(parts)
        self._threads = threads
        self._offsets = np.cumsum([0, *(len(part.material_m) for part in self._parts[:-1])])
        self._colour_3m = np.concatenate([part.colour_3m for part in self._parts], axis=1)
        self._material_m = np.concatenate([part.material_m for part in self._parts])
        self._instance_m = np.concatenate([part.instance_m for part in self._parts])
        self._semantic_m = np.concatenate([part.semantic_m for part in self._parts])

    def cast(self, rays_n6: Float32Array) -> Hits:
        """Casts rays.

        Args:
            rays_n6: Origins and unit directions in the world frame.
        """
        distance_n, triangle_n, normal_n3 = self._parts[0].cast(rays_n6, self._threads)
        for part, offset in zip(self._parts[1:], self._offsets[1:], strict=True):
            other_n, its_triangle_n, its_normal_n3 = part.cast(rays_n6, self._threads)
            nearer = np.flatnonzero(other_n < distance_n)
            distance_n[nearer] = other_n[nearer]
            triangle_n[nearer] = its_triangle_n[nearer] + offset
            normal_n3[nearer] = its_normal_n3[nearer]
        hit = np.flatnonzero(triangle_n >= 0)
        triangle_h = triangle_n[hit]
        normal_3h = np.ascontiguousarray(normal_n3[hit].T)
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
            self._semantic_m[triangle_h],
        )

    def in_shadow(
        self, position_3n: Float32Array, normal_3n: Float32Array, towards_light_3: Float32Array
    ) -> NDArray[np.bool_]:
        """Tells for points on surfaces whether something stands between them and a distant light."""
        rays = np.empty((position_3n.shape[1], 6), dtype=np.float32)
        rays[:, :3] = (position_3n + np.float32(_SURFACE_OFFSET_M) * normal_3n).T
        rays[:, 3:] = towards_light_3
        result = np.zeros(len(rays), dtype=bool)
        for part in self._parts:
            result |= part.occluded(rays, self._threads)
        return result


class Scene(MeshScene):
    """The demo's street with all actors where they are at one time.

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
        self.time_s = time_s
        ego_x = float(street.ego.position(time_s)[0])
        self.visible: list[tuple[int, Actor]] = [
            (instance, actor)
            for instance, actor in enumerate(street.actors)
            if ego_x - VIEW_BEHIND_M < actor.state(time_s).position_3[0] < ego_x + VIEW_AHEAD_M
        ]
        mesh = merged([street.static, *(actor.mesh(time_s, instance) for instance, actor in self.visible)])
        super().__init__([CompiledMesh(mesh)], threads)


def points_per_instance(instances: NDArray[np.int64]) -> dict[int, int]:
    """Counts hits of each actor."""
    found, counts = np.unique(instances[instances != NO_INSTANCE], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
