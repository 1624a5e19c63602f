"""Deterministic value noise over the plane, evaluated at any points: no tables, no state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def lattice(column: NDArray[np.int32], row: NDArray[np.int32], salt: int = 0) -> Float32Array:
    """Returns a pseudo-random number in 0..1 for each integer cell (a 32-bit multiply-xorshift hash)."""
    with np.errstate(over="ignore"):
        value = column.astype(np.uint32) * np.uint32(0x9E3779B1) ^ row.astype(np.uint32) * np.uint32(
            0x85EBCA77
        )
        value ^= np.uint32(salt * 0x27D4EB2F & 0xFFFFFFFF)
        value ^= value >> np.uint32(15)
        value *= np.uint32(0x2C1B3C6D)
        value ^= value >> np.uint32(12)
        value *= np.uint32(0x297A2D39)
        value ^= value >> np.uint32(15)
    return (value >> np.uint32(8)).astype(np.float32) * np.float32(1.0 / (1 << 24))


def value_noise(u: Float32Array, v: Float32Array, salt: int = 0) -> Float32Array:
    """Returns smooth noise in 0..1 whose features are one unit large."""
    column, row = np.floor(u), np.floor(v)
    s, t = u - column, v - row
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    i, j = column.astype(np.int32), row.astype(np.int32)
    low = lattice(i, j, salt) * (1 - s) + lattice(i + 1, j, salt) * s
    high = lattice(i, j + 1, salt) * (1 - s) + lattice(i + 1, j + 1, salt) * s
    result: Float32Array = low * (1 - t) + high * t
    return result
