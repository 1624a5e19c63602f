"""Proxy training: a few steps on little data tell how good an architecture would become."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic
import torch
from torch import nn

from perception_core.configuration import StrictModel
from perception_core.models.edge.architecture import EdgeArchitecture
from perception_core.platform.latency.model import LatencyModel
from training.search.ednas.network_operators import NetworkForm, latency_ms
from training.search.ednas.objective import Objective
from training.search.ednas.trial import TrialOutcome, TrialRequest
from training.search.records import metrics_of
from training.search.tasks.batches import BatchSource
from training.search.tasks.network import evaluate, parameter_count, task_losses, total_loss
from training.search.tasks.task import DenseTask

#: Opens what is trained on and what is judged by; picklable, where trials run in processes of their own.
OpenSources = Callable[[], tuple[BatchSource, BatchSource]]


class EdgeTrainingConfig(StrictModel):
    """How an edge network is trained, as proxy or fully.

    Attributes:
        steps: Training steps.
        checks: Evaluations, evenly spread, the last at the end.
        learning_rate: Adam's at the start; it falls along a cosine to 0. The paper's baselines take 3e-4,
            its stronger ones 1e-2 (Tab. 5).
        weight_decay: Adam's.
        clip_gradient: Largest norm of the gradient.
    """

    steps: int = pydantic.Field(default=150, ge=1)
    checks: int = pydantic.Field(default=3, ge=1)
    learning_rate: float = pydantic.Field(default=1e-2, gt=0)
    weight_decay: float = pydantic.Field(default=1e-5, ge=0)
    clip_gradient: float = pydantic.Field(default=10.0, gt=0)


@dataclass(frozen=True)
class EdgeTraining:
    """A network that was trained.

    Attributes:
        network: In evaluation mode.
        metrics: By task and metric at the last check.
        accuracy_curve: Acc at each check.
        stopped_early: Whether a check said to stop.
    """

    network: nn.Module
    metrics: dict[str, dict[str, float]]
    accuracy_curve: tuple[float, ...]
    stopped_early: bool


def train_architecture(
    architecture: EdgeArchitecture,
    form: NetworkForm,
    tasks: tuple[DenseTask, ...],
    sources: tuple[BatchSource, BatchSource],
    accuracy: Callable[[Mapping[str, Mapping[str, float]]], float],
    config: EdgeTrainingConfig,
    seed: int = 0,
    least_accuracy: tuple[float, ...] = (),
    device: str = "cpu",
) -> EdgeTraining:
    """Trains an architecture's network from scratch.

    Args:
        architecture: Of the backbone.
        form: Of the rest.
        tasks: The tasks, of which `form` has heads.
        sources: What it is trained on and judged by.
        accuracy: Acc of metrics.
        config: Settings.
        seed: Of weights and dropout.
        least_accuracy: Stop at a check whose Acc lies below.
        device: Of torch.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    train, judged = sources
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = form.build(architecture).to(device).train()
        weights = list(network.parameters())
        optimizer = torch.optim.Adam(weights, config.learning_rate, weight_decay=config.weight_decay)
        checks = [round(config.steps * (index + 1) / config.checks) for index in range(config.checks)]
        metrics: dict[str, dict[str, float]] = {}
        curve: list[float] = []
        stopped = False
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / config.steps))
            batch = train.train_batch(step).to(device)
            loss = total_loss(task_losses(network(batch.image_bchw), batch, tasks), {})
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, config.clip_gradient)
            optimizer.step()
            if step + 1 not in checks:
                continue
            metrics = metrics_of(evaluate(network, judged.all_batches(), tasks))
            curve.append(accuracy(metrics))
            check = len(curve) - 1
            if check < len(least_accuracy) and step + 1 < config.steps and curve[-1] < least_accuracy[check]:
                stopped = True
                break
    return EdgeTraining(network.eval(), metrics, tuple(curve), stopped)


class TrainingProxy:
    """Trains each architecture shortly and asks a latency model how long it takes.

    Args:
        open_sources: Opens the data, once a process.
        tasks: The tasks.
        form: Of the networks.
        latency: Of the device that is searched for.
        objective: Whose Acc the checks compare.
        config: Settings.
        device: Of torch.
    """

    def __init__(
        self,
        open_sources: OpenSources,
        tasks: tuple[DenseTask, ...],
        form: NetworkForm,
        latency: LatencyModel,
        objective: Objective,
        config: EdgeTrainingConfig,
        device: str = "cpu",
    ) -> None:
        self._open_sources = open_sources
        self._tasks, self._form, self._latency = tasks, form, latency
        self._objective, self._config, self._device = objective, config, device
        self._sources: tuple[BatchSource, BatchSource] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the opened data behind: another process opens its own."""
        return {**self.__dict__, "_sources": None}

    def __call__(self, request: TrialRequest) -> TrialOutcome:
        """Runs a trial; a training that diverges is a trial that failed."""
        start = time.perf_counter()
        if self._sources is None:
            self._sources = self._open_sources()
        time_ms = latency_ms(request.architecture, self._form, self._latency)
        try:
            trained = train_architecture(
                request.architecture,
                self._form,
                self._tasks,
                self._sources,
                self._objective.accuracy,
                self._config,
                request.seed,
                request.least_accuracy,
                self._device,
            )
        except FloatingPointError as error:
            return TrialOutcome({}, time_ms, seconds=time.perf_counter() - start, failure=str(error))
        return TrialOutcome(
            trained.metrics,
            time_ms,
            trained.accuracy_curve,
            trained.stopped_early,
            parameter_count(trained.network),
            time.perf_counter() - start,
        )
