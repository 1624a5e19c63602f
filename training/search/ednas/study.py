"""A study: trials proposed by a controller, run by a proxy, kept in a store.

Trial k is always proposed when exactly the trials 0 … k - parallel have been fed back, in this order,
whichever finished first. So a study is a function of its settings: one that was killed and goes on ends with
the same trials as one that was not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel
from perception_core.models.edge.architecture import EdgeArchitecture
from training.search.ednas.controllers import make_controller
from training.search.ednas.objective import Objective
from training.search.ednas.space import Decisions, architecture_of
from training.search.ednas.store import StudyStore, Trial
from training.search.ednas.trial import Proxy, TrialOutcome, TrialRequest
from training.search.ednas.workers import WorkerKind, make_workers

#: Called with the trial that was fed back and the number of trials in all.
StudyProgress = Callable[[Trial, int], None]


class StudyConfig(StrictModel):
    """Settings of a study.

    Attributes:
        trials: How many.
        controller: Key of CONTROLLERS.
        seed: Of the controller and, with the trial's number, of each trial.
        population, tournament: Of evolution.
        parallel: Trials at a time. Part of what the study is: it decides what is known when a trial is
            proposed.
        stop_early: Stop a trial whose Acc at a check lies below the median of the trials fed back before it
            was proposed.
        stop_after: Trials that are always run to their end, to have a median.
    """

    trials: int = pydantic.Field(default=100, ge=1)
    controller: str = "evolution"
    seed: int = pydantic.Field(default=0, ge=0)
    population: int = pydantic.Field(default=20, ge=2)
    tournament: int = pydantic.Field(default=5, ge=2)
    parallel: int = pydantic.Field(default=1, ge=1)
    stop_early: bool = True
    stop_after: int = pydantic.Field(default=8, ge=1)


@dataclass(frozen=True)
class StudyResult:
    """A study that is done.

    Attributes:
        trials: In the order of their numbers.
        best: The one with the largest reward; of equals the earliest.
    """

    trials: tuple[Trial, ...]
    best: Trial

    @property
    def best_architecture(self) -> EdgeArchitecture:
        """What the best trial tried."""
        return architecture_of(self.best.decisions)

    def pareto_front(self) -> list[Trial]:
        """Returns the trials none of which another beats in both latency and accuracy, fastest first."""
        front: list[Trial] = []
        for trial in sorted(self.trials, key=lambda t: (t.outcome.latency_ms, -t.accuracy, t.id)):
            if not trial.outcome.failure and (not front or trial.accuracy > front[-1].accuracy):
                front.append(trial)
        return front


def run_study(
    proxy: Proxy,
    objective: Objective,
    config: StudyConfig | None = None,
    store: str | Path | None = None,
    *,
    about: dict[str, Any] | None = None,
    workers: WorkerKind = "inline",
    progress: StudyProgress | None = None,
) -> StudyResult:
    """Runs a study, or what is left of it.

    Args:
        proxy: Runs a trial; picklable unless `workers` is `inline`.
        objective: Makes rewards of metrics and latencies.
        config: Settings; None: the defaults.
        store: File of trials; a study that was killed goes on from it. None: nothing is kept.
        about: What else decides the trials, e.g. the proxy's data and steps; a study goes on only with the
            same.
        workers: Where trials run: `inline` in this process, `processes` in local ones, `ray` on a cluster.
        progress: Told of each trial as it is fed back.

    Raises:
        ConfigurationError: The store is of another study, or a setting does not fit.
    """
    config = config or StudyConfig()
    controller = make_controller(config.controller, config.seed, config.population, config.tournament)
    settings = config.model_dump(mode="json", exclude={"trials"})
    kept = StudyStore(store, {**settings, "objective": objective.model_dump(mode="json"), **(about or {})})
    with make_workers(workers, proxy, config.parallel) as pool:
        proposals: list[Decisions] = []
        done = 0
        while done < config.trials:
            while len(proposals) < config.trials and len(proposals) - done < config.parallel:
                number = len(proposals)
                decisions = controller.propose()
                proposals.append(decisions)
                if number in kept.trials:
                    _check_same(kept.trials[number], decisions)
                else:
                    thresholds = _thresholds(config, [kept.trials[index] for index in range(done)])
                    architecture = architecture_of(decisions)
                    seed = config.seed * 100_003 + number
                    pool.submit(TrialRequest(number, architecture, seed, thresholds))
            while done not in kept.trials:
                number, outcome = pool.wait()
                kept.add(_trial(number, proposals[number], outcome, objective))
            trial = kept.trials[done]
            controller.feedback(trial.reward)
            done += 1
            if progress is not None:
                progress(trial, config.trials)
    trials = tuple(kept.trials[number] for number in range(config.trials))
    return StudyResult(trials, max(trials, key=lambda trial: (trial.reward, -trial.id)))


def _trial(number: int, decisions: Decisions, outcome: TrialOutcome, objective: Objective) -> Trial:
    if outcome.failure:
        return Trial(number, decisions, 0.0, 0.0, outcome)
    accuracy = objective.accuracy(outcome.metrics)
    return Trial(number, decisions, objective.reward(outcome.metrics, outcome.latency_ms), accuracy, outcome)


def _check_same(trial: Trial, decisions: Decisions) -> None:
    if trial.decisions != decisions:
        raise ConfigurationError(
            f"the store's trial {trial.id} is not what the controller proposes there; the store was written "
            "by another version of the controller or of PyGlove. Start a new study"
        )


def _thresholds(config: StudyConfig, known: Sequence[Trial]) -> tuple[float, ...]:
    """Returns the median accuracy at each check of the trials that got as far."""
    if not config.stop_early or len(known) < config.stop_after:
        return ()
    curves = [trial.outcome.accuracy_curve for trial in known if not trial.outcome.failure]
    thresholds: list[float] = []
    for check in range(max((len(curve) for curve in curves), default=0)):
        values = [curve[check] for curve in curves if len(curve) > check]
        if len(values) < config.stop_after // 2:
            break
        thresholds.append(statistics.median(values))
    return tuple(thresholds)
