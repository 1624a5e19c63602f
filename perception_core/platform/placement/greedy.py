"""Greedy slack-filling: place by earliest end, then let what has slack go to devices that cost less."""

from __future__ import annotations

from perception_core.platform.placement.local_search import descend
from perception_core.platform.placement.objective import PlacementObjective
from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.placement.solver import PlacementSolver
from perception_core.platform.schedule import UnreachableError, schedule


class GreedySolver(PlacementSolver):
    """The MMMT paper's third point made a rule: tasks off the critical path may go to weaker devices.

    1. Begin from several placements: by earliest end (Topcuoglu et al., HEFT, 2002) on all devices and on
       each set of them that greedy vacating leaves, and everything on one device.
    2. Take the stages in the order of their slack, largest first, and move each to the device where the loss
       falls most.
    3. Descend by single moves.
    """

    name = "greedy"

    def _search(
        self, objective: PlacementObjective, seed: int, start: tuple[int, ...] | None
    ) -> tuple[tuple[int, ...], int | None, bool]:
        beginnings = starting_placements(objective.problem)
        if start is not None:
            beginnings.append(start)
        found = [descend(objective, fill_slack(objective, begin)) for begin in dict.fromkeys(beginnings)]
        best = min(found, key=objective.score)
        while (vacated := _vacate(objective, best)) != best:
            best = vacated
        return best, None, False


def starting_placements(problem: PlacementProblem) -> list[tuple[int, ...]]:
    """Returns placements by earliest end: on all devices, and on all but each, and each device alone."""
    everything = frozenset(range(len(problem.devices)))
    sets = [
        everything,
        *(everything - {d} for d in sorted(everything)),
        *(frozenset({d}) for d in everything),
    ]
    return [earliest_end(problem, allowed) for allowed in sets]


def earliest_end(problem: PlacementProblem, allowed: frozenset[int]) -> tuple[int, ...]:
    """Places the stages by their distance to the end, each where it ends first, memory reckoned.

    Args:
        problem: The problem.
        allowed: Devices to use; a stage that can be on none of them uses any.
    """
    ranks = upward_ranks(problem)
    placed: dict[int, int] = {}
    ends: dict[int, int] = {}
    free_at = [0] * len(problem.devices)
    held_kb = [0] * len(problem.devices)
    for i in sorted(range(len(problem.stages)), key=lambda k: (-ranks[k], k)):
        options = [d for d in problem.choices[i] if d in allowed or problem.devices[d].host] or list(
            problem.choices[i]
        )
        best: tuple[bool, int, int] | None = None
        for d in options:
            ready: int | None = 0
            for edge in problem.feeding[i]:
                transfer = edge.transfer_us[placed[edge.producer]][d]
                ready = (
                    None if transfer is None or ready is None else max(ready, ends[edge.producer] + transfer)
                )
            duration = problem.duration_us[i][d]
            if ready is None or duration is None:
                continue
            begin = ready if problem.devices[d].host else max(ready, free_at[d])
            limit = problem.memory_limit_kb[d]
            full = limit is not None and held_kb[d] + problem.memory_kb[i] > limit
            if best is None or (full, begin + duration, d) < best:
                best = (full, begin + duration, d)
        _, end, device = best if best is not None else (False, 0, options[0])
        placed[i], ends[i], free_at[device] = device, end, max(free_at[device], end)
        held_kb[device] += problem.memory_kb[i]
    return tuple(placed[i] for i in range(len(problem.stages)))


def upward_ranks(problem: PlacementProblem) -> list[float]:
    """Returns each stage's mean distance to the end of the graph, its own work included, microseconds.

    A stage's rank is greater than that of all it feeds, so descending ranks are a topological order.
    """
    ranks = [0.0] * len(problem.stages)
    for i in reversed(range(len(problem.stages))):
        durations = [
            duration for d in problem.choices[i] if (duration := problem.duration_us[i][d]) is not None
        ]
        onward = [ranks[edge.consumer] + _mean_transfer(edge.transfer_us) for edge in problem.fed[i]]
        # One microsecond more than its consumers, else work of no duration could tie with what it feeds.
        ranks[i] = sum(durations) / max(1, len(durations)) + max(onward, default=-1.0) + 1.0
    return ranks


def _mean_transfer(transfer_us: tuple[tuple[int | None, ...], ...]) -> float:
    known = [value for row in transfer_us for value in row if value is not None]
    return sum(known) / max(1, len(known))


def fill_slack(objective: PlacementObjective, placement: tuple[int, ...]) -> tuple[int, ...]:
    """Moves stages, those with most slack first, each to where the loss is least."""
    problem = objective.problem
    try:
        slack = schedule(problem, placement).slack_ms
    except UnreachableError:
        return placement
    for i in sorted(problem.free_stages, key=lambda k: -slack[problem.stages[k]]):
        moves = [(*placement[:i], d, *placement[i + 1 :]) for d in problem.choices[i]]
        placement = min(moves, key=objective.score)
    return placement


def _vacate(objective: PlacementObjective, placement: tuple[int, ...]) -> tuple[int, ...]:
    """Empties a device, whose power then no longer counts, where the loss falls by it."""
    problem = objective.problem
    best = placement
    for emptied in sorted(set(placement)):
        moved = placement
        for i in range(len(placement)):
            others = [d for d in problem.choices[i] if d != emptied and d in placement]
            if placement[i] == emptied and others:
                moves = [(*moved[:i], d, *moved[i + 1 :]) for d in others]
                moved = min(moves, key=objective.score)
        if moved != placement:
            best = min(best, descend(objective, moved), key=objective.score)
    return best
