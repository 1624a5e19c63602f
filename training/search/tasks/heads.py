"""Atrous spatial pyramid heads, the task-specific parts of AutoMTL's models (section 4.1, after DeepLab)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from perception_core.configuration import ConfigurationError
from training.search.tasks.task import DenseTask


class AsppHead(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v2: branches of different dilation, added.

    Args:
        in_channels: Of the backbone's feature.
        out_channels: Of the task.
        hidden_channels: Of each branch.
        rates: Dilations. 6, 12, 18, 24 are DeepLab's, for features of 40 and more pixels a side.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 128,
        rates: Sequence[int] = (6, 12, 18, 24),
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, hidden_channels, 3, padding=rate, dilation=rate),
                nn.ReLU(),
                nn.Conv2d(hidden_channels, hidden_channels, 1),
                nn.ReLU(),
                nn.Conv2d(hidden_channels, out_channels, 1),
            )
            for rate in rates
        )

    def forward(self, feature_bchw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Returns (B, out, *size), resized bilinearly."""
        total = self.branches[0](feature_bchw)
        for branch in list(self.branches)[1:]:
            total = total + branch(feature_bchw)
        return functional.interpolate(total, size=size, mode="bilinear", align_corners=False)


def feature_channels(backbone: nn.Module, side: int = 64) -> int:
    """Returns the channels of what a backbone gives for images, found by running it once.

    Raises:
        ConfigurationError: It does not give one feature map (a task).
    """
    was_training = backbone.training
    device = next(backbone.parameters()).device
    with torch.no_grad():
        output: Any = backbone.eval()(torch.zeros(1, 3, side, side, device=device))
    backbone.train(was_training)
    if isinstance(output, Mapping):
        output = next(iter(output.values()))
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        raise ConfigurationError(
            f"the backbone's output is {type(output).__name__}, not one feature map (B, C, H, W); give the "
            "search heads of your own that take it"
        )
    return int(output.shape[1])


def aspp_heads(
    tasks: Sequence[DenseTask],
    in_channels: int,
    hidden_channels: int = 128,
    rates: Sequence[int] = (6, 12, 18, 24),
) -> dict[str, nn.Module]:
    """Returns a new ASPP head for each task by name."""
    return {task.name: AsppHead(in_channels, task.channels, hidden_channels, rates) for task in tasks}
