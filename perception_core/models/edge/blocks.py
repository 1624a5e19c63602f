"""Layers of the edge networks: what accelerators run well. ReLU6, no attention, no Swish."""

from __future__ import annotations

import torch
from torch import nn

from perception_core.models.edge.architecture import Block


class ConvNormRelu6(nn.Sequential):
    """Convolution without bias, batch normalization, ReLU6; keeps the size at stride 1.

    Args:
        in_channels, out_channels: Channels.
        kernel: Odd kernel side.
        stride: Stride.
        groups: `in_channels` makes it depthwise.
        activation: Ends with ReLU6.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        convolution = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers: list[nn.Module] = [convolution, nn.BatchNorm2d(out_channels)]
        if activation:
            layers.append(nn.ReLU6(inplace=True))
        super().__init__(*layers)


class BottleneckBlock(nn.Module):
    """An inverted bottleneck (IBN) or a fused one, with a shortcut where the form allows it.

    IBN: 1x1 expansion (left out at expansion 1), depthwise convolution, 1x1 projection. FusedIBN: the first
    two become one full convolution; at expansion 1 the projection goes as well (EfficientNet-V2).
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        hidden = block.in_channels * block.expansion
        layers: list[nn.Module] = []
        if block.kind == "FusedIBN":
            if block.expansion == 1:
                layers.append(ConvNormRelu6(block.in_channels, block.filters, block.kernel, block.stride))
            else:
                layers.append(ConvNormRelu6(block.in_channels, hidden, block.kernel, block.stride))
                layers.append(ConvNormRelu6(hidden, block.filters, 1, activation=False))
        else:
            if block.expansion > 1:
                layers.append(ConvNormRelu6(block.in_channels, hidden, 1))
            layers.append(ConvNormRelu6(hidden, hidden, block.kernel, block.stride, groups=hidden))
            layers.append(ConvNormRelu6(hidden, block.filters, 1, activation=False))
        self.layers = nn.Sequential(*layers)
        self.has_shortcut = block.stride == 1 and block.in_channels == block.filters

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, in, H, W) to (B, filters, H / stride, W / stride)."""
        y_bchw: torch.Tensor = self.layers(x_bchw)
        return y_bchw + x_bchw if self.has_shortcut else y_bchw


class SeparableConv(nn.Sequential):
    """Depthwise 3x3, 1x1, batch normalization, ReLU6."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        nn.init.kaiming_normal_(depthwise.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(depthwise, ConvNormRelu6(in_channels, out_channels, 1))
