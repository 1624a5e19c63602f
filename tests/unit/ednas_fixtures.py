"""A synthetic objective whose trials cost nothing, so that whole studies run in a test."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from perception_core.models.edge.architecture import EdgeArchitecture
from training.search.ednas.objective import Objective
from training.search.ednas.trial import TrialOutcome, TrialRequest

OBJECTIVE = Objective(
    metrics={"semantic_segmentation": {"miou": 1.0}, "depth": {"abs_error": 1.0}}, latency_target_ms=40.0
)


def synthetic_latency(architecture: EdgeArchitecture) -> float:
    """Wide and fused blocks take longer."""
    return sum(
        block.multiplier * (2.0 if block.kind == "FusedIBN" else 1.0) * block.expansion / 3
        for block in architecture.choices
    )


def synthetic_quality(architecture: EdgeArchitecture) -> float:
    """Wide and fused blocks see better, with a block-dependent taste for kernels."""
    score = 0.0
    for index, block in enumerate(architecture.choices):
        score += block.multiplier * (1.3 if block.kind == "FusedIBN" else 1.0)
        score += 0.5 * ((block.kernel == 5) == (index % 2 == 0))
    return score / 40


@dataclass
class SyntheticProxy:
    """A trial without training; a little noise that depends on the trial's seed alone.

    Attributes:
        die_at: The process "is killed" in this trial.
        ran: Numbers of the trials that were run.
        checks: Checks of the pretended training.
    """

    die_at: int | None = None
    checks: int = 3
    ran: list[int] = field(default_factory=list)

    def __call__(self, request: TrialRequest) -> TrialOutcome:
        if request.id == self.die_at:
            raise KeyboardInterrupt
        self.ran.append(request.id)
        quality = synthetic_quality(request.architecture) + random.Random(request.seed).gauss(0, 0.005)
        curve: list[float] = []
        stopped = False
        for check in range(self.checks):
            curve.append(quality * (check + 1) / self.checks)
            limit = request.least_accuracy
            if check < min(len(limit), self.checks - 1) and curve[-1] < limit[check]:
                stopped = True
                break
        reached = max(curve[-1], 1e-3)
        metrics = {"semantic_segmentation": {"miou": reached}, "depth": {"abs_error": 1.0 / reached}}
        return TrialOutcome(metrics, synthetic_latency(request.architecture), tuple(curve), stopped)
