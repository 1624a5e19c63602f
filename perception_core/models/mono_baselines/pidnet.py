"""PIDNet (Xu et al., CVPR 2023): detail (P), context (I) and boundary (D) branches."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct
from perception_core.models.mono_baselines.configuration import PidNetConfig
from perception_core.models.mono_baselines.parts import (
    OpenBottleneck,
    OpenResidualBlock,
    ParallelContext,
    SequentialContext,
    open_stage,
    resized,
)
from perception_core.models.tag.backbone import BackboneOutput


class PixelAttention(nn.Module):
    """Pixel-attention-guided fusion: the detail branch takes from the context where both agree."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.detail = ConvNormAct(channels, hidden_channels, kernel_size=1, activation=False)
        self.context = ConvNormAct(channels, hidden_channels, kernel_size=1, activation=False)

    def forward(self, detail_bchw: torch.Tensor, context_bchw: torch.Tensor) -> torch.Tensor:
        """Returns the detail branch after the fusion."""
        size = detail_bchw.shape[-2:]
        agreement = self.detail(detail_bchw) * resized(self.context(context_bchw), size)
        weight = agreement.sum(dim=1, keepdim=True).sigmoid()
        return (1 - weight) * detail_bchw + weight * resized(context_bchw, size)


class LightBoundaryFusion(nn.Module):
    """Light-Bag: where the boundary branch sees an edge the detail counts, elsewhere the context."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = ConvNormAct(channels, channels, kernel_size=1, activation=False)
        self.context = ConvNormAct(channels, channels, kernel_size=1, activation=False)

    def forward(self, detail: torch.Tensor, context: torch.Tensor, boundary: torch.Tensor) -> torch.Tensor:
        """Returns the fused feature."""
        edge = boundary.sigmoid()
        fused: torch.Tensor = self.detail((1 - edge) * context + detail) + self.context(
            context + edge * detail
        )
        return fused


class BoundaryFusion(nn.Module):
    """Bag, PIDNet-L's form: the weighted sum is convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = ConvNormAct(channels, channels)

    def forward(self, detail: torch.Tensor, context: torch.Tensor, boundary: torch.Tensor) -> torch.Tensor:
        """Returns the fused feature."""
        edge = boundary.sigmoid()
        fused: torch.Tensor = self.convolution(edge * detail + (1 - edge) * context)
        return fused


class PidNet(nn.Module):
    """PIDNet-S, -M and -L without their segmentation heads.

    Attributes:
        out_channels: Channels of the feature.
        stride: Image pixels per feature pixel.
    """

    stride = 8
    exportable = True
    last_layer = "fusion"

    def __init__(self, config: PidNetConfig) -> None:
        super().__init__()
        p, early, late = config.planes, config.early_blocks, config.late_blocks
        self.out_channels = 4 * p
        self.stem = nn.Sequential(ConvNormAct(3, p, stride=2), ConvNormAct(p, p, stride=2))
        self.layer1 = open_stage(p, p, early)
        self.layer2 = open_stage(p, 2 * p, early, stride=2)
        self.layer3 = open_stage(2 * p, 4 * p, late, stride=2)
        self.layer4 = open_stage(4 * p, 8 * p, late, stride=2)
        self.layer5 = nn.Sequential(
            OpenBottleneck(8 * p, 8 * p, 2, stride=2),
            OpenBottleneck(16 * p, 8 * p, 2, activation=False),
        )
        self.detail3 = open_stage(2 * p, 2 * p, early)
        self.detail4 = open_stage(2 * p, 2 * p, early)
        self.detail5 = OpenBottleneck(2 * p, 2 * p, 2, activation=False)
        self.to_detail3 = ConvNormAct(4 * p, 2 * p, kernel_size=1, activation=False)
        self.to_detail4 = ConvNormAct(8 * p, 2 * p, kernel_size=1, activation=False)
        self.attention3 = PixelAttention(2 * p, p)
        self.attention4 = PixelAttention(2 * p, p)
        self.boundary3: nn.Module
        self.boundary4: nn.Module
        if config.large:
            first = 2 * p
            self.boundary4 = OpenResidualBlock(first, 2 * p, activation=False)
        else:
            first = p
            self.boundary4 = OpenBottleneck(first, p, 2, activation=False)
        self.boundary3 = OpenResidualBlock(2 * p, first, activation=False)
        self.boundary5 = OpenBottleneck(2 * p, 2 * p, 2, activation=False)
        self.to_boundary3 = ConvNormAct(4 * p, first, activation=False)
        self.to_boundary4 = ConvNormAct(8 * p, 2 * p, activation=False)
        context = SequentialContext if config.large else ParallelContext
        self.context = context(16 * p, config.pyramid_channels, 4 * p)
        self.fusion: nn.Module = BoundaryFusion(4 * p) if config.large else LightBoundaryFusion(4 * p)

    def forward(self, image_bchw: torch.Tensor) -> BackboneOutput:
        """Maps a normalized image to the feature at 1/8 of its size."""
        relu = functional.relu
        shared = relu(self.layer2(relu(self.layer1(self.stem(image_bchw)))))
        size = shared.shape[-2:]
        context = relu(self.layer3(shared))
        detail = self.attention3(self.detail3(shared), self.to_detail3(context))
        boundary = self.boundary3(shared) + resized(self.to_boundary3(context), size)
        context = relu(self.layer4(context))
        detail = self.attention4(self.detail4(relu(detail)), self.to_detail4(context))
        boundary = self.boundary4(relu(boundary)) + resized(self.to_boundary4(context), size)
        detail, boundary = self.detail5(relu(detail)), self.boundary5(relu(boundary))
        context = resized(self.context(relu(self.layer5(context))), size)
        return BackboneOutput(relu(self.fusion(detail, context, boundary)))
