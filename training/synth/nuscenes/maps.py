"""Map expansion and map masks of the four locations, out of the towns that lie on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from shapely.geometry import LineString, Polygon

from training.synth.nuscenes.vocabulary import Record, token
from training.synth.world.curve import Curve
from training.synth.world.town import Lane, Town

#: nuScenes' masks have 10 pixels per metre.
MASK_PIXELS_PER_M = 10
_ARC_STEP_M = 5.0
_STRAIGHTEST_RADIUS_M = 1000.0


class MapExpansion:
    """Collects the layers of one location."""

    def __init__(self, location: str) -> None:
        """Begins an empty map."""
        self._location = location
        layers = (
            *("polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane"),
            *("ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider"),
            *("traffic_light", "lane_connector"),
        )
        self._layers: dict[str, list[Record]] = {layer: [] for layer in layers}
        self._arcs: dict[str, list[Record]] = {}
        self._connectivity: dict[str, Record] = {}
        self._origin = np.zeros(2)
        self._town = ""

    def add(self, town: Town, name: str, origin: tuple[float, float]) -> None:
        """Adds a town.

        Args:
            town: Its vector map.
            name: Unique among the towns of the map.
            origin: Where it lies, metres.
        """
        self._town, self._origin = name, np.array(origin)
        drivable = [self._polygon(polygon) for polygon in town.areas["drivable_area"]]
        self._layers["drivable_area"].append(
            {"token": self._token("drivable_area"), "polygon_tokens": drivable}
        )
        junctions = len(town.junctions)
        segments = self._areas(town, "road_segment", lambda number: {"is_intersection": number < junctions})
        self._areas(
            town,
            "road_block",
            lambda number: {
                "from_edge_line_token": "",
                "to_edge_line_token": "",
                "road_segment_token": segments[junctions + number // 2],
            },
        )
        crossings = self._areas(
            town, "ped_crossing", lambda number: {"road_segment_token": segments[number // 4]}
        )
        self._areas(town, "walkway", lambda number: {})
        self._areas(town, "carpark_area", lambda number: {"orientation": 0.0, "road_block_token": ""})
        self._areas(
            town,
            "stop_line",
            lambda number: {
                "stop_line_type": "TRAFFIC_LIGHT",
                "ped_crossing_tokens": [crossings[number]],
                "traffic_light_tokens": [self._token("traffic_light", number)],
                "road_block_token": "",
            },
        )
        for layer in ("road_divider", "lane_divider"):
            for line in town.lines[layer]:
                record: Record = {"token": self._token(layer, len(self._layers[layer]))}
                record["line_token"], nodes = self._line(line)
                kind = "DOUBLE_DASHED_WHITE" if layer == "road_divider" else "SINGLE_SOLID_WHITE"
                if layer == "lane_divider":
                    record["lane_divider_segments"] = [
                        {"node_token": node, "segment_type": kind} for node in nodes
                    ]
                else:
                    record["road_divider_segments"] = [
                        {"node_token": node, "segment_type": kind} for node in nodes
                    ]
                    record["road_segment_token"] = None
                self._layers[layer].append(record)
        self._traffic_lights(town)
        self._lanes(town)

    def as_json(self, size: tuple[float, float]) -> dict[str, Any]:
        """Returns the content of the map's file.

        Args:
            size: Of the map in metres.
        """
        return {
            "version": "1.3",
            "canvas_edge": list(size),
            **self._layers,
            "arcline_path_3": self._arcs,
            "connectivity": self._connectivity,
        }

    def _token(self, *parts: object) -> str:
        return token("map", self._location, self._town, *parts)

    def _nodes(self, points: np.ndarray[Any, Any]) -> list[str]:
        nodes = []
        for x, y in np.round(points + self._origin, 4):
            name = self._token("node", len(self._layers["node"]))
            self._layers["node"].append({"token": name, "x": float(x), "y": float(y)})
            nodes.append(name)
        return nodes

    def _polygon(self, polygon: Polygon) -> str:
        name = self._token("polygon", len(self._layers["polygon"]))
        holes = [{"node_tokens": self._nodes(np.array(ring.coords)[:-1])} for ring in polygon.interiors]
        self._layers["polygon"].append(
            {
                "token": name,
                "exterior_node_tokens": self._nodes(np.array(polygon.exterior.coords)[:-1]),
                "holes": holes,
            }
        )
        return name

    def _line(self, line: LineString) -> tuple[str, list[str]]:
        name = self._token("line", len(self._layers["line"]))
        nodes = self._nodes(np.array(line.simplify(0.02).coords))
        self._layers["line"].append({"token": name, "node_tokens": nodes})
        return name, nodes

    def _areas(self, town: Town, layer: str, more: Any) -> list[str]:
        tokens = []
        for number, polygon in enumerate(town.areas[layer]):
            name = self._token(layer, number)
            simple = polygon.simplify(0.01)
            self._layers[layer].append(
                {"token": name, "polygon_token": self._polygon(simple), **more(number)}
            )
            tokens.append(name)
        return tokens

    def _traffic_lights(self, town: Town) -> None:
        for number, polygon in enumerate(town.areas["stop_line"]):
            at = np.array(polygon.centroid.coords)[0]
            line, _ = self._line(LineString([at, at + np.array([0.5, 0.0])]))
            self._layers["traffic_light"].append(
                {
                    "token": self._token("traffic_light", number),
                    "line_token": line,
                    "traffic_light_type": "VERTICAL",
                    "from_road_block_token": "",
                    "items": [
                        {
                            "color": color,
                            "shape": "CIRCLE",
                            "rel_pos": {"tx": 0.0, "ty": 0.0, "tz": height, "rx": 0.0, "ry": 0.0, "rz": 0.0},
                            "to_road_block_tokens": [],
                        }
                        for color, height in (("RED", 0.3), ("YELLOW", 0.0), ("GREEN", -0.3))
                    ],
                    "pose": {
                        "tx": float(at[0] + self._origin[0]),
                        "ty": float(at[1] + self._origin[1]),
                        "tz": 0.0,
                        "rx": 0.0,
                        "ry": 0.0,
                        "rz": 0.0,
                    },
                }
            )

    def _lanes(self, town: Town) -> None:
        lanes = [self._token("lane", lane.name) for lane in town.lanes]
        for name, lane in zip(lanes, town.lanes, strict=True):
            self._layers["lane"].append(self._lane(name, lane))
            self._arcs[name] = self._arc_path(lane.curve)
            self._connectivity[name] = {"incoming": [], "outgoing": []}
        for connector in town.connectors:
            name = self._token("lane_connector", connector.name)
            self._layers["lane_connector"].append(
                {"token": name, "polygon_token": self._polygon(connector.area.simplify(0.02))}
            )
            self._arcs[name] = self._arc_path(connector.curve)
            source, target = lanes[connector.source], lanes[connector.target]
            self._connectivity[name] = {"incoming": [source], "outgoing": [target]}
            self._connectivity[source]["outgoing"].append(name)
            self._connectivity[target]["incoming"].append(name)

    def _lane(self, name: str, lane: Lane) -> Record:
        ring = np.array(lane.area.exterior.coords)[:-1]
        half = len(ring) // 2
        sides = {"right": ring[:half], "left": ring[half:][::-1]}
        ahead = lane.curve.points_n2[-1] - lane.curve.points_n2[0]
        if (
            np.dot(ring[half - 1] - ring[0], ahead) < 0
        ):  # strips run along their road, lanes as they are driven
            sides = {"right": sides["left"][::-1], "left": sides["right"][::-1]}
        begin, _ = self._line(LineString([sides["right"][0], sides["left"][0]]))
        end, _ = self._line(LineString([sides["right"][-1], sides["left"][-1]]))
        segments = {
            side: [
                {"node_token": node, "segment_type": "SINGLE_SOLID_WHITE"}
                for node in self._nodes(np.array(LineString(points).simplify(0.02).coords))
            ]
            for side, points in sides.items()
        }
        return {
            "token": name,
            "polygon_token": self._polygon(lane.area.simplify(0.01)),
            "lane_type": "BIKE" if lane.bike else "CAR",
            "from_edge_line_token": begin,
            "to_edge_line_token": end,
            "left_lane_divider_segments": segments["left"],
            "right_lane_divider_segments": segments["right"],
        }

    def _arc_path(self, curve: Curve) -> list[Record]:
        """Cuts a curve into arcs of constant curvature, each a degenerate three-part arcline path."""
        count = max(1, round(curve.length / _ARC_STEP_M))
        arcs = np.linspace(0.0, curve.length, count + 1)
        points, headings = curve.at(arcs) + self._origin, curve.heading(arcs)
        path = []
        for number in range(count):
            turned = headings[number + 1] - headings[number]
            length = float(arcs[number + 1] - arcs[number])
            radius = min(length / max(abs(float(turned)), 1e-9), _STRAIGHTEST_RADIUS_M)
            straight = radius >= _STRAIGHTEST_RADIUS_M
            path.append(
                {
                    "start_pose": [*points[number].tolist(), float(headings[number])],
                    "end_pose": [*points[number + 1].tolist(), float(headings[number + 1])],
                    "shape": "LSL" if turned >= 0 else "RSR",
                    "radius": radius,
                    "segment_length": [0.0, length, 0.0] if straight else [length, 0.0, 0.0],
                }
            )
        return path


def mask_of(towns: list[tuple[Town, tuple[float, float]]], size: tuple[float, float]) -> np.ndarray[Any, Any]:
    """Draws the drivable area and walkways of a location, 255 on 0, row 0 in the north as nuScenes has it."""
    width, height = (round(edge * MASK_PIXELS_PER_M) for edge in size)
    mask = np.zeros((height, width), dtype=np.uint8)
    for town, origin in towns:
        for layer in ("drivable_area", "walkway"):
            for polygon in town.areas[layer]:
                rings = [polygon.exterior, *polygon.interiors]
                pixels = [
                    np.round((np.array(ring.coords) + origin) * MASK_PIXELS_PER_M).astype(np.int32)
                    for ring in rings
                ]
                drawn = np.zeros_like(mask) if polygon.interiors else mask
                cv2.fillPoly(drawn, pixels, (255,))
                if polygon.interiors:
                    mask |= drawn
    return np.ascontiguousarray(mask[::-1])


def write_map(
    folder: Path, location: str, towns: list[tuple[str, Town, tuple[float, float]]], size: tuple[float, float]
) -> str:
    """Writes a location's expansion and mask below `maps`.

    Args:
        folder: Of the data set.
        location: One of LOCATIONS.
        towns: Name, town and place of each.
        size: Of the map in metres.

    Returns:
        The mask's file name relative to `folder`.
    """
    expansion = MapExpansion(location)
    for name, town, origin in towns:
        expansion.add(town, name, origin)
    (folder / "maps" / "expansion").mkdir(parents=True, exist_ok=True)
    target = folder / "maps" / "expansion" / f"{location}.json"
    target.write_text(json.dumps(expansion.as_json(size)), encoding="utf-8")
    mask = mask_of([(town, origin) for _, town, origin in towns], size)
    name = f"maps/{token('mask', location)}.png"
    encoded, data = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded:
        raise RuntimeError(f"{name}: the mask could not be encoded")
    (folder / name).write_bytes(data.tobytes())
    return name
