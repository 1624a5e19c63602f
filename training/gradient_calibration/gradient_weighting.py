"""Weights of tasks from the inner products of their gradients: IMTL-G, GradNorm, PCGrad, MGDA.

All work on the Gram matrix G, G_ij = g_i . g_j, of the gradients at the shared layer: T x T numbers, whatever
the layer's size. The functions state the closed forms; the classes around them hold what is remembered.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch

from training.gradient_calibration.task_weighting import TaskSignals, TaskWeighting

# Keeps the cosine matrix invertible where gradients are parallel or opposite: then the equations have many
# solutions or none, and the one with equal magnitudes is taken.
_RIDGE = 1e-6


def imtl_g_weights(
    gram_tt: torch.Tensor, minimum_share: float = 0.0, maximum_ratio: float = math.inf
) -> torch.Tensor:
    """IMTL-G (Liu et al., ICLR 2021): the weighted sum projects equally onto every task's unit gradient.

    With g = sum_i w_i g_i and u_i = g_i / |g_i| it asks g . u_i to be the same for all i. In terms of the
    cosine matrix C and x_i = w_i |g_i| that reads C x = c 1: a system whose condition does not depend on how
    much the magnitudes differ, unlike one in G itself. Two tasks always give x = (1, 1), equal magnitudes.

    With three tasks or more x_i may be negative: a head would be trained to be as bad as possible. Then x is
    drawn towards equal magnitudes, x = (1 - b) x + b mean(x), by the smallest b that lifts every x_i to
    `minimum_share` of the mean; projections are then no longer exactly equal.

    Args:
        gram_tt: Inner products of the gradients, no gradient zero.
        minimum_share: Least x_i, relative to their mean, 0..1.
        maximum_ratio: Gradients shorter than the longest by a larger factor count as shorter by this one.

    Returns:
        Weights (T) that sum to 1.
    """
    norm_t = gram_tt.diagonal().sqrt()
    cosine_tt = gram_tt / (norm_t.unsqueeze(0) * norm_t.unsqueeze(1))
    ridge_tt = _RIDGE * torch.eye(len(norm_t), dtype=gram_tt.dtype)
    share_t = torch.linalg.solve(cosine_tt + ridge_tt, torch.ones_like(norm_t))
    share_t = share_t / share_t.mean()  # 1 . C^-1 . 1 > 0, for C is positive definite
    lowest = float(share_t.min())
    if lowest < minimum_share:
        blend = (minimum_share - lowest) / (1 - lowest)
        share_t = (1 - blend) * share_t + blend
    weight_t = share_t / norm_t.clamp_min(float(norm_t.max()) / maximum_ratio)
    return weight_t / weight_t.sum()


def pcgrad_weights(gram_tt: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """PCGrad (Yu et al., NeurIPS 2020) as weights: conflicting gradients are projected off each other.

    Every task's gradient, less its components along those it conflicts with, taken in random order; the sum
    over tasks is a combination of the original gradients, and its coefficients are returned. They are 1 or
    more.

    Args:
        gram_tt: Inner products of the gradients, no gradient zero.
        generator: Draws the order.
    """
    tasks = len(gram_tt)
    total_t = torch.zeros(tasks, dtype=gram_tt.dtype)
    for task in range(tasks):
        coefficient_t = torch.zeros_like(total_t)
        coefficient_t[task] = 1.0
        for other in torch.randperm(tasks, generator=generator).tolist():
            inner = float(gram_tt[other] @ coefficient_t)
            if other != task and inner < 0:
                coefficient_t[other] -= inner / float(gram_tt[other, other])
        total_t += coefficient_t
    return total_t


def mgda_weights(gram_tt: torch.Tensor, iterations: int = 250, tolerance: float = 1e-9) -> torch.Tensor:
    """MGDA (Sener and Koltun, NeurIPS 2018): the shortest vector in the convex hull of the gradients.

    Frank-Wolfe with exact line search; for two tasks its first step is the closed form.

    Args:
        gram_tt: Inner products of the gradients.
        iterations: At most so many steps.
        tolerance: Stops at steps shorter than this.

    Returns:
        Weights (T), not negative, that sum to 1; the smallest gradients get the largest.
    """
    tasks = len(gram_tt)
    weight_t = torch.full((tasks,), 1.0 / tasks, dtype=gram_tt.dtype)
    if tasks == 2:
        weight_t = torch.tensor([1.0, 0.0], dtype=gram_tt.dtype)
    for _ in range(iterations):
        slope_t = gram_tt @ weight_t
        towards = int(slope_t.argmin())
        # Minimize |(1 - s) v + s g_k|^2 over s, with v the present vector and g_k the vertex walked to.
        vv, vk, kk = float(weight_t @ slope_t), float(slope_t[towards]), float(gram_tt[towards, towards])
        if vv - vk <= 0:
            break
        step = min(1.0, (vv - vk) / max(vv - 2 * vk + kk, 1e-300))
        if step < tolerance:
            break
        weight_t = weight_t * (1 - step)
        weight_t[towards] += step
    return weight_t


def _gram_of(signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
    assert signals.gram_tt is not None
    return signals.gram_tt[index_a][:, index_a]


class ImtlG(TaskWeighting):
    """IMTL-G, which FULLER chose for its inter-gradient calibration."""

    needs_gradients = True

    def __init__(self, tasks: int, minimum_share: float, maximum_ratio: float) -> None:
        super().__init__(tasks)
        self.minimum_share = minimum_share
        self.maximum_ratio = maximum_ratio

    def _active_weights(self, signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
        return imtl_g_weights(_gram_of(signals, index_a), self.minimum_share, self.maximum_ratio)


class GradNorm(TaskWeighting):
    """GradNorm (Chen et al., ICML 2018): weights learnt so that gradient norms follow training rates.

    Minimizes sum_i |w_i |g_i| - t_i| with t_i = mean(w |g|) r_i^a, held fixed, where r_i is the task's loss
    relative to its first one, divided by the mean over tasks. Adam on the weights, which then are brought
    back to a sum of T.
    """

    needs_gradients = True

    #: No weight falls below this, so that no task is lost for good.
    minimum = 1e-3

    def __init__(self, tasks: int, asymmetry: float, learning_rate: float) -> None:
        super().__init__(tasks)
        self.asymmetry = asymmetry
        self._weight_t = torch.nn.Parameter(torch.ones(tasks, dtype=torch.float64))
        self._optimizer = torch.optim.Adam([self._weight_t], lr=learning_rate)
        self._first_loss_t = torch.full((tasks,), float("nan"), dtype=torch.float64)

    def _active_weights(self, signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
        loss_a = signals.losses_t[index_a]
        first_a = self._first_loss_t[index_a]
        first_a = torch.where(first_a.isnan(), loss_a, first_a)
        self._first_loss_t[index_a] = first_a
        current_a = self._weight_t.detach()[index_a].clone()
        norm_a = _gram_of(signals, index_a).diagonal().sqrt()
        progress_a = loss_a / first_a.clamp_min(1e-12)
        rate_a = progress_a / progress_a.mean().clamp_min(1e-12)
        weighted_a = current_a * norm_a
        target_a = weighted_a.mean() * rate_a.clamp_min(0) ** self.asymmetry
        gradient_t = torch.zeros(self.tasks, dtype=torch.float64)
        gradient_t[index_a] = (weighted_a - target_a).sign() * norm_a
        self._weight_t.grad = gradient_t
        self._optimizer.step()
        with torch.no_grad():
            self._weight_t.clamp_(min=self.minimum)
            self._weight_t.mul_(self.tasks / self._weight_t.sum())
        return current_a

    def state_dict(self) -> dict[str, Any]:
        """Weights, their optimizer and the first losses."""
        return {
            "weight": self._weight_t.detach().clone(),
            "first_loss": self._first_loss_t.clone(),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores weights, optimizer and first losses."""
        with torch.no_grad():
            self._weight_t.copy_(state["weight"])
        self._first_loss_t = state["first_loss"].clone()
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


class PcGrad(TaskWeighting):
    """PCGrad at the shared layer; its coefficients multiply the losses."""

    needs_gradients = True
    normalized = False

    def __init__(self, tasks: int, seed: int) -> None:
        super().__init__(tasks)
        self._generator = torch.Generator().manual_seed(seed)

    def _active_weights(self, signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
        return pcgrad_weights(_gram_of(signals, index_a), self._generator)

    def state_dict(self) -> dict[str, Any]:
        """The state of the random order."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the random order."""
        self._generator.set_state(state["generator"])


class Mgda(TaskWeighting):
    """MGDA at the shared layer; a task with by far the largest gradient may get the weight 0 for a step."""

    needs_gradients = True

    def _active_weights(self, signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
        return mgda_weights(_gram_of(signals, index_a))
