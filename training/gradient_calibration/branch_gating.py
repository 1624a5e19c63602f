"""FULLER's intra-gradient calibration: modality branches are gated to learn at the same pace (Eq. 4 to 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from training.gradient_calibration.configuration import BranchGatingConfig


def gate(x: float, y: float, alpha: float) -> float:
    """σ(x, y) of Eq. 6: 1 where x <= y, else 1 - tanh(α x / y).

    It jumps at x = y from 1 to 1 - tanh(α); the momentum of Eq. 7 smooths that over steps.
    """
    return 1.0 - math.tanh(alpha * x / y) if x > y else 1.0


class BranchGates:
    """Gating factors w of the branches, smoothed over steps.

    With more than two branches each is compared with the one of smallest norm, which for two is the paper's
    pair.

    Attributes:
        gates: Smoothed factor of each branch, in (0, 1]; 1 before the first step.
    """

    def __init__(self, branches: Sequence[str], config: BranchGatingConfig) -> None:
        self.config = config
        self.gates = dict.fromkeys(branches, 1.0)

    def update(self, norms: Mapping[str, float]) -> dict[str, float]:
        """Takes in one step's norms of ∇θ^F by branch and returns the new factors (Eq. 5 and 7).

        A branch without gradient (its sensor is missing in the whole batch) has no pace to compare with: it
        is left out, and with fewer than two others nothing changes. Otherwise x / y would be infinite and the
        only branch that learns anything would be stopped.
        """
        present = {name: norm for name, norm in norms.items() if norm > 0}
        if len(present) >= 2:
            momentum = self.config.momentum
            slowest = min(present.values())
            for name, norm in present.items():
                fresh = gate(norm, slowest, self.config.alpha)
                self.gates[name] = momentum * self.gates[name] + (1 - momentum) * fresh
        return dict(self.gates)

    def state_dict(self) -> dict[str, float]:
        """The factors."""
        return dict(self.gates)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restores the factors.

        Raises:
            ValueError: They are of other branches.
        """
        if set(state) != set(self.gates):
            raise ValueError(f"gates of branches {sorted(state)}, this network has {sorted(self.gates)}")
        self.gates = {name: float(state[name]) for name in self.gates}
