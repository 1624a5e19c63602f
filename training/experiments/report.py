"""What an experiment found, as a validated file: every run, means and spreads over seeds, Δ_MTL."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel
from training.datasets.files import DataError, read_json
from training.evaluation.relative import PAPER_METRICS, fuller_delta_mtl
from training.evaluation.result import EvaluationError, write_json

#: Condition under which a network is evaluated with every sensor.
ALL_SENSORS = "all sensors"

#: Metrics by task.
Metrics = dict[str, dict[str, float | None]]


class RunReport(StrictModel):
    """One trained network.

    Attributes:
        variant: Name of the variant.
        seed: Of everything.
        folder: Name of the run's folder.
        results: Headline metrics by condition (`all sensors`, `without camera` …) and task; None: not
            measured.
        details: Metrics by class, of the evaluation with all sensors.
        curve: The same metrics after each epoch that was evaluated.
        imbalance: Median over the steps of max(γ, 1 / γ) of each ratio γ that was logged, raw and calibrated.
        steps: Optimizer steps.
        wall_s: Seconds of training and evaluating during it.
    """

    variant: str
    seed: int
    folder: str
    results: dict[str, Metrics]
    details: dict[str, Any] = {}
    curve: tuple[dict[str, Any], ...] = ()
    imbalance: dict[str, float] = {}
    steps: int
    wall_s: float


class Spread(StrictModel):
    """A number over seeds.

    Attributes:
        mean: Mean; None where it was not measured with some seed.
        deviation: Sample standard deviation; None with fewer than two seeds.
        values: By seed, in the order of the seeds.
    """

    mean: float | None
    deviation: float | None
    values: tuple[float | None, ...]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        """Summarizes values."""
        measured = [value for value in values if value is not None and math.isfinite(value)]
        whole = len(measured) == len(values) and bool(values)
        return cls(
            mean=statistics.fmean(measured) if whole else None,
            deviation=statistics.stdev(measured) if whole and len(measured) > 1 else None,
            values=tuple(value if value is not None and math.isfinite(value) else None for value in values),
        )


class ExperimentReport(StrictModel):
    """Results of an experiment.

    Attributes:
        format: Of the file.
        experiment: Name.
        title: What is compared.
        complete: Every run of it is there.
        recipe: Recipe that was varied.
        overrides: Settings changed in all variants.
        variants: Settings of each variant.
        bounds: Variants of one task, which Δ_MTL is measured against.
        data: Which data.
        seeds: Seeds.
        limit: Steps an epoch at most; None: all.
        runs: Every run that is there.
        origin: Command, commit, machine, date.
    """

    format: int = 1
    experiment: str
    title: str
    complete: bool = False
    recipe: str
    overrides: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]]
    bounds: tuple[str, ...] = ()
    data: dict[str, Any]
    seeds: tuple[int, ...]
    limit: int | None = None
    runs: tuple[RunReport, ...] = ()
    origin: dict[str, Any] = {}

    @classmethod
    def read(cls, path: Path) -> ExperimentReport:
        """Reads a file written by `write`.

        Raises:
            ConfigurationError: It is missing or no such file.
        """
        try:
            content = dict(read_json(path))
            content.pop("summary", None)  # follows from the runs
            return cls.model_validate(content)
        except (DataError, pydantic.ValidationError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{path}: no result file of an experiment: {error}") from error

    def write(self, path: Path) -> None:
        """Writes the runs and what follows from them."""
        summary = {
            variant: {
                "metrics": {
                    condition: {
                        task: {name: spread.model_dump() for name, spread in metrics.items()}
                        for task, metrics in by_task.items()
                    }
                    for condition, by_task in self.spreads(variant).items()
                },
                "delta_mtl_percent": self.delta_mtl(variant).model_dump(),
                "imbalance": {name: spread.model_dump() for name, spread in self.imbalances(variant).items()},
            }
            for variant in self.variants
            if self.runs_of(variant)
        }
        write_json(path, {**self.model_dump(mode="json"), "summary": summary})

    def runs_of(self, variant: str) -> list[RunReport]:
        """Returns a variant's runs in the order of the seeds."""
        found = {run.seed: run for run in self.runs if run.variant == variant}
        return [found[seed] for seed in self.seeds if seed in found]

    def spreads(self, variant: str) -> dict[str, dict[str, dict[str, Spread]]]:
        """Returns a variant's metrics over seeds by condition, task and metric."""
        runs = self.runs_of(variant)
        if not runs:
            return {}
        return {
            condition: {
                task: {
                    name: Spread.of([run.results.get(condition, {}).get(task, {}).get(name) for run in runs])
                    for name in metrics
                }
                for task, metrics in by_task.items()
            }
            for condition, by_task in runs[0].results.items()
        }

    def imbalances(self, variant: str) -> dict[str, Spread]:
        """Returns a variant's imbalances over seeds."""
        runs = self.runs_of(variant)
        names = runs[0].imbalance if runs else {}
        return {name: Spread.of([run.imbalance.get(name) for run in runs]) for name in names}

    def upper_bounds(self) -> dict[str, dict[str, float]]:
        """Returns the single-task networks' metrics by task, means over seeds; those FULLER compares."""
        found: dict[str, dict[str, float]] = {}
        for variant in self.bounds:
            by_task = self.spreads(variant).get(ALL_SENSORS, {})
            for task, metrics in by_task.items():
                values = {
                    name: metrics[name].mean
                    for name in PAPER_METRICS["fuller"].get(task, ())
                    if name in metrics
                }
                if values and all(value is not None for value in values.values()):
                    found[task] = {name: float(value) for name, value in values.items() if value is not None}
        return found

    def delta_mtl(self, variant: str) -> Spread:
        """Returns FULLER's average drop (Eq. 9) against the bounds' means, in percent, over seeds.

        None where a bound is missing or 0 (nothing can be relative to that), or for a bound itself.
        """
        bounds = self.upper_bounds()
        values: list[float | None] = []
        for run in self.runs_of(variant):
            measured = run.results.get(ALL_SENSORS, {})
            values.append(None if variant in self.bounds else _delta(measured, bounds))
        return Spread.of(values)


def _delta(measured: Metrics, bounds: Mapping[str, Mapping[str, float]]) -> float | None:
    compared: dict[str, dict[str, float]] = {}
    for task in measured:
        for name in PAPER_METRICS["fuller"].get(task, ()):
            value = measured[task].get(name)
            if value is None or name not in bounds.get(task, {}):
                return None
            compared.setdefault(task, {})[name] = value
    try:
        return fuller_delta_mtl(compared, {task: bounds[task] for task in compared}).delta
    except EvaluationError:  # a bound of 0
        return None
