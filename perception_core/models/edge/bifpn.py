"""BiFPN with sums instead of attention (EDNAS, section 3.1, after EfficientDet)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.edge.blocks import ConvNormRelu6, SeparableConv

LEVELS = 5  # P3 … P7


def _resized(x_bchw: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Brings a coarser map to a finer one's size."""
    return functional.interpolate(x_bchw, size=like.shape[-2:], mode="nearest")


def _reduced(x_bchw: torch.Tensor) -> torch.Tensor:
    """Halves a map, as the level above it has it."""
    return functional.max_pool2d(x_bchw, 3, stride=2, padding=1)


class BiFpnLayer(nn.Module):
    """One pass from the coarse levels to the fine ones and back, fusing by sums.

    Args:
        channels: Of every level.
        finest_only: Leave out the way back, where nobody reads the coarser levels it makes.
    """

    def __init__(self, channels: int, finest_only: bool = False) -> None:
        super().__init__()
        self.down = nn.ModuleList(SeparableConv(channels, channels) for _ in range(LEVELS - 1))
        count = 0 if finest_only else LEVELS - 1
        self.up = nn.ModuleList(SeparableConv(channels, channels) for _ in range(count))

    def forward(self, levels: list[torch.Tensor]) -> list[torch.Tensor]:
        """Maps P3..P7, each (B, channels, H / 2^l, W / 2^l), to as many of the same shapes, or to P3."""
        middle = list(levels)
        for index in range(LEVELS - 2, -1, -1):
            middle[index] = self.down[index](levels[index] + _resized(middle[index + 1], levels[index]))
        if not self.up:
            return middle[:1]
        output = list(middle)
        for index in range(1, LEVELS):
            fused = middle[index] + _reduced(output[index - 1])
            if index < LEVELS - 1:  # the coarsest level has no node on the way down
                fused = fused + levels[index]
            output[index] = self.up[index - 1](fused)
        return output


class BiFpn(nn.Module):
    """Several layers over P3..P7; P6 and P7 are made from P5, and P3 is what the heads read.

    Args:
        in_channels: Of P3, P4, P5.
        channels: Of every level inside.
        layers: 4 in EDNAS, "instead of 3".
    """

    def __init__(self, in_channels: tuple[int, int, int], channels: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            ConvNormRelu6(count, channels, 1, activation=False) for count in in_channels
        )
        self.sixth = ConvNormRelu6(in_channels[2], channels, 1, activation=False)
        self.layers = nn.ModuleList(BiFpnLayer(channels, index == layers - 1) for index in range(layers))

    def forward(self, p3: torch.Tensor, p4: torch.Tensor, p5: torch.Tensor) -> torch.Tensor:
        """Returns fused P3 of `channels` channels."""
        sixth = _reduced(self.sixth(p5))
        levels = [lateral(x) for lateral, x in zip(self.lateral, (p3, p4, p5), strict=True)]
        levels += [sixth, _reduced(sixth)]
        for layer in self.layers:
            levels = layer(levels)
        return levels[0]
