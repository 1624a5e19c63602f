"""Builds a baseline's backbone from its configuration."""

from __future__ import annotations

from torch import nn

from perception_core.models.mono_baselines.configuration import (
    BaselineConfig,
    DdrNetConfig,
    DlaConfig,
    IcNetConfig,
    ResNetConfig,
)
from perception_core.models.mono_baselines.ddrnet import DdrNet
from perception_core.models.mono_baselines.dla import Dla
from perception_core.models.mono_baselines.icnet import IcNet
from perception_core.models.mono_baselines.pidnet import PidNet
from perception_core.models.mono_baselines.resnet import ResNet


def build_baseline(config: BaselineConfig) -> nn.Module:
    """Returns a module with `out_channels`, `stride` and `exportable` whose forward gives a
    `BackboneOutput`.
    """
    if isinstance(config, DlaConfig):
        return Dla(config)
    if isinstance(config, ResNetConfig):
        return ResNet(config)
    if isinstance(config, IcNetConfig):
        return IcNet(config)
    if isinstance(config, DdrNetConfig):
        return DdrNet(config)
    return PidNet(config)
