"""The ground of a town: its mesh with curbs, and what is painted where, both out of the same polygons."""

from __future__ import annotations

from enum import IntEnum

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Delaunay
from shapely.geometry import LineString, Polygon

from training.synth import layout
from training.synth.appearance import rgb
from training.synth.mesh import Material, Mesh, Semantic, merged, triangle_mesh
from training.synth.noise import lattice, value_noise
from training.synth.world.town import Town, polygons_of

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]

#: Size of a cell of the painted ground.
CELL_M = 0.08
#: The ground goes on this far beyond the town.
_BEYOND_M = 260.0
_BOUNDARY_STEP_M = 1.5
_TERRAIN_STEP_M = 7.0
_SUBPIXEL_BITS = 4


class Surface(IntEnum):
    """What the ground is made of."""

    GRASS = 0
    ASPHALT = 1
    BIKE_LANE = 2
    PARKING = 3
    WALKWAY = 4
    CURB = 5
    PAVED = 6


#: What lies at the level of the street; everything else is raised by the curb.
STREET = (Surface.ASPHALT, Surface.BIKE_LANE, Surface.PARKING)

_SEMANTIC = np.array(
    [
        Semantic.TERRAIN,
        Semantic.ROAD,
        Semantic.ROAD,
        Semantic.ROAD,
        Semantic.SIDEWALK,
        Semantic.SIDEWALK,
        Semantic.SIDEWALK,
    ],
    dtype=np.uint8,
)


class Ground:
    """Surface and paint of a town by position.

    Attributes:
        surface_hw: Surface of each cell; row 0 is y = 0.
        paint_hw: Coverage with white paint, 0..255.
    """

    def __init__(self, town: Town) -> None:
        """Rasterizes the town's polygons."""
        self._town = town
        columns, rows = (int(np.ceil(size / CELL_M)) for size in town.extent)
        self.surface_hw = np.zeros((rows, columns), dtype=np.uint8)
        self.paint_hw = np.zeros((rows, columns), dtype=np.uint8)
        areas = town.areas
        near = shapely.buffer(shapely.union_all(areas["walkway"] + areas["drivable_area"]), 9.0)
        self._fill(polygons_of(near), Surface.PAVED)
        self._fill(areas["walkway"], Surface.WALKWAY)
        self._fill(polygons_of(town.roadway.buffer(0.22)), Surface.CURB)
        self._fill(areas["drivable_area"], Surface.ASPHALT)
        self._fill(areas["carpark_area"], Surface.PARKING)
        self._fill(areas["bike_lane"], Surface.BIKE_LANE)
        self._paint()

    def cells(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Returns the surface at points; grass outside the town."""
        column, row = np.floor(x / CELL_M).astype(np.int64), np.floor(y / CELL_M).astype(np.int64)
        height, width = self.surface_hw.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        result = np.zeros(np.shape(x), dtype=np.uint8)
        result[inside] = self.surface_hw[row[inside], column[inside]]
        return result

    def semantic(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Returns the semantic class of the ground at points."""
        result: NDArray[np.uint8] = _SEMANTIC[self.cells(x, y)]
        return result

    def height_at(self, x: float, y: float) -> float:
        """Returns the height one stands at: the terrain, and the curb beside the street."""
        column, row = int(x // CELL_M), int(y // CELL_M)
        rows, columns = self.surface_hw.shape
        inside = 0 <= column < columns and 0 <= row < rows
        street = inside and int(self.surface_hw[row, column]) in STREET
        terrain = float(self._town.height(np.array(x), np.array(y))) if self._town.slope_m else 0.0
        return terrain + (0.0 if street else layout.CURB_HEIGHT)

    def paint(
        self, position: Float32Array, normal: Float32Array, distance: Float32Array, colour: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Paints points of the ground; a `Painter` for `appearance.surface`."""
        x, y = position[0], position[1]
        cell = self.cells(x, y)
        fine = (value_noise(x * 14, y * 14, 1) - 0.5) * np.clip(1.6 - distance * 0.17, 0.0, 1.0)
        patches = value_noise(x * 0.35, y * 0.35, 2) - 0.5
        asphalt = 0.118 + 0.05 * fine + 0.03 * patches
        # patches that were mended are darker and have straight edges
        mended = lattice(np.floor(x / 3.7).astype(np.int32), np.floor(y / 2.9).astype(np.int32), 31) > 0.94
        asphalt = asphalt - 0.03 * mended
        albedo = asphalt * rgb(1.0, 1.0, 1.03)
        for surface, tint in (
            (Surface.BIKE_LANE, rgb(2.0, 0.78, 0.62)),
            (Surface.PARKING, rgb(1.3, 1.28, 1.25)),
        ):
            at = cell == surface
            albedo[:, at] = asphalt[at] * tint
        at = (cell == Surface.WALKWAY) | (cell == Surface.PAVED)
        albedo[:, at] = _paving(x[at], y[at], distance[at], cell[at] == Surface.PAVED)
        at = cell == Surface.CURB
        albedo[:, at] = rgb(0.42, 0.415, 0.40) * (0.9 + 0.2 * value_noise(x[at] * 3, y[at] * 3, 5))
        at = cell == Surface.GRASS
        blades = value_noise(x[at] * 5, y[at] * 5, 4) * 0.5 + value_noise(x[at] * 0.3, y[at] * 0.3, 6)
        albedo[:, at] = rgb(0.07, 0.12, 0.03) * (0.55 + 0.6 * blades)
        coverage = self._coverage(x, y) * (
            0.86 - 0.4 * np.clip(value_noise(x * 2.3, y * 2.3, 3) - 0.55, 0, 1)
        )
        albedo += coverage * (0.66 + 0.1 * fine - albedo)
        return albedo.astype(np.float32, copy=False), np.zeros(albedo.shape[1], dtype=np.float32)

    def _coverage(self, x: Float32Array, y: Float32Array) -> Float32Array:
        """Returns the paint at points, interpolated between cells."""
        u, v = x / np.float32(CELL_M) - 0.5, y / np.float32(CELL_M) - 0.5
        height, width = self.paint_hw.shape
        column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        inside = (column >= 0) & (column < width - 1) & (row >= 0) & (row < height - 1)
        result = np.zeros(len(x), dtype=np.float32)
        c, r = column[inside], row[inside]
        s, t = (u[inside] - c).astype(np.float32), (v[inside] - r).astype(np.float32)
        grid = self.paint_hw
        low = grid[r, c] * (1 - s) + grid[r, c + 1] * s
        high = grid[r + 1, c] * (1 - s) + grid[r + 1, c + 1] * s
        result[inside] = (low * (1 - t) + high * t) / 255
        return result

    # -- rasterizing -----------------------------------------------------------------------------------------

    def _pixels(self, points_n2: NDArray[np.float64]) -> NDArray[np.int32]:
        scaled = (np.asarray(points_n2) / CELL_M - 0.5) * (1 << _SUBPIXEL_BITS)
        result: NDArray[np.int32] = np.round(scaled).astype(np.int32)
        return result

    def _fill(self, polygons: list[Polygon], surface: Surface) -> None:
        for polygon in polygons:
            rings = [polygon.exterior, *polygon.interiors]
            pixels = [self._pixels(np.array(ring.coords)) for ring in rings]
            cv2.fillPoly(self.surface_hw, pixels, (int(surface),), shift=_SUBPIXEL_BITS)

    def _paint_area(self, polygon: Polygon) -> None:
        pixels = [self._pixels(np.array(polygon.exterior.coords))]
        cv2.fillPoly(self.paint_hw, pixels, (255,), lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)

    def _paint_line(self, line: LineString, width: float, dash: float = 0.0, gap: float = 0.0) -> None:
        parts = [line]
        if dash > 0:
            begins = np.arange(gap / 2, line.length - dash, dash + gap)
            parts = [shapely.ops.substring(line, begin, begin + dash) for begin in begins]
        for part in parts:
            for polygon in polygons_of(part.buffer(width / 2, cap_style="flat")):
                self._paint_area(polygon)

    def _paint(self) -> None:
        town = self._town
        for line in town.lines["road_divider"]:
            if town.main.section.lanes > 1:
                for side in (-0.12, 0.12):
                    self._paint_line(line.offset_curve(side), 0.12)
            else:
                self._paint_line(line, 0.14, 4.5, 4.5)
        for line in town.lines["lane_divider"]:
            self._paint_line(line, 0.13)
        for line in town.bays:
            self._paint_line(line, 0.1)
        for polygon in town.areas["stop_line"]:
            # the polygon is where one waits; the paint is its part away from the junction
            self._paint_area(_shrunk_to_paint(polygon, town))
        for polygon in town.areas["ped_crossing"]:
            self._paint_zebra(polygon)

    def _paint_zebra(self, polygon: Polygon) -> None:
        a, b, c, d = _corners(polygon)
        along, across = (b - a + c - d) / 2, (d - a + c - b) / 2
        # stripes lie along the traffic, beside each other across the road
        if np.linalg.norm(across) < np.linalg.norm(along):
            along, across = across, along
        width = float(np.linalg.norm(across))
        for begin in np.arange(0.3, width - 0.6, 1.0):
            low, high = begin / width, (begin + 0.5) / width
            corners = [
                a + across * low,
                a + across * high,
                a + across * high + along,
                a + across * low + along,
            ]
            self._paint_area(Polygon(corners))


def _corners(polygon: Polygon) -> tuple[FloatArray, ...]:
    """Returns the four corners of a strip's polygon, which has more vertices on its long sides."""
    ring = np.array(polygon.exterior.coords)[:-1]
    half = len(ring) // 2
    return ring[0], ring[half - 1], ring[half], ring[-1]


def _shrunk_to_paint(polygon: Polygon, town: Town, depth: float = 0.45) -> Polygon:
    """Returns the part of a stop line's area that is painted: the edge farther from its junction."""
    a, b, c, d = _corners(polygon)
    centres = [town.main.curve.at(junction.main_arc) for junction in town.junctions]
    middle_start, middle_end = (a + d) / 2, (b + c) / 2
    nearest = min(centres, key=lambda centre: float(np.linalg.norm(centre - middle_start)))
    length = float(np.linalg.norm(b - a))
    share = depth / length
    if np.linalg.norm(middle_start - nearest) > np.linalg.norm(middle_end - nearest):
        return Polygon([a, a + (b - a) * share, d + (c - d) * share, d])
    return Polygon([b + (a - b) * share, b, c, c + (d - c) * share])


def _paving(
    x: Float32Array, y: Float32Array, distance: Float32Array, large: NDArray[np.bool_]
) -> Float32Array:
    size = np.where(large, np.float32(1.1), np.float32(0.6))
    u, v = x / size, y / size
    row = np.floor(v)
    u = u + 0.5 * (row % 2)
    joint = ((u % 1.0) < 0.05) | ((v % 1.0) < 0.05)
    tile = lattice(np.floor(u).astype(np.int32), row.astype(np.int32), 5) - 0.5
    fade = np.clip(1.6 - distance * 0.04, 0.0, 1.0)
    shade = 1.0 + (0.22 * tile - 0.35 * joint) * fade
    base = np.where(large, rgb(0.24, 0.225, 0.20), rgb(0.29, 0.28, 0.265))
    result: Float32Array = (base * shade).astype(np.float32)
    return result


def ground_mesh(town: Town) -> Mesh:
    """Makes the ground: street at terrain height, everything else raised by the curb, and the curbs' faces.

    A Delaunay triangulation follows the curbs because their points are close enough together.
    """
    rings = [
        np.array(shapely.segmentize(ring, _BOUNDARY_STEP_M).coords)[:-1]
        for polygon in town.roadway.geoms
        for ring in (polygon.exterior, *polygon.interiors)
    ]
    boundary = np.concatenate(rings)
    width, height = town.extent
    outer = np.array(
        [
            (x, y)
            for x in np.linspace(-_BEYOND_M, width + _BEYOND_M, 9)
            for y in np.linspace(-_BEYOND_M, height + _BEYOND_M, 9)
            if not (0 <= x <= width and 0 <= y <= height)
        ]
    )
    points = [boundary, outer]
    if town.slope_m > 0:
        xs, ys = np.meshgrid(np.arange(0, width, _TERRAIN_STEP_M), np.arange(0, height, _TERRAIN_STEP_M))
        grid = np.stack([xs.ravel(), ys.ravel()], axis=1)
        clear = shapely.distance(shapely.points(grid), town.roadway.boundary) > _BOUNDARY_STEP_M
        points.append(grid[clear])
    plane = np.concatenate(points)
    triangles = Delaunay(plane).simplices
    a, b, c = (plane[triangles[:, corner]] for corner in range(3))
    clockwise = np.cross(b - a, c - a) < 0
    triangles[clockwise] = triangles[clockwise][:, ::-1]
    middle = (a + b + c) / 3
    shapely.prepare(town.roadway)
    in_street = shapely.contains_xy(town.roadway, middle[:, 0], middle[:, 1])
    terrain = town.height(plane[:, 0], plane[:, 1])
    vertices = np.concatenate(
        [np.column_stack([plane, terrain]), np.column_stack([plane, terrain + layout.CURB_HEIGHT])]
    )
    triangles = triangles + np.where(in_street, 0, len(plane))[:, None]
    surface = triangle_mesh(vertices, triangles, (0.1, 0.1, 0.1), Material.GROUND)
    return merged([surface, *(_curb_face(ring, town) for ring in rings)])


def _curb_face(ring: NDArray[np.float64], town: Town) -> Mesh:
    low = np.column_stack([ring, town.height(ring[:, 0], ring[:, 1])])
    high = low + np.array([0.0, 0.0, layout.CURB_HEIGHT])
    count = len(ring)
    here, there = np.arange(count), (np.arange(count) + 1) % count
    triangles = np.concatenate(
        [
            np.stack([here, there, there + count], axis=1),
            np.stack([here, there + count, here + count], axis=1),
        ]
    )
    mesh = triangle_mesh(np.concatenate([low, high]), triangles, (0.40, 0.395, 0.38), Material.METAL)
    return mesh.labelled(Semantic.SIDEWALK)
