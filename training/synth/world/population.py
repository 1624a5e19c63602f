"""Fills a town with road users: a cast that puts every class within range, then traffic and walkers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from training.synth.world import actors
from training.synth.world.actors import Actor, AlongCurve, Fixed, Looks
from training.synth.world.ego import EgoDrive, make_ego_drive
from training.synth.world.presets import Preset
from training.synth.world.town import Town, parking_stretches
from training.synth.world.traffic import (
    Agent,
    Route,
    Signals,
    lane_route,
    make_signals,
    simulate,
    walkway_route,
)

FloatArray = NDArray[np.float64]

#: The nuScenes vehicle, a Renault Zoe.
EGO_SIZE = (4.08, 1.73, 1.56)
_TURNS = {"straight": 0.4, "right": 0.3, "left": 0.3}
_TOW_GAP_M = 0.6
_FASTEST_EGO, _RELEVANT_M = 10.5, 130.0


@dataclass(frozen=True)
class Population:
    """Everybody.

    Attributes:
        actors: An actor's index is its instance.
        ego: The drive of the vehicle with the sensors.
        signals: What the traffic lights show.
    """

    actors: tuple[Actor, ...]
    ego: EgoDrive
    signals: Signals


def populate(town: Town, preset: Preset, seed: int, seconds: float) -> Population:
    """Draws everybody and lets them move; the same arguments always give the same.

    Args:
        town: Where.
        preset: How many.
        seed: Of this scene; a town may be used for several.
        seconds: How long they move.
    """
    generator = np.random.default_rng([seed, 303])
    signals = make_signals(generator, town)
    ego_route, ego_arc = _ego_route(generator, town)
    cast = _cast(generator, town) if preset.cast else []
    parked = _parked(generator, town, preset)
    near = _Reach(ego_route, ego_arc, seconds)
    agents = [Agent(ego_route, ego_arc, float(generator.uniform(7.0, 10.5)), EGO_SIZE[0], EGO_SIZE[1])]
    looks: list[list[tuple[Looks, float]]] = [[]]  # of each agent: what it is and what it tows
    _add_vehicles(generator, town, preset, near, agents, looks)
    _add_cyclists(generator, town, preset, near, agents, looks)
    _add_walkers(generator, town, preset, near, agents, looks)
    motions = simulate(agents, signals, seconds + 1.0)
    moving = [
        look.on(AlongCurve(agent.route.curve, motions.times_t, arcs, behind))
        for agent, arcs, described in zip(agents, motions.arcs_nt, looks, strict=True)
        for look, behind in described
    ]
    ego = make_ego_drive(ego_route.curve, motions.times_t, motions.arcs_nt[0])
    everybody = _without_overlaps(
        [*cast, *parked, *_standers(generator, town, preset), *moving], ego, seconds
    )
    return Population(tuple(everybody), ego, signals)


class _Reach:
    """Tells who can matter to a drive: others are not worth simulating."""

    def __init__(self, route: Route, arc: float, seconds: float) -> None:
        ahead = np.arange(0.0, _FASTEST_EGO * seconds + 10.0, 10.0)
        self._path = route.curve.at(arc + ahead)

    def __call__(self, point_2: FloatArray) -> bool:
        """Tells whether a point is near enough to the drive."""
        return bool(np.linalg.norm(self._path - point_2, axis=1).min() < _RELEVANT_M)

    def from_start(self, point_2: FloatArray) -> float:
        """Returns the distance to where the drive begins."""
        return float(np.linalg.norm(self._path[0] - point_2))


def _ego_route(generator: np.random.Generator, town: Town) -> tuple[Route, float]:
    start = town.main.curve.at(town.start_arc, -town.main.section.lane / 2)
    candidates = [
        index
        for index, lane in enumerate(town.lanes)
        if lane.road == 0 and not lane.bike and shapely.contains_xy(lane.area, start[0], start[1])
    ]
    route = lane_route(generator, town, candidates[0], _TURNS if town.layout == "junctions" else None)
    return route, route.curve.nearest_arc(start)


# -- the cast: every class within range of the drive's beginning ---------------------------------------------


def _fixed(town: Town, look: Looks, arc: float, lateral: float, turned: float = 0.0) -> Actor:
    x, y = town.main.curve.at(arc, lateral)
    return look.on(Fixed((float(x), float(y)), float(town.main.curve.heading(arc)) + turned))


def _cast(generator: np.random.Generator, town: Town) -> list[Actor]:
    """Parked big vehicles on the lot, road works and a bus in the parking strips, cycles on the walkway."""
    lot, section = town.lot, town.main.section
    cast = []
    # the far row of the lot, lengthwise
    lateral = -(lot.far - 2.4)
    arc = lot.start_arc + 0.8
    order: list[Callable[[np.random.Generator], Looks]] = [
        actors.trailer,
        actors.construction_vehicle,
        actors.truck,
    ]
    for index in generator.permutation(len(order)):
        look = order[index](generator)
        turned = np.pi * generator.integers(2) + generator.normal(0, 0.03)
        cast.append(_fixed(town, look, arc + look.size[0] / 2, lateral, turned))
        arc += look.size[0] + generator.uniform(0.9, 1.6)
    # motorcycles and bicycles stand at the near edge, beside the driveway
    middle = (lot.start_arc + lot.end_arc) / 2
    for number in range(3):
        at = middle + 5.0 + 1.3 * number
        cast.append(
            _fixed(
                town,
                actors.motorcycle(generator, False),
                at,
                -(lot.near + 1.3),
                np.pi / 2 + generator.normal(0, 0.1),
            )
        )
    for number in range(3):
        at = town.start_arc - 6.0 + 0.9 * number
        lateral = section.walkway_edge - 0.75
        cast.append(
            _fixed(town, actors.bicycle(generator, False), at, lateral, np.pi / 2 + generator.normal(0, 0.12))
        )
    return [*cast, *_works(generator, town), *_waiting_bus(generator, town)]


def _works(generator: np.random.Generator, town: Town) -> list[Actor]:
    """A trench in the left parking strip near the start, with cones, barriers and workers."""
    section = town.main.section
    stretch = next(s for s in town.stretches() if s[0] <= town.start_arc <= s[1])
    end = min(town.start_arc + 20.0, stretch[1] - 7.0)
    begin = end - 13.0
    strip = (section.bike_edge + section.curb) / 2
    works = [
        _fixed(
            town,
            actors.traffic_cone(generator),
            float(arc),
            section.bike_edge + 0.25 + generator.normal(0, 0.05),
        )
        for arc in np.linspace(begin + 1.0, end - 1.0, 6)
    ]
    works += [_fixed(town, actors.barrier(generator), arc, strip) for arc in (begin, end)]
    works += [
        _fixed(town, actors.barrier(generator), begin + 3.0 + 2.3 * number, section.curb - 0.35, np.pi / 2)
        for number in range(3)
    ]
    for arc in (begin + 4.0, begin + 8.5):
        worker = actors.pedestrian(generator, "construction_worker", walking=False)
        works.append(_fixed(town, worker, arc, strip + generator.normal(0, 0.1), generator.uniform(-3, 3)))
    return works


def _waiting_bus(generator: np.random.Generator, town: Town) -> list[Actor]:
    """A bus in the right parking strip, where it does not hide the lot."""
    look = actors.bus(generator)
    section = town.main.section
    # the nose of the bus reaches into the bike lane where the strip is narrow
    lateral = -(section.curb - 0.25 - look.size[1] / 2)
    return [_fixed(town, look, town.lot.start_arc - 3.0 - look.size[0] / 2, lateral)]


# -- who stands ----------------------------------------------------------------------------------------------


def _parked(generator: np.random.Generator, town: Town, preset: Preset) -> list[Actor]:
    section, lot = town.main.section, town.lot
    middle = (lot.start_arc + lot.end_arc) / 2
    strip = (section.bike_edge + section.curb) / 2
    parked = []
    for number, (begin, end) in enumerate(town.stretches()):
        before, after = (None if number == 0 else 0), (None if number == len(town.junctions) else 0)
        for side, low, high in parking_stretches(lot, middle, begin, end, before, after):
            for arc in np.arange(low + 3.1, high - 3.0, 6.2):
                if generator.random() < preset.parked:
                    look = actors.car(generator)
                    turned = generator.normal(0, 0.015) + (np.pi if side > 0 else 0.0)
                    at = float(arc + generator.uniform(-0.3, 0.3))
                    parked.append(
                        _fixed(town, look, at, side * (strip + generator.uniform(-0.05, 0.08)), turned)
                    )
    for arc in np.arange(lot.start_arc + 2.0, lot.end_arc - 1.0, 3.0):
        if abs(arc - middle) > 12.0 and generator.random() < preset.parked:
            look = actors.car(generator)
            turned = np.pi / 2 + np.pi * generator.integers(2) + generator.normal(0, 0.03)
            parked.append(_fixed(town, look, float(arc), -(lot.near + 2.7), turned))
    return parked


def _standers(generator: np.random.Generator, town: Town, preset: Preset) -> list[Actor]:
    """People who stand: groups on the walkways, some waiting at the zebras."""
    section = town.main.section
    standers = []
    if preset.walkers == 0:
        return []
    for side in (-1, 1):
        arc = generator.uniform(0.0, 30.0) / preset.walkers
        while arc < town.main.curve.length:
            lateral = side * (section.walkway_edge - 0.9)
            for number in range(int(generator.integers(1, 4))):
                kind = "adult" if generator.random() < 0.85 else "police_officer"
                look = actors.pedestrian(generator, kind, walking=False)
                at = arc + 0.95 * number
                if _on_walkway(town, town.main.curve.at(at, lateral)):
                    standers.append(_fixed(town, look, at, lateral, generator.uniform(-3, 3)))
            arc += generator.uniform(22.0, 50.0) / preset.walkers
        # two stand near the drive's beginning whatever the preset
        look = actors.pedestrian(generator, "adult", walking=False)
        at = town.start_arc + generator.uniform(-8.0, 8.0)
        standers.append(_fixed(town, look, at, side * (section.walkway_edge - 1.5), generator.uniform(-3, 3)))
    return standers


def _on_walkway(town: Town, point_2: FloatArray) -> bool:
    return any(shapely.contains_xy(area, point_2[0], point_2[1]) for area in town.areas["walkway"])


# -- who moves -----------------------------------------------------------------------------------------------


def _add_vehicles(
    generator: np.random.Generator,
    town: Town,
    preset: Preset,
    near: _Reach,
    agents: list[Agent],
    looks: list[list[tuple[Looks, float]]],
) -> None:
    kinds = ("car", "truck", "bus", "motorcycle", "trailer", "construction_vehicle")
    odds = np.array([0.64, 0.1, 0.07, 0.1, 0.06, 0.03])
    for index, lane in enumerate(town.lanes):
        if lane.bike:
            continue
        arc = float(generator.uniform(4.0, 24.0))
        while arc < lane.curve.length - 9.0 and preset.traffic > 0:
            kind = kinds[generator.choice(len(kinds), p=odds)]
            described, length, tail = _vehicle(generator, kind)
            nose = arc + length + tail
            speed = float(generator.uniform(7.0, 12.0))
            # the lane must be free around the ego vehicle
            at = lane.curve.at(nose - length / 2)
            clear = (
                near.from_start(at) > 9.0 + (length + tail) / 2 and near.from_start(lane.curve.at(arc)) > 9.0
            )
            busy = lane.road == 0 or generator.random() < 0.5
            if nose < lane.curve.length - 1.0 and clear and busy and near(at):
                route = lane_route(generator, town, index)
                width = described[0][0].size[1]
                agents.append(Agent(route, nose - length / 2, speed, length, width, tail))
                looks.append(described)
            arc = nose + float(generator.uniform(9.0, 38.0)) / preset.traffic


def _vehicle(generator: np.random.Generator, kind: str) -> tuple[list[tuple[Looks, float]], float, float]:
    """Returns what it is with what it tows, its length and how much farther back the trailer reaches."""
    if kind == "trailer":
        truck, towed = actors.truck(generator), actors.trailer(generator)
        behind = truck.size[0] / 2 + _TOW_GAP_M + towed.size[0] / 2
        return [(truck, 0.0), (towed, behind)], truck.size[0], _TOW_GAP_M + towed.size[0]
    if kind == "motorcycle":
        look = actors.motorcycle(generator, True)
    else:
        make = {
            "car": actors.car,
            "truck": actors.truck,
            "bus": actors.bus,
            "construction_vehicle": actors.construction_vehicle,
        }[kind]
        look = make(generator)
    return [(look, 0.0)], look.size[0], 0.0


def _add_cyclists(
    generator: np.random.Generator,
    town: Town,
    preset: Preset,
    near: _Reach,
    agents: list[Agent],
    looks: list[list[tuple[Looks, float]]],
) -> None:
    for index, lane in enumerate(town.lanes):
        if not lane.bike:
            continue
        arc = float(generator.uniform(2.0, 25.0))
        while arc < lane.curve.length - 3.0 and preset.walkers > 0:
            if near(lane.curve.at(arc)):
                look = actors.bicycle(generator, True)
                route = lane_route(generator, town, index)
                speed = float(generator.uniform(3.8, 5.5))
                agents.append(Agent(route, arc, speed, look.size[0], look.size[1]))
                looks.append([(look, 0.0)])
            arc += float(generator.uniform(22.0, 60.0)) / preset.walkers


def _add_walkers(
    generator: np.random.Generator,
    town: Town,
    preset: Preset,
    near: _Reach,
    agents: list[Agent],
    looks: list[list[tuple[Looks, float]]],
) -> None:
    for index, road in enumerate(town.roads):
        spacing = (9.0, 30.0) if index == 0 else (18.0, 60.0)
        for side in (-1, 1):
            for forward in (True, False):
                track = road.section.curb + (1.75 if forward == (side > 0) else 2.4)
                route = walkway_route(town, index, side * track, forward)
                arc = float(generator.uniform(0.0, 20.0))
                while arc < route.curve.length - 5.0 and preset.walkers > 0:
                    if near(route.curve.at(arc)):
                        kind = "child" if generator.random() < 0.1 else "adult"
                        look = actors.pedestrian(generator, kind)
                        speed = float(generator.uniform(1.1, 1.5))
                        agents.append(Agent(route, arc, speed, 0.5, 0.5, walks=True))
                        looks.append([(look, 0.0)])
                    arc += float(generator.uniform(*spacing)) / preset.walkers


# -- nobody stands in anybody --------------------------------------------------------------------------------

_CHECKED_EVERY_S = 0.25


def _without_overlaps(everybody: list[Actor], ego: EgoDrive, seconds: float) -> list[Actor]:
    """Removes whoever would touch the ego vehicle or somebody listed before them at any time."""
    count = len(everybody)
    sizes = np.array([EGO_SIZE[:2], *(actor.size[:2] for actor in everybody)])
    reach = np.linalg.norm(sizes, axis=1) / 2
    gone = np.zeros(count + 1, dtype=bool)
    motions = [actor.track.at(0.0) for actor in everybody]
    moving = [index for index, actor in enumerate(everybody) if not actor.track.parked]
    for time in np.arange(0.0, seconds + _CHECKED_EVERY_S, _CHECKED_EVERY_S):
        for index in moving:
            motions[index] = everybody[index].track.at(float(time))
        centre, yaw = ego.centre(float(time))
        positions = np.array([centre, *(motion.position_2 for motion in motions)])
        yaws = np.array([yaw, *(motion.yaw for motion in motions)])
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        near = np.triu(distance < reach[:, None] + reach[None], 1) & ~gone[:, None] & ~gone[None]
        first, second = np.nonzero(near)
        if not len(first):
            continue
        outlines = _outlines(positions, sizes, yaws)
        touching = shapely.intersects(outlines[first], outlines[second])
        for one, other in zip(first[touching], second[touching], strict=True):
            if not gone[one] and not gone[other]:
                gone[other] = True
    return [actor for actor, removed in zip(everybody, gone[1:], strict=True) if not removed]


def _outlines(positions_n2: FloatArray, sizes_n2: FloatArray, yaws_n: FloatArray) -> NDArray[np.object_]:
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) / 2
    local = signs[None] * sizes_n2[:, None]
    cosine, sine = np.cos(yaws_n)[:, None], np.sin(yaws_n)[:, None]
    x = local[..., 0] * cosine - local[..., 1] * sine + positions_n2[:, :1]
    y = local[..., 0] * sine + local[..., 1] * cosine + positions_n2[:, 1:]
    result: NDArray[np.object_] = shapely.polygons(np.stack([x, y], axis=-1))
    return result
