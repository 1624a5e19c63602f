"""Weights of tasks against the equations of the methods' papers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.gradient_calibration import TaskWeightingConfig, create_task_weighting
from training.gradient_calibration.gradient_weighting import imtl_g_weights, mgda_weights, pcgrad_weights
from training.gradient_calibration.task_weighting import TaskSignals


def random_gradients(seed: int, tasks: int, size: int = 12, spread: float = 3.0) -> torch.Tensor:
    """Gradients (T, P) whose lengths differ by up to 10 ** spread."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
    return direction * 10 ** (torch.rand(tasks, 1, generator=generator, dtype=torch.float64) * spread)


def signals(losses, gradients=None, active=None) -> TaskSignals:
    losses = torch.tensor(losses, dtype=torch.float64)
    return TaskSignals(
        losses,
        None if gradients is None else gradients @ gradients.T,
        torch.ones(len(losses), dtype=torch.bool) if active is None else torch.tensor(active),
    )


def make(method: str, tasks: int, **options):
    return create_task_weighting(TaskWeightingConfig(method=method, **options), tasks)


class TestImtlG:
    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10_000), tasks=st.integers(2, 6))
    def test_the_sum_projects_equally_onto_every_task(self, seed: int, tasks: int) -> None:
        gradients = random_gradients(seed, tasks, size=40)
        weights = imtl_g_weights(gradients @ gradients.T)
        projections = (gradients / gradients.norm(dim=1, keepdim=True)) @ (weights @ gradients)
        assert weights.sum().item() == pytest.approx(1)
        assert torch.allclose(projections, projections.mean().expand(tasks), rtol=1e-4)

    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_two_tasks_get_equal_magnitudes(self, seed: int) -> None:
        gradients = random_gradients(seed, 2, spread=6.0)
        magnitudes = imtl_g_weights(gradients @ gradients.T) * gradients.norm(dim=1)
        assert magnitudes[0].item() == pytest.approx(magnitudes[1].item(), rel=1e-6)

    def test_agrees_with_torchjd(self) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation")
        for seed in range(20):
            gradients = random_gradients(seed, 2 + seed % 4, size=40, spread=1.0)
            gram = gradients @ gradients.T
            expected = aggregation.IMTLGWeighting()(gram)
            assert torch.allclose(imtl_g_weights(gram), expected, atol=1e-4), seed

    @pytest.mark.parametrize("cosine", [1.0, -1.0])
    def test_parallel_and_opposite_gradients_get_equal_magnitudes(self, cosine: float) -> None:
        gradients = torch.tensor([[3.0, 4.0], [3.0 * cosine * 10, 4.0 * cosine * 10]], dtype=torch.float64)
        weights = imtl_g_weights(gradients @ gradients.T)
        assert weights.tolist() == pytest.approx([10 / 11, 1 / 11], rel=1e-6)

    def test_no_weight_is_negative(self) -> None:
        # The second gradient is the sum of two others: equal projections need a negative weight.
        gradients = torch.tensor([[1.0, 0.0, 0.1], [1.0, 1.0, 0.0], [0.0, 1.0, 0.1]], dtype=torch.float64)
        gram = gradients @ gradients.T
        assert imtl_g_weights(gram, minimum_share=-math.inf).min() < 0
        for minimum_share in (0.0, 0.1, 1.0):
            share = imtl_g_weights(gram, minimum_share) * gradients.norm(dim=1)
            assert (share / share.mean()).min().item() == pytest.approx(minimum_share, abs=1e-9)
            assert torch.isfinite(share).all()

    def test_a_gradient_that_has_all_but_vanished_does_not_take_all_weight(self) -> None:
        gradients = torch.tensor([[1.0, 0.0], [0.0, 1e-9]], dtype=torch.float64)
        assert imtl_g_weights(gradients @ gradients.T)[0] < 1e-6
        bounded = imtl_g_weights(gradients @ gradients.T, maximum_ratio=100.0)
        assert (bounded[1] / bounded[0]).item() == pytest.approx(100.0, rel=1e-5)

    def test_a_task_without_gradient_is_left_out(self) -> None:
        gradients = random_gradients(1, 3)
        gradients[1] = 0
        weights = make("imtl_g", 3).weights(signals([1, 2, 3], gradients, [True, False, True]))
        norms = gradients.norm(dim=1)
        assert weights[1] == 1
        assert (weights[0] * norms[0]).item() == pytest.approx((weights[2] * norms[2]).item())
        assert weights.sum().item() == pytest.approx(3)  # two active tasks share 2, the third keeps 1
        nothing = make("imtl_g", 3).weights(signals([0, 0, 0], gradients * 0, [False] * 3))
        assert nothing.tolist() == [1, 1, 1]


class TestPcGrad:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10_000), tasks=st.integers(2, 4))
    def test_is_the_projection_of_its_paper(self, seed: int, tasks: int) -> None:
        gradients = random_gradients(seed, tasks, spread=1.0, size=5)
        # Its Algorithm 1 on the vectors themselves.
        generator = torch.Generator().manual_seed(seed)
        expected = torch.zeros(5, dtype=torch.float64)
        for task in range(tasks):
            projected = gradients[task].clone()
            for other in torch.randperm(tasks, generator=generator).tolist():
                inner = projected @ gradients[other]
                if other != task and inner < 0:
                    projected -= inner / (gradients[other] @ gradients[other]) * gradients[other]
            expected += projected
        weights = pcgrad_weights(gradients @ gradients.T, torch.Generator().manual_seed(seed))
        assert torch.allclose(weights @ gradients, expected, rtol=1e-8, atol=1e-8)
        assert (weights >= 1).all()


class TestMgda:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_two_tasks_have_the_closed_form(self, seed: int) -> None:
        a, b = gradients = random_gradients(seed, 2, spread=1.0, size=4)
        share = float(((b - a) @ b) / ((a - b) @ (a - b)))  # of the first; outside 0..1 a vertex is nearest
        weights = mgda_weights(gradients @ gradients.T)
        assert weights[0].item() == pytest.approx(min(1.0, max(0.0, share)), abs=1e-9)

    @settings(max_examples=6, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_no_step_towards_any_task_is_shorter(self, seed: int) -> None:
        """At the shortest point of the hull every gradient has at least its own squared length along it."""
        gradients = random_gradients(seed, 4, spread=0.5, size=6)
        weights = mgda_weights(gradients @ gradients.T, iterations=1500)
        shortest = weights @ gradients
        assert weights.sum().item() == pytest.approx(1)
        assert (weights >= 0).all()
        assert (gradients @ shortest).min() >= (shortest @ shortest) * (1 - 5e-2) - 1e-6


class TestGradNorm:
    def test_weights_move_against_the_larger_norm(self) -> None:
        weighting = make("gradnorm", 2, gradnorm_asymmetry=0.0, gradnorm_learning_rate=0.05)
        gradients = torch.tensor([[10.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        ratios = []
        for _ in range(300):
            weights = weighting.weights(signals([1.0, 1.0], gradients))
            ratios.append(float(weights[0] * 10 / weights[1]))
        assert ratios[0] == 10
        assert ratios[-1] == pytest.approx(1, abs=0.5)  # a constant step keeps crossing the target
        assert weights.sum().item() == pytest.approx(2)

    def test_a_task_that_learns_slowly_gets_the_larger_gradient(self) -> None:
        weighting = make("gradnorm", 2, gradnorm_asymmetry=1.0)
        gradients = torch.eye(2, dtype=torch.float64)
        weighting.weights(signals([1.0, 1.0], gradients))
        for _ in range(200):
            weights = weighting.weights(signals([0.9, 0.3], gradients))
        assert weights[0] / weights[1] == pytest.approx(3, rel=0.2)  # r = 0.9 / 0.6 and 0.3 / 0.6


class TestDwa:
    def test_follows_its_formula(self) -> None:
        weighting = make("dwa", 2, dwa_temperature=2.0)
        for losses in ([4.0, 1.0], [2.0, 0.9]):
            assert weighting.weights(signals(losses)).tolist() == [1, 1]
            weighting.weights(signals(losses))
            weighting.end_epoch()
        expected = 2 * torch.tensor([0.5 / 2, 0.9 / 2], dtype=torch.float64).softmax(dim=0)
        assert torch.allclose(weighting.weights(signals([7.0, 7.0])), expected)

    def test_an_epoch_without_a_task_is_no_rate(self) -> None:
        weighting = make("dwa", 2)
        for active in ([True, True], [True, False], [True, False]):
            weighting.weights(signals([2.0, 1.0], active=active))
            weighting.end_epoch()
        assert torch.isfinite(weighting.weights(signals([2.0, 1.0]))).all()


class TestUncertainty:
    def test_ends_where_every_weighted_loss_is_one(self) -> None:
        weighting = make("uncertainty", 2, uncertainty_learning_rate=0.02)
        for _ in range(1500):
            weights = weighting.weights(signals([5.0, 0.2]))
        assert weights.tolist() == pytest.approx([0.2, 5.0], rel=0.05)


@pytest.mark.parametrize("method", ["plain", "imtl_g", "gradnorm", "dwa", "uncertainty", "pcgrad", "mgda"])
class TestEveryMethod:
    def test_weights_are_finite_and_not_negative(self, method: str) -> None:
        weighting = make(method, 3)
        for seed in range(30):
            weights = weighting.weights(signals([1.0, 50.0, 0.02], random_gradients(seed, 3)))
            assert torch.isfinite(weights).all()
            assert (weights >= 0).all()
            if seed % 10 == 9:
                weighting.end_epoch()

    def test_resumes_where_it_stopped(self, method: str) -> None:
        first, second = make(method, 3), make(method, 3)
        for seed in range(8):
            first.weights(signals([1.0, 5.0, 0.2], random_gradients(seed, 3)))
            first.end_epoch()
        second.load_state_dict(first.state_dict())
        for seed in range(8, 12):
            step = signals([0.9, 4.0, 0.3], random_gradients(seed, 3))
            assert torch.equal(first.weights(step), second.weights(step))

    def test_says_when_it_lacks_gradients(self, method: str) -> None:
        weighting = make(method, 2)
        if weighting.needs_gradients:
            with pytest.raises(ValueError, match="gradients"):
                weighting.weights(signals([1.0, 1.0]))
        else:
            assert weighting.weights(signals([1.0, 1.0])).tolist() == pytest.approx([1, 1])
