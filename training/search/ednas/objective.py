"""The hardware-aware multi-task objective (EDNAS, Eq. 1-7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel, nearest
from training.evaluation.relative import HIGHER_IS_BETTER
from training.search.tasks.task import DenseTask

#: An error below this counts as this: its inverse must stay finite.
_LEAST_ERROR = 1e-6


class Objective(StrictModel):
    """Reward of an architecture.

    Rwd = Acc · (Lat / l_h)^β (Eq. 4), with β = p where the latency target is met and q elsewhere (Eq. 5).
    Acc is the geometric mean over tasks (Eq. 6) of weighted geometric means over metrics (Eq. 7).

    The paper gives neither β nor the weights w_ij. The defaults, p = 0 and q = -1, are the "hard"
    constraint of MnasNet, which it follows: nothing is gained by being faster than the target, and a network
    that is twice too slow is worth half. Metrics of which less is better enter as their inverse, since Eq. 7
    is a product to be maximized.

    Attributes:
        metrics: Weight w_ij by task and metric, e.g. `{"depth": {"abs_error": 1.0, "rel_error": 1.0}}`.
        latency_target_ms: l_h.
        beta_met: p.
        beta_missed: q.
    """

    metrics: dict[str, dict[str, float]]
    latency_target_ms: float = pydantic.Field(gt=0)
    beta_met: float = 0.0
    beta_missed: float = -1.0

    @pydantic.model_validator(mode="after")
    def _known_metrics(self) -> Objective:
        if not self.metrics:
            raise ValueError("an objective needs at least one task")
        for task, weights in self.metrics.items():
            if not weights or any(weight <= 0 for weight in weights.values()):
                raise ValueError(f"task '{task}' needs metrics with positive weights")
            for metric in weights:
                if metric not in HIGHER_IS_BETTER:
                    raise ValueError(f"unknown metric '{metric}'" + nearest(metric, HIGHER_IS_BETTER))
        return self

    @classmethod
    def of_tasks(cls, tasks: Sequence[DenseTask], latency_target_ms: float) -> Objective:
        """Returns the objective over the metrics the paper compares the tasks by, with equal weights."""
        metrics = {task.name: dict.fromkeys(task.metrics("ednas"), 1.0) for task in tasks}
        return cls(metrics=metrics, latency_target_ms=latency_target_ms)

    def task_score(self, task: str, values: Mapping[str, float]) -> float:
        """Returns m_i of a task (Eq. 7).

        Raises:
            ConfigurationError: A metric is missing.
        """
        weights = self.metrics[task]
        total, log_score = 0.0, 0.0
        for metric, weight in weights.items():
            if metric not in values:
                raise ConfigurationError(f"the result of task '{task}' has no {metric}")
            value = values[metric]
            if not math.isfinite(value):
                return 0.0
            score = value if HIGHER_IS_BETTER[metric] else 1.0 / max(value, _LEAST_ERROR)
            if score <= 0.0:
                return 0.0
            log_score += weight * math.log(score)
            total += weight
        return math.exp(log_score / total)

    def accuracy(self, metrics: Mapping[str, Mapping[str, float]]) -> float:
        """Returns Acc of measured metrics by task (Eq. 6).

        Raises:
            ConfigurationError: A task or metric is missing.
        """
        missing = [task for task in self.metrics if task not in metrics]
        if missing:
            raise ConfigurationError(f"the result has no task {', '.join(missing)}")
        scores = [self.task_score(task, metrics[task]) for task in self.metrics]
        return math.prod(scores) ** (1.0 / len(scores))

    def beta(self, latency_ms: float) -> float:
        """Returns β for a latency (Eq. 5)."""
        return self.beta_met if latency_ms <= self.latency_target_ms else self.beta_missed

    def reward(self, metrics: Mapping[str, Mapping[str, float]], latency_ms: float) -> float:
        """Returns Rwd (Eq. 4).

        Raises:
            ConfigurationError: A task or metric is missing, or the latency is not positive.
        """
        if not (latency_ms > 0 and math.isfinite(latency_ms)):
            raise ConfigurationError(f"a latency of {latency_ms} ms is impossible")
        factor = (latency_ms / self.latency_target_ms) ** self.beta(latency_ms)
        return float(self.accuracy(metrics) * factor)
