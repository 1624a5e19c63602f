"""Backbones the searches start from, without classifiers: images to one feature map.

| name | source | stride | channels |
|---|---|---|---|
| `deeplab_resnet34` | here, AutoMTL's | 8 | 512 |
| `mobilenet_v2` | torchvision | 32 | 1280 |
| `mnasnet` | torchvision, B1 | 32 | 1280 |
| `efficientnet_b0` | torchvision | 32 | 1280 |
| `resnet34_micro` | here, a quarter of the channels | 8 | 128 |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from perception_core.configuration import ConfigurationError, nearest

#: Backbone parameters as the papers give them, in millions (AutoMTL, Tab. 1: Multi-Task and Single-Task).
PAPER_PARAMETERS_M = {"deeplab_resnet34": {"multi_task": 21.285, "two_models": 42.569}}


class DilatedBlock(nn.Module):
    """ResNet's basic block whose convolutions may be dilated."""

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, in, H, W) to (B, channels, H / stride, W / stride)."""
        y_bchw = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_bchw)))))
        shortcut = x_bchw if self.downsample is None else self.downsample(x_bchw)
        return self.relu(y_bchw + shortcut)


class DeeplabResNet(nn.Module):
    """ResNet-34 whose last two stages are dilated instead of strided (DeepLab; AutoMTL, section 4.1).

    Args:
        width: Channels of the first stage; 64 is ResNet's.
        blocks: Blocks of each stage.
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        channels = width
        for index, (count, stride, dilation) in enumerate(
            zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        ):
            wider = width * 2**index
            stage = nn.Sequential()
            for block in range(count):
                stage.append(DilatedBlock(channels, wider, stride if block == 0 else 1, dilation))
                channels = wider
            self.stages.append(stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, H, W) to (B, 8 * width, H / 8, W / 8)."""
        x_bchw = self.maxpool(self.relu(self.bn1(self.conv1(x_bchw))))
        for stage in self.stages:
            x_bchw = stage(x_bchw)
        return x_bchw


class Features(nn.Module):
    """The convolutional part of a classifier of torchvision."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, H, W) to the feature."""
        feature: torch.Tensor = self.layers(x_bchw)
        return feature


def _torchvision(name: str, part: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from perception_core.torchvision_compat import import_torchvision

        models: Any = import_torchvision().models
        classifier = getattr(models, name)(weights=None)
        return Features(getattr(classifier, part))

    return make


_BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "deeplab_resnet34": DeeplabResNet,
    "resnet34_micro": lambda: DeeplabResNet(width=16, blocks=(1, 1, 1, 1)),
    "mobilenet_v2": _torchvision("mobilenet_v2", "features"),
    "mnasnet": _torchvision("mnasnet1_0", "layers"),
    "efficientnet_b0": _torchvision("efficientnet_b0", "features"),
}


def backbone_names() -> list[str]:
    """Returns the names `create_backbone` takes."""
    return sorted(_BACKBONES)


def create_backbone(name: str) -> nn.Module:
    """Builds a freshly initialized backbone.

    Args:
        name: One of `backbone_names()`.

    Raises:
        ConfigurationError: There is no such backbone.
    """
    if name not in _BACKBONES:
        raise ConfigurationError(f"unknown backbone '{name}'" + nearest(name, _BACKBONES))
    return _BACKBONES[name]()
