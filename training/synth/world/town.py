"""The vector map of a town: roads, junctions, lanes and all areas, from which ground, traffic and map
expansion are made.

Right-hand traffic. The map frame is metric, x and y in the plane; the town lies within `Town.extent`, whose
lower left corner is the origin.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from shapely import affinity
from shapely.geometry import LineString, MultiPolygon, Polygon, box
from shapely.ops import unary_union

from training.synth.world.curve import STEP_M, Curve, from_curvature, resampled, turn_between

FloatArray = NDArray[np.float64]

#: Corners of junctions are rounded with this radius.
CORNER_RADIUS_M = 4.0
_ZEBRA_AFTER_CURB_M, _ZEBRA_DEPTH_M, _STOP_AFTER_ZEBRA_M, _STOP_DEPTH_M = 4.6, 3.4, 0.8, 1.2
#: No parking within this of a stop line.
_CLEAR_OF_STOP_M = 5.0
_SIDE_ROAD_LENGTH_M = 125.0
_MAIN_ROAD_LENGTH_M = 420.0
_MARGIN_M = 30.0
_STRAIGHT_AROUND_JUNCTION_M, _STRAIGHT_AFTER_START_M = 26.0, 22.0
LOT_LENGTH_M, LOT_DEPTH_M = 34.0, 17.0


@dataclass(frozen=True)
class Section:
    """Cross-section of a road, the same on both sides of its centre line; widths in metres.

    Attributes:
        lanes: Per direction.
        lane: Width of each.
        bike: Width of the bike lane, 0 for none.
        parking: Width of the strip along the curb, 0 for none.
        walkway: Width beyond the curb.
    """

    lanes: int = 1
    lane: float = 3.4
    bike: float = 1.5
    parking: float = 2.2
    walkway: float = 3.5

    @property
    def lane_edge(self) -> float:
        """Lateral end of the lanes."""
        return self.lanes * self.lane

    @property
    def bike_edge(self) -> float:
        """Lateral end of the bike lane."""
        return self.lane_edge + self.bike

    @property
    def curb(self) -> float:
        """Lateral position of the curb."""
        return self.bike_edge + self.parking

    @property
    def walkway_edge(self) -> float:
        """Lateral end of the walkway."""
        return self.curb + self.walkway


@dataclass(frozen=True)
class Road:
    """A road along a centre line.

    Attributes:
        name: For tokens.
        curve: Centre line.
        section: Cross-section.
    """

    name: str
    curve: Curve
    section: Section

    def strip(self, start: float, end: float, right: float, left: float) -> Polygon:
        """Returns the area between two arc lengths and two lateral positions (positive left)."""
        arcs = self.curve.stations(start, end)
        return Polygon(np.concatenate([self.curve.at(arcs, right), self.curve.at(arcs, left)[::-1]]))


@dataclass(frozen=True)
class Junction:
    """Where a side road meets the main road.

    Attributes:
        main_arc: On the main road's centre line.
        side_arc: On the side road's.
        side: Index of the side road.
        main_zebra: Distance of the zebra's near and far edge from the crossing point, along the main road.
        side_zebra: The same along the side road.
        main_stop: Distance of the stop lines on the main road.
        side_stop: The same on the side road.
    """

    main_arc: float
    side_arc: float
    side: int
    main_zebra: tuple[float, float]
    side_zebra: tuple[float, float]
    main_stop: float
    side_stop: float


@dataclass(frozen=True)
class Lane:
    """A lane between junctions, or the way through one.

    Attributes:
        name: For tokens.
        road: Index of its road; -1 for ways through junctions.
        curve: Its centre, in driving direction.
        area: The lane's surface.
        bike: Whether it is a bike lane.
        ends_at: Junction at its end, or None.
        begins_at: Junction at its start, or None.
    """

    name: str
    road: int
    curve: Curve
    area: Polygon
    bike: bool = False
    ends_at: int | None = None
    begins_at: int | None = None


@dataclass(frozen=True)
class Connector:
    """A way through a junction from one lane to another.

    Attributes:
        name: For tokens.
        source: Index of the lane it comes from.
        target: Index of the lane it leads to.
        curve: Its centre.
        area: Its surface.
        junction: Index.
        turn: left, right or straight.
    """

    name: str
    source: int
    target: int
    curve: Curve
    area: Polygon
    junction: int
    turn: str


@dataclass(frozen=True)
class Lot:
    """An off-street car park on the right of the main road.

    Attributes:
        start_arc: Along the main road.
        end_arc: The same.
        near: Lateral distance of its near edge.
        far: Of its far edge.
    """

    start_arc: float
    end_arc: float
    near: float
    far: float


@dataclass(frozen=True)
class Town:
    """Everything that lies flat.

    Attributes:
        seed: What it was made from.
        layout: straight, curved or junctions.
        roads: The main road first.
        junctions: Along the main road.
        lanes: Of all roads.
        connectors: Through the junctions.
        lot: The car park.
        areas: Polygons by nuScenes layer: drivable_area, road_segment, road_block, ped_crossing, walkway,
            stop_line, carpark_area; `bike_lane` beside them.
        lines: Line strings by nuScenes layer: road_divider, lane_divider.
        bays: Lines between parking bays, painted only.
        stops: Of each stop line its index of junction and whether it stops the main road.
        start_arc: Where drives begin on the main road.
        extent: Size in x and y, metres.
        slope_m: Amplitude of the terrain.
    """

    seed: int
    layout: str
    roads: tuple[Road, ...]
    junctions: tuple[Junction, ...]
    lanes: tuple[Lane, ...]
    connectors: tuple[Connector, ...]
    lot: Lot
    areas: dict[str, list[Polygon]]
    lines: dict[str, list[LineString]]
    bays: list[LineString]
    stops: list[tuple[int, bool]]
    start_arc: float
    extent: tuple[float, float]
    slope_m: float = 0.0
    roadway: MultiPolygon = field(default_factory=MultiPolygon)

    @property
    def main(self) -> Road:
        """The main road."""
        return self.roads[0]

    def height(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
        """Returns the height of the terrain in metres; curbs come on top of it."""
        if self.slope_m == 0.0:
            return np.zeros_like(x)
        phase = float(self.seed % 7)
        result: NDArray[np.floating] = self.slope_m * (
            np.sin(x * 0.021 + phase) * np.cos(y * 0.017 - phase) + 0.35 * np.sin((x + y) * 0.043)
        )
        return result

    def stretches(self) -> list[tuple[float, float]]:
        """Lists the parts of the main road between stop lines."""
        bounds = [0.0]
        for junction in self.junctions:
            bounds += [junction.main_arc - junction.main_stop, junction.main_arc + junction.main_stop]
        bounds.append(self.main.curve.length)
        return list(zip(bounds[::2], bounds[1::2], strict=True))


def polygons_of(shape: Polygon | MultiPolygon) -> list[Polygon]:
    """Lists the polygons of a shape, without slivers."""
    parts = getattr(shape, "geoms", [shape])
    return [part for part in parts if isinstance(part, Polygon) and part.area > 0.05]


def make_town(seed: int, layout: str, slope_m: float = 0.0) -> Town:
    """Makes a town; the same arguments always give the same.

    Args:
        seed: Any number.
        layout: One of presets.LAYOUTS.
        slope_m: Amplitude of the terrain.
    """
    generator = np.random.default_rng([seed, 101])
    main_section = Section(lanes=2 if generator.random() < 0.25 else 1)
    side_section = Section(lane=3.3, bike=0.0, parking=0.9, walkway=3.0)
    start_arc = 82.0
    arcs = _junction_arcs(generator, layout, start_arc)
    main = Road("main", _main_curve(generator, layout, arcs, start_arc), main_section)
    roads, junctions = [main], []
    for number, arc in enumerate(arcs):
        side = Road(f"side{number}", _side_curve(main.curve, arc), side_section)
        main_zebra = side_section.curb + _ZEBRA_AFTER_CURB_M
        side_zebra = main_section.curb + _ZEBRA_AFTER_CURB_M
        junctions.append(
            Junction(
                arc,
                side.curve.length / 2,
                len(roads),
                (main_zebra, main_zebra + _ZEBRA_DEPTH_M),
                (side_zebra, side_zebra + _ZEBRA_DEPTH_M),
                main_zebra + _ZEBRA_DEPTH_M + _STOP_AFTER_ZEBRA_M,
                side_zebra + _ZEBRA_DEPTH_M + _STOP_AFTER_ZEBRA_M,
            )
        )
        roads.append(side)
    lot = _lot(main, junctions, start_arc)
    town = Town(
        seed,
        layout,
        tuple(roads),
        tuple(junctions),
        (),
        (),
        lot,
        {},
        {},
        [],
        [],
        start_arc,
        (0.0, 0.0),
        slope_m,
    )
    town = _moved_to_origin(town)
    town = replace(town, lanes=_lanes(town))
    town = replace(town, connectors=_connectors(town))
    return _with_areas(town)


def _junction_arcs(generator: np.random.Generator, layout: str, start_arc: float) -> list[float]:
    if layout == "junctions":
        first = start_arc + generator.uniform(26.0, 60.0)
    else:
        first = start_arc + generator.uniform(95.0, 130.0)
    arcs = [first]
    while arcs[-1] + 105.0 < _MAIN_ROAD_LENGTH_M - 60.0:
        arcs.append(arcs[-1] + generator.uniform(96.0, 116.0))
    return [float(arc) for arc in arcs]


def _main_curve(generator: np.random.Generator, layout: str, arcs: list[float], start_arc: float) -> Curve:
    count = int(_MAIN_ROAD_LENGTH_M / STEP_M) + 1
    station = np.arange(count) * STEP_M
    curvature = np.zeros(count)
    bounds = [-_STRAIGHT_AROUND_JUNCTION_M, *arcs, _MAIN_ROAD_LENGTH_M + _STRAIGHT_AROUND_JUNCTION_M]
    for before, after in itertools.pairwise(bounds):
        # the car park needs a straight street beside it
        begin = max(before + _STRAIGHT_AROUND_JUNCTION_M, start_arc + _STRAIGHT_AFTER_START_M)
        end = after - _STRAIGHT_AROUND_JUNCTION_M
        bends = layout == "curved" or (layout == "junctions" and generator.random() < 0.5)
        length = end - begin
        if not bends or length < 40.0:
            continue
        # a bend that swells and fades has a steering wheel turn smoothly; the tightest radius is 45 m
        turned = min(generator.uniform(0.3, 0.75), length / 2 / 45.0) * generator.choice([-1.0, 1.0])
        inside = (station > begin) & (station < end)
        curvature[inside] = 2 * turned / length * np.sin(np.pi * (station[inside] - begin) / length) ** 2
    return from_curvature([0.0, 0.0], generator.uniform(-np.pi, np.pi), curvature)


def _side_curve(main: Curve, arc: float) -> Curve:
    ends = main.at(np.array([arc, arc]), np.array([_SIDE_ROAD_LENGTH_M, -_SIDE_ROAD_LENGTH_M]))
    return resampled(ends)


def _lot(main: Road, junctions: list[Junction], start_arc: float) -> Lot:
    """A car park on the right, as close ahead of the start as junctions allow."""
    near = main.section.walkway_edge + 0.5
    start = start_arc - 12.0
    first = junctions[0]
    start = min(start, first.main_arc - first.main_stop - 8.0 - LOT_LENGTH_M)
    return Lot(start, start + LOT_LENGTH_M, near, near + LOT_DEPTH_M)


def _moved_to_origin(town: Town) -> Town:
    shapes = [LineString(road.curve.points_n2).buffer(_MARGIN_M) for road in town.roads]
    low_x, low_y, high_x, high_y = unary_union(shapes).bounds
    shift = np.array([low_x, low_y])
    roads = tuple(Road(road.name, Curve(road.curve.points_n2 - shift), road.section) for road in town.roads)
    return replace(town, roads=roads, extent=(high_x - low_x, high_y - low_y))


def _stretches_of(town: Town, index: int) -> list[tuple[float, float, int | None, int | None]]:
    """Lists the parts of a road between its stop lines, with the junctions at their ends."""
    road = town.roads[index]
    if index == 0:
        cuts = [(j.main_arc, j.main_stop, number) for number, j in enumerate(town.junctions)]
    else:
        cuts = [(j.side_arc, j.side_stop, n) for n, j in enumerate(town.junctions) if j.side == index]
    parts: list[tuple[float, float, int | None, int | None]] = []
    begin, before = 0.0, None
    for arc, stop, number in cuts:
        parts.append((begin, arc - stop, before, number))
        begin, before = arc + stop, number
    parts.append((begin, road.curve.length, before, None))
    return [part for part in parts if part[1] - part[0] > 2.0]


def _lanes(town: Town) -> tuple[Lane, ...]:
    lanes = []
    for index, road in enumerate(town.roads):
        section = road.section
        for part, (begin, end, before, after) in enumerate(_stretches_of(town, index)):
            for direction in (1, -1):
                strips = [(n * section.lane, (n + 1) * section.lane, False) for n in range(section.lanes)]
                if section.bike > 0:
                    strips.append((section.lane_edge, section.bike_edge, True))
                for number, (inner, outer, bike) in enumerate(strips):
                    lateral = -direction * (inner + outer) / 2  # traffic keeps to the right
                    curve = road.curve.offset(lateral, begin, end)
                    sides = sorted((-direction * inner, -direction * outer))
                    area = road.strip(begin, end, *sides)
                    if direction < 0:
                        curve = curve.reversed()
                    ends, begins = (after, before) if direction > 0 else (before, after)
                    name = f"{road.name}/{part}/{direction:+d}/{number}"
                    lanes.append(Lane(name, index, curve, area, bike, ends, begins))
    return tuple(lanes)


def _connectors(town: Town) -> tuple[Connector, ...]:
    connectors = []
    for junction in range(len(town.junctions)):
        for source, incoming in enumerate(town.lanes):
            if incoming.ends_at != junction:
                continue
            for target, outgoing in enumerate(town.lanes):
                if outgoing.begins_at != junction or outgoing.bike != incoming.bike:
                    continue
                start, end = incoming.curve.points_n2[-1], outgoing.curve.points_n2[0]
                heading, leaving = incoming.curve.heading_n[-1], outgoing.curve.heading_n[0]
                turned = float((leaving - heading + np.pi) % (2 * np.pi) - np.pi)
                if abs(turned) > 2.6 or (incoming.bike and abs(turned) > 0.5):
                    continue
                lateral = float(np.cross([np.cos(heading), np.sin(heading)], end - start))
                if abs(turned) < 0.5:
                    if abs(lateral) > 1.0:  # changes of lane within a junction
                        continue
                    turn = "straight"
                else:
                    turn = "left" if turned > 0 else "right"
                curve = resampled(turn_between(start, heading, end, leaving))
                width = 1.4 if incoming.bike else 3.2
                area = LineString(curve.points_n2).buffer(width / 2, cap_style="flat")
                name = f"{incoming.name}>{outgoing.name}"
                connectors.append(Connector(name, source, target, curve, area, junction, turn))
    return tuple(connectors)


def _with_areas(town: Town) -> Town:
    main = town.main
    whole = box(0.0, 0.0, *town.extent)
    strips = [
        road.strip(0.0, road.curve.length, -road.section.curb, road.section.curb) for road in town.roads
    ]
    streets = unary_union(strips).buffer(CORNER_RADIUS_M, quad_segs=6).buffer(-CORNER_RADIUS_M, quad_segs=6)
    lot, curb = town.lot, main.section.curb
    lot_area = main.strip(lot.start_arc, lot.end_arc, -lot.far, -lot.near)
    middle = (lot.start_arc + lot.end_arc) / 2
    driveway = main.strip(middle - 3.2, middle + 3.2, -lot.near - 0.5, -curb + 0.2)
    roadway = unary_union([streets, lot_area, driveway]).intersection(whole)
    beside = unary_union(
        [
            road.strip(0.0, road.curve.length, -road.section.walkway_edge, road.section.walkway_edge)
            for road in town.roads
        ]
    ).buffer(0.05)
    walkways = polygons_of(beside.difference(roadway).intersection(whole))

    areas: dict[str, list[Polygon]] = {
        "drivable_area": polygons_of(roadway),
        "walkway": walkways,
        "ped_crossing": [],
        "stop_line": [],
        "carpark_area": [lot_area],
        "road_segment": [],
        "road_block": [],
        "bike_lane": [lane.area for lane in town.lanes if lane.bike],
    }
    lines: dict[str, list[LineString]] = {"road_divider": [], "lane_divider": []}
    bays: list[LineString] = []
    stops: list[tuple[int, bool]] = []
    for number, junction in enumerate(town.junctions):
        side = town.roads[junction.side]
        for road, arc, zebra, stop, is_main in (
            (main, junction.main_arc, junction.main_zebra, junction.main_stop, True),
            (side, junction.side_arc, junction.side_zebra, junction.side_stop, False),
        ):
            width = road.section.curb
            for sign in (1, -1):
                ends = sorted((arc + sign * zebra[0], arc + sign * zebra[1]))
                areas["ped_crossing"].append(road.strip(ends[0], ends[1], -width, width))
                # those who come from the other side of the junction stop on its right as they see it
                ends = sorted((arc + sign * stop, arc + sign * (stop + _STOP_DEPTH_M)))
                inner, outer = sorted((0.0, sign * road.section.bike_edge))
                areas["stop_line"].append(road.strip(ends[0], ends[1], inner, outer))
                stops.append((number, is_main))
        reach = junction.main_stop
        across = main.strip(junction.main_arc - reach, junction.main_arc + reach, -curb, curb)
        along = side.strip(
            junction.side_arc - junction.side_stop,
            junction.side_arc + junction.side_stop,
            -side.section.curb,
            side.section.curb,
        )
        areas["road_segment"].append(unary_union([across, along]).buffer(0.01))
    areas["road_segment"] = [part for shape in areas["road_segment"] for part in polygons_of(shape)]
    for index, road in enumerate(town.roads):
        section = road.section
        for begin, end, before, after in _stretches_of(town, index):
            areas["road_segment"].append(road.strip(begin, end, -section.curb, section.curb))
            areas["road_block"] += [
                road.strip(begin, end, -section.lane_edge, 0.0),
                road.strip(begin, end, 0.0, section.lane_edge),
            ]
            stations = road.curve.stations(begin, end)
            lines["road_divider"].append(LineString(road.curve.at(stations)))
            laterals = [n * section.lane for n in range(1, section.lanes)]
            laterals += [section.lane_edge, section.bike_edge] if section.bike > 0 else [section.lane_edge]
            for lateral in laterals:
                for sign in (1, -1):
                    lines["lane_divider"].append(LineString(road.curve.at(stations, sign * lateral)))
            if index == 0:
                _add_parking(road, begin, end, before, after, lot, middle, areas, bays)
    bays += _lot_bays(main, lot, middle)
    return replace(
        town, areas=areas, lines=lines, bays=bays, stops=stops, roadway=MultiPolygon(polygons_of(roadway))
    )


def parking_stretches(
    town_lot: Lot, driveway: float, begin: float, end: float, before: int | None, after: int | None
) -> list[tuple[int, float, float]]:
    """Lists (side, begin, end) of the parking strips along a stretch of the main road.

    Side -1 is the right; the driveway of the car park interrupts it there.
    """
    begin += _CLEAR_OF_STOP_M if before is not None else 0.0
    end -= _CLEAR_OF_STOP_M if after is not None else 0.0
    found = [(1, begin, end)]
    gap = (driveway - 5.0, driveway + 5.0)
    if begin < gap[0] and gap[1] < end:
        found += [(-1, begin, gap[0]), (-1, gap[1], end)]
    else:
        found.append((-1, begin, end))
    return [(side, low, high) for side, low, high in found if high - low > 7.0]


def _add_parking(
    road: Road,
    begin: float,
    end: float,
    before: int | None,
    after: int | None,
    lot: Lot,
    driveway: float,
    areas: dict[str, list[Polygon]],
    bays: list[LineString],
) -> None:
    inner, outer = road.section.bike_edge, road.section.curb
    for side, low, high in parking_stretches(lot, driveway, begin, end, before, after):
        right, left = sorted((side * inner, side * outer))
        areas["carpark_area"].append(road.strip(low, high, right, left))
        for arc in np.arange(low, high + 0.1, 6.2):
            bays.append(
                LineString(road.curve.at(np.array([arc, arc]), side * np.array([inner, outer - 0.1])))
            )


def _lot_bays(main: Road, lot: Lot, middle: float) -> list[LineString]:
    bays = []
    for arc in np.arange(lot.start_arc + 0.5, lot.end_arc, 3.0):
        bays.append((arc, lot.far, lot.far - 5.2))
        if abs(arc - middle) > 4.0:
            bays.append((arc, lot.near, lot.near + 5.2))
    return [
        LineString(main.curve.at(np.array([arc, arc]), -np.array([start, end]))) for arc, start, end in bays
    ]


def moved(shape: Polygon | LineString, x: float, y: float) -> Polygon | LineString:
    """Returns a shape moved by x and y metres."""
    return affinity.translate(shape, x, y)
