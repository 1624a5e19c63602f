"""Configurations of the baselines' backbones."""

from __future__ import annotations

from typing import Literal

import pydantic

from perception_core.configuration import StrictModel


class DlaConfig(StrictModel):
    """DLA-34 (Yu et al., CVPR 2018) with the up-sampling of CenterNet and MonoDLE; features at 1/4.

    Attributes:
        kind: `dla34`.
        channels: Channels of the six levels, from full resolution down to 1/32.
        depths: Depth of the aggregation trees of levels 2 to 5.
        final_aggregation: A last aggregation over the decoded maps at 1/4, 1/8 and 1/16 (CenterNet's
            `dla_up` followed by `ida_up`); MonoDLE has none.
    """

    kind: Literal["dla34"] = "dla34"
    channels: tuple[int, int, int, int, int, int] = (16, 32, 64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (1, 2, 2, 1)
    final_aggregation: bool = False


class ResNetConfig(StrictModel):
    """ResNet-50 (He et al., CVPR 2016) with a feature pyramid (Lin et al., CVPR 2017); features at 1/8.

    Attributes:
        kind: `resnet50`.
        stem_channels: Channels of the first convolution.
        stage_channels: Inner channels of the bottlenecks of the four stages; four times as many come out.
        stage_blocks: Bottlenecks of each stage.
        pyramid_channels: Channels of the pyramid and of the feature.
    """

    kind: Literal["resnet50"] = "resnet50"
    stem_channels: int = pydantic.Field(default=64, gt=0)
    stage_channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    stage_blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    pyramid_channels: int = pydantic.Field(default=256, gt=0)


class IcNetConfig(StrictModel):
    """ICNet (Zhao et al., ECCV 2018): three branches at 1, 1/2 and 1/4 of the image; features at 1/4.

    Attributes:
        kind: `icnet`.
        stem_channels: Channels of the bottleneck networks' first convolution.
        stage_channels: Inner channels of the bottlenecks of the four stages.
        stage_blocks: Bottlenecks of each stage; the half-size branch ends after the second.
        fusion_channels: Channels of the cascade feature fusion and of the feature.
    """

    kind: Literal["icnet"] = "icnet"
    stem_channels: int = pydantic.Field(default=64, gt=0)
    stage_channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    stage_blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    fusion_channels: int = pydantic.Field(default=128, gt=0)


class DdrNetConfig(StrictModel):
    """DDRNet (Hong et al., 2021): two branches with bilateral fusion; features at 1/8.

    Attributes:
        kind: `ddrnet`.
        planes: Channels at 1/4; the feature has four times as many.
        pyramid_channels: Channels of the context module's branches.
        stage_blocks: Blocks of layers 1 to 4 of the semantic branch.
        detail_blocks: Blocks of each part of the detail branch.
        layer3_parts: Into how many parts with a bilateral fusion each layer 3 is divided.
    """

    kind: Literal["ddrnet"] = "ddrnet"
    planes: int = pydantic.Field(default=64, gt=0)
    pyramid_channels: int = pydantic.Field(default=128, gt=0)
    stage_blocks: tuple[int, int, int, int] = (2, 2, 2, 2)
    detail_blocks: int = pydantic.Field(default=2, ge=1)
    layer3_parts: int = pydantic.Field(default=1, ge=1)


class PidNetConfig(StrictModel):
    """PIDNet (Xu et al., CVPR 2023): detail, context and boundary branches; features at 1/8.

    Attributes:
        kind: `pidnet`.
        planes: Channels at 1/4; the feature has four times as many.
        pyramid_channels: Channels of the context module's branches.
        early_blocks: Blocks of layers 1 and 2 and of the detail branch's layers.
        late_blocks: Blocks of layers 3 and 4 of the context branch.
        large: The forms of PIDNet-L: sequential context module, wide boundary branch, convolving fusion.
    """

    kind: Literal["pidnet"] = "pidnet"
    planes: int = pydantic.Field(default=32, gt=0)
    pyramid_channels: int = pydantic.Field(default=96, gt=0)
    early_blocks: int = pydantic.Field(default=2, ge=1)
    late_blocks: int = pydantic.Field(default=3, ge=1)
    large: bool = False


BaselineConfig = DlaConfig | ResNetConfig | IcNetConfig | DdrNetConfig | PidNetConfig
