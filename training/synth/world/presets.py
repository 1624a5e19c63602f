"""What kind of world is made, and how much of it is recorded: typed and strict."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from perception_core.configuration import ConfigurationError, StrictModel, nearest

Weights = dict[str, float]

#: Layouts of a town's main road.
LAYOUTS = ("straight", "curved", "junctions")
#: Hours and weathers; `weather.conditions` knows what they look like.
CONDITIONS = ("day", "overcast", "dusk", "rain")


class Preset(StrictModel):
    """How hard a world is.

    Attributes:
        name: Of the preset.
        layouts: Weights of the layouts.
        conditions: Weights of hours and weathers.
        cast: Whether parked vehicles and road works put every class near the drive's beginning.
        traffic: Moving vehicles relative to `standard`.
        walkers: Pedestrians and cyclists relative to `standard`.
        parked: Share of parking bays that are taken; parked vehicles hide what is behind them.
        range_noise_m: Standard deviation of a LiDAR range.
        dropout: Share of LiDAR returns lost at random.
        image_noise: Grain of the cameras relative to a good sensor's.
        rolling_sweep: Whether the LiDAR measures while it and the world move.
        slope_m: Amplitude of the terrain; nuScenes' maps are flat, so its presets are.
        stray_returns: LiDAR returns from nothing, per sweep, where it rains.
    """

    name: str
    layouts: Weights = {"straight": 1.0, "curved": 1.0, "junctions": 2.0}
    conditions: Weights = {"day": 4.0, "overcast": 2.0, "dusk": 2.0, "rain": 2.0}
    cast: bool = True
    traffic: float = Field(1.0, ge=0.0, le=4.0)
    walkers: float = Field(1.0, ge=0.0, le=4.0)
    parked: float = Field(0.6, ge=0.0, le=1.0)
    range_noise_m: float = Field(0.02, ge=0.0)
    dropout: float = Field(0.03, ge=0.0, lt=1.0)
    image_noise: float = Field(1.0, ge=0.0)
    rolling_sweep: bool = True
    slope_m: float = Field(0.0, ge=0.0, le=6.0)
    stray_returns: int = Field(120, ge=0)


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="easy",
            layouts={"straight": 2.0, "curved": 1.0},
            conditions={"day": 3.0, "overcast": 1.0},
            traffic=0.6,
            walkers=0.6,
            parked=0.25,
            range_noise_m=0.005,
            dropout=0.0,
            image_noise=0.3,
            rolling_sweep=False,
            stray_returns=0,
        ),
        Preset(name="standard"),
        Preset(
            name="hard",
            conditions={"day": 1.0, "overcast": 1.0, "dusk": 3.0, "rain": 3.0},
            traffic=1.5,
            walkers=1.7,
            parked=0.85,
            range_noise_m=0.04,
            dropout=0.1,
            image_noise=2.0,
            stray_returns=400,
        ),
    )
}


class Scale(StrictModel):
    """How much is recorded of each scene.

    Attributes:
        name: Of the scale.
        keyframes: Of a scene, at 2 Hz.
        image_width: Pixels.
        image_height: Pixels.
        lidar_columns: Measurements of each beam per turn.
    """

    name: str
    keyframes: int = Field(ge=1)
    image_width: int = Field(ge=32)
    image_height: int = Field(ge=18)
    lidar_columns: int = Field(ge=16)


SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(name="tiny", keyframes=4, image_width=400, image_height=225, lidar_columns=720),
        Scale(name="small", keyframes=16, image_width=800, image_height=450, lidar_columns=1084),
        Scale(name="full", keyframes=40, image_width=1600, image_height=900, lidar_columns=1084),
    )
}


def find_preset(name: str) -> Preset:
    """Returns a preset by name.

    Raises:
        ConfigurationError: There is none of that name; the message names the nearest.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"no preset '{name}'{nearest(name, PRESETS)}")
    return PRESETS[name]


def find_scale(name: str) -> Scale:
    """Returns a scale by name.

    Raises:
        ConfigurationError: There is none of that name; the message names the nearest.
    """
    if name not in SCALES:
        raise ConfigurationError(f"no scale '{name}'{nearest(name, SCALES)}")
    return SCALES[name]
