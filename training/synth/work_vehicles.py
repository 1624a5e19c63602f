"""Meshes of rarer vehicles: motorcycles, trailers, excavators, vans; on the origin, facing +x."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from training.synth.mesh import Material, Mesh, Semantic, box, cylinder, ellipsoid, frustum, merged
from training.synth.models import Size, cabin, lights, wheels

_DARK = (0.05, 0.05, 0.055)
_STEEL = (0.32, 0.33, 0.34)


def motorcycle(size: Size, paint: ArrayLike, rider: tuple[ArrayLike, ArrayLike] | None) -> Mesh:
    """A motorcycle filling `size`; `rider` is the colour of jacket and helmet, None for a parked one."""
    length, width, height = size
    wheel = 0.31
    axle = length / 2 - wheel
    parts = []
    for x in (-axle, axle):
        parts.append(cylinder((x, -0.07, wheel), (x, 0.07, wheel), wheel, _DARK, Material.RUBBER, sides=16))
        parts.append(
            cylinder((x, -0.075, wheel), (x, 0.075, wheel), wheel * 0.6, _STEEL, Material.METAL, sides=12)
        )
    parts += [
        cylinder((axle, 0, wheel), (axle - 0.28, 0, 0.95), 0.05, _STEEL, Material.METAL, sides=6),
        cylinder(
            (axle - 0.3, -width / 2 + 0.02, 1.0),
            (axle - 0.3, width / 2 - 0.02, 1.0),
            0.03,
            _DARK,
            Material.METAL,
            sides=6,
        ),
        box((0.0, 0, 0.28), (0.55, 0.32, 0.36), _STEEL, Material.METAL),
        ellipsoid((0.2, 0, 0.8), (0.3, 0.16, 0.16), paint, Material.CAR_PAINT, rings=6),
        frustum((-0.35, 0, 0.66), (0.75, 0.26), (0.7, 0.2), 0.14, _DARK, Material.RUBBER),
        box((-axle + 0.05, 0, 0.62), (0.35, 0.2, 0.1), paint, Material.CAR_PAINT),
        box((axle - 0.22, 0, 0.78), (0.12, 0.2, 0.2), (1.0, 0.97, 0.88), Material.LAMP),
        box((-axle - 0.1, 0, 0.66), (0.05, 0.14, 0.08), (0.75, 0.02, 0.02), Material.LAMP),
    ]
    machine = merged(parts).labelled(Semantic.MOTORCYCLE)
    if rider is None:
        return machine
    jacket, helmet = rider
    shoulder = (0.12, 0.0, height - 0.34)
    body = [cylinder((-0.28, 0, 0.8), shoulder, 0.19, jacket, Material.CLOTH, sides=8)]
    body.append(ellipsoid((0.18, 0, height - 0.15), (0.16, 0.13, 0.15), helmet, Material.CAR_PAINT, rings=6))
    for side in (-1.0, 1.0):
        hand = (axle - 0.32, side * (width / 2 - 0.1), 1.02)
        knee = (0.18, side * 0.24, 0.72)
        body.append(
            cylinder(hand, (shoulder[0], side * 0.2, shoulder[2]), 0.065, jacket, Material.CLOTH, sides=6)
        )
        body.append(cylinder((-0.28, side * 0.14, 0.82), knee, 0.09, _DARK, Material.CLOTH, sides=6))
        body.append(cylinder(knee, (-0.05, side * 0.22, 0.3), 0.075, _DARK, Material.CLOTH, sides=6))
    return merged([machine, merged(body).labelled(Semantic.RIDER)])


def trailer(size: Size, cargo: ArrayLike) -> Mesh:
    """A box trailer on three axles behind."""
    length, width, height = size
    parts = [
        box((0, 0, 0.75), (length, width * 0.7, 0.3), _DARK, Material.METAL),
        box((0, 0, 1.05), (length, width, height - 1.05), cargo, Material.CAR_PAINT),
        *wheels((-0.18 * length, -0.28 * length, -0.38 * length), width / 2 - 0.02, 0.46),
        box((0.3 * length, 0.7, 0.0), (0.14, 0.14, 0.8), _STEEL, Material.METAL),
        box((0.3 * length, -0.7, 0.0), (0.14, 0.14, 0.8), _STEEL, Material.METAL),
    ]
    for side in (-1.0, 1.0):
        parts.append(
            box(
                (-length / 2 + 0.02, side * (width / 2 - 0.3), 0.85),
                (0.06, 0.4, 0.14),
                (0.75, 0.02, 0.02),
                Material.LAMP,
            )
        )
    return merged(parts).labelled(Semantic.TRUCK)


def excavator(size: Size, paint: ArrayLike) -> Mesh:
    """A tracked excavator with its arm stretched out along +x."""
    length, width, height = size
    rear = -length / 2
    track = 0.56 * length
    middle = rear + track / 2
    parts = []
    for side in (-1.0, 1.0):
        y = side * (width / 2 - 0.28)
        parts.append(
            frustum((middle, y, 0), (track * 0.84, 0.55), (track, 0.55), 0.42, _DARK, Material.RUBBER)
        )
        parts.append(
            frustum((middle, y, 0.42), (track, 0.55), (track * 0.84, 0.55), 0.4, _DARK, Material.RUBBER)
        )
    parts += [
        box((middle, 0, 0.85), (track * 0.9, width * 0.86, 0.25), _DARK, Material.METAL),
        box((middle - 0.25 * track, 0, 1.1), (track * 0.45, width * 0.86, 0.95), paint, Material.CAR_PAINT),
        box(
            (middle + 0.22 * track, width * 0.2, 1.1),
            (track * 0.42, width * 0.42, 0.6),
            paint,
            Material.CAR_PAINT,
        ),
        *cabin(
            (middle + 0.2 * track, width * 0.2, 1.7),
            (track * 0.42, width * 0.42),
            (track * 0.36, width * 0.38),
            height - 1.75,
            0.0,
            paint,
        ),
    ]
    elbow = (middle + 0.42 * track, -width * 0.12, height - 0.3)
    wrist = (length / 2 - 0.42, -width * 0.12, 1.2)
    for start, end, radius in (
        ((middle + 0.05 * track, -width * 0.12, 1.4), elbow, 0.2),
        (elbow, wrist, 0.15),
    ):
        parts.append(cylinder(start, end, radius, paint, Material.CAR_PAINT, sides=8))
    parts.append(frustum((wrist[0], wrist[1], 0.12), (0.4, 0.9), (0.75, 0.9), 1.0, _STEEL, Material.METAL))
    return merged(parts).labelled(Semantic.TRUCK)


def van(size: Size, paint: ArrayLike) -> Mesh:
    """A delivery van."""
    length, width, height = size
    nose = 0.9
    body = length - nose
    parts = [
        frustum(
            (length / 2 - nose / 2, 0, 0.25),
            (nose, width * 0.96),
            (nose, width * 0.96),
            0.85,
            paint,
            Material.CAR_PAINT,
        ),
        box((-nose / 2, 0, 0.25), (body, width, 0.95), paint, Material.CAR_PAINT),
        frustum(
            (-nose / 2, 0, 1.2),
            (body, width),
            (body - 0.55, width * 0.9),
            height - 1.2,
            paint,
            Material.CAR_PAINT,
            top_shift=(-0.25, 0.0),
        ),
        *wheels((0.31 * length, -0.32 * length), width / 2 - 0.01, 0.36),
        *lights(length, width, 0.7),
    ]
    windscreen = frustum(
        (length / 2 - nose - 0.16, 0, 1.22),
        (0.5, width * 0.93),
        (0.12, width * 0.82),
        height - 1.5,
        (0.035, 0.045, 0.055),
        Material.GLASS,
        top_shift=(-0.2, 0.0),
    )
    parts.append(windscreen)
    for side in (-1.0, 1.0):
        parts.append(
            box(
                (length / 2 - nose - 0.95, side * (width / 2 - 0.06), 1.25),
                (0.85, 0.05, 0.5),
                (0.035, 0.045, 0.055),
                Material.GLASS,
            )
        )
    return merged(parts).labelled(Semantic.CAR)


def striped_barrier(size: Size) -> Mesh:
    """A concrete barrier with a white top, as they part road works from traffic."""
    length, width, height = size
    parts = [
        frustum(
            (0, 0, 0),
            (length, width),
            (length, width * 0.5),
            height * 0.5,
            (0.42, 0.41, 0.39),
            Material.METAL,
        ),
        frustum(
            (0, 0, height * 0.5),
            (length, width * 0.5),
            (length, width * 0.36),
            height * 0.5,
            (0.5, 0.49, 0.47),
            Material.METAL,
        ),
    ]
    for x in np.linspace(-0.3, 0.3, 3) * length:
        parts.append(box((x, 0, height * 0.55), (0.3, width * 0.52, 0.2), (0.8, 0.14, 0.02), Material.SIGN))
    return merged(parts)
