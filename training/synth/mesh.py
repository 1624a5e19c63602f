"""Coloured triangle meshes out of simple solids; every triangle knows its material and what object it belongs
to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception_core.geometry import rotation_about_z

FloatArray = NDArray[np.float64]

#: Instance of triangles that belong to no annotated object.
NO_INSTANCE = -1

_BOX_CORNERS = np.array(
    [[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]],
    dtype=np.float64,
)
_BOX_TRIANGLES = np.array(
    [
        *([0, 2, 1], [0, 3, 2]),  # bottom
        *([4, 5, 6], [4, 6, 7]),  # top
        *([0, 1, 5], [0, 5, 4]),  # -y
        *([1, 2, 6], [1, 6, 5]),  # +x
        *([2, 3, 7], [2, 7, 6]),  # +y
        *([3, 0, 4], [3, 4, 7]),  # -x
    ],
    dtype=np.int64,
)


class Material(IntEnum):
    """What a surface is made of: decides its texture, its gloss and how it returns a laser pulse."""

    GROUND = 0  # the street itself, painted by position: asphalt, markings, verge
    WALKWAY = 1
    FACADE = 2  # building walls with windows by position
    ROOF = 3
    FOLIAGE = 4
    BARK = 5
    METAL = 6
    CAR_PAINT = 7
    GLASS = 8
    RUBBER = 9
    CLOTH = 10
    SKIN = 11
    LAMP = 12  # seen bright whatever the light
    SIGN = 13  # retro-reflective


class Semantic(IntEnum):
    """What a surface is, numbered as the training classes of Cityscapes (`trainId`)."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18
    OTHER = 255


#: What a material is where nothing says otherwise.
_SEMANTIC_OF_MATERIAL = {
    Material.GROUND: Semantic.ROAD,
    Material.WALKWAY: Semantic.SIDEWALK,
    Material.FACADE: Semantic.BUILDING,
    Material.ROOF: Semantic.BUILDING,
    Material.FOLIAGE: Semantic.VEGETATION,
    Material.BARK: Semantic.VEGETATION,
}


@dataclass(frozen=True)
class Mesh:
    """Triangles.

    Attributes:
        vertices_n3: Metres.
        triangles_m3: Vertex indices, counter-clockwise seen from outside.
        colour_m3: Base colour of each triangle, linear RGB 0..1.
        material_m: Material of each triangle.
        instance_m: Object each triangle belongs to, or NO_INSTANCE.
        semantic_m: What each triangle is, a `Semantic`.
    """

    vertices_n3: FloatArray
    triangles_m3: NDArray[np.int64]
    colour_m3: FloatArray
    material_m: NDArray[np.int64]
    instance_m: NDArray[np.int64]
    semantic_m: NDArray[np.uint8]

    def moved(self, position_3: ArrayLike, yaw: float, instance: int | None = None) -> Mesh:
        """Returns a copy turned about z and moved; `instance` replaces every triangle's."""
        vertices = self.vertices_n3 @ rotation_about_z(yaw).T + np.asarray(position_3, dtype=np.float64)
        instances = self.instance_m if instance is None else np.full_like(self.instance_m, instance)
        return replace(self, vertices_n3=vertices, instance_m=instances)

    def placed(self, world_from_object_44: FloatArray, instance: int) -> Mesh:
        """Returns a copy transformed by a rigid 4x4 transform, every triangle belonging to `instance`."""
        vertices = self.vertices_n3 @ world_from_object_44[:3, :3].T + world_from_object_44[:3, 3]
        return replace(self, vertices_n3=vertices, instance_m=np.full_like(self.instance_m, instance))

    def labelled(self, semantic: Semantic) -> Mesh:
        """Returns a copy of which every triangle is `semantic`."""
        return replace(self, semantic_m=np.full_like(self.semantic_m, int(semantic)))


def merged(meshes: list[Mesh]) -> Mesh:
    """Joins meshes into one."""
    if not meshes:
        return Mesh(
            np.zeros((0, 3)),
            np.zeros((0, 3), np.int64),
            np.zeros((0, 3)),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.uint8),
        )
    offsets = np.cumsum([0, *(len(mesh.vertices_n3) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.vertices_n3 for mesh in meshes]),
        np.concatenate([mesh.triangles_m3 + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
        np.concatenate([mesh.colour_m3 for mesh in meshes]),
        np.concatenate([mesh.material_m for mesh in meshes]),
        np.concatenate([mesh.instance_m for mesh in meshes]),
        np.concatenate([mesh.semantic_m for mesh in meshes]),
    )


def triangle_mesh(vertices: ArrayLike, triangles: ArrayLike, colour: ArrayLike, material: Material) -> Mesh:
    """Makes a mesh of one colour and material out of vertices [N, 3] and triangles [M, 3]."""
    triangles_m3 = np.asarray(triangles, dtype=np.int64)
    count = len(triangles_m3)
    return Mesh(
        np.asarray(vertices, dtype=np.float64),
        triangles_m3,
        np.broadcast_to(np.asarray(colour, dtype=np.float64), (count, 3)).copy(),
        np.full(count, int(material), dtype=np.int64),
        np.full(count, NO_INSTANCE, dtype=np.int64),
        np.full(count, int(_SEMANTIC_OF_MATERIAL.get(material, Semantic.OTHER)), dtype=np.uint8),
    )


def frustum(
    bottom_3: ArrayLike,
    bottom_size: tuple[float, float],
    top_size: tuple[float, float],
    height: float,
    colour: ArrayLike,
    material: Material,
    top_shift: tuple[float, float] = (0.0, 0.0),
    yaw: float = 0.0,
) -> Mesh:
    """A box whose top may have another size and may be shifted: car cabins, roofs, trousers.

    Args:
        bottom_3: Centre of the bottom face.
        bottom_size: Length along x and width along y of the bottom face.
        top_size: The same of the top face; zero width makes a ridge.
        height: Metres.
        colour: Linear RGB.
        material: Of all faces.
        top_shift: How far the top's centre lies from above the bottom's.
        yaw: Turn about the vertical through `bottom_3`.
    """
    corners = _BOX_CORNERS.copy()
    corners[:4, :2] *= np.array(bottom_size) / 2
    corners[4:, :2] = corners[4:, :2] * (np.array(top_size) / 2) + np.array(top_shift)
    corners[:, 2] *= height
    corners = corners @ rotation_about_z(yaw).T + np.asarray(bottom_3, dtype=np.float64)
    return triangle_mesh(corners, _BOX_TRIANGLES, colour, material)


def box(
    bottom_3: ArrayLike,
    size_3: tuple[float, float, float],
    colour: ArrayLike,
    material: Material,
    yaw: float = 0.0,
) -> Mesh:
    """An upright box standing on `bottom_3`."""
    return frustum(bottom_3, size_3[:2], size_3[:2], size_3[2], colour, material, yaw=yaw)


def cylinder(
    start_3: ArrayLike,
    end_3: ArrayLike,
    radius: float,
    colour: ArrayLike,
    material: Material,
    sides: int = 10,
) -> Mesh:
    """A closed cylinder between two points."""
    start, end = np.asarray(start_3, dtype=np.float64), np.asarray(end_3, dtype=np.float64)
    axis = (end - start) / np.linalg.norm(end - start)
    helper = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    across = np.cross(axis, helper)
    across /= np.linalg.norm(across)
    other = np.cross(axis, across)
    angles = np.arange(sides) * (2 * np.pi / sides)
    ring = radius * (np.cos(angles)[:, None] * across + np.sin(angles)[:, None] * other)
    vertices = np.concatenate([start + ring, end + ring, [start, end]])
    here = np.arange(sides)
    there = (here + 1) % sides
    low, high = np.full(sides, 2 * sides), np.full(sides, 2 * sides + 1)
    triangles = np.concatenate(
        [
            np.stack([here, there, there + sides], axis=1),
            np.stack([here, there + sides, here + sides], axis=1),
            np.stack([there, here, low], axis=1),
            np.stack([here + sides, there + sides, high], axis=1),
        ]
    )
    return triangle_mesh(vertices, triangles, colour, material)


def ellipsoid(
    centre_3: ArrayLike,
    radii_3: tuple[float, float, float],
    colour: ArrayLike,
    material: Material,
    rings: int = 7,
    roughness: float = 0.0,
    generator: np.random.Generator | None = None,
) -> Mesh:
    """An ellipsoid of latitude rings; `roughness` moves vertices in and out by that share (tree crowns)."""
    sides = 2 * rings
    latitudes = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    longitudes = np.arange(sides) * (2 * np.pi / sides)
    directions = np.stack(
        [
            np.cos(latitudes)[:, None] * np.cos(longitudes),
            np.cos(latitudes)[:, None] * np.sin(longitudes),
            np.broadcast_to(np.sin(latitudes)[:, None], (rings + 1, sides)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    scale = np.ones(len(directions))
    if roughness > 0 and generator is not None:
        scale += generator.uniform(-roughness, roughness, len(directions))
        scale[:sides], scale[-sides:] = scale[0], scale[-1]  # the poles are one point each
    vertices = np.asarray(centre_3, dtype=np.float64) + directions * scale[:, None] * np.asarray(radii_3)
    ring, side = np.meshgrid(np.arange(rings), np.arange(sides), indexing="ij")
    here = (ring * sides + side).reshape(-1)
    there = (ring * sides + (side + 1) % sides).reshape(-1)
    triangles = np.concatenate(
        [
            np.stack([here, there, there + sides], axis=1),
            np.stack([here, there + sides, here + sides], axis=1),
        ]
    )
    return triangle_mesh(vertices, triangles, colour, material)
