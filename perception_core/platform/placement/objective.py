"""Loss_hw of Eq. 3 for a placement, and by how much the placement breaks what it must keep to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.schedule import UnreachableError, end_times

#: What a pair of devices without a link counts as, so that search leaves it as soon as it can.
_UNREACHABLE = 10**12


@dataclass(frozen=True, order=True)
class Score:
    """A placement's worth; smaller is better, what is broken comes first.

    Attributes:
        broken: 0 where all constraints hold, else how far off: kilobytes of memory, microseconds of budgets
            and work, all added.
        loss_us: Loss_hw of Eq. 3 as microseconds.
    """

    broken: int
    loss_us: int

    @property
    def feasible(self) -> bool:
        """All constraints hold."""
        return self.broken == 0


class PlacementObjective:
    """Scores placements of one problem and remembers them; the same function for every solver.

    Attributes:
        problem: The problem.
        evaluations: Placements scheduled so far; those remembered are not scheduled again.
    """

    def __init__(self, problem: PlacementProblem) -> None:
        self.problem = problem
        self.evaluations = 0
        self._known: dict[tuple[int, ...], Score] = {}

    def score(self, placement: Sequence[int]) -> Score:
        """Returns the score of a complete placement."""
        key = tuple(placement)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._reckon(key)
            self.evaluations += 1
        return known

    def _reckon(self, placement: tuple[int, ...]) -> Score:
        problem = self.problem
        broken = sum(over for _, over in self.memory_excess_kb(placement))
        broken += sum(over for _, over in self.work_excess_us(placement))
        try:
            ends = end_times(problem, placement)
        except UnreachableError:
            return Score(broken + _UNREACHABLE, _UNREACHABLE)
        latency = 0
        for path in problem.paths:
            reached = ends[path.output] + path.offset_us
            latency = max(latency, reached)
            if path.budget_us is not None and reached > path.budget_us:
                broken += reached - path.budget_us
        return Score(broken, latency + self.power_cost_us(placement))

    def power_cost_us(self, placement: Sequence[int]) -> int:
        """γ2 · Σ Power(d) as microseconds."""
        problem = self.problem
        cost = sum(problem.active_cost_us[d] for d in set(placement))
        if problem.power == "average":
            cost += sum(problem.work_cost_us[i][d] for i, d in enumerate(placement))
        return cost

    def memory_excess_kb(self, placement: Sequence[int]) -> list[tuple[int, int]]:
        """Returns each device that holds too much, and by how many kilobytes."""
        problem = self.problem
        excess = []
        for d, limit in enumerate(problem.memory_limit_kb):
            if limit is not None:
                held = sum(problem.memory_kb[i] for i, placed in enumerate(placement) if placed == d)
                if held > limit:
                    excess.append((d, held - limit))
        return excess

    def work_excess_us(self, placement: Sequence[int]) -> list[tuple[int, int]]:
        """Returns each device that cannot keep up with the frames, and by how many microseconds a frame."""
        problem = self.problem
        excess = []
        for d, limit in enumerate(problem.work_limit_us):
            if limit is not None:
                work = sum(
                    problem.duration_us[i][d] or 0 for i, placed in enumerate(placement) if placed == d
                )
                if work > limit:
                    excess.append((d, work - limit))
        return excess

    def describe_broken(self, placement: Sequence[int]) -> list[str]:
        """Says in words what a placement breaks, nothing where all holds."""
        problem = self.problem
        lines = [
            f"device {problem.devices[d].name} would hold {over / 1000:.1f} MB more than its "
            f"{problem.devices[d].memory_mb:g} MB"
            for d, over in self.memory_excess_kb(placement)
        ]
        lines += [
            f"device {problem.devices[d].name} needs {over / 1000:.1f} ms more than lie between two frames"
            for d, over in self.work_excess_us(placement)
        ]
        try:
            ends = end_times(problem, placement)
        except UnreachableError as error:
            return [*lines, str(error)]
        for path in problem.paths:
            reached = ends[path.output] + path.offset_us
            if path.budget_us is not None and reached > path.budget_us:
                lines.append(
                    f"path {path.name} would take {reached / 1000:.1f} ms of its {path.budget_us / 1000:g} ms"
                )
        return lines
