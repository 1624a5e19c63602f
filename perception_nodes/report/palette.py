"""Colours of the report: one per stage, map layer and kind of object, the same in every picture."""

from __future__ import annotations

from collections.abc import Iterable

SENSOR_AGE = "#9aa5b1"
TRANSPORT = "#cfd6dd"
DETECTION = "#e4572e"
GROUND_TRUTH = "#2a9d5c"
PLANNED_PATH = "#2f6fed"

#: Distinct for colour-blind readers too (Tol's "bright" and "muted" sets, ordered for contrast between
#: neighbours).
_STAGES = (
    "#4477aa",
    "#ee9955",
    "#228833",
    "#aa3377",
    "#66ccee",
    "#ccaa22",
    "#882255",
    "#44aa99",
    "#999933",
    "#332288",
)
_LAYERS = ("#7fa8d8", "#d9a441", "#c06c84", "#8f9d5b", "#6c5b7b", "#45a29e", "#b56576", "#5c7c8a")
_KNOWN_LAYERS = {
    "drivable_area": "#9db8d9",
    "road": "#9db8d9",
    "ped_crossing": "#d9a441",
    "walkway": "#b7a6cf",
    "sidewalk": "#b7a6cf",
    "stop_line": "#d1495b",
    "carpark_area": "#8fb996",
    "divider": "#f2c14e",
    "lane_divider": "#f2c14e",
    "road_divider": "#e08e45",
    "lane_marking": "#f2c14e",
}

STATE_COLOURS = {
    0: ("disengaged", "#9aa5b1"),
    1: ("driving", "#2a9d5c"),
    2: ("comfortable stop", "#e9a23b"),
    3: ("full stop", "#d1495b"),
}


def stage_colours(stages: Iterable[str]) -> dict[str, str]:
    """Gives each stage its colour, in the order of the graph."""
    return {stage: _STAGES[index % len(_STAGES)] for index, stage in enumerate(stages)}


def layer_colours(layers: Iterable[str]) -> dict[str, str]:
    """Gives each map layer its colour: the usual one where the layer's name is a common one."""
    colours: dict[str, str] = {}
    for index, layer in enumerate(layers):
        colours[layer] = _KNOWN_LAYERS.get(layer, _LAYERS[index % len(_LAYERS)])
    return colours


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` to red, green, blue in 0..255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
