"""A two-branch, two-task network small enough to know everything about, and imbalanced on purpose."""

from __future__ import annotations

import torch
from torch import nn

from training.gradient_calibration import (
    Branch,
    BranchGatingConfig,
    CalibrationPoints,
    GradientCalibrationConfig,
    GradientCalibrator,
    TaskWeightingConfig,
)

POINTS = CalibrationPoints(
    shared_layer="shared",
    fusion_layer="fusion",
    branches=(
        Branch("lidar", "lidar", first_channel=0, channels=6),
        Branch("camera", "camera", first_channel=6, channels=4),
    ),
)
TASKS = ("detection", "segmentation")


class TwoBranches(nn.Module):
    """The LiDAR branch sees the targets plainly, the camera branch faintly."""

    def __init__(self, tasks: tuple[str, ...] = TASKS) -> None:
        super().__init__()
        self.lidar = nn.Linear(3, 6)
        self.camera = nn.Linear(3, 4)
        self.fusion = nn.Conv2d(10, 8, kernel_size=1)
        self.shared = nn.Linear(8, 8)
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in tasks})

    def forward(self, lidar: torch.Tensor, camera: torch.Tensor) -> dict[str, torch.Tensor]:
        both = torch.cat((self.lidar(lidar).tanh(), 0.2 * self.camera(camera).tanh()), dim=1)
        feature = self.shared(self.fusion(both[..., None, None]).flatten(1).relu()).relu()
        return {task: head(feature) for task, head in self.heads.items()}


def toy_losses(
    model: TwoBranches, generator: torch.Generator, scale: float = 20.0
) -> dict[str, torch.Tensor]:
    """Losses of one random batch; the first task's is `scale` times as large as the others'."""
    lidar, camera = torch.randn(32, 3, generator=generator), torch.randn(32, 3, generator=generator)
    target = lidar[:, :1] + 0.5 * camera[:, :1] * camera[:, 1:2]
    outputs = model(lidar, camera)
    return {
        task: (scale if index == 0 else 1.0) * nn.functional.mse_loss(output, target * (1 - 0.7 * index))
        for index, (task, output) in enumerate(outputs.items())
    }


def toy(
    method: str = "imtl_g",
    intra: bool | BranchGatingConfig = True,
    tasks: tuple[str, ...] = TASKS,
    seed: int = 0,
    **config,
) -> tuple[TwoBranches, GradientCalibrator]:
    torch.manual_seed(seed)
    model = TwoBranches(tasks)
    gating = intra if isinstance(intra, BranchGatingConfig) else BranchGatingConfig(enabled=intra)
    calibration = GradientCalibrationConfig(inter=TaskWeightingConfig(method=method), intra=gating, **config)
    return model, GradientCalibrator(model, POINTS, tasks, calibration)
