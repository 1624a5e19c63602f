"""DLA-34 (Yu et al., CVPR 2018) with the decoder of CenterNet and MonoDLE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct
from perception_core.models.mono_baselines.configuration import DlaConfig
from perception_core.models.mono_baselines.parts import start_at_zero
from perception_core.models.tag.backbone import BackboneOutput


class _Block(nn.Module):
    """Two 3x3 convolutions; the tree that holds it gives it its shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, stride=stride)
        self.second = ConvNormAct(out_channels, out_channels, activation=False)
        start_at_zero(self.second)

    def forward(self, x_bchw: torch.Tensor, shortcut_bchw: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.second(self.first(x_bchw)) + shortcut_bchw)


class Tree(nn.Module):
    """Hierarchical deep aggregation: two sub-trees whose results, with what came before, a root joins.

    Args:
        depth: 1: two blocks and a root; more: two trees of one less.
        in_channels, out_channels: Channels.
        stride: Of the first block.
        with_input: The root also takes the tree's pooled input.
        carried_channels: Channels of further maps that the root takes.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        with_input: bool = False,
        carried_channels: int = 0,
    ) -> None:
        super().__init__()
        self.depth, self.stride, self.with_input = depth, stride, with_input
        root_channels = carried_channels + 2 * out_channels + (in_channels if with_input else 0)
        self.project: nn.Module = nn.Identity()
        if depth == 1:
            if in_channels != out_channels:
                self.project = ConvNormAct(in_channels, out_channels, kernel_size=1, activation=False)
            self.left: nn.Module = _Block(in_channels, out_channels, stride)
            self.right: nn.Module = _Block(out_channels, out_channels, 1)
            self.root = ConvNormAct(root_channels, out_channels, kernel_size=1)
        else:
            self.left = Tree(depth - 1, in_channels, out_channels, stride)
            carried = carried_channels + out_channels + (in_channels if with_input else 0)
            self.right = Tree(depth - 1, out_channels, out_channels, carried_channels=carried)

    def forward(self, x_bchw: torch.Tensor, carried: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Returns (B, out, H / stride, W / stride)."""
        maps = list(carried)
        pooled = functional.max_pool2d(x_bchw, self.stride, self.stride) if self.stride > 1 else x_bchw
        if self.with_input:
            maps.append(pooled)
        if self.depth == 1:
            left = self.left(x_bchw, self.project(pooled))
            right = self.right(left, left)
            joined: torch.Tensor = self.root(torch.cat((right, left, *maps), dim=1))
            return joined
        left = self.left(x_bchw)
        deeper: torch.Tensor = self.right(left, [*maps, left])
        return deeper


class _Aggregation(nn.Module):
    """Iterative deep aggregation: coarser maps are projected, raised, joined with the finer and convolved."""

    def __init__(self, out_channels: int, coarse_channels: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            ConvNormAct(channels, out_channels, kernel_size=1) for channels in coarse_channels
        )
        self.raises = nn.ModuleList(
            nn.ConvTranspose2d(
                out_channels,
                out_channels,
                2 * factor,
                stride=factor,
                padding=factor // 2,
                groups=out_channels,
                bias=False,
            )
            for factor in factors
        )
        for layer, factor in zip(self.raises, factors, strict=True):
            _start_bilinear(layer, factor)
        self.nodes = nn.ModuleList(ConvNormAct(2 * out_channels, out_channels) for _ in coarse_channels)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Takes the finest map and the coarser ones; returns the finest with each of them aggregated."""
        results = [maps[0]]
        for coarse, project, raise_, node in zip(
            maps[1:], self.projections, self.raises, self.nodes, strict=True
        ):
            results.append(node(torch.cat((results[-1], raise_(project(coarse))), dim=1)))
        return results[1:]


def _start_bilinear(layer: nn.Module, factor: int) -> None:
    """Sets a transposed convolution's weights so that it interpolates before training."""
    assert isinstance(layer, nn.ConvTranspose2d)
    position = torch.arange(2 * factor, device=layer.weight.device, dtype=layer.weight.dtype)
    profile = 1 - ((position - factor + 0.5) / factor).abs()
    with torch.no_grad():
        layer.weight.copy_((profile[:, None] * profile[None, :]).expand_as(layer.weight))


class Dla(nn.Module):
    """The six levels, and the aggregation of levels 2 to 5 up to 1/4.

    Attributes:
        out_channels: Channels of the feature.
        stride: Image pixels per feature pixel.
    """

    stride = 4
    exportable = True
    last_layer = "aggregations"

    def __init__(self, config: DlaConfig) -> None:
        super().__init__()
        c = config.channels
        self.base = nn.Sequential(
            ConvNormAct(3, c[0], kernel_size=7), ConvNormAct(c[0], c[0]), ConvNormAct(c[0], c[1], stride=2)
        )
        self.levels = nn.ModuleList(
            Tree(depth, c[index + 1], c[index + 2], stride=2, with_input=index > 0)
            for index, depth in enumerate(config.depths)
        )
        self.out_channels = c[2]
        widths, steps = list(c[2:]), [1, 2, 4, 8]
        aggregations: list[nn.Module] = []
        for finest in range(len(widths) - 2, -1, -1):
            factors = [step // steps[finest] for step in steps[finest + 1 :]]
            aggregations.append(_Aggregation(widths[finest], widths[finest + 1 :], factors))
            widths[finest + 1 :] = [widths[finest]] * (len(widths) - finest - 1)
            steps[finest + 1 :] = [steps[finest]] * (len(steps) - finest - 1)
        self.aggregations = nn.ModuleList(aggregations)
        self.final: nn.Module | None = None
        if config.final_aggregation:
            self.final = _Aggregation(c[2], c[3:5], (2, 4))

    def forward(self, image_bchw: torch.Tensor) -> BackboneOutput:
        """Maps a normalized image to the feature at 1/4 of its size."""
        x = self.base(image_bchw)
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        outputs = [maps[-1]]
        for finest, aggregation in zip(range(len(maps) - 2, -1, -1), self.aggregations, strict=True):
            maps[finest + 1 :] = aggregation(maps[finest:])
            outputs.insert(0, maps[-1])
        if self.final is None:
            return BackboneOutput(outputs[0])
        return BackboneOutput(self.final(outputs[:3])[-1])
