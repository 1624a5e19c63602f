"""What one calibrated step measured and decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations


class NonFiniteGradientError(FloatingPointError):
    """A loss or gradient is NaN or infinite; the message names the task or branch."""


@dataclass
class CalibrationRecord:
    """One step in numbers, for the log.

    Attributes:
        losses: Raw loss of each task.
        weights: Factor on each task's loss, after its initial weight.
        gradient_norms: |∇L| of each task at the shared layer, initial weight included; empty if not taken.
        task_ratios: γ_task of Eq. 2 for every pair `first:second` of tasks, from the raw losses (without
            initial weights); pairs with a zero gradient are left out.
        calibrated_task_ratios: The same of the losses as they are summed, initial weights and weights
            included.
        branch_norms: |∇θ^F| of each branch.
        gates: w of each branch; empty if branches are not gated.
        modal_ratios: γ_modal of Eq. 4 for every pair of branches.
        calibrated_modal_ratios: The same with each norm times its gate, as the branches are updated.
    """

    losses: dict[str, float]
    weights: dict[str, float] = field(default_factory=dict)
    gradient_norms: dict[str, float] = field(default_factory=dict)
    task_ratios: dict[str, float] = field(default_factory=dict)
    calibrated_task_ratios: dict[str, float] = field(default_factory=dict)
    branch_norms: dict[str, float] = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)
    modal_ratios: dict[str, float] = field(default_factory=dict)
    calibrated_modal_ratios: dict[str, float] = field(default_factory=dict)

    def set_task_ratios(self, initial_weights: Mapping[str, float]) -> None:
        """Fills γ_task before and after calibration from norms and weights."""
        raw = {task: norm / initial_weights.get(task, 1.0) for task, norm in self.gradient_norms.items()}
        weighted = {task: norm * self.weights[task] for task, norm in self.gradient_norms.items()}
        self.task_ratios = _pairwise(raw)
        self.calibrated_task_ratios = _pairwise(weighted)

    def set_modal_ratios(self) -> None:
        """Fills γ_modal before and after gating from norms and gates."""
        self.modal_ratios = _pairwise(self.branch_norms)
        gated = {name: norm * self.gates.get(name, 1.0) for name, norm in self.branch_norms.items()}
        self.calibrated_modal_ratios = _pairwise(gated)

    def scalars(self) -> dict[str, float]:
        """Returns all of it as `group/name` to number, as loggers take it."""
        groups = {
            "loss": self.losses,
            "loss_weight": self.weights,
            "task_gradient_norm": self.gradient_norms,
            "gamma_task": self.task_ratios,
            "gamma_task_calibrated": self.calibrated_task_ratios,
            "branch_gradient_norm": self.branch_norms,
            "gate": self.gates,
            "gamma_modal": self.modal_ratios,
            "gamma_modal_calibrated": self.calibrated_modal_ratios,
        }
        return {
            f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()
        }


def _pairwise(values: Mapping[str, float]) -> dict[str, float]:
    positive = [(name, value) for name, value in values.items() if value > 0]
    return {f"{a}:{b}": x / y for (a, x), (b, y) in combinations(positive, 2)}
