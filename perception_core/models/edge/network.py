"""The edge networks: backbone, BiFPN and small heads (EDNAS, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.edge.architecture import FEATURE_BLOCKS, STEM_FILTERS, EdgeArchitecture
from perception_core.models.edge.bifpn import BiFpn
from perception_core.models.edge.blocks import BottleneckBlock, ConvNormRelu6, SeparableConv


class EdgeBackbone(nn.Module):
    """Stem and 16 blocks.

    Args:
        architecture: What the blocks are.
    """

    def __init__(self, architecture: EdgeArchitecture) -> None:
        super().__init__()
        self.channels = architecture.feature_channels()
        self.stem = ConvNormRelu6(3, STEM_FILTERS, 3, stride=2)
        self.blocks = nn.ModuleList(BottleneckBlock(block) for block in architecture.blocks())

    def forward(self, image_bchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Maps (B, 3, H, W) to P3, P4, P5 at strides 8, 16 and 32."""
        features = []
        x_bchw = self.stem(image_bchw)
        for index, block in enumerate(self.blocks, start=1):
            x_bchw = block(x_bchw)
            if index in FEATURE_BLOCKS:
                features.append(x_bchw)
        third, fourth, fifth = features
        return third, fourth, fifth


class EdgeHead(nn.Module):
    """A task's small head: one separable convolution and a 1x1 on P3, resized to the image."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.hidden = SeparableConv(channels, channels)
        self.output = nn.Conv2d(channels, out_channels, 1)

    def forward(self, p3_bchw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Returns (B, out, *size)."""
        logits = self.output(self.hidden(p3_bchw))
        return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


class EdgeNetwork(nn.Module):
    """Backbone and BiFPN shared by all tasks, a head each.

    Args:
        architecture: Of the backbone.
        task_channels: Output channels by task.
        fpn_channels, fpn_layers: Of the BiFPN.
    """

    def __init__(
        self,
        architecture: EdgeArchitecture,
        task_channels: Mapping[str, int],
        fpn_channels: int = 64,
        fpn_layers: int = 4,
    ) -> None:
        super().__init__()
        self.backbone = EdgeBackbone(architecture)
        self.fusion = BiFpn(self.backbone.channels, fpn_channels, fpn_layers)
        self.heads = nn.ModuleDict(
            {task: EdgeHead(fpn_channels, channels) for task, channels in task_channels.items()}
        )

    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps normalized images (B, 3, H, W) to predictions (B, channels, H, W) by task."""
        third = self.fusion(*self.backbone(image_bchw))
        size = (image_bchw.shape[2], image_bchw.shape[3])
        return {task: head(third, size) for task, head in self.heads.items()}
