"""A learner small enough to train in milliseconds, with what a trainer must deal with: branches, dropout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from training.datasets.batch import Batch
from training.datasets.dataset import SampleDataset
from training.datasets.sample import Provenance, Sample
from training.evaluation.result import Metric, Result
from training.gradient_calibration import Branch, CalibrationPoints
from training.losses import TaskLoss
from training.trainer import OptimizerConfig, ScheduleConfig, StepLosses, TrainingConfig
from training.trainer.checkpoints import read_checkpoint

TASKS = ("left", "right")


class PointSet(SampleDataset):
    """Samples of four random points; one of them can be made to spoil training in one epoch."""

    name = "points"

    def __init__(self, samples: int, bad_sample: int | None = None, bad_epoch: int = 0) -> None:
        self.samples, self.bad_sample, self.bad_epoch = samples, bad_sample, bad_epoch
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def labels_of(self, index: int) -> frozenset[str]:
        return frozenset()

    def token(self, index: int) -> str:
        return f"sample-{index}"

    def __getitem__(self, index: int) -> Sample:
        # The epoch is part of the seed, as with augmentation.
        points = np.random.default_rng([index, self._epoch]).normal(size=(4, 5)).astype(np.float32)
        if index == self.bad_sample and self._epoch == self.bad_epoch:
            points[:] = np.nan
        return Sample(Provenance("points", self.token(index)), points_nc=points, lidar_valid=True)


class PointNetwork(nn.Module):
    """Two branches, a fusion layer, a shared layer and two heads; dropout in between."""

    def __init__(self, hidden: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        self.lidar = nn.Linear(3, 6)
        self.camera = nn.Linear(2, 4)
        self.fusion = nn.Linear(10, hidden)
        self.dropout = nn.Dropout(dropout)
        self.shared = nn.Linear(hidden, hidden)
        self.heads = nn.ModuleDict({task: nn.Linear(hidden, 1) for task in TASKS})

    def forward(self, points_bpc: torch.Tensor) -> dict[str, torch.Tensor]:
        both = torch.cat(
            (self.lidar(points_bpc[..., :3]).tanh(), self.camera(points_bpc[..., 3:]).tanh()), -1
        )
        feature = self.shared(self.dropout(self.fusion(both).relu())).relu().mean(dim=1)
        return {task: head(feature) for task, head in self.heads.items()}


@dataclass(frozen=True)
class ErrorResult(Result):
    task: ClassVar[str] = "left"
    metrics: ClassVar[Mapping[str, Metric]] = {"error": Metric("error", False)}

    error: float
    samples: int


class ErrorEvaluator:
    def __init__(self) -> None:
        self.total, self.samples = 0.0, 0

    def merge(self, other: ErrorEvaluator) -> None:
        self.total += other.total
        self.samples += other.samples

    def compute(self) -> dict[str, Result]:
        return {"left": ErrorResult(self.total / max(self.samples, 1), self.samples)}


class PointLearner:
    """Regresses sums of coordinates."""

    def __init__(self, seed: int = 0, calibrated: bool = True, **network: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = PointNetwork(**network)
        self.calibrated = calibrated

    @property
    def tasks(self) -> tuple[str, ...]:
        return TASKS

    def _errors(self, batch: Batch) -> dict[str, torch.Tensor]:
        points = batch.points_nc.view(len(batch), 4, 5)
        outputs = self.network(points)
        targets = {"left": points[..., :3].sum(dim=(1, 2)), "right": points[..., 3:].sum(dim=(1, 2))}
        return {task: (outputs[task].squeeze(1) - targets[task]).abs() for task in TASKS}

    def losses(self, batch: Batch) -> StepLosses:
        losses = {task: error.mean() for task, error in self._errors(batch).items()}
        losses["left"] = losses["left"] * 20
        return StepLosses(
            {task: TaskLoss(loss, {"absolute": loss.detach()}) for task, loss in losses.items()}
        )

    def calibration_points(self) -> CalibrationPoints | None:
        if not self.calibrated:
            return None
        branches = (Branch("lidar", "lidar", 0, 6), Branch("camera", "camera", 6, 4))
        return CalibrationPoints("shared", "fusion", branches)

    def evaluator(self) -> ErrorEvaluator:
        return ErrorEvaluator()

    def evaluate(self, batch: Batch, evaluator: ErrorEvaluator) -> None:
        error = self._errors(batch)["left"]
        evaluator.total += float(error.sum())
        evaluator.samples += len(batch)

    def describe(self) -> dict[str, Any]:
        return {"name": "points", "hidden": self.network.shared.in_features}


def point_config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        **{
            "epochs": 3,
            "batch_size": 4,
            "gradient_clip": 5.0,
            "optimizer": OptimizerConfig(learning_rate=1e-2),
            "schedule": ScheduleConfig(warmup_steps=2),
            **changes,
        }
    )


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(checkpoint)["state_dict"]
    return state
