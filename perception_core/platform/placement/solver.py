"""What every placement solver is, and how one is chosen."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from perception_core.configuration import ConfigurationError, nearest
from perception_core.platform.placement.objective import PlacementObjective, Score
from perception_core.platform.placement.problem import PlacementProblem


@dataclass(frozen=True)
class PlacementResult:
    """A solver's answer.

    Attributes:
        solver: Its name.
        placement: Device of every stage.
        score: From the one objective of all solvers.
        elapsed_s: Time it took.
        evaluations: Placements it scheduled.
        lower_bound_us: No placement that keeps to the constraints has a smaller loss; None: not known.
        optimal: The placement is proven to be a best one.
    """

    solver: str
    placement: tuple[int, ...]
    score: Score
    elapsed_s: float
    evaluations: int
    lower_bound_us: int | None = None
    optimal: bool = False


class PlacementSolver(ABC):
    """Looks for the placement of least Loss_hw that keeps to memory, budgets and the frame rate.

    Attributes:
        name: Its name on a command line.
    """

    name: str = ""

    def solve(
        self, problem: PlacementProblem, *, seed: int = 0, start: Sequence[int] | None = None
    ) -> PlacementResult:
        """Solves a problem. The same problem and seed give the same placement, unless a time limit ends it.

        Args:
            problem: The problem; every stage needs a device, see `check_problem`.
            seed: Seed of what is random.
            start: A known placement; the answer is never worse.

        Returns:
            The best placement found; where it breaks constraints, none was found that does not.

        Raises:
            ConfigurationError: A stage fits on no device, or a package is missing.
        """
        check_problem(problem)
        objective = PlacementObjective(problem)
        began_s = time.perf_counter()
        placement, lower_bound_us, optimal = self._search(
            objective, seed, None if start is None else tuple(start)
        )
        if start is not None and objective.score(start) <= objective.score(placement):
            # Nothing is moved that gains nothing.
            optimal = optimal and objective.score(start) == objective.score(placement)
            placement = tuple(start)
        return PlacementResult(
            solver=self.name,
            placement=placement,
            score=objective.score(placement),
            elapsed_s=time.perf_counter() - began_s,
            evaluations=objective.evaluations,
            lower_bound_us=lower_bound_us,
            optimal=optimal,
        )

    @abstractmethod
    def _search(
        self, objective: PlacementObjective, seed: int, start: tuple[int, ...] | None
    ) -> tuple[tuple[int, ...], int | None, bool]:
        """Returns a placement, a lower bound of the loss, and whether the placement is proven to be best."""


def check_problem(problem: PlacementProblem) -> None:
    """Refuses a problem in which a stage fits on no device.

    Raises:
        ConfigurationError: Names the stage, and says whether it is too large or too unknown.
    """
    for i, stage in enumerate(problem.stages):
        if problem.choices[i]:
            continue
        able = [d for d, duration in enumerate(problem.duration_us[i]) if duration is not None]
        if not able:
            raise ConfigurationError(
                f"'{stage}' can run on none of the devices {', '.join(d.name for d in problem.devices)}: "
                "none takes it, or its latency is neither measured nor modelled there; measure it "
                "(mmmt profile) or add a device"
            )
        largest = max(able, key=lambda d: problem.devices[d].memory_mb or 0.0)
        raise ConfigurationError(
            f"'{stage}' holds {problem.memory_mb[i]:.1f} MB and is too large for every device that could run "
            f"it; the largest, {problem.devices[largest].name}, has "
            f"{problem.devices[largest].memory_mb:g} MB: choose a smaller network or a larger device"
        )


def solver_names() -> tuple[str, ...]:
    """Returns the names of all solvers."""
    return ("exact", "evolution", "greedy", "differentiable")


def make_solver(name: str) -> PlacementSolver:
    """Returns a solver with its default settings; what it needs is imported now.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if name == "exact":
        from perception_core.platform.placement.exact import ExactSolver

        return ExactSolver()
    if name == "evolution":
        from perception_core.platform.placement.evolution import EvolutionSolver

        return EvolutionSolver()
    if name == "greedy":
        from perception_core.platform.placement.greedy import GreedySolver

        return GreedySolver()
    if name == "differentiable":
        from perception_core.platform.placement.differentiable import DifferentiableSolver

        return DifferentiableSolver()
    raise ConfigurationError(f"no placement solver '{name}'" + nearest(name, solver_names()))
