"""A seeded street: buildings, trees, parked and moving road users, and the drive of the ego vehicle through
it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import quaternion_from_yaw, transform_from_quaternion
from training.synth import layout, models
from training.synth.mesh import Material, Mesh, box, frustum, merged

FloatArray = NDArray[np.float64]
Size = tuple[float, float, float]

#: How far around the drive the street exists.
VIEW_AHEAD_M = 130.0
VIEW_BEHIND_M = 70.0

PAINTS = np.array(
    [
        (0.62, 0.64, 0.66),
        (0.03, 0.035, 0.04),
        (0.80, 0.80, 0.78),
        (0.34, 0.02, 0.02),
        (0.02, 0.07, 0.28),
        (0.16, 0.17, 0.19),
        (0.03, 0.13, 0.11),
        (0.52, 0.43, 0.28),
        (0.60, 0.22, 0.02),
    ]
)
SHIRTS = np.array(
    [
        (0.45, 0.05, 0.05),
        (0.06, 0.13, 0.38),
        (0.7, 0.68, 0.6),
        (0.5, 0.33, 0.03),
        (0.04, 0.22, 0.12),
        (0.12, 0.1, 0.16),
    ]
)
TROUSERS = np.array([(0.03, 0.045, 0.09), (0.05, 0.05, 0.05), (0.25, 0.2, 0.14), (0.12, 0.13, 0.15)])
SKINS = np.array([(0.55, 0.34, 0.24), (0.38, 0.21, 0.13), (0.18, 0.09, 0.05)])
WALLS = np.array(
    [
        (0.34, 0.13, 0.085),
        (0.52, 0.43, 0.31),
        (0.42, 0.40, 0.37),
        (0.60, 0.55, 0.45),
        (0.28, 0.20, 0.16),
        (0.45, 0.28, 0.19),
        (0.36, 0.40, 0.42),
    ]
)
ROOFS = np.array([(0.20, 0.075, 0.05), (0.085, 0.085, 0.095), (0.13, 0.10, 0.085)])


@dataclass(frozen=True)
class State:
    """Where something is and how it moves, in the world frame.

    Attributes:
        position_3: Metres; the point on the ground under its centre.
        yaw: Radians.
        velocity_2: Metres a second.
    """

    position_3: FloatArray
    yaw: float
    velocity_2: FloatArray


@dataclass(frozen=True)
class Actor:
    """An annotated road user or obstacle, moving with constant velocity.

    Attributes:
        label: Detection class as in nuScenes.
        size: Length, width, height in metres.
        start_2: Where it stands on the ground at time 0.
        yaw: Heading.
        speed: Metres a second along the heading.
        mesh_at: Mesh around the origin as a function of the distance travelled (legs move with it).
    """

    label: str
    size: Size
    start_2: FloatArray
    yaw: float
    speed: float
    mesh_at: Callable[[float], Mesh]

    def state(self, time_s: float) -> State:
        """Returns the actor's state at a time."""
        heading = np.array([np.cos(self.yaw), np.sin(self.yaw)])
        x, y = (float(value) for value in (self.start_2 + heading * self.speed * time_s))
        return State(np.array([x, y, layout.ground_height(x, y)]), self.yaw, heading * self.speed)

    def mesh(self, time_s: float, instance: int) -> Mesh:
        """Returns the mesh in the world at a time."""
        state = self.state(time_s)
        return self.mesh_at(self.speed * time_s).moved(state.position_3, state.yaw, instance)


@dataclass(frozen=True)
class EgoDrive:
    """The ego vehicle's drive along its lane: about 8 m/s, breathing a little in speed and side.

    All is analytic, so that velocity and yaw rate are exact.
    """

    speed: float = 8.0
    speed_amplitude: float = 0.6
    speed_frequency: float = 0.55
    side_amplitude: float = 0.10
    side_frequency: float = 0.7

    def position(self, time_s: float) -> FloatArray:
        """Returns the position of the rear axle on the ground."""
        x = self.speed * time_s + self.speed_amplitude / self.speed_frequency * (
            1 - np.cos(self.speed_frequency * time_s)
        )
        return np.array(
            [x, layout.EGO_LANE_Y + self.side_amplitude * np.sin(self.side_frequency * time_s), 0.0]
        )

    def velocity(self, time_s: float) -> FloatArray:
        """Returns the velocity in the world frame, metres a second."""
        along = self.speed + self.speed_amplitude * np.sin(self.speed_frequency * time_s)
        across = self.side_amplitude * self.side_frequency * np.cos(self.side_frequency * time_s)
        return np.array([along, across, 0.0])

    def yaw(self, time_s: float) -> float:
        """Returns the heading: the vehicle points where it goes."""
        velocity = self.velocity(time_s)
        return float(np.arctan2(velocity[1], velocity[0]))

    def yaw_rate(self, time_s: float) -> float:
        """Returns the yaw rate in radians a second."""
        velocity = self.velocity(time_s)
        along = self.speed_amplitude * self.speed_frequency * np.cos(self.speed_frequency * time_s)
        across = -self.side_amplitude * self.side_frequency**2 * np.sin(self.side_frequency * time_s)
        return float((velocity[0] * across - velocity[1] * along) / (velocity[0] ** 2 + velocity[1] ** 2))

    def world_from_ego(self, time_s: float) -> FloatArray:
        """Returns the pose of the ego frame."""
        return transform_from_quaternion(self.position(time_s), quaternion_from_yaw(self.yaw(time_s)))


@dataclass(frozen=True)
class Street:
    """The generated world.

    Attributes:
        seed: What it was made from.
        seconds: Length of the drive.
        static: Mesh of everything that neither moves nor is annotated.
        actors: Annotated objects; an actor's index is its instance.
        ego: The drive.
    """

    seed: int
    seconds: float
    static: Mesh
    actors: tuple[Actor, ...]
    ego: EgoDrive


def make_street(seed: int, seconds: float) -> Street:
    """Makes a street long enough for a drive of `seconds`; the same arguments always give the same street."""
    generator = np.random.default_rng(seed)
    ego = EgoDrive()
    begin_x, end_x = -VIEW_BEHIND_M, float(ego.position(seconds)[0]) + VIEW_AHEAD_M
    corners = layout.side_streets_between(begin_x - layout.BLOCK_LENGTH, end_x + layout.BLOCK_LENGTH)
    blocks = [
        (left + layout.SIDE_STREET_HALF_WIDTH, right - layout.SIDE_STREET_HALF_WIDTH)
        for left, right in itertools.pairwise(corners)
    ]
    static = [_ground(begin_x, end_x)]
    for block in blocks:
        for side in (-1.0, 1.0):
            static += _walkway(block, side)
            static += _buildings(generator, block, side)
            static += _furniture(generator, block, side)
    actors = [
        *_parked(generator, blocks),
        *_lane_traffic(generator, begin_x, end_x, seconds),
        *_cyclists(generator, begin_x, end_x, seconds),
        *_walkers(generator, begin_x, end_x, seconds),
        *_crossing_walkers(generator, corners, begin_x, end_x),
        *_road_works(blocks),
    ]
    return Street(seed, seconds, merged(static), tuple(actors), ego)


# -- what stands still ---------------------------------------------------------------------------------------


def _ground(begin_x: float, end_x: float) -> Mesh:
    margin = 60.0
    size = (end_x - begin_x + 2 * margin, 160.0, 0.2)
    return box(((begin_x + end_x) / 2, 0.0, -0.2), size, (0.1, 0.1, 0.1), Material.GROUND)


def _walkway(block: tuple[float, float], side: float) -> list[Mesh]:
    length, middle = block[1] - block[0], (block[0] + block[1]) / 2
    stone = (0.36, 0.355, 0.34)
    # the raised ground reaches from the curb under the buildings; a strip of lighter stone is its edge
    inner = box(
        (middle, side * (layout.CURB + 20.15), 0),
        (length, 39.7, layout.CURB_HEIGHT),
        (0.29, 0.28, 0.265),
        Material.WALKWAY,
    )
    edge = box(
        (middle, side * (layout.CURB + 0.15), 0),
        (length, 0.3, layout.CURB_HEIGHT + 0.004),
        stone,
        Material.METAL,
    )
    return [inner, edge]


def _buildings(generator: np.random.Generator, block: tuple[float, float], side: float) -> list[Mesh]:
    parts = []
    x = block[0] + 1.0
    while x < block[1] - 6.0:
        width = min(generator.uniform(11.0, 19.0), block[1] - 1.0 - x)
        if block[1] - 1.0 - (x + width) < 7.0:
            width = block[1] - 1.0 - x
        depth = generator.uniform(11.0, 14.0)
        floors = int(generator.integers(2, 6))
        height = 3.9 + 3.1 * (floors - 1) + 0.5
        setback = generator.choice([0.0, 0.0, 0.6])
        y = side * (layout.BUILDING_LINE + setback + depth / 2)
        wall = WALLS[generator.integers(len(WALLS))] * generator.uniform(0.85, 1.1)
        roof = ROOFS[generator.integers(len(ROOFS))]
        middle = x + width / 2
        parts.append(box((middle, y, layout.CURB_HEIGHT), (width, depth, height), wall, Material.FACADE))
        top = layout.CURB_HEIGHT + height
        if generator.random() < 0.55 and floors < 5:
            parts.append(
                frustum(
                    (middle, y, top), (width + 0.3, depth + 0.7), (width + 0.3, 0.4), 3.0, roof, Material.ROOF
                )
            )
        else:
            parts.append(box((middle, y, top), (width + 0.2, depth + 0.3, 0.35), wall * 0.8, Material.ROOF))
            if generator.random() < 0.7:
                parts.append(
                    box(
                        (middle + width * 0.15, y, top + 0.35),
                        (2.2, 2.2, 1.6),
                        (0.3, 0.3, 0.3),
                        Material.ROOF,
                    )
                )
        x += width + (generator.uniform(2.5, 4.5) if generator.random() < 0.18 else 0.0)
    return parts


def _furniture(generator: np.random.Generator, block: tuple[float, float], side: float) -> list[Mesh]:
    parts = []
    base = layout.CURB_HEIGHT
    for number, x in enumerate(np.arange(block[0] + 11.0, block[1] - 8.0, 9.5)):
        at = (x + generator.uniform(-0.6, 0.6), side * (layout.CURB + 1.0), base)
        if number % 4 == 2:
            parts.append(models.street_lamp(-side).moved((x, side * (layout.CURB + 0.55), base), 0.0))
        else:
            parts.append(models.tree(generator).moved(at, generator.uniform(0, 2 * np.pi)))
    for x in (block[0] + 30.0, block[0] + 52.0):
        if generator.random() < 0.6:
            parts.append(
                models.bench().moved(
                    (x, side * (layout.WALKWAY_EDGE - 0.3), base), 0.0 if side < 0 else np.pi
                )
            )
            parts.append(models.bin_post().moved((x + 1.5, side * (layout.WALKWAY_EDGE - 0.3), base), 0.0))
    # signals and signs stand where traffic meets the crossing: on its right before the side street
    if side < 0:
        parts.append(
            models.traffic_light("green").moved((block[1] - 6.3, side * (layout.CURB + 0.5), base), 0.0)
        )
        parts.append(
            models.sign((0.85, 0.85, 0.85), True).moved(
                (block[0] + 16.0, side * (layout.CURB + 0.5), base), 0.0
            )
        )
        parts.append(
            models.sign((0.02, 0.1, 0.5), False).moved(
                (block[1] - 16.0, side * (layout.CURB + 0.5), base), 0.0
            )
        )
    else:
        parts.append(
            models.traffic_light("green").moved((block[0] + 6.3, side * (layout.CURB + 0.5), base), np.pi)
        )
        parts.append(
            models.sign((0.02, 0.1, 0.5), False).moved(
                (block[0] + 17.5, side * (layout.CURB + 0.5), base), np.pi
            )
        )
    return parts


# -- road users ----------------------------------------------------------------------------------------------


def _fixed(mesh: Mesh) -> Callable[[float], Mesh]:
    return lambda distance: mesh


def _car(generator: np.random.Generator, x: float, y: float, yaw: float, speed: float) -> Actor:
    size = (generator.uniform(3.9, 4.8), generator.uniform(1.74, 1.9), generator.uniform(1.42, 1.68))
    paint = PAINTS[generator.integers(len(PAINTS))]
    return Actor("car", size, np.array([x, y]), yaw, speed, _fixed(models.car(size, paint)))


def _truck(generator: np.random.Generator, x: float, y: float, yaw: float, speed: float) -> Actor:
    size = (generator.uniform(6.8, 8.2), 2.4, generator.uniform(3.1, 3.5))
    paint = PAINTS[generator.integers(len(PAINTS))]
    cargo = np.array((0.72, 0.72, 0.7)) * generator.uniform(0.7, 1.0)
    return Actor("truck", size, np.array([x, y]), yaw, speed, _fixed(models.van_or_truck(size, paint, cargo)))


def _bus(generator: np.random.Generator, x: float, y: float, yaw: float, speed: float) -> Actor:
    size = (12.0, 2.55, 3.1)
    paint = np.array([(0.55, 0.03, 0.03), (0.05, 0.2, 0.45), (0.55, 0.42, 0.05)])[generator.integers(3)]
    return Actor("bus", size, np.array([x, y]), yaw, speed, _fixed(models.bus(size, paint)))


def _parked(generator: np.random.Generator, blocks: list[tuple[float, float]]) -> list[Actor]:
    actors = []
    for block in blocks:
        for side in (-1.0, 1.0):
            yaw = 0.0 if side < 0 else np.pi
            clear = layout.CLEAR_OF_CORNER - layout.SIDE_STREET_HALF_WIDTH
            x = block[0] + clear + 3.1
            while x < block[1] - clear - 3.1:
                taken = side < 0 and _is_road_works(x, block)
                if generator.random() < 0.62 and not taken:
                    y = side * (layout.PARKING_Y + generator.uniform(-0.08, 0.12))
                    at = x + generator.uniform(-0.35, 0.35)
                    actors.append(_car(generator, at, y, yaw + generator.normal(0, 0.012), 0.0))
                x += 6.2
    return actors


def _lane_traffic(
    generator: np.random.Generator, begin_x: float, end_x: float, seconds: float
) -> list[Actor]:
    """Vehicles of a lane share one speed, so that they never meet; the ego vehicle's gap stays open."""
    actors = []
    speed = 8.3
    x = 24.0
    order = ["car", "truck", "car", "car", "bus"]
    number = 0
    while x < end_x:
        kind = order[number % len(order)]
        make = {"car": _car, "truck": _truck, "bus": _bus}[kind]
        actors.append(make(generator, x, layout.EGO_LANE_Y + generator.uniform(-0.15, 0.15), 0.0, speed))
        x += generator.uniform(22.0, 34.0)
        number += 1
    behind = -19.0
    while behind > begin_x:
        actors.append(_car(generator, behind, layout.EGO_LANE_Y + generator.uniform(-0.15, 0.15), 0.0, 7.8))
        behind -= generator.uniform(22.0, 32.0)
    oncoming_speed = 9.0
    x = begin_x + 10.0
    order = ["car", "car", "bus", "car", "truck"]
    number = 0
    while x < end_x + oncoming_speed * seconds:
        make = {"car": _car, "truck": _truck, "bus": _bus}[order[number % len(order)]]
        actors.append(
            make(generator, x, layout.ONCOMING_LANE_Y + generator.uniform(-0.15, 0.15), np.pi, oncoming_speed)
        )
        x += generator.uniform(20.0, 38.0)
        number += 1
    return actors


def _stride(distance: float, step: float, phase: float) -> float:
    """Leg position in -1..1, in sixteen steps so that meshes repeat."""
    return float(np.sin(np.round((distance / step + phase) * 16) / 16 * 2 * np.pi))


def _pedestrian(generator: np.random.Generator, x: float, y: float, yaw: float, speed: float) -> Actor:
    height = float(generator.uniform(1.55, 1.88))
    size = (0.68, 0.66, height)
    shirt, trousers = SHIRTS[generator.integers(len(SHIRTS))], TROUSERS[generator.integers(len(TROUSERS))]
    skin, phase = SKINS[generator.integers(len(SKINS))], float(generator.random())

    def mesh_at(distance: float) -> Mesh:
        stride = _stride(distance, 1.4, phase) if speed > 0 else 0.15
        return models.pedestrian(size, stride, shirt, trousers, skin)

    return Actor("pedestrian", size, np.array([x, y]), yaw, speed, mesh_at)


def _walkers(generator: np.random.Generator, begin_x: float, end_x: float, seconds: float) -> list[Actor]:
    actors = []
    for side in (-1.0, 1.0):
        for direction in (-1.0, 1.0):
            # each direction keeps to its own track, clear of trees and of benches
            y = side * (layout.CURB + (2.0 if direction > 0 else 2.75))
            x = begin_x - 2.0 * seconds
            speed = 1.25 if direction > 0 else 1.4
            while x < end_x + 2.0 * seconds:
                actors.append(
                    _pedestrian(
                        generator, x, y + generator.uniform(-0.2, 0.2), 0.0 if direction > 0 else np.pi, speed
                    )
                )
                x += generator.uniform(9.0, 24.0)
    return actors


def _crossing_walkers(
    generator: np.random.Generator, corners: list[float], begin_x: float, end_x: float
) -> list[Actor]:
    """People waiting at the crossings: their way is not free while traffic moves."""
    actors = []
    for corner in corners:
        if not begin_x < corner < end_x:
            continue
        for side in (-1.0, 1.0):
            for number in range(int(generator.integers(1, 4))):
                x = corner - 7.7 + 0.75 * number
                y = side * (layout.CURB + 0.85 + generator.uniform(0, 0.3))
                yaw = -side * np.pi / 2 + generator.normal(0, 0.2)
                actors.append(_pedestrian(generator, x, y, yaw, 0.0))
    return actors


def _cyclists(generator: np.random.Generator, begin_x: float, end_x: float, seconds: float) -> list[Actor]:
    actors = []
    for side, yaw in ((-1.0, 0.0), (1.0, np.pi)):
        speed = 4.6
        x = begin_x - (speed * seconds if side < 0 else 0.0) + generator.uniform(0, 20)
        while x < end_x + (speed * seconds if side > 0 else 0.0):
            actors.append(_cyclist(generator, x, side * layout.BIKE_LANE_Y, yaw, speed))
            x += generator.uniform(26.0, 55.0)
    return actors


def _cyclist(generator: np.random.Generator, x: float, y: float, yaw: float, speed: float) -> Actor:
    size = (1.75, 0.62, float(generator.uniform(1.68, 1.82)))
    frame, shirt = PAINTS[generator.integers(len(PAINTS))], SHIRTS[generator.integers(len(SHIRTS))]
    skin, phase = SKINS[generator.integers(len(SKINS))], float(generator.random())

    def mesh_at(distance: float) -> Mesh:
        return models.bicycle(size, _stride(distance, 4.4, phase), frame, shirt, skin)

    return Actor("bicycle", size, np.array([x, y]), yaw, speed, mesh_at)


def _is_road_works(x: float, block: tuple[float, float]) -> bool:
    """Every block has some road works in the parking strip on the right."""
    return block[0] + 40.0 < x < block[0] + 56.0


def _road_works(blocks: list[tuple[float, float]]) -> list[Actor]:
    actors = []
    cone_size, barrier_size = (0.42, 0.42, 0.75), (2.0, 0.5, 1.05)
    cone, barrier = models.traffic_cone(cone_size), models.barrier(barrier_size)
    for block in blocks:
        begin, y = block[0] + 42.5, -layout.PARKING_Y
        for number in range(6):
            at = np.array([begin + 2.2 * number, y + 0.85])
            actors.append(Actor("traffic_cone", cone_size, at, 0.0, 0.0, _fixed(cone)))
        for x in (begin - 0.6, begin + 11.6):
            actors.append(
                Actor("barrier", barrier_size, np.array([x, y - 0.2]), np.pi / 2, 0.0, _fixed(barrier))
            )
    return actors
