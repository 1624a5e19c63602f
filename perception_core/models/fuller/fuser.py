"""Fusion block of FULLER (its Eq. 1): f_fuse = conv(f_lid (+) f_img), a feature pyramid of two layers.

It consists of `first`, the convolution that sees both modalities, and a BEV encoder. The encoder belongs to
the fuser where all heads share it, and to each head where they have their own (FULLER's Tab. 3, share and
sep).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct, TopDownMerge
from perception_core.models.fuller.configuration import FuserConfig, SecondFuserConfig
from perception_core.models.interface import Component


def _second_layer(config: FuserConfig) -> nn.Sequential:
    fine, coarse = config.layer_channels
    return nn.Sequential(ConvNormAct(fine, coarse, stride=2), ConvNormAct(coarse, coarse))


class MergeEncoder(nn.Module):
    """BEV encoder of few channels, for a head that has its own: what `BevFuser` does after `first`."""

    def __init__(self, config: FuserConfig) -> None:
        super().__init__()
        self.second = _second_layer(config)
        self.merge = TopDownMerge(*config.layer_channels, config.out_channels)

    def forward(self, fine_bchw: torch.Tensor) -> torch.Tensor:
        """Returns (B, out, H, W)."""
        merged: torch.Tensor = self.merge(fine_bchw, self.second(fine_bchw))
        return merged


class SecondEncoder(nn.Module):
    """BEV encoder of the paper: two layers of convolutions (SECOND), concatenated at BEV resolution."""

    def __init__(self, config: SecondFuserConfig) -> None:
        super().__init__()
        fine, coarse = config.layer_channels
        fine_blocks, coarse_blocks = config.layer_blocks
        self.fine = nn.Sequential(
            ConvNormAct(config.fused_channels, fine), *(ConvNormAct(fine, fine) for _ in range(fine_blocks))
        )
        self.coarse = nn.Sequential(
            ConvNormAct(fine, coarse, stride=2), *(ConvNormAct(coarse, coarse) for _ in range(coarse_blocks))
        )
        self.outputs = _PyramidOutputs(fine, coarse, config.out_channels)

    def forward(self, fused_bchw: torch.Tensor) -> torch.Tensor:
        """Returns (B, out, H, W)."""
        fine = self.fine(fused_bchw)
        result: torch.Tensor = self.outputs(fine, self.coarse(fine))
        return result


class _PyramidOutputs(nn.Module):
    """Brings both layers to BEV resolution and half of the channels each (SECONDFPN)."""

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fine = ConvNormAct(fine_channels, out_channels // 2, kernel_size=1)
        self.coarse = nn.ConvTranspose2d(
            coarse_channels, out_channels // 2, kernel_size=2, stride=2, bias=False
        )
        self.coarse_normalization = nn.BatchNorm2d(out_channels // 2, eps=1e-3, momentum=0.01)

    def forward(self, fine_bchw: torch.Tensor, coarse_bchw: torch.Tensor) -> torch.Tensor:
        coarse = functional.relu(self.coarse_normalization(self.coarse(coarse_bchw)))
        return torch.cat((self.fine(fine_bchw), coarse), dim=1)


def build_encoder(config: FuserConfig | SecondFuserConfig) -> nn.Module:
    """Builds the BEV encoder of a head that has its own."""
    return SecondEncoder(config) if isinstance(config, SecondFuserConfig) else MergeEncoder(config)


class BevFuser(nn.Module):
    """Concatenates the BEV features of the modalities and fuses them at two scales, with few channels.

    `first` is the layer whose weights, split by input channel into LiDAR and camera part, tell how much
    either modality learns (FULLER's intra-gradient layer).

    Args:
        config: Channels.
        in_channels: Channels of all modalities together.
        encode: Has the BEV encoder; else only `first`.

    Attributes:
        out_channels: Channels of the fused feature.
        last_layer: Name of the sub-module whose output every head reads, FULLER's shared_L.
    """

    def __init__(self, config: FuserConfig, in_channels: int, encode: bool = True) -> None:
        super().__init__()
        self.encode = encode
        self.first = ConvNormAct(in_channels, config.layer_channels[0])
        if encode:
            self.second = _second_layer(config)
            self.merge = TopDownMerge(*config.layer_channels, config.out_channels)
        self.out_channels = config.out_channels if encode else config.layer_channels[0]
        self.last_layer = "merge" if encode else "first"

    def forward(self, first_bchw: torch.Tensor, second_bchw: torch.Tensor | None = None) -> torch.Tensor:
        """Returns bev_feature_bchw of one or two modalities."""
        fine: torch.Tensor = self.first(_concatenated(first_bchw, second_bchw))
        return self.merge(fine, self.second(fine)) if self.encode else fine


class SecondBevFuser(nn.Module):
    """The fusion block of the paper; arguments and attributes as of `BevFuser`."""

    def __init__(self, config: SecondFuserConfig, in_channels: int, encode: bool = True) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, config.fused_channels)
        self.encoder: nn.Module = SecondEncoder(config) if encode else nn.Identity()
        self.out_channels = config.out_channels if encode else config.fused_channels
        self.last_layer = "encoder.outputs" if encode else "first"

    def forward(self, first_bchw: torch.Tensor, second_bchw: torch.Tensor | None = None) -> torch.Tensor:
        """Returns bev_feature_bchw of one or two modalities."""
        feature_bchw: torch.Tensor = self.encoder(self.first(_concatenated(first_bchw, second_bchw)))
        return feature_bchw


class LateBevFuser(nn.Module):
    """A fusion block for each modality; `first`, where they meet, comes after them.

    Args:
        config: Of each block.
        branch_channels: Channels of each modality.
        encode: As of `BevFuser`.

    Attributes:
        branch_channels: Channels of each modality in `first`.
    """

    def __init__(
        self, config: FuserConfig | SecondFuserConfig, branch_channels: tuple[int, ...], encode: bool = True
    ) -> None:
        super().__init__()
        blocks = [build_fuser(config, channels, encode) for channels in branch_channels]
        self.out_channels = blocks[0].out_channels
        self.branch_channels = (self.out_channels,) * len(blocks)
        self.blocks = nn.ModuleList(blocks)
        self.first = ConvNormAct(sum(self.branch_channels), self.out_channels, kernel_size=1)
        self.last_layer = "first"

    def forward(self, first_bchw: torch.Tensor, second_bchw: torch.Tensor) -> torch.Tensor:
        """Returns bev_feature_bchw of two modalities."""
        encoded = [
            block(feature) for block, feature in zip(self.blocks, (first_bchw, second_bchw), strict=True)
        ]
        joined: torch.Tensor = self.first(torch.cat(encoded, dim=1))
        return joined


def build_fuser(
    config: FuserConfig | SecondFuserConfig, in_channels: int, encode: bool
) -> BevFuser | SecondBevFuser:
    """Builds the fusion block of a configuration."""
    if isinstance(config, SecondFuserConfig):
        return SecondBevFuser(config, in_channels, encode)
    return BevFuser(config, in_channels, encode)


def _concatenated(first_bchw: torch.Tensor, second_bchw: torch.Tensor | None) -> torch.Tensor:
    return first_bchw if second_bchw is None else torch.cat((first_bchw, second_bchw), dim=1)


class FuserComponent(Component):
    """`bev_fuser` for one frame."""

    dense_dynamic = ((), ())

    def forward(self, lidar_bev_bchw: torch.Tensor, camera_bev_bchw: torch.Tensor) -> torch.Tensor:
        """Returns bev_feature_bchw with B = 1."""
        feature_bchw: torch.Tensor = self.network(lidar_bev_bchw, camera_bev_bchw)
        return feature_bchw


class SingleModalityFuserComponent(Component):
    """`bev_fuser` of a network with one modality, for one frame."""

    dense_dynamic = ((),)

    def forward(self, bev_bchw: torch.Tensor) -> torch.Tensor:
        """Returns bev_feature_bchw with B = 1."""
        feature_bchw: torch.Tensor = self.network(bev_bchw)
        return feature_bchw
