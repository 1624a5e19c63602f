"""Proxy training: it learns, repeats, stops early, and survives a training that diverges."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from automtl_fixtures import random_image
from torch.nn import functional

from perception_core.models.edge.architecture import BlockChoice, EdgeArchitecture
from perception_core.platform.latency.accelerator import analytic_latency
from training.search.ednas.network_operators import NetworkForm, latency_ms
from training.search.ednas.objective import Objective
from training.search.ednas.proxy import EdgeTrainingConfig, OpenSources, TrainingProxy
from training.search.ednas.trial import TrialRequest
from training.search.tasks.batches import TensorBatches
from training.search.tasks.task import DenseTarget, dense_task

TASKS = (dense_task("semantic_segmentation", ("dark", "bright")), dense_task("depth", depth_loss="jared"))
FORM = NetworkForm((("semantic_segmentation", 2), ("depth", 1)), (32, 32), fpn_channels=8, fpn_layers=1)
ARCHITECTURE = EdgeArchitecture((BlockChoice("IBN", 3, 0.5, 3),) * 16)
OBJECTIVE = Objective.of_tasks(TASKS, 5.0)


def open_sources() -> tuple[TensorBatches, TensorBatches]:
    """Brightness of the left half tells class and depth."""
    image = random_image(seed=3, batch=8, side=32)
    image[:4, :, :, :16] += 2.0
    value = functional.avg_pool2d(image.mean(1, keepdim=True), 9, 1, 4)[:, 0]
    valid = torch.ones_like(value, dtype=torch.bool)
    targets = {
        "semantic_segmentation": DenseTarget((value > 0.5).to(torch.uint8), valid),
        "depth": DenseTarget(2.0 + value.clamp(-1, 3), valid),
    }
    return TensorBatches(image, targets, 4), TensorBatches(image, targets, 8)


def open_broken_sources() -> tuple[TensorBatches, TensorBatches]:
    """The same with depths that are no numbers."""
    _, judged = open_sources()
    whole = next(judged.all_batches())
    depth = whole.targets["depth"]
    targets = {**whole.targets, "depth": DenseTarget(depth.value * math.nan, depth.valid_bhw)}
    return TensorBatches(whole.image_bchw, targets, 4), judged


def proxy(sources: OpenSources = open_sources, **changes: float) -> TrainingProxy:
    config = EdgeTrainingConfig(steps=6, checks=2, learning_rate=1e-2).model_copy(update=changes)
    return TrainingProxy(sources, TASKS, FORM, analytic_latency("edge-tpu-like"), OBJECTIVE, config)


def test_trial_repeats_and_answers_everything() -> None:
    state = torch.get_rng_state()
    first, second = (proxy()(TrialRequest(0, ARCHITECTURE, seed=5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.metrics == second.metrics
    assert set(first.metrics) == {"semantic_segmentation", "depth"}
    assert first.latency_ms == latency_ms(ARCHITECTURE, FORM, analytic_latency("edge-tpu-like"))
    assert len(first.accuracy_curve) == 2
    assert first.accuracy_curve[-1] == OBJECTIVE.accuracy(first.metrics)
    assert first.parameters > 0
    assert not first.stopped_early


def test_trial_below_the_median_stops() -> None:
    outcome = proxy()(TrialRequest(0, ARCHITECTURE, seed=5, least_accuracy=(1e9, 1e9)))
    assert outcome.stopped_early
    assert len(outcome.accuracy_curve) == 1


def test_training_that_diverges_is_a_failed_trial() -> None:
    outcome = proxy(open_broken_sources)(TrialRequest(0, ARCHITECTURE, seed=5))
    assert "loss of task 'depth' is nan" in outcome.failure
    assert outcome.metrics == {}


def test_proxy_travels_to_other_processes_without_its_data() -> None:
    travelled = proxy()
    travelled(TrialRequest(0, ARCHITECTURE, seed=5))
    content = pickle.dumps(travelled)
    assert len(content) < 20_000
    request = TrialRequest(1, ARCHITECTURE, seed=6)
    assert pickle.loads(content)(request).metrics == travelled(request).metrics


@pytest.mark.slow
def test_longer_training_is_better() -> None:
    request = TrialRequest(0, ARCHITECTURE, seed=1)
    short, long = proxy(steps=2, checks=1)(request), proxy(steps=120, checks=1)(request)
    assert long.accuracy_curve[-1] > short.accuracy_curve[-1]
