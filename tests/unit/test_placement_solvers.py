"""Placement solvers: none breaks constraints, none beats the proven optimum, all keep to one interface."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_fixtures import FAST, SLOW, problem_of, stack_problem

from perception_core.configuration import ConfigurationError
from perception_core.platform.placement.exact import ExactSettings, ExactSolver
from perception_core.platform.placement.objective import PlacementObjective, Score
from perception_core.platform.placement.problem import PlacementProblem, ProblemDevice
from perception_core.platform.placement.random_problem import random_problem
from perception_core.platform.placement.solver import check_problem, make_solver, solver_names

HEURISTICS = ("greedy", "evolution")


def exhaustive(problem: PlacementProblem) -> Score:
    """The best score of all placements there are."""
    objective = PlacementObjective(problem)
    return min(objective.score(placement) for placement in itertools.product(*problem.choices))


def exact() -> ExactSolver:
    return ExactSolver(ExactSettings(time_limit_s=30.0, workers=1))


def test_power_decides_whether_the_weak_device_is_used() -> None:
    fast_only = exact().solve(stack_problem(gamma2=10.0))
    assert fast_only.placement == (1, 1, 1, 1, 1)  # 5 W instead of 35 W
    in_a_hurry = exact().solve(stack_problem(gamma2=0.0))
    assert in_a_hurry.optimal
    assert in_a_hurry.score == exhaustive(stack_problem(gamma2=0.0))


def test_components_off_the_critical_path_go_to_the_weak_device_when_power_counts() -> None:
    problem = stack_problem(gamma2=0.5, power="average", period_us=200_000)
    found = exact().solve(problem)
    assert found.score == exhaustive(problem)
    assert found.placement[4] == 1  # the map head is short: it waits for nothing that matters
    assert found.placement[2] == 0


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_exact_finds_what_trying_everything_finds(seed: int) -> None:
    problem = random_problem(seed, stages=5, devices=3)
    found = exact().solve(problem, seed=seed)
    assert found.score == exhaustive(problem)
    assert found.optimal
    assert found.lower_bound_us is not None
    assert found.lower_bound_us <= found.score.loss_us


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_no_heuristic_beats_exact_or_breaks_constraints(seed: int) -> None:
    problem = random_problem(seed, stages=7, devices=3)
    best = exact().solve(problem, seed=seed)
    assert best.score.feasible  # random problems have a solution
    for name in HEURISTICS:
        found = make_solver(name).solve(problem, seed=seed)
        assert all(d in problem.choices[i] for i, d in enumerate(found.placement))
        assert found.score == PlacementObjective(problem).score(found.placement)
        if best.optimal:
            assert found.score >= best.score
        if found.score.feasible:
            assert PlacementObjective(problem).describe_broken(found.placement) == []


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.data())
def test_no_solver_is_worse_than_where_it_starts(seed: int, data: st.DataObject) -> None:
    problem = random_problem(seed, stages=6)
    start = tuple(data.draw(st.sampled_from(devices)) for devices in problem.choices)
    for name in HEURISTICS:
        assert make_solver(name).solve(problem, start=start).score <= PlacementObjective(problem).score(start)


def test_the_same_seed_gives_the_same_placement() -> None:
    problem = random_problem(3)
    for name in HEURISTICS:
        assert (
            make_solver(name).solve(problem, seed=5).placement
            == make_solver(name).solve(problem, seed=5).placement
        )


def test_devices_that_share_are_bounded_from_below() -> None:
    gpu = ProblemDevice("gpu0", 5.0, 30.0, concurrency=2, contention=0.6)
    cpu = ProblemDevice("cpu0", 1.0, 8.0)
    rows = {"a": (10, 40), "b": (12, 30), "c": (8, 30)}
    problem = problem_of(rows, (("a", "c"), ("b", "c")), (gpu, cpu), transfer_ms=1.0, gamma2=0.1)
    found = exact().solve(problem)
    assert found.lower_bound_us is not None
    assert found.lower_bound_us <= exhaustive(problem).loss_us <= found.score.loss_us


def test_memory_is_kept() -> None:
    small = replace(FAST, memory_mb=100.0)
    problem = stack_problem()
    problem = replace(problem, devices=(small, SLOW), memory_mb=(60.0, 60.0, 30.0, 5.0, 5.0))
    for name in ("exact", *HEURISTICS):
        found = make_solver(name).solve(problem)
        assert found.score.feasible, name
        assert sum(problem.memory_mb[i] for i, d in enumerate(found.placement) if d == 0) <= 100.0


def test_a_budget_that_cannot_be_met_is_no_solution() -> None:
    problem = stack_problem(budgets_ms={"detection3d_head": 20.0})
    for name in ("exact", *HEURISTICS):
        found = make_solver(name).solve(problem)
        assert not found.score.feasible
        assert not found.optimal


def test_a_component_too_large_for_every_device_is_named() -> None:
    problem = replace(
        stack_problem(), devices=(replace(FAST, memory_mb=100.0), replace(SLOW, memory_mb=20.0)),
        memory_mb=(10.0, 120.0, 1.0, 1.0, 1.0),
    )  # fmt: skip
    with pytest.raises(
        ConfigurationError, match=r"'camera_net' holds 120.0 MB .* the largest, gpu0, has 100 MB"
    ):
        check_problem(problem)


def test_a_component_nobody_can_run_is_named() -> None:
    problem = problem_of({"lidar_net": (None, None)}, (), (FAST, SLOW))
    with pytest.raises(ConfigurationError, match="'lidar_net' can run on none of the devices gpu0, dla0"):
        make_solver("greedy").solve(problem)


def test_solvers_are_found_by_name_and_need_no_torch() -> None:
    assert set(solver_names()) == {"exact", "evolution", "greedy", "differentiable"}
    with pytest.raises(ConfigurationError, match="did you mean 'greedy'"):
        make_solver("gredy")


def test_exact_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(ConfigurationError, match="pip install ortools"):
        exact().solve(stack_problem())
