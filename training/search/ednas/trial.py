"""What a trial is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from perception_core.models.edge.architecture import EdgeArchitecture


@dataclass(frozen=True)
class TrialRequest:
    """One trial to run.

    Attributes:
        id: Number of the trial in its study, from 0.
        architecture: What to try.
        seed: Of everything the trial draws.
        least_accuracy: For each check of the proxy, the accuracy below which it should stop; empty: never.
    """

    id: int
    architecture: EdgeArchitecture
    seed: int
    least_accuracy: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrialOutcome:
    """What a trial found.

    Attributes:
        metrics: By task and metric, at its end.
        latency_ms: Of the network.
        accuracy_curve: Acc at each check.
        stopped_early: Whether it ended below `least_accuracy`.
        parameters: Of the whole network.
        seconds: What it took.
        failure: Why there are no metrics; empty: there are.
    """

    metrics: dict[str, dict[str, float]]
    latency_ms: float
    accuracy_curve: tuple[float, ...] = ()
    stopped_early: bool = False
    parameters: int = 0
    seconds: float = 0.0
    failure: str = ""


class Proxy(Protocol):
    """Tries an architecture cheaply; picklable, where trials run in processes of their own."""

    def __call__(self, request: TrialRequest) -> TrialOutcome:
        """Runs a trial. The same request gives the same metrics."""
        ...
