"""Small backbones with everything the compiler must cope with, and the random inputs they are tried on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Awkward(nn.Module):
    """Strides, dilation, groups, in-place work, adds, concatenations, resizing, a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.wide = nn.Conv2d(8, 12, 3, padding=2, dilation=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.back = nn.Conv2d(12, 8, 1)
        self.back_norm = nn.BatchNorm2d(8)
        self.unpadded = nn.Conv2d(8, 10, 3)
        self.twice = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(10, 8, 2, stride=2)
        self.prelu = nn.PReLU(8)
        self.gate = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.0)
        self.register_buffer("offset", torch.tensor(0.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem_norm(self.stem(x)))
        shortcut = x
        y = functional.relu6(self.wide(x), inplace=True)
        y = self.back_norm(self.back(functional.silu(self.depthwise(y))))
        y += shortcut
        y = self.twice(y) + self.twice(shortcut)
        pooled = functional.adaptive_avg_pool2d(y, 1).flatten(1)
        gate = torch.sigmoid(self.gate(pooled)).view(y.size(0), -1, 1, 1)
        small = self.prelu(self.up(self.unpadded(y * gate)))
        small = functional.interpolate(small, size=y.shape[-2:], mode="bilinear", align_corners=False)
        return self.dropout(torch.cat((y, small + self.offset), dim=1))


class BranchOnData(nn.Module):
    """Control flow that depends on the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        if y.sum() > 0:  # the line the error must name
            y = -y
        return y


class Nested(nn.Module):
    """Has the module above inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.inner = BranchOnData()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.stem(x))


class LooseParameter(nn.Module):
    """Multiplies by a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.convolution(x)


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every parameter and statistic a value of its own, so that no two layers are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            value = torch.randn(tensor.shape, generator=generator) * 0.3
            tensor.copy_(value.abs() + 0.5 if "var" in name else value)
    return module


def random_image(seed: int = 0, batch: int = 2, side: int = 16) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))
