"""Reads two clocks at one moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Reading = TypeVar("Reading")

#: Readings this close together are one moment.
CLOSE_ENOUGH_NS = 200_000
_ATTEMPTS = 5


def at_one_moment(first: Callable[[], int], second: Callable[[], Reading]) -> tuple[int, Reading]:
    """Reads both clocks without a pause between them.

    A thread can lose its core between two reads. Whoever computes a step by one clock and stamps it by the
    other would then have stamps that tell of another step than was computed.

    Args:
        first: A clock of nanoseconds that never goes back.
        second: The other clock.

    Returns:
        Readings of both; of several attempts those that were closest together.
    """
    best: tuple[int, int, Reading] | None = None
    for _ in range(_ATTEMPTS):
        before = first()
        reading = second()
        apart = first() - before
        if best is None or apart < best[0]:
            best = (apart, before, reading)
        if apart <= CLOSE_ENOUGH_NS:
            break
    assert best is not None
    return best[1], best[2]
