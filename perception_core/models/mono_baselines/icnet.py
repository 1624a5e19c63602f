"""ICNet (Zhao et al., ECCV 2018): the whole network sees a quarter of the image, fewer layers more of it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct
from perception_core.models.mono_baselines.configuration import IcNetConfig
from perception_core.models.mono_baselines.parts import bottleneck_stage, resized
from perception_core.models.tag.backbone import BackboneOutput


class CascadeFusion(nn.Module):
    """Cascade feature fusion: the coarse map, doubled and convolved with holes, plus the fine map."""

    def __init__(self, coarse_channels: int, fine_channels: int, out_channels: int) -> None:
        super().__init__()
        self.coarse = ConvNormAct(coarse_channels, out_channels, dilation=2, activation=False)
        self.fine = ConvNormAct(fine_channels, out_channels, kernel_size=1, activation=False)

    def forward(self, coarse_bchw: torch.Tensor, fine_bchw: torch.Tensor) -> torch.Tensor:
        """Returns (B, out, H, W) at the fine map's size."""
        raised = self.coarse(resized(coarse_bchw, fine_bchw.shape[-2:]))
        return functional.relu(raised + self.fine(fine_bchw))


class IcNet(nn.Module):
    """ICNet on PSPNet-50's layers; the half-size and the quarter-size branch share the first two stages.

    Attributes:
        out_channels: Channels of the feature.
        stride: Image pixels per feature pixel.
    """

    stride = 4
    last_layer = "fuse_full"
    exportable = False  # its bins do not divide the usual feature sizes evenly
    BINS = (1, 2, 3, 6)

    def __init__(self, config: IcNetConfig) -> None:
        super().__init__()
        stem, (h1, h2, h3, h4), (n1, n2, n3, n4) = (
            config.stem_channels,
            config.stage_channels,
            config.stage_blocks,
        )
        half = max(stem // 2, 1)
        self.out_channels = config.fusion_channels
        self.stem = nn.Sequential(
            ConvNormAct(3, half, stride=2), ConvNormAct(half, half), ConvNormAct(half, stem)
        )
        self.stage1 = bottleneck_stage(stem, h1, n1)
        self.stage2 = bottleneck_stage(4 * h1, h2, n2, stride=2)
        self.stage3 = bottleneck_stage(4 * h2, h3, n3, dilation=2)
        self.stage4 = bottleneck_stage(4 * h3, h4, n4, dilation=4)
        context = max(h4, 1)
        self.context = ConvNormAct(4 * h4, context, kernel_size=1)
        self.full = nn.Sequential(
            ConvNormAct(3, half, stride=2),
            ConvNormAct(half, half, stride=2),
            ConvNormAct(half, stem, stride=2),
        )
        self.fuse_half = CascadeFusion(context, 4 * h2, config.fusion_channels)
        self.fuse_full = CascadeFusion(config.fusion_channels, stem, config.fusion_channels)

    def _early(self, image_bchw: torch.Tensor) -> torch.Tensor:
        pooled = functional.max_pool2d(self.stem(image_bchw), 3, stride=2, padding=1)
        feature_bchw: torch.Tensor = self.stage2(self.stage1(pooled))
        return feature_bchw

    def forward(self, image_bchw: torch.Tensor) -> BackboneOutput:
        """Maps a normalized image to the feature at 1/4 of its size."""
        rows, columns = image_bchw.shape[-2:]
        half = self._early(resized(image_bchw, (rows // 2, columns // 2)))
        quarter = resized(half, (rows // 32, columns // 32))
        deep = self.stage4(self.stage3(quarter))
        pooled = [resized(functional.adaptive_avg_pool2d(deep, bins), deep.shape[-2:]) for bins in self.BINS]
        context = self.context(deep + sum(pooled))
        fused = self.fuse_full(self.fuse_half(context, half), self.full(image_bchw))
        return BackboneOutput(resized(fused, (rows // 4, columns // 4)))
