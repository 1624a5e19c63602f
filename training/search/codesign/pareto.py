"""Fronts of what cannot be bettered in everything at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
Point = Sequence[float]


def dominates(first: Point, second: Point) -> bool:
    """Says whether the first is nowhere worse and somewhere better; smaller is better."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and any(
        a < b for a, b in zip(first, second, strict=True)
    )


def front_of(items: Sequence[tuple[T, Point]]) -> list[T]:
    """Returns the items that nothing dominates, in their order; of equal ones the first."""
    kept = []
    seen: set[tuple[float, ...]] = set()
    for item, point in items:
        key = tuple(point)
        if key in seen or any(dominates(other, point) for _, other in items):
            continue
        seen.add(key)
        kept.append(item)
    return kept


def ranks(points: Sequence[Point]) -> list[int]:
    """Returns for each point the number of the front it lies on when fronts are taken off one by one."""
    rank = [-1] * len(points)
    level = 0
    while -1 in rank:
        left = [k for k, value in enumerate(rank) if value < 0]
        here = [k for k in left if not any(dominates(points[other], points[k]) for other in left)]
        for k in here:
            rank[k] = level
        level += 1
    return rank


def crowding(points: Sequence[Point]) -> list[float]:
    """Returns how far apart each point's neighbours lie (NSGA-II, Deb et al., 2002); ends are infinite."""
    distance = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda k: points[k][axis])
        span = points[order[-1]][axis] - points[order[0]][axis]
        distance[order[0]] = distance[order[-1]] = math.inf
        if span > 0:
            for before, here, after in zip(order, order[1:], order[2:], strict=False):
                distance[here] += (points[after][axis] - points[before][axis]) / span
    return distance


def knee(points: Sequence[Point]) -> int:
    """Returns the point nearest to the best of every axis, each axis scaled to the front's span."""
    lows = [min(column) for column in zip(*points, strict=True)]
    highs = [max(column) for column in zip(*points, strict=True)]

    def distance(point: Point) -> float:
        return math.sqrt(
            sum(
                ((value - low) / (high - low)) ** 2 if high > low else 0.0
                for value, low, high in zip(point, lows, highs, strict=True)
            )
        )

    return min(range(len(points)), key=lambda k: (distance(points[k]), k))
