"""What stands along the streets and is not annotated: buildings, trees, lamps, signs, benches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Point, Polygon

from training.synth import layout, models
from training.synth.mesh import Material, Mesh, Semantic, box, frustum
from training.synth.street import ROOFS, WALLS
from training.synth.world.town import Road, Town

FloatArray = NDArray[np.float64]

_TREE_SPACING_M = 9.5
_LARGEST_DIAGONAL_M = 25.0
#: Nothing is planted this close to a point where roads cross, or to the driveway.
_CLEAR_OF_DRIVEWAY_M = 6.5


@dataclass(frozen=True)
class Post:
    """A slender object: what the analytic ray-caster keeps of trees, lamps and signs.

    Attributes:
        position_2: Metres.
        radius_m: Of its stem.
        height_m: Above ground.
        crown_radius_m: 0 where it has none.
        crown_height_m: Height of the crown's middle.
    """

    position_2: tuple[float, float]
    radius_m: float
    height_m: float
    crown_radius_m: float = 0.0
    crown_height_m: float = 0.0


@dataclass(frozen=True)
class Building:
    """An upright box.

    Attributes:
        position_2: Its centre.
        size_3: Length along the street, depth, height in metres.
        yaw: Radians.
        colour: Of its walls.
    """

    position_2: tuple[float, float]
    size_3: tuple[float, float, float]
    yaw: float
    colour: tuple[float, float, float]

    def footprint(self, margin: float = 0.0) -> Polygon:
        """Returns its outline on the ground."""
        length, depth = self.size_3[0] + 2 * margin, self.size_3[1] + 2 * margin
        rectangle = shapely.geometry.box(-length / 2, -depth / 2, length / 2, depth / 2)
        turned = shapely.affinity.rotate(rectangle, self.yaw, origin=(0, 0), use_radians=True)
        return shapely.affinity.translate(turned, *self.position_2)


@dataclass(frozen=True)
class Scenery:
    """Everything that stands still and is not annotated.

    Attributes:
        meshes: In the map frame.
        buildings: The boxes among them.
        posts: The slender objects among them.
    """

    meshes: list[Mesh]
    buildings: list[Building]
    posts: list[Post]


def make_scenery(town: Town) -> Scenery:
    """Makes what stands along the streets; the same town always gets the same."""
    generator = np.random.default_rng([town.seed, 202])
    buildings = _buildings(generator, town)
    meshes = [mesh for building in buildings for mesh in _building_meshes(generator, town, building)]
    posts: list[Post] = []
    for road in town.roads:
        _plant(generator, town, road, meshes, posts)
    _backdrop(generator, town, meshes)
    return Scenery(meshes, buildings, posts)


def _buildings(generator: np.random.Generator, town: Town) -> list[Building]:
    beside = shapely.union_all(town.areas["walkway"] + town.areas["drivable_area"]).buffer(0.4)
    shapely.prepare(beside)
    placed: list[Building] = []
    footprints: list[Polygon] = []
    for index, road in enumerate(town.roads):
        for side in (-1.0, 1.0):
            arc = 0.0
            while arc < road.curve.length - 6.0:
                width = generator.uniform(11.0, 20.0)
                depth = generator.uniform(10.0, 14.0)
                floors = int(generator.integers(2, 6)) if index == 0 else int(generator.integers(2, 4))
                height = 3.9 + 3.1 * (floors - 1) + 0.5
                setback = float(generator.choice([0.9, 0.9, 1.6, 6.0]))
                wall = WALLS[generator.integers(len(WALLS))] * generator.uniform(0.85, 1.1)
                middle = arc + width / 2
                lateral = side * (road.section.walkway_edge + setback + depth / 2)
                x, y = road.curve.at(middle, lateral)
                yaw = float(road.curve.heading(middle))
                candidate = Building(
                    (float(x), float(y)),
                    (width, depth, height),
                    yaw,
                    (float(wall[0]), float(wall[1]), float(wall[2])),
                )
                footprint = candidate.footprint()
                # two houses may share a wall, not more
                taken = any(
                    np.hypot(other.position_2[0] - x, other.position_2[1] - y) < _LARGEST_DIAGONAL_M
                    and footprint.intersection(outline).area > 2.0
                    for other, outline in zip(placed, footprints, strict=True)
                )
                if taken or beside.intersects(footprint):
                    arc += 3.0
                    continue
                placed.append(candidate)
                footprints.append(footprint)
                arc += width + (generator.uniform(2.5, 6.0) if generator.random() < 0.25 else 0.0)
    return placed


def _building_meshes(generator: np.random.Generator, town: Town, building: Building) -> list[Mesh]:
    (x, y), (width, depth, height) = building.position_2, building.size_3
    base = float(town.height(np.array(x), np.array(y))) + layout.CURB_HEIGHT
    wall = np.array(building.colour)
    sunk = 1.5 * town.slope_m  # so that it meets the ground on a slope
    parts = [box((x, y, base - sunk), (width, depth, height + sunk), wall, Material.FACADE, yaw=building.yaw)]
    top = base + height
    if generator.random() < 0.5 and height < 15.0:
        roof = ROOFS[generator.integers(len(ROOFS))]
        parts.append(
            frustum(
                (x, y, top),
                (width + 0.3, depth + 0.7),
                (width + 0.3, 0.4),
                3.0,
                roof,
                Material.ROOF,
                yaw=building.yaw,
            )
        )
    else:
        parts.append(
            box((x, y, top), (width + 0.2, depth + 0.3, 0.35), wall * 0.8, Material.ROOF, yaw=building.yaw)
        )
    return parts


def _plant(
    generator: np.random.Generator, town: Town, road: Road, meshes: list[Mesh], posts: list[Post]
) -> None:
    """Trees, lamps and benches along both walkways of a road."""
    section = road.section
    driveway = town.main.curve.at((town.lot.start_arc + town.lot.end_arc) / 2, -section.curb)
    walkways = shapely.union_all(town.areas["walkway"])
    shapely.prepare(walkways)
    zebras = shapely.union_all(town.areas["ped_crossing"]).buffer(1.6)
    shapely.prepare(zebras)
    for side in (-1.0, 1.0):
        for number, arc in enumerate(np.arange(5.0, road.curve.length - 4.0, _TREE_SPACING_M)):
            along = float(arc + generator.uniform(-0.6, 0.6))
            at = road.curve.at(along, side * (section.curb + 0.95))
            clear = shapely.contains_xy(walkways, at[0], at[1]) and not shapely.intersects_xy(
                zebras, at[0], at[1]
            )
            draw = generator.random()
            yaw = float(road.curve.heading(along))
            if not clear or np.linalg.norm(at - driveway) < _CLEAR_OF_DRIVEWAY_M:
                continue
            base = float(town.height(at[0], at[1])) + layout.CURB_HEIGHT
            if number % 4 == 2:
                post_at = road.curve.at(along, side * (section.curb + 0.5))
                lamp = models.street_lamp(-side).labelled(Semantic.POLE)
                meshes.append(lamp.moved((*post_at, base), yaw))
                posts.append(Post((float(post_at[0]), float(post_at[1])), 0.09, 7.5))
            elif draw < 0.85:
                tree, post = models.tree_with_size(generator)
                meshes.append(tree.moved((*at, base), generator.uniform(0, 2 * np.pi)))
                trunk, crown, middle = post
                posts.append(Post((float(at[0]), float(at[1])), 0.14, trunk, crown, middle))
            if number % 5 == 3:
                back = road.curve.at(along + 3.0, side * (section.walkway_edge - 0.35))
                if shapely.contains_xy(walkways, back[0], back[1]):
                    meshes.append(models.bench().moved((*back, base), yaw + (0.0 if side < 0 else np.pi)))
            if number % 7 == 5:
                face, round_face = ((0.85, 0.85, 0.85), True) if draw < 0.5 else ((0.02, 0.1, 0.5), False)
                foot = road.curve.at(along + 2.0, side * (section.curb + 0.5))
                turned = yaw if side < 0 else yaw + np.pi
                meshes.append(models.sign(face, round_face).moved((*foot, base), turned))
                posts.append(Post((float(foot[0]), float(foot[1])), 0.05, 2.6))


def _backdrop(generator: np.random.Generator, town: Town, meshes: list[Mesh]) -> None:
    """Woods around the town, so that streets do not end in the sky."""
    width, height = town.extent
    middle = np.array([width, height]) / 2
    reach = float(np.hypot(width, height)) / 2 + 20.0
    streets = town.roadway.buffer(25.0)
    shapely.prepare(streets)
    for angle in np.arange(0, 2 * np.pi, 2 * np.pi / 70):
        distance = reach + generator.uniform(0.0, 60.0)
        at = middle + distance * np.array([np.cos(angle), np.sin(angle)])
        if streets.intersects(Point(at)):
            continue
        green = np.array([0.09, 0.15, 0.045]) * generator.uniform(0.7, 1.2, 3)
        size = (generator.uniform(18, 30), generator.uniform(18, 30), generator.uniform(9, 17))
        meshes.append(models.crown((float(at[0]), float(at[1]), 1.0), size, green, generator))
