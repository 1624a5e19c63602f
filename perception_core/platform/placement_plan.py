"""A better placement for a deployment, and what it gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perception_core.configuration import ConfigurationError
from perception_core.platform.placement.objective import PlacementObjective
from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.placement.solver import PlacementResult, PlacementSolver, check_problem
from perception_core.platform.schedule import Schedule, schedule


class BudgetError(ConfigurationError):
    """No placement was found that keeps to the budgets, the memory and the frame rate."""


@dataclass(frozen=True)
class PlacementPlan:
    """A plan.

    Attributes:
        problem: What was solved.
        before, after: Component to device.
        schedule_before: None where the deployment's own placement cannot be scheduled; says why in
            `not_before`.
        schedule_after: What the plan is predicted to lead to.
        result: The solver's account.
        not_before: Why there is nothing to compare with, empty where there is.
    """

    problem: PlacementProblem
    before: dict[str, str]
    after: dict[str, str]
    schedule_before: Schedule | None
    schedule_after: Schedule
    result: PlacementResult
    not_before: str = ""

    @property
    def gain_ms(self) -> float | None:
        """By how much the longest path is predicted to shrink."""
        if self.schedule_before is None:
            return None
        return self.schedule_before.longest_path_ms - self.schedule_after.longest_path_ms

    @property
    def moves(self) -> dict[str, tuple[str, str]]:
        """Components that change their device, and from where to where."""
        return {
            name: (self.before.get(name, ""), device)
            for name, device in self.after.items()
            if self.before.get(name) != device
        }


def plan_placement(
    problem: PlacementProblem, current: Mapping[str, str], solver: PlacementSolver, seed: int = 0
) -> PlacementPlan:
    """Solves a problem, beginning from the placement there is.

    The plan is the current placement where nothing better is found: no move without a gain.

    Raises:
        BudgetError: What must be kept cannot be; says by how much the best placement found misses it.
        ConfigurationError: A component fits on no device.
    """
    check_problem(problem)
    start: tuple[int, ...] | None = None
    not_before = ""
    try:
        start = problem.indices(dict(current))
        if any(device not in problem.choices[i] for i, device in enumerate(start)):
            stage = next(i for i, device in enumerate(start) if device not in problem.choices[i])
            not_before = (
                f"the latency of {problem.stages[stage]} on {problem.devices[start[stage]].name} is not "
                "known, or it does not fit there"
            )
            start = None
    except KeyError as error:
        not_before = f"the current placement does not name a known device for {error.args[0]}"
    result = solver.solve(problem, seed=seed, start=start)
    if not result.score.feasible:
        lines = PlacementObjective(problem).describe_broken(result.placement)
        proof = (
            "No placement keeps" if solver.name == "exact" else f"{solver.name} found no placement that keeps"
        )
        raise BudgetError(
            f"{proof} to the budgets, the memory and the frame rate. With the best one found\n"
            + "\n".join(f"  - {line}" for line in lines)
            + "\nRaise what is missed (e.g. 'budgets_ms.lidar->detection3d:=400'), take a faster device or a "
            "smaller bundle."
        )
    return PlacementPlan(
        problem=problem,
        before=dict(current),
        after=problem.by_name(result.placement),
        schedule_before=None if start is None else schedule(problem, start),
        schedule_after=schedule(problem, result.placement),
        result=result,
        not_before=not_before,
    )
