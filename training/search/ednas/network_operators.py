"""Operators and latency of architectures, block by block, so that thousands can be asked in a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from perception_core.models.edge.architecture import FEATURE_BLOCKS, STEM_FILTERS, Block, EdgeArchitecture
from perception_core.models.edge.bifpn import BiFpn
from perception_core.models.edge.blocks import BottleneckBlock, ConvNormRelu6
from perception_core.models.edge.network import EdgeHead, EdgeNetwork
from perception_core.platform.latency.model import LatencyModel
from perception_core.platform.latency.operators import Operator, list_operators


@dataclass(frozen=True)
class NetworkForm:
    """What of an edge network does not depend on its architecture.

    Attributes:
        task_channels: Tasks and their output channels.
        image_size: Height and width of the image.
        fpn_channels, fpn_layers: Of the BiFPN.
    """

    task_channels: tuple[tuple[str, int], ...]
    image_size: tuple[int, int] = (256, 256)
    fpn_channels: int = 64
    fpn_layers: int = 4

    @classmethod
    def of(cls, task_channels: Mapping[str, int], image_size: tuple[int, int] = (256, 256)) -> NetworkForm:
        """Returns the form of EDNAS's networks for tasks."""
        return cls(tuple(task_channels.items()), image_size)

    def build(self, architecture: EdgeArchitecture) -> EdgeNetwork:
        """Returns a new network."""
        return EdgeNetwork(architecture, dict(self.task_channels), self.fpn_channels, self.fpn_layers)


def network_operators(architecture: EdgeArchitecture, form: NetworkForm) -> tuple[Operator, ...]:
    """Returns the operators of one inference with one image."""
    size = form.image_size
    operators = list(_stem_operators(size))
    size = _halved(size)
    feature_sizes = []
    for index, block in enumerate(architecture.blocks(), start=1):
        operators += _block_operators(block, size)
        size = _halved(size) if block.stride == 2 else size
        if index in FEATURE_BLOCKS:
            feature_sizes.append(size)
    channels = architecture.feature_channels()
    operators += _rest_operators(channels, tuple(feature_sizes), form)
    return tuple(operators)


def latency_ms(architecture: EdgeArchitecture, form: NetworkForm, model: LatencyModel) -> float:
    """Returns the latency of an architecture's network."""
    return model.latency_ms(network_operators(architecture, form))


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2


@lru_cache(maxsize=16)
def _stem_operators(size: tuple[int, int]) -> tuple[Operator, ...]:
    with torch.device("meta"):
        stem = ConvNormRelu6(3, STEM_FILTERS, 3, stride=2)
    return list_operators(stem, (1, 3, *size))


@lru_cache(maxsize=4096)
def _block_operators(block: Block, size: tuple[int, int]) -> tuple[Operator, ...]:
    with torch.device("meta"):
        module = BottleneckBlock(block)
    return list_operators(module, (1, block.in_channels, *size))


@lru_cache(maxsize=256)
def _rest_operators(
    channels: tuple[int, int, int], sizes: tuple[tuple[int, int], ...], form: NetworkForm
) -> tuple[Operator, ...]:
    """Returns the operators of BiFPN and heads."""
    with torch.device("meta"):
        fusion = BiFpn(channels, form.fpn_channels, form.fpn_layers)
        heads = nn.ModuleDict({task: EdgeHead(form.fpn_channels, out) for task, out in form.task_channels})
    shapes = [(1, count, *size) for count, size in zip(channels, sizes, strict=True)]
    operators = list(list_operators(fusion, *shapes))
    for head in heads.values():
        operators += list_operators(_AtSize(head, form.image_size), (1, form.fpn_channels, *sizes[0]))
    return tuple(operators)


class _AtSize(nn.Module):
    """A head with its image's size given."""

    def __init__(self, head: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.head, self.size = head, size

    def forward(self, p3_bchw: torch.Tensor) -> torch.Tensor:
        """Returns the prediction."""
        result: torch.Tensor = self.head(p3_bchw, self.size)
        return result
