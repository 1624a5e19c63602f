"""ResNet-50 (He et al., CVPR 2016) with a feature pyramid (Lin et al., CVPR 2017)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct
from perception_core.models.mono_baselines.configuration import ResNetConfig
from perception_core.models.mono_baselines.parts import bottleneck_stage, resized
from perception_core.models.tag.backbone import BackboneOutput


class ResNet(nn.Module):
    """The four stages, and a pyramid from 1/32 up to 1/8.

    Attributes:
        out_channels: Channels of the feature.
        stride: Image pixels per feature pixel.
    """

    stride = 8
    exportable = True
    last_layer = "smooth"

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, config.stem_channels, kernel_size=7, stride=2)
        channels = [config.stem_channels, *(4 * hidden for hidden in config.stage_channels)]
        self.stages = nn.ModuleList(
            bottleneck_stage(channels[index], hidden, blocks, stride=1 if index == 0 else 2)
            for index, (hidden, blocks) in enumerate(
                zip(config.stage_channels, config.stage_blocks, strict=True)
            )
        )
        self.out_channels = config.pyramid_channels
        self.laterals = nn.ModuleList(
            ConvNormAct(wide, config.pyramid_channels, kernel_size=1, activation=False)
            for wide in channels[2:]
        )
        self.smooth = ConvNormAct(config.pyramid_channels, config.pyramid_channels)

    def forward(self, image_bchw: torch.Tensor) -> BackboneOutput:
        """Maps a normalized image to the feature at 1/8 of its size."""
        x = functional.max_pool2d(self.stem(image_bchw), 3, stride=2, padding=1)
        scales = []
        for stage in self.stages:
            x = stage(x)
            scales.append(x)
        merged = self.laterals[-1](scales[-1])
        for lateral, scale in zip(list(self.laterals)[-2::-1], scales[-2:0:-1], strict=True):
            merged = lateral(scale) + resized(merged, scale.shape[-2:])
        return BackboneOutput(self.smooth(merged))
