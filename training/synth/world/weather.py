"""Hours and weathers: what the light is, and what rain does to the sensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.synth.appearance import rgb
from training.synth.shading import Lighting, towards_sun


@dataclass(frozen=True)
class Conditions:
    """An hour and a weather.

    Attributes:
        name: One of presets.CONDITIONS.
        lighting: For the cameras.
        rain: 0 dry .. 1 a shower: streaks in the pictures, lost and stray LiDAR returns.
    """

    name: str
    lighting: Lighting
    rain: float = 0.0


def make_conditions(name: str, generator: np.random.Generator, image_noise: float) -> Conditions:
    """Draws the light of an hour.

    Args:
        name: One of presets.CONDITIONS.
        generator: Of the sun's place and the clouds.
        image_noise: Of the preset.

    Raises:
        ValueError: No such conditions.
    """
    azimuth = float(generator.uniform(0, 2 * np.pi))
    if name == "day":
        elevation = float(np.radians(generator.uniform(28.0, 62.0)))
        lighting = Lighting(
            towards_sun=towards_sun(azimuth, elevation),
            cloud_cover=float(generator.uniform(0.25, 0.55)),
            grain=image_noise,
        )
        return Conditions(name, lighting)
    if name == "overcast":
        lighting = Lighting(
            towards_sun=towards_sun(azimuth, np.radians(50.0)),
            sunlight=rgb(0.22, 0.21, 0.20),
            sky_light=rgb(1.25, 1.32, 1.42),
            ground_light=rgb(0.48, 0.47, 0.45),
            zenith=rgb(0.55, 0.60, 0.66),
            horizon=rgb(0.74, 0.77, 0.80),
            cloud=rgb(0.80, 0.82, 0.85),
            cloud_cover=0.85,
            haze_distance_m=420.0,
            exposure=0.78,
            grain=1.2 * image_noise,
        )
        return Conditions(name, lighting)
    if name == "dusk":
        elevation = float(np.radians(generator.uniform(3.0, 8.0)))
        lighting = Lighting(
            towards_sun=towards_sun(azimuth, elevation),
            sunlight=rgb(0.62, 0.30, 0.12),
            sky_light=rgb(0.15, 0.17, 0.27),
            ground_light=rgb(0.08, 0.075, 0.08),
            zenith=rgb(0.05, 0.08, 0.20),
            horizon=rgb(0.46, 0.27, 0.19),
            cloud=rgb(0.36, 0.24, 0.26),
            cloud_cover=float(generator.uniform(0.3, 0.6)),
            haze_distance_m=500.0,
            exposure=1.7,
            grain=1.8 * image_noise,
            lit_windows=0.45,
            lamp=1.6,
        )
        return Conditions(name, lighting)
    if name == "rain":
        lighting = Lighting(
            towards_sun=towards_sun(azimuth, np.radians(45.0)),
            sunlight=rgb(0.0, 0.0, 0.0),
            sky_light=rgb(0.82, 0.88, 0.96),
            ground_light=rgb(0.30, 0.30, 0.30),
            zenith=rgb(0.40, 0.43, 0.48),
            horizon=rgb(0.50, 0.53, 0.56),
            cloud=rgb(0.52, 0.55, 0.59),
            cloud_cover=0.95,
            haze_distance_m=170.0,
            exposure=1.15,
            grain=1.6 * image_noise,
            lit_windows=0.15,
            wetness=1.0,
        )
        return Conditions(name, lighting, rain=float(generator.uniform(0.5, 1.0)))
    raise ValueError(f"no conditions '{name}'")
