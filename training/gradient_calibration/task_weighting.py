"""Weights of several tasks' losses: one interface, and the methods that look at losses only."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch


@dataclass(frozen=True)
class TaskSignals:
    """What a method sees of one step; all on the CPU in double precision.

    Attributes:
        losses_t: Loss of each task.
        gram_tt: Inner products of the tasks' gradients at the shared layer; None where they were not taken.
        active_t: bool; False for a task without a gradient at the shared layer, e.g. without labels in this
            batch.
    """

    losses_t: torch.Tensor
    gram_tt: torch.Tensor | None
    active_t: torch.Tensor


class TaskWeighting(ABC):
    """Turns a step's losses and gradients into one weight a task.

    Weights multiply the losses, so they train the heads as well (FULLER, Alg. 1, lines 2 to 4).

    Attributes:
        needs_gradients: `weights` reads `TaskSignals.gram_tt`.
        normalized: Weights of the active tasks sum to their number, so that the plain sum is the case of
            equal weights and learning rates and clipping need no new tuning.
    """

    needs_gradients: ClassVar[bool] = False
    normalized: ClassVar[bool] = True

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks

    def weights(self, signals: TaskSignals) -> torch.Tensor:
        """Returns the weights (T), float64, not negative; 1 for tasks that are not active.

        Raises:
            ValueError: The method needs gradients and there are none.
        """
        if self.needs_gradients and signals.gram_tt is None:
            raise ValueError(f"{type(self).__name__} needs the tasks' gradients")
        weights_t = torch.ones(self.tasks, dtype=torch.float64)
        index_a = signals.active_t.nonzero().squeeze(1)
        if len(index_a) == 0:
            return weights_t
        weights_a = self._active_weights(signals, index_a)
        if self.normalized:
            weights_a = weights_a * (len(index_a) / weights_a.sum())
        weights_t[index_a] = weights_a
        return weights_t

    @abstractmethod
    def _active_weights(self, signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
        """Returns weights of the active tasks (A), not negative and not all zero.

        Args:
            signals: The step, all tasks.
            index_a: Indices of the active ones; at least one.
        """

    def end_epoch(self) -> None:  # noqa: B027 - most methods do not look at epochs
        """Says that an epoch is over."""

    def state_dict(self) -> dict[str, Any]:
        """What is remembered between steps; tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most methods remember nothing
        """Restores what `state_dict` returned."""


class PlainWeighting(TaskWeighting):
    """Every task's weight is 1: the plain sum."""

    def _active_weights(self, signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(index_a), dtype=torch.float64)


class DynamicWeightAverage(TaskWeighting):
    """DWA (Liu, Johns and Davison, CVPR 2019): tasks whose loss falls slowly weigh more.

    w_k = T softmax(r_k / temperature) with r_k the ratio of the last two epochs' mean losses; equal weights
    during the first two epochs.
    """

    def __init__(self, tasks: int, temperature: float) -> None:
        super().__init__(tasks)
        self.temperature = temperature
        self._sum_t = torch.zeros(tasks, dtype=torch.float64)
        self._count_t = torch.zeros(tasks, dtype=torch.float64)
        self._history_et = torch.zeros((0, tasks), dtype=torch.float64)  # at most the last two epochs

    def _active_weights(self, signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
        self._sum_t[index_a] += signals.losses_t[index_a]
        self._count_t[index_a] += 1
        if len(self._history_et) < 2:
            return torch.ones(len(index_a), dtype=torch.float64)
        before, last = self._history_et[:, index_a]
        rate_a = torch.where((before > 0) & (last >= 0), last / before, torch.ones_like(last))
        return (torch.nan_to_num(rate_a, nan=1.0) / self.temperature).softmax(dim=0)

    def end_epoch(self) -> None:
        """Closes the epoch's means."""
        # A task that never had labels keeps its last mean, and has no rate before its first.
        mean_t = self._sum_t / self._count_t
        if len(self._history_et):
            mean_t = torch.where(self._count_t > 0, mean_t, self._history_et[-1])
        self._history_et = torch.cat((self._history_et, mean_t.unsqueeze(0)))[-2:]
        self._sum_t = torch.zeros_like(self._sum_t)
        self._count_t = torch.zeros_like(self._count_t)

    def state_dict(self) -> dict[str, Any]:
        """The running and the last two epochs' means."""
        return {
            "sum": self._sum_t.clone(),
            "count": self._count_t.clone(),
            "history": self._history_et.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the means."""
        self._sum_t, self._count_t = state["sum"].clone(), state["count"].clone()
        self._history_et = state["history"].clone()


class UncertaintyWeighting(TaskWeighting):
    """Homoscedastic uncertainty (Kendall, Gal and Cipolla, CVPR 2018).

    Minimizes sum_k exp(-s_k) L_k + s_k over log variances s_k as well. Their gradient, 1 - exp(-s_k) L_k, is
    known in closed form, so they are stepped here and the interface stays one of weights, exp(-s_k). The
    fixed point is s_k = log L_k, where every weighted loss is 1.
    """

    normalized = False

    def __init__(self, tasks: int, learning_rate: float) -> None:
        super().__init__(tasks)
        self._log_variance_t = torch.nn.Parameter(torch.zeros(tasks, dtype=torch.float64))
        self._optimizer = torch.optim.Adam([self._log_variance_t], lr=learning_rate)

    def _active_weights(self, signals: TaskSignals, index_a: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            gradient = torch.zeros_like(self._log_variance_t)
            gradient[index_a] = 1 - (-self._log_variance_t[index_a]).exp() * signals.losses_t[index_a]
        weights_a = (-self._log_variance_t.detach()[index_a]).exp()
        self._log_variance_t.grad = gradient
        self._optimizer.step()
        return weights_a

    def state_dict(self) -> dict[str, Any]:
        """The log variances and their optimizer."""
        return {
            "log_variance": self._log_variance_t.detach().clone(),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the log variances and their optimizer."""
        with torch.no_grad():
            self._log_variance_t.copy_(state["log_variance"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
