"""Descent to a placement that no move of one stage, or of two at once, makes better."""

from __future__ import annotations

from collections.abc import Iterator

from perception_core.platform.placement.objective import PlacementObjective


def descend(
    objective: PlacementObjective, placement: tuple[int, ...], pairs: bool = False
) -> tuple[int, ...]:
    """Gives one stage after the other its best device until that changes nothing.

    Args:
        objective: Scores placements.
        placement: Where to begin.
        pairs: Where no move of one stage helps, also try all moves of two at once.
    """
    while True:
        before = objective.score(placement)
        for i in objective.problem.free_stages:
            placement = min(_moves(objective, placement, i), key=objective.score)
        if objective.score(placement) < before:
            continue
        found = _pair_moves(objective, placement) if pairs else ()
        better = next((moved for moved in found if objective.score(moved) < before), None)
        if better is None:
            return placement
        placement = better


def _moves(objective: PlacementObjective, placement: tuple[int, ...], i: int) -> list[tuple[int, ...]]:
    """Returns the placement itself, first so that it wins a tie, and those with stage i elsewhere."""
    elsewhere = [d for d in objective.problem.choices[i] if d != placement[i]]
    return [placement, *((*placement[:i], d, *placement[i + 1 :]) for d in elsewhere)]


def _pair_moves(objective: PlacementObjective, placement: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    free = objective.problem.free_stages
    for position, i in enumerate(free):
        for once in _moves(objective, placement, i)[1:]:
            for j in free[position + 1 :]:
                yield from _moves(objective, once, j)[1:]
