"""The two-pathway backbone of TAG's Tab. I."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct, ResidualBlock
from perception_core.models.tag.aggregation import IterativeAggregation, PyramidPooling
from perception_core.models.tag.configuration import TagBackboneConfig


class BackboneOutput(NamedTuple):
    """What a monocular backbone gives.

    Attributes:
        feature_bchw: The feature all tasks share (h of the paper's Eq. 2).
        semantic_bchw: Last feature of the semantic branch, None where there is none.
        detail_bchw: Output of the high-resolution branch, of the feature's size; None where there is none.
    """

    feature_bchw: torch.Tensor
    semantic_bchw: torch.Tensor | None = None
    detail_bchw: torch.Tensor | None = None


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut; the 3x3 has the stride."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, hidden_channels, kernel_size=1)
        self.spatial = ConvNormAct(hidden_channels, hidden_channels, stride=stride)
        self.expand = ConvNormAct(hidden_channels, out_channels, kernel_size=1, activation=False)
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else ConvNormAct(in_channels, out_channels, kernel_size=1, stride=stride, activation=False)
        )

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, in, H, W) to (B, out, H / stride, W / stride)."""
        return functional.relu(self.expand(self.spatial(self.reduce(x_bchw))) + self.shortcut(x_bchw))


def residual_stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Returns residual blocks of two 3x3 convolutions, the first with the stride."""
    return nn.Sequential(
        ResidualBlock(in_channels, out_channels, stride),
        *(ResidualBlock(out_channels, out_channels) for _ in range(blocks - 1)),
    )


class TagBackbone(nn.Module):
    """Stem and layers 1 and 2, then a semantic branch down to 1/64 and a detail branch at 1/8.

    The aggregation layers bring the semantic branch's layers 3 to 5 together at 1/16 (Alg. 1); their result
    and the detail branch's are added at 1/8 (Eq. 2).

    Attributes:
        out_channels: Channels of the feature.
        stride: Image pixels per feature pixel.
        semantic_channels, detail_channels: Of what the attention is taken from.
    """

    stride = 8

    def __init__(self, config: TagBackboneConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3, c4, c5 = config.stage_channels
        n1, n2, n3, n4 = config.stage_blocks
        self.out_channels = c3
        self.semantic_channels = c5
        self.detail_channels = config.detail_channels if config.detail else c2
        self.stem = nn.Sequential(ConvNormAct(3, c1, stride=2), ConvNormAct(c1, c1, stride=2))
        self.layer1 = residual_stage(c1, c1, n1, 1)
        self.layer2 = residual_stage(c1, c2, n2, 2)
        self.layer3 = residual_stage(c2, c3, n3, 2)
        self.layer4 = residual_stage(c3, c4, n4, 2)
        if config.layer5 == "basic":
            self.layer5 = residual_stage(c4, c5, config.layer5_blocks, 2)
        else:
            self.layer5 = nn.Sequential(
                Bottleneck(c4, c5 // 2, c5, stride=2),
                *(Bottleneck(c5, c5 // 2, c5) for _ in range(config.layer5_blocks - 1)),
            )
        if config.detail:
            detail = config.detail_channels
            self.detail3 = residual_stage(c2, detail, config.detail_blocks, 1)
            self.detail4 = residual_stage(detail, detail, config.detail_blocks, 1)
            self.fuse_detail = ConvNormAct(detail, c3, kernel_size=config.fusion_kernel, activation=False)
        self.exportable = config.aggregation == "iterative"
        self.last_layer = "aggregation"
        self.aggregation: nn.Module = (
            IterativeAggregation((c3, c4, c5), config.projection_kernel, config.node_kernel)
            if config.aggregation == "iterative"
            else PyramidPooling(c5, c3)
        )

    def forward(self, image_bchw: torch.Tensor) -> BackboneOutput:
        """Maps a normalized image to the shared feature at 1/8 of its size.

        Args:
            image_bchw: (B, 3, H, W), sides multiples of 64.
        """
        layer2 = self.layer2(self.layer1(self.stem(image_bchw)))
        layer3 = self.layer3(layer2)
        layer4 = self.layer4(layer3)
        layer5 = self.layer5(layer4)
        aggregated = self.aggregation([layer3, layer4, layer5])
        feature = functional.interpolate(
            aggregated, size=layer2.shape[-2:], mode="bilinear", align_corners=False
        )
        detail = layer2
        if self.config.detail:
            detail = self.detail4(self.detail3(layer2))
            feature = feature + self.fuse_detail(detail)
        return BackboneOutput(feature, layer5, detail)
