"""Compares the placement solvers with the exact optimum on random component graphs.

    modality nets ─► fusers ─► task heads (4 to 12 components) on 2 to 5 unlike devices

Every solver minimizes the same Loss_hw (Eq. 3 of the MMMT paper): longest path + γ2 · power, under memory and
budgets. `gap_median` and `gap_worst` are (loss − optimum) / optimum over the instances whose optimum CP-SAT
proved, as fractions; `missed` counts those where a solver found no placement that keeps to the constraints,
`unproven` those left out because CP-SAT ran out of time. Times are seconds of one process.
"""

from __future__ import annotations

import logging
import os
import statistics
from typing import Annotated, Any

import typer

NAME = "placement"
DEFAULT_SOLVERS = "greedy,evolution"

_log = logging.getLogger(__name__)


def run(
    instances: Annotated[int, typer.Option(help="Random problems.", min=1)] = 200,
    solvers: Annotated[
        str, typer.Option(help="Compared with exact: greedy, evolution, differentiable (imports torch).")
    ] = DEFAULT_SOLVERS,
    seed: Annotated[int, typer.Option(help="Seed of the first problem; the next has the next.")] = 0,
    time_limit: Annotated[
        float, typer.Option(help="Seconds CP-SAT may take for each of its two steps.", min=0.1)
    ] = 20.0,
    workers: Annotated[int, typer.Option(help="Threads of CP-SAT, 0: one a core.", min=0)] = 0,
) -> dict[str, Any]:
    """Solves every problem with every solver."""
    from perception_core.platform.placement.exact import ExactSettings, ExactSolver
    from perception_core.platform.placement.random_problem import random_problem
    from perception_core.platform.placement.solver import PlacementResult, make_solver

    compared = {name: make_solver(name) for name in solvers.split(",")}
    exact = ExactSolver(ExactSettings(time_limit_s=time_limit, workers=workers or None))
    results: dict[str, list[tuple[PlacementResult, int]]] = {name: [] for name in compared}
    optimal: list[PlacementResult] = []
    unproven = []
    for number in range(seed, seed + instances):
        problem = random_problem(number)
        reference = exact.solve(problem, seed=number)
        if not reference.optimal:
            unproven.append(number)
            continue
        optimal.append(reference)
        for name, solver in compared.items():
            results[name].append((solver.solve(problem, seed=number), reference.score.loss_us))
        if len(optimal) % 20 == 0:
            _log.info("%d of %d", number - seed + 1, instances)
    return {
        "instances": len(optimal),
        "unproven": unproven,
        "solvers": {name: _figures(found) for name, found in results.items()},
        "exact": {
            **_times([result.elapsed_s for result in optimal]),
            "workers": workers or min(8, len(os.sched_getaffinity(0))),
        },
    }


def _figures(found: list[tuple[Any, int]]) -> dict[str, Any]:
    """Gaps over the instances the solver solved, and its times over all."""
    gaps = sorted((result.score.loss_us - best) / best for result, best in found if result.score.feasible)
    return {
        "gap_median": statistics.median(gaps) if gaps else None,
        "gap_p95": gaps[max(0, -(-95 * len(gaps) // 100) - 1)] if gaps else None,
        "gap_worst": gaps[-1] if gaps else None,
        "optimal": sum(gap == 0 for gap in gaps),
        "missed": sum(not result.score.feasible for result, _ in found),
        "evaluations_median": statistics.median(result.evaluations for result, _ in found) if found else None,
        **_times([result.elapsed_s for result, _ in found]),
    }


def _times(seconds: list[float]) -> dict[str, float | None]:
    return {
        "time_median_s": statistics.median(seconds) if seconds else None,
        "time_worst_s": max(seconds, default=None),
    }
