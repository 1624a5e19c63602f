"""Sharing policies: the Gumbel-softmax (Eq. 1), the regularizer (Eq. 2), sampling and their JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.configuration import ConfigurationError
from training.search.automtl.picture import draw_policy
from training.search.automtl.policy import (
    Option,
    Policy,
    TemperatureSchedule,
    policy_regularizer,
    soft_policy,
)

TASKS, OPERATORS = ("semantic_segmentation", "depth"), ("a", "b", "c", "d")


def test_soft_policy_is_equation_1() -> None:
    logits = torch.tensor([[[0.3, -1.0, 2.0]]])
    soft = soft_policy(logits, 0.7, torch.Generator().manual_seed(4))
    uniform = torch.rand(logits.shape, generator=torch.Generator().manual_seed(4))
    gumbel = -torch.log(-torch.log(uniform))
    pi = logits.softmax(-1)
    power = torch.exp((gumbel + torch.log(pi)) / 0.7)
    torch.testing.assert_close(soft, power / power.sum(-1, keepdim=True))


def test_soft_policy_draws_options_as_often_as_they_are_probable() -> None:
    logits = torch.log(torch.tensor([0.6, 0.3, 0.1])).expand(1, 20_000, 3)
    chosen = soft_policy(logits, 1.0, torch.Generator().manual_seed(0)).argmax(-1)
    share = torch.bincount(chosen.flatten(), minlength=3) / chosen.numel()
    torch.testing.assert_close(share, torch.tensor([0.6, 0.3, 0.1]), atol=0.012, rtol=0.0)


def test_soft_policy_passes_gradients_and_sharpens_with_temperature() -> None:
    logits = torch.zeros(2, 4, 3, requires_grad=True)
    cold = soft_policy(logits, 0.05, torch.Generator().manual_seed(1))
    warm = soft_policy(logits, 50.0, torch.Generator().manual_seed(1))
    assert cold.max(-1).values.mean() > 0.9
    assert warm.max(-1).values.mean() < 0.4
    (gradient,) = torch.autograd.grad(warm[..., 0].sum(), logits)
    assert gradient.abs().sum() > 0


def test_regularizer_is_equation_2() -> None:
    weights = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]], [[1.0, 0.0, 0.0], [0.2, 0.2, 0.6]]])
    depths = (1, 3)
    expected = 0.0
    for task in range(2):
        for operator, depth in enumerate(depths):
            p0, p1, p2 = weights[task, operator].tolist()
            expected += (3 - depth) / 3 * (math.log(1 + math.exp(p1 - p0)) + math.log(1 + math.exp(p2 - p0)))
    assert float(policy_regularizer(weights, depths)) == pytest.approx(expected, rel=1e-6)


def test_regularizer_pulls_towards_sharing_and_more_near_the_input() -> None:
    logits = torch.zeros(1, 3, 3, requires_grad=True)
    policy_regularizer(logits.softmax(-1), (1, 2, 3)).backward()
    assert logits.grad is not None
    pull = -logits.grad[0, :, Option.SHARED]
    assert pull[0] > pull[1] > 0
    assert float(pull[2]) == 0.0


def test_temperature_falls_to_its_floor() -> None:
    schedule = TemperatureSchedule(initial=4.0, factor=0.5, every_steps=10, final=0.7)
    assert [schedule.at(step) for step in (0, 9, 10, 20, 1000)] == [4.0, 4.0, 2.0, 1.0, 0.7]


choices = st.lists(st.sampled_from(list(Option)), min_size=4, max_size=4).map(tuple)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows=st.tuples(choices, choices))
def test_policy_survives_json(rows: tuple[tuple[Option, ...], ...]) -> None:
    policy = Policy(TASKS, OPERATORS, rows)
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


@pytest.mark.parametrize("content", [{}, {"operators": ["a"], "choices": {"depth": ["maybe"]}}])
def test_what_is_no_policy_is_refused(content: dict) -> None:
    with pytest.raises(ConfigurationError, match="no sharing policy"):
        Policy.from_json(content)


def test_policy_must_fit_its_tasks_and_operators() -> None:
    with pytest.raises(ConfigurationError, match="cannot have"):
        Policy(TASKS, OPERATORS, ((Option.SKIP,),))


def test_random_policies_repeat_by_seed() -> None:
    assert Policy.random(TASKS, OPERATORS, 1) == Policy.random(TASKS, OPERATORS, 1)
    assert len({Policy.random(TASKS, OPERATORS, seed).choices for seed in range(10)}) > 5


def test_picture_is_a_picture(tmp_path: Path) -> None:
    operators = tuple(f"operator{index}" for index in range(36))
    policy = Policy.random(TASKS, operators, 0)
    probabilities = torch.rand(2, 36, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    draw_policy(policy, probabilities, tmp_path / "policy.png")
    assert (tmp_path / "policy.png").read_bytes().startswith(b"\x89PNG")
