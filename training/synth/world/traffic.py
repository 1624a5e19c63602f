"""Who moves when: signals, routes over the lanes, and a simulation in which nobody drives into anybody.

Vehicles follow the intelligent driver model (Treiber, Hennecke and Helbing, "Congested traffic states in
empirical observations and microscopic simulations", 2000, Eq. 1-3) towards the nearest thing in the corridor
ahead of them: a vehicle, a person, or a stop line whose signal is not green.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.synth.world.curve import Curve, joined
from training.synth.world.town import Road, Town

FloatArray = NDArray[np.float64]

#: Step of the simulation.
STEP_S = 0.1
_ACCELERATION, _BRAKING, _HARDEST_BRAKING = 1.6, 2.2, 6.0
_HEADWAY_S, _STANDING_GAP_M = 1.1, 2.2
_LOOKAHEAD_M, _LOOKAHEAD_STEP_M = 36.0, 1.5
_SIDE_CLEARANCE_M = 0.25
#: In a bend the sideways acceleration stays below this.
_SIDEWAYS_ACCELERATION = 2.2
_DISCS = 4


@dataclass(frozen=True)
class Signals:
    """The signals of all junctions, a fixed cycle with one offset for each.

    Attributes:
        main_green_s: Of the main road.
        side_green_s: Of the side roads.
        offsets_s: Of each junction's cycle.
    """

    main_green_s: float
    side_green_s: float
    offsets_s: tuple[float, ...]
    amber_s: float = 3.0
    clearing_s: float = 1.5

    def state(self, junction: int, main: bool, time_s: float) -> str:
        """Returns green, amber or red."""
        change = self.amber_s + self.clearing_s
        cycle = self.main_green_s + self.side_green_s + 2 * change
        phase = (time_s + self.offsets_s[junction]) % cycle
        if not main:
            phase = (phase - self.main_green_s - change) % cycle
        green = self.main_green_s if main else self.side_green_s
        if phase < green:
            return "green"
        return "amber" if phase < green + self.amber_s else "red"


def make_signals(generator: np.random.Generator, town: Town) -> Signals:
    """Draws the cycle and its offsets."""
    count = len(town.junctions)
    return Signals(
        float(generator.uniform(11.0, 16.0)),
        float(generator.uniform(7.0, 10.0)),
        tuple(float(value) for value in generator.uniform(0.0, 30.0, count)),
    )


@dataclass(frozen=True)
class Stop:
    """A place on a path where a signal has its say.

    Attributes:
        arc: Along the path.
        junction: Index.
        main: Whether the main road's signal counts.
    """

    arc: float
    junction: int
    main: bool


@dataclass(frozen=True)
class Route:
    """A path and its stop lines."""

    curve: Curve
    stops: tuple[Stop, ...] = ()


@dataclass
class Agent:
    """Something that moves along a route; its arc length is that of its centre.

    Attributes:
        route: Where it goes.
        arc: Where it begins.
        desired_speed: Metres a second.
        length: Metres, without what it tows.
        width: Metres.
        tail_m: How much farther back what it tows reaches.
        walks: People keep their speed and mind only signals.
        starts_at_s: It stands until then.
    """

    route: Route
    arc: float
    desired_speed: float
    length: float
    width: float
    tail_m: float = 0.0
    walks: bool = False
    starts_at_s: float = 0.0


@dataclass(frozen=True)
class Motions:
    """What became of the agents.

    Attributes:
        times_t: Seconds.
        arcs_nt: Arc lengths.
    """

    times_t: FloatArray
    arcs_nt: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))


# -- routes --------------------------------------------------------------------------------------------------


def lane_route(
    generator: np.random.Generator, town: Town, lane: int, turns: dict[str, float] | None = None
) -> Route:
    """Makes a route from the start of a lane to the end of the town, choosing a way at every junction.

    Args:
        generator: Of the choices.
        town: The town.
        lane: Index of the first lane.
        turns: Weights of left, right and straight at the first junction.
    """
    weights = turns or {"straight": 0.7, "right": 0.2, "left": 0.1}
    pieces, ends = [town.lanes[lane].curve], [lane]
    while True:
        choices = [c for c in town.connectors if c.source == ends[-1]]
        if not choices:
            break
        weight = np.array([weights.get(c.turn, 0.0) + 1e-9 for c in choices])
        chosen = choices[int(generator.choice(len(choices), p=weight / weight.sum()))]
        pieces += [chosen.curve, town.lanes[chosen.target].curve]
        ends.append(chosen.target)
        weights = {"straight": 0.7, "right": 0.2, "left": 0.1}
    curve = joined(pieces, smooth_m=1.6)
    stops = []
    for index in ends:
        junction = town.lanes[index].ends_at
        if junction is not None:
            arc = curve.nearest_arc(town.lanes[index].curve.points_n2[-1])
            stops.append(Stop(arc, junction, town.lanes[index].road == 0))
    return Route(curve, tuple(stops))


def walkway_route(town: Town, index: int, lateral: float, forward: bool) -> Route:
    """Makes a route along a road's walkway that uses the zebras where it crosses the other road.

    Args:
        town: The town.
        index: Of the road.
        lateral: Positive left of the road's centre line.
        forward: Along the centre line or against it.
    """
    road: Road = town.roads[index]
    arcs = road.curve.stations()
    laterals = np.full(len(arcs), lateral)
    crossed = []
    for number, junction in enumerate(town.junctions):
        if index != 0 and junction.side != index:
            continue
        if index == 0:
            arc, zebra, curb = junction.main_arc, junction.side_zebra, town.roads[junction.side].section.curb
        else:
            arc, zebra, curb = junction.side_arc, junction.main_zebra, town.main.section.curb
        target = np.sign(lateral) * (zebra[0] + zebra[1]) / 2
        near = np.clip((curb + 8.5 - np.abs(arcs - arc)) / 5.0, 0.0, 1.0)
        near = near * near * (3 - 2 * near)
        laterals = laterals + (target - laterals) * near
        edge = arc - (curb + 0.9) if forward else arc + (curb + 0.9)
        crossed.append((edge, number))
    points = road.curve.at(arcs, laterals)
    curve = joined([Curve(points if forward else points[::-1])], smooth_m=0.6)
    stops = []
    for edge, number in crossed:
        at = int(np.argmin(np.abs(arcs - edge)))
        # who walks along the main road crosses the side road while the main road has green
        stops.append(Stop(curve.nearest_arc(points[at]), number, index == 0))
    return Route(curve, tuple(sorted(stops, key=lambda stop: stop.arc)))


# -- simulation ----------------------------------------------------------------------------------------------


def simulate(agents: list[Agent], signals: Signals, seconds: float, warm_up_s: float = 0.0) -> Motions:
    """Moves the agents.

    Args:
        agents: In any order.
        signals: Of the town's junctions.
        seconds: Length.
        warm_up_s: Time before 0 in which those who should stand at a signal come to a stop.
    """
    steps = int(np.ceil((seconds + warm_up_s) / STEP_S)) + 2
    times = np.arange(steps) * STEP_S - warm_up_s
    count = len(agents)
    arcs = np.array([agent.arc for agent in agents], dtype=np.float64)
    speeds = np.array([agent.desired_speed if agent.starts_at_s <= 0 else 0.0 for agent in agents])
    # whoever begins just before a line that does not show green begins standing
    for index, agent in enumerate(agents):
        for stop in agent.route.stops:
            gap = stop.arc - arcs[index] - agent.length / 2
            closing = speeds[index] ** 2 / (2 * _BRAKING)
            if 0 <= gap < closing and signals.state(stop.junction, stop.main, times[0]) != "green":
                speeds[index] = np.sqrt(2 * _BRAKING * max(gap - 0.5, 0.0))
    history = np.empty((count, steps))
    geometry = _Corridors(agents)
    stops = [
        (index, stop, agent.length / 2) for index, agent in enumerate(agents) for stop in agent.route.stops
    ]
    stop_agent = np.array([index for index, _, _ in stops], dtype=np.int64)
    stop_arc = np.array([stop.arc - half for _, stop, half in stops])
    starts = np.array([agent.starts_at_s for agent in agents])
    for step, time in enumerate(times):
        history[:, step] = arcs
        gaps, leader_speeds = geometry.gaps(arcs, speeds)
        limits = geometry.desired(arcs)
        limits[starts > time] = 0.0
        stop_gap = stop_arc - arcs[stop_agent]
        for number in np.flatnonzero((stop_gap > -0.3) & (stop_gap < _LOOKAHEAD_M)):
            index, stop, _ = stops[number]
            gap = float(stop_gap[number])
            if gap >= gaps[index]:
                continue
            needed = speeds[index] ** 2 / (2 * _HARDEST_BRAKING)
            state = signals.state(stop.junction, stop.main, float(time))
            if state == "red" or (state == "amber" and gap > 2 * needed):
                gaps[index], leader_speeds[index] = gap + _STANDING_GAP_M - 0.4, 0.0
        acceleration = _intelligent_driver(speeds, limits, gaps, leader_speeds)
        walkers = geometry.walks
        stopped = walkers & (gaps < _STANDING_GAP_M + 0.3) & geometry.stoppable
        acceleration[walkers] = ((np.where(stopped, 0.0, limits) - speeds) / 0.4)[walkers]
        speeds = np.maximum(speeds + acceleration * STEP_S, 0.0)
        arcs = arcs + speeds * STEP_S
    return Motions(times, history)


def _intelligent_driver(
    speeds: FloatArray, limits: FloatArray, gaps: FloatArray, leader_speeds: FloatArray
) -> FloatArray:
    closing = speeds - leader_speeds
    wanted = _STANDING_GAP_M + np.maximum(
        0.0, speeds * _HEADWAY_S + speeds * closing / (2 * np.sqrt(_ACCELERATION * _BRAKING))
    )
    free = 1.0 - (speeds / np.maximum(limits, 0.1)) ** 4
    acceleration = _ACCELERATION * (free - (wanted / np.maximum(gaps, 0.2)) ** 2)
    result: FloatArray = np.clip(acceleration, -_HARDEST_BRAKING, _ACCELERATION)
    return result


class _Corridors:
    """Finds what is in front of each agent; all curves lie in one table, for array operations."""

    def __init__(self, agents: list[Agent]) -> None:
        self._agents = agents
        self.walks = np.array([agent.walks for agent in agents], dtype=bool)
        self.stoppable = np.array([bool(agent.route.stops) for agent in agents], dtype=bool)
        self._drivers = np.flatnonzero(~self.walks)
        self._lengths = np.array([agent.length for agent in agents])
        self._half_widths = np.array([agent.width / 2 for agent in agents])
        self._desired = np.array([agent.desired_speed for agent in agents])
        back = np.linspace(0.5, -0.5, _DISCS)
        # discs from nose to tail stand for the vehicle and what it tows
        tails = np.array([agent.tail_m for agent in agents])
        self._disc_offsets = back * self._lengths[:, None] - (0.5 - back) * tails[:, None]
        self._ahead = np.arange(_LOOKAHEAD_STEP_M, _LOOKAHEAD_M, _LOOKAHEAD_STEP_M)
        self._bends_ahead = np.array([0.0, 5.0, 10.0])
        curves = [agent.route.curve for agent in agents]
        samples = max((len(curve.points_n2) for curve in curves), default=0)
        self._table = np.zeros((len(agents), samples, 4))  # x, y, heading, curvature
        self._last = np.array([len(curve.points_n2) - 1 for curve in curves])
        self._spacing = np.array([curve.length / (len(curve.points_n2) - 1) for curve in curves])
        for index, curve in enumerate(curves):
            rows = np.column_stack([curve.points_n2, curve.heading_n, curve.curvature_n])
            self._table[index, : len(rows)] = rows

    def _look_up(self, agent: NDArray[np.int64], arcs: FloatArray) -> FloatArray:
        """Returns x, y, heading and curvature [..., 4] on agents' curves; past the ends straight on."""
        position = arcs / self._spacing[agent]
        inside = np.clip(position, 0.0, self._last[agent])
        low = np.minimum(inside.astype(np.int64), self._last[agent] - 1)
        share = (inside - low)[..., None]
        found = self._table[agent, low] * (1 - share) + self._table[agent, low + 1] * share
        beyond = (position - inside) * self._spacing[agent]
        found[..., 0] += beyond * np.cos(found[..., 2])
        found[..., 1] += beyond * np.sin(found[..., 2])
        return found

    def desired(self, arcs: FloatArray) -> FloatArray:
        """Returns the speeds they would like: their own, less in bends."""
        limits = self._desired.copy()
        drivers = self._drivers
        ahead = arcs[drivers, None] + self._bends_ahead
        bends = self._look_up(np.broadcast_to(drivers[:, None], ahead.shape), ahead)[..., 3]
        sharpest = np.maximum(np.abs(bends).max(axis=1, initial=0.0), 1e-4)
        limits[drivers] = np.minimum(limits[drivers], np.sqrt(_SIDEWAYS_ACCELERATION / sharpest))
        return limits

    def gaps(self, arcs: FloatArray, speeds: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns the free way ahead of each agent's nose, and the speed along it of what ends it."""
        count = len(self._agents)
        gaps, leader = np.full(count, 1e3), np.zeros(count)
        where = arcs[:, None] + self._disc_offsets
        everyone = np.broadcast_to(np.arange(count)[:, None], where.shape)
        discs = self._look_up(everyone, where)
        headings = self._look_up(np.arange(count), arcs)[:, 2]
        drivers = self._drivers
        ahead = (arcs + self._lengths / 2)[drivers, None] + self._ahead
        paths = self._look_up(np.broadcast_to(drivers[:, None], ahead.shape), ahead)
        radius = self._half_widths
        centres = discs[..., :2].mean(axis=1)
        reach = _LOOKAHEAD_M + 4.0 + np.abs(self._disc_offsets).max(axis=1)
        for row, index in enumerate(drivers):
            # circle around the corridor's middle
            middle = paths[row, len(self._ahead) // 2, :2]
            near = ((centres - middle) ** 2).sum(axis=1) < (reach - _LOOKAHEAD_M / 2) ** 2
            near[index] = False
            others = np.flatnonzero(near)
            if not len(others):
                continue
            difference = paths[row, :, None, None, :2] - discs[others, :, :2]
            distance = (difference**2).sum(axis=-1).min(axis=-1)
            blocked = distance < (radius[index] + radius[others] + _SIDE_CLEARANCE_M) ** 2
            first = np.where(blocked.any(axis=0), blocked.argmax(axis=0), len(self._ahead))
            nearest = int(first.argmin())
            if first[nearest] == len(self._ahead):
                continue
            other = others[nearest]
            gaps[index] = max(self._ahead[first[nearest]] - radius[other] - radius[index], 0.1)
            heading = paths[row, first[nearest], 2]
            leader[index] = max(0.0, speeds[other] * np.cos(headings[other] - heading))
        return gaps, leader
