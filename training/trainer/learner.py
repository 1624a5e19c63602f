"""What the trainer needs of whatever it trains: a network, the losses of its tasks, and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from training.datasets.batch import Batch
from training.evaluation.accumulate import Mergeable
from training.evaluation.result import Result
from training.gradient_calibration import CalibrationPoints
from training.losses import TaskLoss


@dataclass(frozen=True)
class StepLosses:
    """Losses of one batch.

    Attributes:
        tasks: Loss of each task; a task without labels in this batch may be left out or be
            `TaskLoss.without_labels`.
        auxiliary: Losses that are added as they are, outside of any weighing: what supervises one branch and
            never reaches the layer the tasks share (depth of a lift-splat), or regularizes.
    """

    tasks: Mapping[str, TaskLoss]
    auxiliary: Mapping[str, TaskLoss] = field(default_factory=dict)


class LearnerEvaluator(Mergeable, Protocol):
    """Collects what a network says of batch after batch.

    It is picklable and holds no network: under DDP every process has one, and they are merged.
    """

    def compute(self) -> dict[str, Result]:
        """Returns the result of each task that was judged."""
        ...


class Learner(Protocol):
    """What is trained.

    `losses` runs the network in training mode, `evaluate` in evaluation mode without gradients; the trainer
    sets the modes and moves batches to the network's device.
    """

    @property
    def network(self) -> nn.Module:
        """All that has weights; its direct sub-modules are what messages call components."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task there will ever be a loss of, in the order of the log."""
        ...

    def losses(self, batch: Batch) -> StepLosses:
        """Runs the network on a batch and returns its losses.

        Raises:
            FloatingPointError: A loss is not finite (`training.losses.NonFiniteLossError` names the term).
        """
        ...

    def calibration_points(self) -> CalibrationPoints | None:
        """Where gradients can be calibrated; None: they cannot, losses are only weighed as they are."""
        ...

    def evaluator(self) -> LearnerEvaluator | None:
        """Returns a new, empty evaluator; None: this learner cannot be judged on its data."""
        ...

    def evaluate(self, batch: Batch, evaluator: Any) -> None:
        """Runs the network on a batch and adds what it says to an evaluator made by `evaluator`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns plain values that say which network this is, for checkpoints and messages."""
        ...
