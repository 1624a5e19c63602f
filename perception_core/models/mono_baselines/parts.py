"""Parts that several baselines have in common."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct


def start_at_zero(layer: ConvNormAct) -> None:
    """Sets a layer's output to 0 before training, by the factors of its normalization."""
    assert isinstance(layer.normalization, nn.BatchNorm2d)
    nn.init.zeros_(layer.normalization.weight)


class OpenResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; ends with a ReLU or, for what is added to first, without.

    Starts as its shortcut alone (the last normalization's factors are 0), so that features do not grow from
    block to block.

    Args:
        in_channels, out_channels: Channels.
        stride: Of the first convolution.
        activation: Ends with a ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, activation: bool = True) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, stride=stride)
        self.second = ConvNormAct(out_channels, out_channels, activation=False)
        start_at_zero(self.second)
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else ConvNormAct(in_channels, out_channels, kernel_size=1, stride=stride, activation=False)
        )
        self.activation = activation

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, in, H, W) to (B, out, H / stride, W / stride)."""
        sum_bchw: torch.Tensor = self.second(self.first(x_bchw)) + self.shortcut(x_bchw)
        return functional.relu(sum_bchw) if self.activation else sum_bchw


class OpenBottleneck(nn.Module):
    """1x1, 3x3 (with the stride and the dilation) and 1x1 convolution with a shortcut.

    Starts as its shortcut alone, as `OpenResidualBlock`.

    Args:
        in_channels: Channels in.
        hidden_channels: Channels inside.
        expansion: Times as many channels come out.
        stride: Of the 3x3 convolution.
        dilation: Of the 3x3 convolution.
        activation: Ends with a ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        expansion: int,
        stride: int = 1,
        dilation: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        out_channels = hidden_channels * expansion
        self.reduce = ConvNormAct(in_channels, hidden_channels, kernel_size=1)
        self.spatial = ConvNormAct(hidden_channels, hidden_channels, stride=stride, dilation=dilation)
        self.expand = ConvNormAct(hidden_channels, out_channels, kernel_size=1, activation=False)
        start_at_zero(self.expand)
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else ConvNormAct(in_channels, out_channels, kernel_size=1, stride=stride, activation=False)
        )
        self.activation = activation

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, in, H, W) to (B, hidden * expansion, H / stride, W / stride)."""
        sum_bchw: torch.Tensor = self.expand(self.spatial(self.reduce(x_bchw))) + self.shortcut(x_bchw)
        return functional.relu(sum_bchw) if self.activation else sum_bchw


def open_stage(in_channels: int, out_channels: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Returns residual blocks, the first with the stride, the last without its ReLU."""
    return nn.Sequential(
        *(
            OpenResidualBlock(
                in_channels if index == 0 else out_channels,
                out_channels,
                stride if index == 0 else 1,
                activation=index + 1 < blocks,
            )
            for index in range(blocks)
        )
    )


def bottleneck_stage(
    in_channels: int, hidden_channels: int, blocks: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Returns ResNet's bottlenecks, of which four times the hidden channels come out."""
    out_channels = 4 * hidden_channels
    return nn.Sequential(
        *(
            OpenBottleneck(
                in_channels if index == 0 else out_channels,
                hidden_channels,
                4,
                stride if index == 0 else 1,
                dilation,
            )
            for index in range(blocks)
        )
    )


def resized(x_bchw: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """Returns a map at another size, bilinear."""
    return functional.interpolate(x_bchw, size=size, mode="bilinear", align_corners=False)


def _plain(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1), nn.ReLU(inplace=True))


class PooledContext(nn.Module):
    """The poolings that DDRNet's and PIDNet's context modules begin with.

    Average pooling of 5, 9 and 17 cells with strides 2, 4 and 8, and of everything; each followed by a 1x1
    convolution. The original modules normalize and activate before a convolution; here activation comes after
    it, and the pooled branches do without normalization.
    """

    WINDOWS = ((5, 2), (9, 4), (17, 8))

    def __init__(self, in_channels: int, branch_channels: int) -> None:
        super().__init__()
        self.local = ConvNormAct(in_channels, branch_channels, kernel_size=1)
        # Without normalization: one cell, which is what is left of small images, has no statistics.
        self.pooled = nn.ModuleList(_plain(in_channels, branch_channels) for _ in self.WINDOWS)
        self.everything = _plain(in_channels, branch_channels)

    def forward(self, x_bchw: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the local branch, and the pooled ones brought to its size, finest first."""
        size = x_bchw.shape[-2:]
        branches = [
            resized(
                layer(functional.avg_pool2d(x_bchw, window, stride=stride, padding=window // 2)),
                size,
            )
            for layer, (window, stride) in zip(self.pooled, self.WINDOWS, strict=True)
        ]
        everything = self.everything(x_bchw.mean(dim=(2, 3), keepdim=True))
        branches.append(everything.expand(-1, -1, *size))
        return self.local(x_bchw), branches


class SequentialContext(nn.Module):
    """DAPPM, DDRNet's context module: each pooled branch is added to the one before and convolved."""

    def __init__(self, in_channels: int, branch_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pooling = PooledContext(in_channels, branch_channels)
        self.processes = nn.ModuleList(ConvNormAct(branch_channels, branch_channels) for _ in range(4))
        self.compression = ConvNormAct(5 * branch_channels, out_channels, kernel_size=1)
        self.shortcut = ConvNormAct(in_channels, out_channels, kernel_size=1)

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Returns (B, out, H, W)."""
        local, branches = self.pooling(x_bchw)
        parts = [local]
        for process, branch in zip(self.processes, branches, strict=True):
            parts.append(process(branch + parts[-1]))
        result: torch.Tensor = self.compression(torch.cat(parts, dim=1)) + self.shortcut(x_bchw)
        return result


class ParallelContext(nn.Module):
    """PAPPM, PIDNet's faster form: the pooled branches are convolved at once, in groups."""

    def __init__(self, in_channels: int, branch_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pooling = PooledContext(in_channels, branch_channels)
        self.process = ConvNormAct(4 * branch_channels, 4 * branch_channels, groups=4)
        self.compression = ConvNormAct(5 * branch_channels, out_channels, kernel_size=1)
        self.shortcut = ConvNormAct(in_channels, out_channels, kernel_size=1)

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Returns (B, out, H, W)."""
        local, branches = self.pooling(x_bchw)
        processed = self.process(torch.cat([branch + local for branch in branches], dim=1))
        result: torch.Tensor = self.compression(torch.cat((local, processed), dim=1)) + self.shortcut(x_bchw)
        return result
