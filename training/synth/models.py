"""Meshes of vehicles, people and street furniture, standing on the origin and facing +x."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from training.synth.mesh import Material, Mesh, Semantic, box, cylinder, ellipsoid, frustum, merged

Size = tuple[float, float, float]

_TYRE = (0.025, 0.025, 0.027)
_RIM = (0.45, 0.46, 0.48)
_WINDOW = (0.035, 0.045, 0.055)
_HEADLIGHT = (1.0, 0.97, 0.88)
_TAIL_LIGHT = (0.75, 0.02, 0.02)
_DARK = (0.05, 0.05, 0.055)


def wheels(axles_x: tuple[float, ...], half_width: float, radius: float) -> list[Mesh]:
    """Pairs of wheels on axles at these places."""
    parts = []
    for x in axles_x:
        for side in (-1.0, 1.0):
            outer, inner = side * half_width, side * (half_width - 0.22)
            parts.append(
                cylinder((x, inner, radius), (x, outer, radius), radius, _TYRE, Material.RUBBER, sides=14)
            )
            parts.append(
                cylinder(
                    (x, outer, radius),
                    (x, outer + side * 0.012, radius),
                    radius * 0.6,
                    _RIM,
                    Material.METAL,
                    sides=10,
                )
            )
    return parts


def lights(length: float, width: float, height: float) -> list[Mesh]:
    """Head and tail lights of a vehicle."""
    parts = []
    for side in (-1.0, 1.0):
        y = side * (width / 2 - 0.24)
        parts.append(box((length / 2 - 0.02, y, height), (0.06, 0.34, 0.13), _HEADLIGHT, Material.LAMP))
        parts.append(
            box((-length / 2 + 0.02, y, height + 0.1), (0.06, 0.3, 0.15), _TAIL_LIGHT, Material.LAMP)
        )
    return parts


def cabin(
    bottom_3: tuple[float, float, float],
    bottom: tuple[float, float],
    top: tuple[float, float],
    height: float,
    shift: float,
    paint: ArrayLike,
) -> list[Mesh]:
    """Windows all round under a painted roof, with pillars between them."""
    x, y, z = bottom_3
    glass = frustum(bottom_3, bottom, top, height, _WINDOW, Material.GLASS, top_shift=(shift, 0.0))
    roof = frustum(
        (x + shift, y, z + height),
        (top[0] + 0.02, top[1] + 0.02),
        (top[0] - 0.12, top[1] - 0.12),
        0.05,
        paint,
        Material.CAR_PAINT,
    )
    parts = [glass, roof]
    for side in (-1.0, 1.0):
        for along in (-0.49, 0.02, 0.49):
            start = (x + along * bottom[0], y + side * (bottom[1] / 2 - 0.01), z)
            end = (x + shift + along * top[0], y + side * (top[1] / 2 - 0.01), z + height)
            parts.append(cylinder(start, end, 0.045, paint, Material.CAR_PAINT, sides=5))
    return parts


def car(size: Size, paint: ArrayLike) -> Mesh:
    """A hatchback or saloon filling `size` (length, width, height)."""
    length, width, height = size
    body, sill = 0.30 * height, 0.17
    belt = sill + 0.40 * height
    parts = [
        frustum(
            (0, 0, sill),
            (length * 0.985, width * 0.97),
            (length, width),
            body * 0.55,
            paint,
            Material.CAR_PAINT,
        ),
        frustum(
            (0, 0, sill + body * 0.55),
            (length, width),
            (length * 0.93, width * 0.92),
            belt - sill - body * 0.55,
            paint,
            Material.CAR_PAINT,
            top_shift=(-0.04 * length, 0.0),
        ),
        frustum(
            (0, 0, 0.12),
            (length * 0.9, width * 0.9),
            (length * 0.9, width * 0.9),
            0.1,
            _DARK,
            Material.RUBBER,
        ),
        box((length / 2 - 0.03, 0, 0.34), (0.07, width * 0.5, 0.16), _DARK, Material.RUBBER),
        *cabin(
            (-0.06 * length, 0, belt),
            (length * 0.62, width * 0.9),
            (length * 0.40, width * 0.74),
            height - belt - 0.05,
            -0.03 * length,
            paint,
        ),
        *wheels((0.31 * length, -0.30 * length), width / 2 - 0.01, 0.33),
        *lights(length, width, 0.62),
    ]
    return merged(parts)


def van_or_truck(size: Size, paint: ArrayLike, cargo: ArrayLike) -> Mesh:
    """A lorry with a box body behind its cab."""
    length, width, height = size
    cab = 1.9
    parts = [
        box((0, 0, 0.45), (length, width * 0.8, 0.3), _DARK, Material.METAL),
        box((length / 2 - cab / 2, 0, 0.5), (cab, width * 0.96, 1.0), paint, Material.CAR_PAINT),
        *cabin(
            (length / 2 - cab / 2, 0, 1.5),
            (cab, width * 0.94),
            (cab - 0.35, width * 0.88),
            min(0.95, height - 1.6),
            -0.12,
            paint,
        ),
        box((-cab / 2, 0, 0.75), (length - cab - 0.15, width, height - 0.75), cargo, Material.CAR_PAINT),
        *wheels((length / 2 - 1.0, -length / 2 + 1.1, -length / 2 + 2.2), width / 2 - 0.02, 0.48),
        *lights(length, width, 0.75),
    ]
    return merged(parts)


def bus(size: Size, paint: ArrayLike) -> Mesh:
    """A city bus with a band of windows."""
    length, width, height = size
    parts = [
        box((0, 0, 0.3), (length, width, 0.85), paint, Material.CAR_PAINT),
        box((0, 0, 1.15), (length * 0.985, width * 0.985, 1.15), _WINDOW, Material.GLASS),
        box((0, 0, 2.3), (length, width, height - 2.3), paint, Material.CAR_PAINT),
        box((length / 2 - 0.05, 0, 2.35), (0.14, width * 0.6, 0.35), (0.9, 0.55, 0.05), Material.LAMP),
        *wheels((0.27 * length, -0.30 * length), width / 2 - 0.02, 0.48),
        *lights(length, width, 0.7),
    ]
    for x in np.linspace(-length / 2 + 0.06, length / 2 - 0.06, 8):
        parts.append(box((x, 0, 1.15), (0.1, width * 0.99, 1.15), paint, Material.CAR_PAINT))
    return merged(parts)


def _person(
    height: float, stride: float, shirt: ArrayLike, trousers: ArrayLike, skin: ArrayLike
) -> list[Mesh]:
    """A walking person; `stride` in -1..1 is the position of the legs."""
    hip, shoulder = 0.5 * height, 0.82 * height
    swing = 0.26 * stride
    parts = []
    for side in (-1.0, 1.0):
        foot = (side * swing, side * 0.09, 0.06)
        parts.append(cylinder(foot, (0.0, side * 0.08, hip), 0.085, trousers, Material.CLOTH, sides=7))
        parts.append(box((foot[0] + 0.05, foot[1], 0.0), (0.26, 0.1, 0.09), _DARK, Material.RUBBER))
        hand = (-side * swing * 0.8, side * 0.27, hip - 0.02)
        parts.append(
            cylinder(hand, (0.0, side * 0.22, shoulder - 0.04), 0.055, shirt, Material.CLOTH, sides=6)
        )
        parts.append(ellipsoid(hand, (0.05, 0.05, 0.06), skin, Material.SKIN, rings=3))
    parts.append(
        frustum((0, 0, hip - 0.06), (0.22, 0.34), (0.25, 0.46), shoulder - hip + 0.08, shirt, Material.CLOTH)
    )
    parts.append(cylinder((0, 0, shoulder), (0, 0, shoulder + 0.1), 0.06, skin, Material.SKIN, sides=6))
    parts.append(ellipsoid((0.01, 0, height - 0.115), (0.1, 0.085, 0.115), skin, Material.SKIN, rings=6))
    parts.append(
        ellipsoid((-0.025, 0, height - 0.08), (0.1, 0.095, 0.09), (0.06, 0.04, 0.03), Material.CLOTH, rings=5)
    )
    return parts


def pedestrian(size: Size, stride: float, shirt: ArrayLike, trousers: ArrayLike, skin: ArrayLike) -> Mesh:
    """A walking person of the height given by `size`."""
    return merged(_person(size[2], stride, shirt, trousers, skin))


def bicycle(size: Size, stride: float, frame: ArrayLike, shirt: ArrayLike, skin: ArrayLike) -> Mesh:
    """A cyclist: wheels, frame, rider with legs at `stride`."""
    rider = _cyclist(size[2], stride, frame, shirt, skin)
    return merged([parked_bicycle(frame), rider.labelled(Semantic.RIDER)])


def parked_bicycle(frame: ArrayLike) -> Mesh:
    """A bicycle without a rider."""
    wheel, axle = 0.34, 0.52
    parts = []
    for x in (-axle, axle):
        parts.append(cylinder((x, -0.02, wheel), (x, 0.02, wheel), wheel, _TYRE, Material.RUBBER, sides=18))
        parts.append(
            cylinder(
                (x, -0.024, wheel), (x, 0.024, wheel), wheel * 0.88, (0.5, 0.5, 0.5), Material.METAL, sides=18
            )
        )
    for start, end in (
        ((-axle, 0, wheel), (-0.12, 0, 0.85)),
        ((-0.12, 0, 0.85), (0.38, 0, 0.85)),
        ((0.0, 0, 0.3), (0.38, 0, 0.85)),
        ((0.0, 0, 0.3), (-0.12, 0, 0.85)),
        ((axle, 0, wheel), (0.38, 0, 1.02)),
        ((0.38, -0.28, 1.05), (0.38, 0.28, 1.05)),
    ):
        parts.append(cylinder(start, end, 0.025, frame, Material.METAL, sides=6))
    parts.append(box((-0.16, 0, 0.9), (0.26, 0.14, 0.06), _DARK, Material.RUBBER))
    return merged(parts).labelled(Semantic.BICYCLE)


def _cyclist(height: float, stride: float, helmet: ArrayLike, shirt: ArrayLike, skin: ArrayLike) -> Mesh:
    """A rider whose legs are at `stride`."""
    parts = []
    saddle = (-0.14, 0.0, 0.95)
    shoulder = (0.14, 0.0, height - 0.32)
    for side in (-1.0, 1.0):
        pedal = (
            0.02 + 0.16 * stride * side,
            side * 0.12,
            0.3 + 0.14 * side * np.sqrt(max(0.0, 1 - stride * stride)),
        )
        knee = (0.24, side * 0.12, 0.72 + 0.08 * side * stride)
        parts.append(cylinder(pedal, knee, 0.06, (0.04, 0.045, 0.06), Material.CLOTH, sides=6))
        parts.append(
            cylinder(
                knee, (saddle[0], side * 0.09, saddle[2]), 0.075, (0.04, 0.045, 0.06), Material.CLOTH, sides=6
            )
        )
        parts.append(
            cylinder(
                (0.38, side * 0.24, 1.05),
                (shoulder[0], side * 0.18, shoulder[2] - 0.03),
                0.05,
                shirt,
                Material.CLOTH,
                sides=6,
            )
        )
    parts.append(cylinder(saddle, shoulder, 0.16, shirt, Material.CLOTH, sides=8))
    parts.append(
        ellipsoid((shoulder[0] + 0.06, 0, height - 0.15), (0.1, 0.085, 0.12), skin, Material.SKIN, rings=5)
    )
    parts.append(
        ellipsoid(
            (shoulder[0] + 0.04, 0, height - 0.08), (0.14, 0.1, 0.08), helmet, Material.CAR_PAINT, rings=5
        )
    )
    return merged(parts)


def traffic_cone(size: Size) -> Mesh:
    """An orange cone with a white band."""
    length, width, height = size
    return merged(
        [
            box((0, 0, 0), (length, width, 0.04), (0.8, 0.16, 0.02), Material.RUBBER),
            frustum(
                (0, 0, 0.04), (0.26, 0.26), (0.17, 0.17), height * 0.4, (0.85, 0.18, 0.02), Material.SIGN
            ),
            frustum(
                (0, 0, 0.04 + height * 0.4),
                (0.17, 0.17),
                (0.11, 0.11),
                height * 0.25,
                (0.9, 0.9, 0.9),
                Material.SIGN,
            ),
            frustum(
                (0, 0, 0.04 + height * 0.65),
                (0.11, 0.11),
                (0.05, 0.05),
                height * 0.35 - 0.04,
                (0.85, 0.18, 0.02),
                Material.SIGN,
            ),
        ]
    )


def barrier(size: Size) -> Mesh:
    """A red and white road-works barrier."""
    length, width, height = size
    parts = []
    for number in range(6):
        colour = (0.75, 0.04, 0.03) if number % 2 else (0.9, 0.9, 0.9)
        x = (number - 2.5) * length / 6
        parts.append(box((x, 0, height - 0.3), (length / 6, 0.06, 0.3), colour, Material.SIGN))
    for x in (-length * 0.4, length * 0.4):
        parts.append(box((x, 0, 0), (0.08, width, 0.08), _DARK, Material.RUBBER))
        parts.append(box((x, 0, 0.08), (0.06, 0.06, height - 0.38), (0.6, 0.6, 0.6), Material.METAL))
    return merged(parts)


def tree(generator: np.random.Generator) -> Mesh:
    """A street tree of random height and crown."""
    return tree_with_size(generator)[0]


def crown(centre_3: ArrayLike, radii_3: Size, green: ArrayLike, generator: np.random.Generator) -> Mesh:
    """A lump of foliage."""
    return ellipsoid(centre_3, radii_3, green, Material.FOLIAGE, rings=9, roughness=0.12, generator=generator)


def tree_with_size(generator: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A street tree, and its trunk's height, its crown's radius and the height of the crown's middle."""
    height = generator.uniform(5.0, 8.0)
    trunk = generator.uniform(2.2, 2.8)
    green = np.array([0.10, 0.19, 0.045]) * generator.uniform(0.75, 1.25, 3)
    parts = [
        frustum((0, 0, 0), (0.34, 0.34), (0.22, 0.22), trunk + 0.8, (0.16, 0.11, 0.075), Material.BARK),
        box((0, 0, 0.0), (1.3, 1.3, 0.03), (0.07, 0.05, 0.035), Material.BARK),
    ]
    spread = generator.uniform(1.3, 1.8)
    for _ in range(5):
        at = generator.uniform(-0.75, 0.75, 3) * (spread * 0.7, spread * 0.7, (height - trunk) * 0.3)
        radius = spread * generator.uniform(0.62, 0.9)
        centre = at + np.array([0, 0, trunk + (height - trunk) * 0.52])
        parts.append(crown(centre, (radius, radius, radius * 0.95), green, generator))
    middle = trunk + (height - trunk) * 0.52
    return merged(parts), (trunk + 0.8, spread * 1.1, middle)


def street_lamp(arm_towards: float) -> Mesh:
    """A lamp post whose arm reaches over the street: +1 towards +y, -1 towards -y."""
    grey = (0.20, 0.21, 0.22)
    return merged(
        [
            cylinder((0, 0, 0), (0, 0, 7.5), 0.08, grey, Material.METAL, sides=8),
            cylinder((0, 0, 0), (0, 0, 1.0), 0.13, grey, Material.METAL, sides=8),
            cylinder((0, 0, 7.4), (0, 1.8 * arm_towards, 7.7), 0.05, grey, Material.METAL, sides=6),
            box((0, 2.0 * arm_towards, 7.62), (0.3, 0.75, 0.12), grey, Material.METAL),
        ]
    )


def traffic_light(state: str) -> Mesh:
    """A signal on a post, facing -x (towards traffic that drives along +x).

    Args:
        state: green, amber or red.
    """
    dark = (0.035, 0.04, 0.038)
    post = cylinder((0, 0, 0), (0, 0, 3.3), 0.07, (0.22, 0.23, 0.22), Material.METAL, sides=8)
    parts = [box((-0.05, 0, 2.4), (0.28, 0.34, 1.0), dark, Material.METAL)]
    for z, name, colour in (
        (3.22, "red", (0.95, 0.05, 0.03)),
        (2.9, "amber", (0.95, 0.6, 0.05)),
        (2.58, "green", (0.1, 0.95, 0.35)),
    ):
        lit = name == state
        shown = colour if lit else tuple(0.12 * value for value in colour)
        parts.append(
            cylinder(
                (-0.2, 0, z), (-0.205, 0, z), 0.1, shown, Material.LAMP if lit else Material.METAL, sides=12
            )
        )
    return merged([post.labelled(Semantic.POLE), merged(parts).labelled(Semantic.TRAFFIC_LIGHT)])


def sign(face: ArrayLike, round_face: bool) -> Mesh:
    """A traffic sign facing -x."""
    post = cylinder((0, 0, 0), (0, 0, 2.6), 0.035, (0.5, 0.5, 0.5), Material.METAL, sides=6)
    parts = []
    if round_face:
        parts.append(
            cylinder((-0.05, 0, 2.3), (-0.06, 0, 2.3), 0.32, (0.8, 0.03, 0.03), Material.SIGN, sides=18)
        )
        parts.append(cylinder((-0.06, 0, 2.3), (-0.065, 0, 2.3), 0.24, face, Material.SIGN, sides=18))
    else:
        parts.append(box((-0.05, 0, 2.0), (0.02, 0.6, 0.6), (0.9, 0.9, 0.9), Material.SIGN))
        parts.append(box((-0.065, 0, 2.05), (0.01, 0.5, 0.5), face, Material.SIGN))
    return merged([post.labelled(Semantic.POLE), merged(parts).labelled(Semantic.TRAFFIC_SIGN)])


def bench() -> Mesh:
    """A bench facing +y."""
    wood, iron = (0.24, 0.14, 0.07), (0.06, 0.06, 0.06)
    parts = [box((0, y, 0.43), (1.7, 0.12, 0.04), wood, Material.BARK) for y in (-0.2, -0.05, 0.1)]
    parts.append(box((0, -0.3, 0.55), (1.7, 0.05, 0.3), wood, Material.BARK))
    parts += [box((x, -0.08, 0), (0.07, 0.45, 0.43), iron, Material.METAL) for x in (-0.7, 0.7)]
    return merged(parts)


def bin_post() -> Mesh:
    """A litter bin."""
    return cylinder((0, 0, 0.1), (0, 0, 0.95), 0.24, (0.05, 0.12, 0.07), Material.METAL, sides=10)
