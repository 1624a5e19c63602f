"""Fusion block of FULLER (its Eq. 1): f_fuse = conv(f_lid (+) f_img), a feature pyramid of two layers."""

from __future__ import annotations

import torch
from torch import nn

from perception_core.models.blocks import ConvNormAct, TopDownMerge
from perception_core.models.fuller.configuration import FuserConfig
from perception_core.models.interface import Component


class BevFuser(nn.Module):
    """Concatenates the BEV features of both modalities and fuses them at two scales.

    `first` is the layer whose weights, split by input channel into LiDAR and camera part, tell how much
    either modality learns (FULLER's intra-gradient layer).
    """

    def __init__(self, config: FuserConfig, lidar_channels: int, camera_channels: int) -> None:
        super().__init__()
        fine, coarse = config.layer_channels
        self.lidar_channels = lidar_channels
        self.first = ConvNormAct(lidar_channels + camera_channels, fine)
        self.second = nn.Sequential(ConvNormAct(fine, coarse, stride=2), ConvNormAct(coarse, coarse))
        self.merge = TopDownMerge(fine, coarse, config.out_channels)

    def forward(self, lidar_bev_bchw: torch.Tensor, camera_bev_bchw: torch.Tensor) -> torch.Tensor:
        """Returns bev_feature_bchw."""
        fine = self.first(torch.cat((lidar_bev_bchw, camera_bev_bchw), dim=1))
        return self.merge(fine, self.second(fine))

    @property
    def last_layer(self) -> str:
        """Name of the sub-module whose output every head reads, FULLER's shared_L."""
        return "merge"


class FuserComponent(Component):
    """`bev_fuser` for one frame."""

    dense_dynamic = ((), ())

    def forward(self, lidar_bev_bchw: torch.Tensor, camera_bev_bchw: torch.Tensor) -> torch.Tensor:
        """Returns bev_feature_bchw with B = 1."""
        feature_bchw: torch.Tensor = self.network(lidar_bev_bchw, camera_bev_bchw)
        return feature_bchw
