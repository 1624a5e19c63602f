"""Colour of every surface point: procedural textures by position, faded with distance so that they do not
flicker.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.synth import layout
from training.synth.mesh import Material
from training.synth.noise import lattice, value_noise

Float32Array = NDArray[np.float32]
#: Makes albedo [3, N] and gloss [N] out of positions, normals, distances and base colours.
Painter = Callable[
    [Float32Array, Float32Array, Float32Array, Float32Array], tuple[Float32Array, Float32Array]
]

_FLOOR_HEIGHT = 3.1
_GROUND_FLOOR_HEIGHT = 3.9
_WINDOW_SPACING = 2.6


def rgb(red: float, green: float, blue: float) -> Float32Array:
    """A colour as a column that multiplies [3, N]."""
    return np.array([[red], [green], [blue]], dtype=np.float32)


def surface(
    position_3n: Float32Array,
    normal_3n: Float32Array,
    distance_n: Float32Array,
    colour_3n: Float32Array,
    material_n: NDArray[np.int64],
    paint_ground: Painter | None = None,
    lit_windows: float = 0.0,
) -> tuple[Float32Array, Float32Array]:
    """Paints points.

    Args:
        position_3n: World coordinates, metres.
        normal_3n: Unit surface normals.
        distance_n: Distance from the viewer in metres.
        colour_3n: Base colours, linear RGB.
        material_n: Materials.
        paint_ground: Paints Material.GROUND; None: the demo's street.
        lit_windows: Share of windows with light behind them; they get an albedo above 1.

    Returns:
        Albedo [3, N] and mirror-like reflectivity [N].
    """
    albedo = colour_3n.copy()
    gloss = np.zeros(albedo.shape[1], dtype=np.float32)
    for material, paint in (
        (Material.GROUND, paint_ground or _ground),
        (Material.WALKWAY, _walkway),
        (Material.FACADE, _facade),
        (Material.ROOF, _roof),
        (Material.FOLIAGE, _foliage),
    ):
        at = np.flatnonzero(material_n == material)
        if len(at):
            albedo[:, at], gloss[at] = paint(
                position_3n[:, at], normal_3n[:, at], distance_n[at], colour_3n[:, at]
            )
    if lit_windows > 0:
        at = np.flatnonzero(material_n == Material.FACADE)
        albedo[:, at] = _with_lit_windows(
            position_3n[:, at], normal_3n[:, at], albedo[:, at], gloss[at], lit_windows
        )
    gloss[material_n == Material.CAR_PAINT] = 0.10
    gloss[material_n == Material.GLASS] = 0.22
    gloss[material_n == Material.METAL] = 0.05
    return albedo, gloss


_WINDOW_GLASS = rgb(0.045, 0.06, 0.08)


def _faded(texture: Float32Array, distance: Float32Array, size_m: float) -> Float32Array:
    """Fades a texture around 0 where its features get smaller than a few pixels."""
    return texture * np.clip(1.6 - distance * (0.02 / size_m), 0.0, 1.0)


def _ground(
    position: Float32Array, normal: Float32Array, distance: Float32Array, colour: Float32Array
) -> tuple[Float32Array, Float32Array]:
    x, y = position[0], position[1]
    fine = _faded(value_noise(x * 14, y * 14, 1) - 0.5, distance, 0.12)
    patches = value_noise(x * 0.35, y * 0.6, 2) - 0.5
    tracks = np.exp(
        -(((np.abs(np.abs(y) - layout.LANE_WIDTH / 2) - 0.75) / 0.3) ** 2)
    )  # wheels darken the asphalt
    asphalt = 0.118 + 0.05 * fine + 0.026 * patches - 0.014 * tracks * (np.abs(y) < layout.LANE_EDGE)
    albedo = asphalt * rgb(1.0, 1.0, 1.03)
    bike = layout.on_bike_lane(x, y)
    albedo[:, bike] = asphalt[bike] * rgb(2.0, 0.78, 0.62)
    paint = layout.painted(x, y)
    wear = value_noise(x * 3.0, y * 3.0, 3) * 0.22
    albedo[:, paint] = 0.66 - wear[paint] + 0.1 * fine[paint]
    grass = ~layout.on_roadway(x, y)
    albedo[:, grass] = rgb(0.07, 0.12, 0.03) * (0.8 + 0.5 * value_noise(x[grass] * 2, y[grass] * 2, 4))
    return albedo, np.zeros(albedo.shape[1], dtype=np.float32)


def _walkway(
    position: Float32Array, normal: Float32Array, distance: Float32Array, colour: Float32Array
) -> tuple[Float32Array, Float32Array]:
    x, y = position[0] / 0.6, position[1] / 0.6
    row = np.floor(y)
    x = x + 0.5 * (row % 2)
    joint = ((x % 1.0) < 0.05) | ((y % 1.0) < 0.05)
    tile = lattice(np.floor(x).astype(np.int32), row.astype(np.int32), 5) - 0.5
    shade = 1.0 + _faded(0.22 * tile - 0.35 * joint, distance, 0.5)
    return colour * shade.astype(np.float32), np.zeros(colour.shape[1], dtype=np.float32)


def _along_wall(position: Float32Array, normal: Float32Array) -> Float32Array:
    """Returns the horizontal coordinate in metres along an upright wall."""
    result: Float32Array = normal[0] * position[1] - normal[1] * position[0]
    return result


_LIT_ROOM = rgb(1.5, 1.05, 0.55)


def _with_lit_windows(
    position: Float32Array, normal: Float32Array, albedo: Float32Array, gloss: Float32Array, share: float
) -> Float32Array:
    """Brightens that share of the panes, and every shop."""
    column = np.floor(_along_wall(position, normal) / _WINDOW_SPACING).astype(np.int32)
    upper = position[2] - layout.CURB_HEIGHT - _GROUND_FLOOR_HEIGHT
    floor = np.floor(upper / _FLOOR_HEIGHT).astype(np.int32)
    lit = (gloss > 0) & ((upper <= 0) | (lattice(column, floor, 15) < share))
    room = 0.56 + 0.44 * lattice(column, floor, 16)
    result: Float32Array = np.where(lit, _LIT_ROOM * room, albedo).astype(np.float32)
    return result


def _facade(
    position: Float32Array, normal: Float32Array, distance: Float32Array, colour: Float32Array
) -> tuple[Float32Array, Float32Array]:
    along = _along_wall(position, normal)
    height: Float32Array = position[2] - layout.CURB_HEIGHT
    upright = np.abs(normal[2]) < 0.5
    # brick courses, or the grain of plaster on lighter walls
    course = np.floor(height / 0.085)
    brick_u = along / 0.26 + 0.5 * (course % 2)
    mortar = (height / 0.085 % 1.0 < 0.14) | (brick_u % 1.0 < 0.05)
    brick = lattice(np.floor(brick_u).astype(np.int32), course.astype(np.int32), 6) - 0.5
    is_brick = colour[0] > 1.35 * colour[2]
    texture = np.where(
        is_brick, 0.42 * brick + 0.3 * mortar, 0.1 * (value_noise(along * 5, height * 5, 7) - 0.5)
    )
    stains = 0.16 * (value_noise(along * 0.45, height * 0.25, 8) - 0.5)
    albedo = colour * (1.0 + _faded(texture, distance, 0.16) + stains).astype(np.float32)
    gloss = np.zeros(colour.shape[1], dtype=np.float32)

    upper = height - _GROUND_FLOOR_HEIGHT
    column = np.floor(along / _WINDOW_SPACING)
    across = along - (column + 0.5) * _WINDOW_SPACING
    floor = np.floor(upper / _FLOOR_HEIGHT)
    up = upper - floor * _FLOOR_HEIGHT
    in_upper = upright & (upper > 0)
    frame = in_upper & (np.abs(across) < 0.72) & (up > 0.82) & (up < 2.56)
    pane = frame & (np.abs(across) < 0.64) & (up > 0.92) & (up < 2.48) & (np.abs(across) > 0.035)
    sill = in_upper & (np.abs(across) < 0.84) & (up > 0.72) & (up <= 0.84)
    albedo[:, frame | sill] = rgb(0.62, 0.61, 0.57)
    # behind each pane a room of its own: dark, or with curtains
    room = lattice(column.astype(np.int32), floor.astype(np.int32), 9)
    albedo[:, pane] = _WINDOW_GLASS + 0.14 * np.clip(room[pane] - 0.55, 0, 1) * rgb(1.0, 0.92, 0.75)
    gloss[pane] = 0.42

    shop_column = np.floor(along / 3.9)
    shop_across = np.abs(along - (shop_column + 0.5) * 3.9)
    in_shop = upright & (upper <= 0)
    shop = lattice(shop_column.astype(np.int32), np.zeros(len(along), np.int32), 10)
    opening = in_shop & (shop_across < 1.55) & (height > 0.45) & (height < 2.75) & (shop > 0.25)
    band = in_shop & (shop_across < 1.75) & (height >= 2.85) & (height < 3.4) & (shop > 0.25)
    door = in_shop & (shop_across < 0.55) & (height < 2.3) & (shop <= 0.25)
    albedo[:, opening] = _WINDOW_GLASS + 0.10 * shop[opening] * rgb(1.0, 0.85, 0.6)
    gloss[opening] = 0.34
    hue = np.stack([shop, lattice(shop_column.astype(np.int32), np.ones(len(along), np.int32), 11), 1 - shop])
    albedo[:, band] = 0.05 + 0.42 * hue[:, band] ** 2
    albedo[:, door] = rgb(0.09, 0.06, 0.04)
    ledge = upright & (np.abs(upper + 0.18) < 0.13)
    albedo[:, ledge] = rgb(0.5, 0.49, 0.46)
    return albedo, gloss


def _roof(
    position: Float32Array, normal: Float32Array, distance: Float32Array, colour: Float32Array
) -> tuple[Float32Array, Float32Array]:
    rows = ((position[2] / 0.22) % 1.0 < 0.2).astype(np.float32)
    texture = _faded(-0.3 * rows, distance, 0.3) + 0.3 * (
        value_noise(position[0] * 2, position[1] * 2, 12) - 0.5
    )
    return colour * (1.0 + texture).astype(np.float32), np.zeros(colour.shape[1], dtype=np.float32)


def _foliage(
    position: Float32Array, normal: Float32Array, distance: Float32Array, colour: Float32Array
) -> tuple[Float32Array, Float32Array]:
    u = position[0] + 0.6 * position[2]
    v = position[1] - 0.7 * position[2]
    leaves = value_noise(u * 9, v * 9, 13)
    clumps = value_noise(u * 2.2, v * 2.2, 14)
    shade = 0.45 + 0.75 * clumps + _faded(0.75 * (leaves - 0.5), distance, 0.3)
    tint = np.stack([shade * (1 + 0.25 * (clumps - 0.5)), shade, shade * 0.9])
    return colour * tint.astype(np.float32), np.zeros(colour.shape[1], dtype=np.float32)
