"""Result records: what a search found and what it cost, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.evaluation.result import Result, write_json
from training.search.stages import StageRecord


@dataclass(frozen=True)
class NetworkRecord:
    """One trained network of a search.

    Attributes:
        name: What it is, e.g. `automtl λ_reg=0.0005`.
        seed: Of its training.
        parameters: Number of parameters of the backbone.
        head_parameters: Number of parameters of the heads.
        metrics: By task and metric.
        latency_ms: Time of one inference; None: not measured.
        stages: What it cost.
        details: Anything else, e.g. a policy.
    """

    name: str
    seed: int
    parameters: int
    head_parameters: int
    metrics: dict[str, dict[str, float]]
    latency_ms: float | None = None
    stages: tuple[StageRecord, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "name": self.name,
            "seed": self.seed,
            "parameters": self.parameters,
            "head_parameters": self.head_parameters,
            "metrics": self.metrics,
            "latency_ms": self.latency_ms,
            "stages": {
                stage.stage: {"steps": stage.steps, "seconds": stage.seconds} for stage in self.stages
            },
            "details": self.details,
        }


def metrics_of(results: Mapping[str, Result]) -> dict[str, dict[str, float]]:
    """Returns the headline numbers of results by task and metric."""
    return {task: result.scalars() for task, result in results.items()}


def write_records(path: Path, records: Sequence[NetworkRecord], about: Mapping[str, Any]) -> None:
    """Writes records to a JSON file that is always whole.

    Args:
        path: The file.
        records: The networks.
        about: Of the whole, e.g. data set and command.
    """
    write_json(path, {**about, "networks": [record.to_json() for record in records]})
