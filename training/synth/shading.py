"""Light: the sky, how surfaces send it back, and how a camera turns it into 8-bit pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.synth.appearance import Painter, rgb, surface
from training.synth.mesh import Material
from training.synth.noise import value_noise
from training.synth.scene import Hits, RayScene

Float32Array = NDArray[np.float32]


def towards_sun(azimuth: float, elevation: float) -> Float32Array:
    """Returns the unit vector towards a sun at these angles in radians."""
    return np.array(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ],
        dtype=np.float32,
    )


@dataclass(frozen=True)
class Lighting:
    """The light of an hour and a weather. Colours are columns [3, 1] of linear radiance.

    Attributes:
        towards_sun: Unit vector.
        sunlight: Of the sun; black where clouds hide it.
        sky_light: That falls on what faces up.
        ground_light: That falls on what faces down.
        zenith: Of the sky overhead.
        horizon: Of the sky above the horizon, and of haze.
        cloud: Of clouds.
        cloud_cover: 0 clear .. 1 overcast.
        haze_distance_m: At which haze hides 63 % of the colour.
        exposure: Factor before the camera's tone curve.
        grain: Sensor noise relative to a good day's.
        lit_windows: Share of windows with light behind them.
        wetness: 0 dry .. 1 a wet, mirroring street.
        lamp: Radiance of lamps.
    """

    towards_sun: Float32Array = field(
        default_factory=lambda: towards_sun(np.radians(128.0), np.radians(47.0))
    )
    sunlight: Float32Array = field(default_factory=lambda: rgb(2.55, 2.30, 1.92))
    sky_light: Float32Array = field(default_factory=lambda: rgb(0.50, 0.62, 0.82))
    ground_light: Float32Array = field(default_factory=lambda: rgb(0.30, 0.28, 0.25))
    zenith: Float32Array = field(default_factory=lambda: rgb(0.16, 0.34, 0.72))
    horizon: Float32Array = field(default_factory=lambda: rgb(0.66, 0.76, 0.86))
    cloud: Float32Array = field(default_factory=lambda: rgb(1.0, 0.99, 0.97))
    cloud_cover: float = 0.45
    haze_distance_m: float = 600.0
    exposure: float = 0.92
    grain: float = 1.0
    lit_windows: float = 0.0
    wetness: float = 0.0
    lamp: float = 0.95


DAYLIGHT = Lighting()


def sky(direction_3n: Float32Array, light: Lighting) -> Float32Array:
    """Returns the radiance [3, N] of the sky: a gradient, the sun's glow and clouds."""
    up = np.clip(direction_3n[2], 0.0, 1.0)
    colour = light.horizon + (light.zenith - light.horizon) * up**0.55
    # clouds live on a plane far above, so that they flatten towards the horizon
    scale = 1.0 / np.maximum(up, 0.03)
    u, v = direction_3n[0] * scale, direction_3n[1] * scale
    clouds = (
        0.55 * value_noise(u * 1.1, v * 0.9, 20)
        + 0.3 * value_noise(u * 2.7, v * 2.3, 21)
        + 0.15 * value_noise(u * 6.1, v * 5.3, 22)
    )
    cover = np.clip((clouds - 0.95 + light.cloud_cover) * 3.2, 0.0, 0.85 + 0.1 * light.cloud_cover)
    cover *= np.clip(up * 7.0, 0.0, 1.0)
    shaded = light.cloud * (1.0 - np.float32(0.3 * light.cloud_cover) * clouds)
    colour += (shaded - colour) * cover
    glow = np.clip(light.towards_sun @ direction_3n, 0.0, 1.0)
    brightness = light.sunlight / np.float32(2.55)
    colour += (0.35 * glow**24 + 3.0 * glow**1200) * brightness
    result: Float32Array = colour.astype(np.float32, copy=False)
    return result


def shade(scene: RayScene, hits: Hits, light: Lighting, paint_ground: Painter | None = None) -> Float32Array:
    """Returns the radiance [3, H] that the hit surfaces send back along their rays.

    Args:
        scene: Casts the shadows.
        hits: The surfaces.
        light: Sun, sky and weather.
        paint_ground: Passed to `appearance.surface`.
    """
    normal, distance = hits.normal_3h, hits.distance_n[hits.hit]
    albedo, gloss = surface(
        hits.position_3h, normal, distance, hits.colour_3h, hits.material_h, paint_ground, light.lit_windows
    )
    if light.wetness > 0:
        _wet(hits, albedo, gloss, light.wetness)
    lit = light.towards_sun @ normal
    np.maximum(lit, 0.0, out=lit)
    if light.sunlight.max() > 0.02:
        candidates = np.flatnonzero(lit > 0.0)
        shadowed = scene.in_shadow(hits.position_3h[:, candidates], normal[:, candidates], light.towards_sun)
        lit[candidates[shadowed]] = 0.0
    up = 0.5 + 0.5 * normal[2]
    radiance = lit * light.sunlight
    radiance += up * (light.sky_light - light.ground_light) + light.ground_light
    radiance *= albedo
    radiance *= np.float32(0.62)

    shiny = np.flatnonzero(gloss > 0)
    if len(shiny):
        towards, facing = hits.direction_3h[:, shiny], normal[:, shiny]
        cosine = -(towards * facing).sum(axis=0)
        mirrored = towards + 2 * cosine * facing
        fresnel = gloss[shiny] + (1 - gloss[shiny]) * 0.55 * np.clip(1 - cosine, 0, 1) ** 4
        seen = np.where(mirrored[2] > 0, sky(mirrored, light), 0.22 * light.horizon)
        # opposite houses hide the lower part of the sky from most reflections
        seen *= np.clip(0.35 + 1.4 * mirrored[2], 0.3, 1.0)
        highlight = np.clip(light.towards_sun @ mirrored, 0, 1) ** 180 * (lit[shiny] > 0)
        seen += highlight * light.sunlight
        radiance[:, shiny] = radiance[:, shiny] * (1 - fresnel) + fresnel * seen
    if light.lit_windows > 0:
        glowing = np.flatnonzero((hits.material_h == Material.FACADE) & (albedo[0] > 0.8))
        radiance[:, glowing] = albedo[:, glowing] * np.float32(0.5 * light.lamp)
    lamp = hits.material_h == Material.LAMP
    radiance[:, lamp] = albedo[:, lamp] * np.float32(light.lamp)
    radiance += (light.horizon - radiance) * (1 - np.exp(distance * np.float32(-1.0 / light.haze_distance_m)))
    result: Float32Array = radiance
    return result


def _wet(hits: Hits, albedo: Float32Array, gloss: Float32Array, wetness: float) -> None:
    """Darkens what rain falls on and lets puddles mirror, in place."""
    flat = np.flatnonzero(
        (hits.normal_3h[2] > 0.7)
        & ((hits.material_h == Material.GROUND) | (hits.material_h == Material.WALKWAY))
    )
    x, y = hits.position_3h[0, flat], hits.position_3h[1, flat]
    puddle = np.clip((value_noise(x * 0.45, y * 0.45, 30) - 0.42) * 4.0, 0.0, 1.0)
    albedo[:, flat] *= 1.0 - np.float32(wetness) * (0.35 + 0.2 * puddle)
    gloss[flat] = np.float32(wetness) * (0.05 + 0.25 * puddle)


#: Entries of the tables that turn radiance into 8-bit values.
_TONE_STEPS = 4096
_BRIGHTEST = 4.0


@lru_cache(maxsize=16)
def _tone_table(exposure: float) -> NDArray[np.uint8]:
    """Filmic curve (Narkowicz' fit of ACES) and sRGB-like gamma for radiance 0.._BRIGHTEST."""
    exposed = np.linspace(0.0, _BRIGHTEST, _TONE_STEPS) * exposure
    mapped = exposed * (2.51 * exposed + 0.03) / (exposed * (2.43 * exposed + 0.59) + 0.14)
    table: NDArray[np.uint8] = np.clip(np.clip(mapped, 0, 1) ** (1 / 2.2) * 255 + 0.5, 0, 255).astype(
        np.uint8
    )
    return table


def develop(radiance_3n: Float32Array, grain_n: Float32Array, light: Lighting) -> NDArray[np.uint8]:
    """Turns radiance into 8-bit values with sensor noise.

    Args:
        radiance_3n: Linear RGB.
        grain_n: Noise around 0, about -2..2.
        light: Its exposure and grain.
    """
    steps = radiance_3n * np.float32((_TONE_STEPS - 1) / _BRIGHTEST)
    # noise as a photo-diode has it: growing with the signal, on top of a floor
    steps += grain_n * (np.float32(3.0 * light.grain) + np.float32(0.02 * light.grain) * steps)
    np.clip(steps, 0, _TONE_STEPS - 1, out=steps)
    values: NDArray[np.uint8] = _tone_table(light.exposure)[steps.astype(np.int16)]
    return values
