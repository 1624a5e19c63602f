"""DDRNet (Hong et al., 2021): a semantic and a detail branch that exchange features both ways."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct
from perception_core.models.mono_baselines.configuration import DdrNetConfig
from perception_core.models.mono_baselines.parts import (
    OpenBottleneck,
    SequentialContext,
    open_stage,
    resized,
)
from perception_core.models.tag.backbone import BackboneOutput


class _Exchange(nn.Module):
    """Bilateral fusion: each branch is brought to the other's channels and size and added."""

    def __init__(self, semantic_channels: int, detail_channels: int, halvings: int) -> None:
        super().__init__()
        self.to_detail = ConvNormAct(semantic_channels, detail_channels, kernel_size=1, activation=False)
        channels = [semantic_channels // 2 ** (halvings - 1 - step) for step in range(halvings)]
        layers = [
            ConvNormAct(source, target, stride=2, activation=step + 1 < halvings)
            for step, (source, target) in enumerate(
                zip([detail_channels, *channels[:-1]], channels, strict=True)
            )
        ]
        self.to_semantic = nn.Sequential(*layers)

    def forward(self, semantic: torch.Tensor, detail: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns both branches after the exchange, without a last ReLU."""
        raised = resized(self.to_detail(functional.relu(semantic)), detail.shape[-2:])
        return semantic + self.to_semantic(functional.relu(detail)), detail + raised


class DdrNet(nn.Module):
    """DDRNet-23-slim, -23 and -39 without their segmentation head.

    Attributes:
        out_channels: Channels of the feature.
        stride: Image pixels per feature pixel.
    """

    stride = 8
    exportable = True
    last_layer = "detail5"

    def __init__(self, config: DdrNetConfig) -> None:
        super().__init__()
        p = config.planes
        n1, n2, n3, n4 = config.stage_blocks
        parts, detail = config.layer3_parts, 2 * p
        self.out_channels = 4 * p
        self.stem = nn.Sequential(ConvNormAct(3, p, stride=2), ConvNormAct(p, p, stride=2))
        self.layer1 = open_stage(p, p, n1)
        self.layer2 = open_stage(p, 2 * p, n2, stride=2)
        self.layer3 = nn.ModuleList(
            open_stage(2 * p if part == 0 else 4 * p, 4 * p, n3, stride=2 if part == 0 else 1)
            for part in range(parts)
        )
        self.detail3 = nn.ModuleList(
            open_stage(2 * p if part == 0 else detail, detail, config.detail_blocks) for part in range(parts)
        )
        self.exchange3 = nn.ModuleList(_Exchange(4 * p, detail, halvings=1) for _ in range(parts))
        self.layer4 = open_stage(4 * p, 8 * p, n4, stride=2)
        self.detail4 = open_stage(detail, detail, config.detail_blocks)
        self.exchange4 = _Exchange(8 * p, detail, halvings=2)
        self.layer5 = OpenBottleneck(8 * p, 8 * p, 2, stride=2, activation=False)
        self.detail5 = OpenBottleneck(detail, detail, 2, activation=False)
        self.context = SequentialContext(16 * p, config.pyramid_channels, 4 * p)

    def forward(self, image_bchw: torch.Tensor) -> BackboneOutput:
        """Maps a normalized image to the feature at 1/8 of its size."""
        layer1 = functional.relu(self.layer1(self.stem(image_bchw)))
        semantic = detail = self.layer2(layer1)
        for layer, detail_layer, exchange in zip(self.layer3, self.detail3, self.exchange3, strict=True):
            semantic, detail = exchange(
                layer(functional.relu(semantic)), detail_layer(functional.relu(detail))
            )
        semantic, detail = self.exchange4(
            self.layer4(functional.relu(semantic)), self.detail4(functional.relu(detail))
        )
        detail = self.detail5(functional.relu(detail))
        context = self.context(functional.relu(self.layer5(functional.relu(semantic))))
        return BackboneOutput(functional.relu(detail + resized(context, detail.shape[-2:])))
