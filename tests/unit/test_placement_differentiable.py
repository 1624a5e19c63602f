"""Relaxed placements: equal to the schedule at its corners, and descending them finds good placements."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_fixtures import stack_problem
from test_codesign import PLATFORM, SPACE, SmallWork, all_architectures, full_table

from perception_core.platform.placement.differentiable import DifferentiableSettings, DifferentiableSolver
from perception_core.platform.placement.exact import ExactSettings, ExactSolver
from perception_core.platform.placement.objective import PlacementObjective
from perception_core.platform.placement.random_problem import random_problem
from perception_core.platform.placement.relaxed import RelaxedProblem, gumbel_softmax, relaxed_maximum
from training.search.codesign.bilevel import BilevelSearch, BilevelSettings
from training.search.codesign.evolution import JointSearch, SearchSettings
from training.search.codesign.hardware import HardwareTarget
from training.search.codesign.quality import FittedQuality


def test_relaxed_maximum_becomes_the_maximum() -> None:
    values = torch.tensor([1.0, 3.0, 2.0])
    assert float(relaxed_maximum(values, 1e-3)) == pytest.approx(3.0)
    assert float(relaxed_maximum(values, 1e3)) == pytest.approx(2.0, abs=0.01)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.data())
def test_at_a_placement_the_relaxed_loss_is_the_loss(seed: int, data: st.DataObject) -> None:
    problem = random_problem(seed)
    relaxed, objective = RelaxedProblem(problem), PlacementObjective(problem)
    placement = tuple(data.draw(st.sampled_from(devices)) for devices in problem.choices)
    m_bnd = torch.zeros(1, *relaxed.allowed_nd.shape)
    for i, d in enumerate(placement):
        m_bnd[0, i, d] = 1.0
    loss = float(relaxed.loss(m_bnd, relaxed.order(placement), 1e-4)) * relaxed.scale_us
    score = objective.score(placement)
    if score.feasible:
        assert loss == pytest.approx(score.loss_us, rel=2e-3)
    else:
        assert loss > score.loss_us


def test_samples_are_placements_where_stages_can_be() -> None:
    allowed_nd = torch.tensor([[True, False, True], [True, True, True]])
    generator = torch.Generator().manual_seed(0)
    m_bnd = gumbel_softmax(torch.zeros(2, 3), allowed_nd, 200, 0.05, generator)
    assert torch.allclose(m_bnd.sum(-1), torch.ones(200, 2))
    assert float(m_bnd[:, 0, 1].max()) == 0.0
    likeliest = m_bnd.argmax(-1)
    assert {tuple(row) for row in likeliest.tolist()} == {(a, b) for a in (0, 2) for b in (0, 1, 2)}


def test_gradients_lead_to_the_faster_device() -> None:
    relaxed = RelaxedProblem(stack_problem(gamma2=0.0))
    logits = torch.zeros(relaxed.allowed_nd.shape, requires_grad=True)
    m_bnd = torch.softmax(logits, -1)[None]
    relaxed.loss(m_bnd, range(5), 0.03).mean().backward()
    assert logits.grad is not None
    assert float(logits.grad[2, 0]) < 0.0 < float(logits.grad[2, 1])  # the fuser: 8 ms or 20 ms


@pytest.mark.slow
def test_differentiable_solver_comes_close_to_exact() -> None:
    solver = DifferentiableSolver(DifferentiableSettings(steps=40, samples=4))
    for seed in (1, 2, 3):
        problem = random_problem(seed, stages=6, devices=3)
        best = ExactSolver(ExactSettings(time_limit_s=20.0, workers=1)).solve(problem)
        found = solver.solve(problem, seed=seed)
        assert found.score.feasible
        assert best.score <= found.score
        assert found.score.loss_us <= 1.1 * best.score.loss_us
        assert solver.solve(problem, seed=seed).placement == found.placement


@pytest.mark.slow
def test_bilevel_search_comes_close_to_the_best_of_its_graph() -> None:
    target = HardwareTarget({"as it is": PLATFORM})
    quality = FittedQuality(full_table())
    search = JointSearch(SPACE, quality, SmallWork(), target, SearchSettings(gamma1=0.02))
    bilevel = BilevelSearch(
        SPACE, quality, SmallWork(), target, search, BilevelSettings(steps=40, samples=3, candidates=3)
    )
    assert bilevel._relevant == [0, 1]  # leaving the camera out changes the graph
    study = bilevel.run()
    best = min(
        one.objective
        for architecture in all_architectures()
        if architecture[2] == 0
        for one in search.judge(architecture)
    )
    assert study.best.objective <= 1.05 * best
    assert len({one.architecture for one in study.candidates}) <= 3
