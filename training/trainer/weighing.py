"""The plain weighted sum of losses behind the interface of `GradientCalibrator`, for learners without
points.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from perception_core.configuration import ConfigurationError, nearest
from training.gradient_calibration import (
    CalibrationRecord,
    GradientCalibrationConfig,
    GradientCalibrator,
    NonFiniteGradientError,
)
from training.trainer.learner import Learner


class PlainSum:
    """Adds the losses, each times its fixed weight; looks at no gradient."""

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        self.tasks = tuple(tasks)
        for task in weights:
            if task not in self.tasks:
                raise ConfigurationError(f"initial weight of unknown task '{task}'" + nearest(task, tasks))
        self.weights = {task: weights.get(task, 1.0) for task in self.tasks}

    def weigh(self, losses: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, CalibrationRecord]:
        """Returns the weighted sum and what was added.

        Raises:
            NonFiniteGradientError: A loss is not finite.
            ConfigurationError: A loss is of an unknown task, or there is none.
        """
        if not losses:
            raise ConfigurationError("the learner gave no losses")
        for task in losses:
            if task not in self.tasks:
                raise ConfigurationError(f"loss of unknown task '{task}'" + nearest(task, self.tasks))
        values = {task: float(loss.detach()) for task, loss in losses.items()}
        for task, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteGradientError(f"loss of task '{task}' is {value}")
        total = torch.stack([self.weights[task] * loss for task, loss in losses.items()]).sum()
        return total, CalibrationRecord(losses=values, weights=dict(self.weights))

    def gate_branches(self, record: CalibrationRecord) -> None:
        """Does nothing: no branches are known."""

    @contextlib.contextmanager
    def gated_learning_rates(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Does nothing: no branches are known."""
        yield

    def parameter_groups(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """Returns one group."""
        return [{"params": list(parameters)}]

    def end_epoch(self) -> None:
        """Does nothing: nothing is remembered."""

    def state_dict(self) -> dict[str, Any]:
        """What must be the same when a run is resumed."""
        return {"method": "plain_sum", "tasks": list(self.tasks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Refuses the state of another method or of other tasks.

        Raises:
            ValueError: It is one.
        """
        for key, own in self.state_dict().items():
            if state[key] != own:
                raise ValueError(f"the weighing of losses has {key} {state[key]}, this run has {own}")


def create_weighing(
    learner: Learner, calibration: GradientCalibrationConfig | None
) -> GradientCalibrator | PlainSum:
    """Returns what weighs a learner's losses.

    Raises:
        ConfigurationError: Calibration is asked for, and the learner names no points for it.
    """
    points = learner.calibration_points()
    if calibration is None:
        return PlainSum(learner.tasks, {})
    if points is not None:
        return GradientCalibrator(learner.network, points, learner.tasks, calibration)
    if calibration.inter.method != "plain" or calibration.primary is not None:
        raise ConfigurationError(
            f"gradient calibration '{calibration.inter.method}' needs points in the network, and "
            f"{type(learner).__name__} names none; choose calibration.inter.method=plain"
        )
    return PlainSum(learner.tasks, calibration.initial_weights)
