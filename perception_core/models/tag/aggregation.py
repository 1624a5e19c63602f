"""Aggregation layers: how the semantic branch's features become one (TAG's Alg. 1 and Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct


class AggregationNode(nn.Module):
    """f_ij of Eq. 1: W^P2 (concat(B(W^P1 x), y)) with x the coarse and y the fine map.

    Args:
        coarse_channels: Of x.
        fine_channels: Of y and of the result.
        projection_kernel: Side of W^P1, which works on the coarse map.
        node_kernel: Side of W^P2, which works on the fine one.
    """

    def __init__(
        self, coarse_channels: int, fine_channels: int, projection_kernel: int, node_kernel: int
    ) -> None:
        super().__init__()
        self.project = ConvNormAct(coarse_channels, fine_channels, kernel_size=projection_kernel)
        self.node = ConvNormAct(2 * fine_channels, fine_channels, kernel_size=node_kernel)

    def forward(self, fine_bchw: torch.Tensor, coarse_bchw: torch.Tensor) -> torch.Tensor:
        """Returns (B, fine, H, W) at the fine map's size."""
        raised_bchw = functional.interpolate(
            self.project(coarse_bchw), size=fine_bchw.shape[-2:], mode="bilinear", align_corners=False
        )
        merged_bchw: torch.Tensor = self.node(torch.cat((raised_bchw, fine_bchw), dim=1))
        return merged_bchw


class IterativeAggregation(nn.Module):
    """Alg. 1: each scale is aggregated with the next coarser one, again and again, until one is left.

    With the features of layers 3, 4 and 5 these are three nodes: one that ends at layer 4's scale and two at
    layer 3's, which is how Tab. I counts its decode layers.

    Args:
        channels: Of the features, finest first.
        projection_kernel, node_kernel: See `AggregationNode`.
    """

    def __init__(self, channels: Sequence[int], projection_kernel: int, node_kernel: int) -> None:
        super().__init__()
        self.nodes = nn.ModuleDict(
            {
                f"node_{first}_{second}": AggregationNode(
                    channels[second], channels[second - 1], projection_kernel, node_kernel
                )
                for first in range(1, len(channels))
                for second in range(first, 0, -1)
            }
        )
        self.depth = len(channels)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Returns x_agg at the size of the first of the features, which are given finest first."""
        scales = list(features)
        for first in range(1, self.depth):
            for second in range(first, 0, -1):
                node = self.nodes[f"node_{first}_{second}"]
                scales[second - 1] = node(scales[second - 1], scales[second])
        return scales[0]


class PyramidPooling(nn.Module):
    """PSPNet's pyramid pooling (Zhao et al., CVPR 2017) on the coarsest feature; Tab. III's alternative.

    Its bins of 1, 2, 3 and 6 do not divide the usual feature sizes evenly, which not every other runtime
    takes; components that hold it run in torch.
    """

    BINS = (1, 2, 3, 6)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        branch = max(in_channels // len(self.BINS), 1)
        # Without normalization: the one cell of the coarsest bin has no statistics at a batch of one.
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, branch, kernel_size=1), nn.ReLU(inplace=True))
            for _ in self.BINS
        )
        self.output = ConvNormAct(in_channels + branch * len(self.BINS), out_channels)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Returns (B, out, h, w) at the size of the last, coarsest feature."""
        coarse = features[-1]
        pooled = [coarse]
        for bins, branch in zip(self.BINS, self.branches, strict=True):
            part = branch(functional.adaptive_avg_pool2d(coarse, bins))
            pooled.append(
                functional.interpolate(part, size=coarse.shape[-2:], mode="bilinear", align_corners=False)
            )
        output_bchw: torch.Tensor = self.output(torch.cat(pooled, dim=1))
        return output_bchw
