"""Heads of the monocular networks: 3x3 convolution, ReLU, 1x1 convolution each (the paper's CRC layers)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.fuller.detection_head import start_rare
from perception_core.models.tag.attention import adapt
from perception_core.models.tag.configuration import (
    DenseDepthConfig,
    MonoDetectionConfig,
    SegmentationConfig,
)


@dataclass(frozen=True)
class AttentionInputs:
    """Which attentions follow the feature among a head's inputs, and which task the head is.

    Attributes:
        channel, spatial: Whether alpha and beta are there, in this order.
        task: Index into alpha.
    """

    channel: bool = False
    spatial: bool = False
    task: int = 0

    def adapted(self, feature_bchw: torch.Tensor, attentions: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Returns the task's feature.

        Raises:
            ValueError: There are more or fewer attentions than said.
        """
        if len(attentions) != self.channel + self.spatial:
            raise ValueError(f"expected {self.channel + self.spatial} attentions, got {len(attentions)}")
        remaining = list(attentions)
        alpha = remaining.pop(0) if self.channel else None
        beta = remaining.pop(0) if self.spatial else None
        return adapt(feature_bchw, alpha, beta, self.task)


class CrcHead(nn.Module):
    """One CRC layer on the task's feature.

    Args:
        channels: Of the feature.
        hidden_channels: Of the 3x3 convolution.
        out_channels: What is predicted.
        inputs: The attentions it takes.
    """

    def __init__(
        self, channels: int, hidden_channels: int, out_channels: int, inputs: AttentionInputs
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.hidden = nn.Conv2d(channels, hidden_channels, kernel_size=3, padding=1)
        self.output = nn.Conv2d(hidden_channels, out_channels, kernel_size=1)

    def forward(self, feature_bchw: torch.Tensor, *attentions: torch.Tensor) -> torch.Tensor:
        """Returns (B, out, H, W)."""
        adapted = self.inputs.adapted(feature_bchw, attentions)
        result: torch.Tensor = self.output(functional.relu(self.hidden(adapted)))
        return result


#: Numbers of the detection head's sub-heads beside the heat map; heading has two a bin.
_SIZES = {
    "offset_2d": 2,
    "size_2d": 2,
    "offset_3d": 2,
    "size_3d": 3,
    "depth": 2,
    "heading": 0,
    "pitch": 3,
    "roll": 3,
}


def detection_channels(config: MonoDetectionConfig) -> dict[str, int]:
    """Returns the channels of each sub-head, in the order in which the head's output has them."""
    return {"heatmap": len(config.classes), **_SIZES, "heading": 2 * config.heading_bins}


class DetectionMaps(nn.Module):
    """The nine sub-heads of 3D detection, each a CRC layer of its own.

    Their first convolutions run as one with all of their filters, which computes the same and is faster.
    """

    def __init__(self, config: MonoDetectionConfig, channels: int, inputs: AttentionInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.hidden_channels = config.hidden_channels
        sizes = detection_channels(config)
        self.hidden = nn.Conv2d(channels, config.hidden_channels * len(sizes), kernel_size=3, padding=1)
        self.outputs = nn.ModuleDict(
            {name: nn.Conv2d(config.hidden_channels, size, kernel_size=1) for name, size in sizes.items()}
        )
        heatmap = self.outputs["heatmap"]
        assert isinstance(heatmap, nn.Conv2d)
        nn.init.normal_(heatmap.weight, std=0.01)
        start_rare(heatmap, config.initial_probability)

    def forward(self, feature_bchw: torch.Tensor, *attentions: torch.Tensor) -> torch.Tensor:
        """Returns all sub-heads' maps, one after the other, (B, sum of `detection_channels`, H, W)."""
        hidden = functional.relu(self.hidden(self.inputs.adapted(feature_bchw, attentions)))
        parts = hidden.split(self.hidden_channels, dim=1)
        return torch.cat(
            [layer(part) for layer, part in zip(self.outputs.values(), parts, strict=True)], dim=1
        )


@dataclass(frozen=True)
class MonoDetectionOutput:
    """What the detection head says of a batch, before decoding; the loss works on this.

    Attributes:
        heatmap_logits_bkhw: Class heat map.
        code_behw: The other sub-heads in the order of `detection_channels`.
    """

    heatmap_logits_bkhw: torch.Tensor
    code_behw: torch.Tensor


class MonoDetectionHead(nn.Module):
    """`mono_detection3d_head`, batched.

    Attributes:
        dense_net: Its dense part.
    """

    def __init__(self, config: MonoDetectionConfig, channels: int, inputs: AttentionInputs) -> None:
        super().__init__()
        self.config = config
        self.dense_net = DetectionMaps(config, channels, inputs)

    def forward(self, feature_bchw: torch.Tensor, *attentions: torch.Tensor) -> MonoDetectionOutput:
        """Detects in a batch of features."""
        maps = self.dense_net(feature_bchw, *attentions)
        classes = len(self.config.classes)
        return MonoDetectionOutput(maps[:, :classes], maps[:, classes:])


class SegmentationHead(nn.Module):
    """`semantic_segmentation_head`, batched; at the feature's resolution.

    Attributes:
        dense_net: Its dense part, which is all of it.
    """

    def __init__(self, config: SegmentationConfig, channels: int, inputs: AttentionInputs) -> None:
        super().__init__()
        self.config = config
        self.dense_net = CrcHead(channels, config.hidden_channels, len(config.classes), inputs)

    def forward(self, feature_bchw: torch.Tensor, *attentions: torch.Tensor) -> torch.Tensor:
        """Returns logits (B, K, h, w)."""
        logits_bkhw: torch.Tensor = self.dense_net(feature_bchw, *attentions)
        return logits_bkhw


class DepthHead(nn.Module):
    """`depth_head`, batched; at the feature's resolution.

    Attributes:
        dense_net: Its dense part.
    """

    def __init__(self, config: DenseDepthConfig, channels: int, inputs: AttentionInputs) -> None:
        super().__init__()
        self.config = config
        self.dense_net = CrcHead(channels, config.hidden_channels, 1, inputs)

    def forward(self, feature_bchw: torch.Tensor, *attentions: torch.Tensor) -> torch.Tensor:
        """Returns depth along the optical axis, (B, h, w) metres, for the network's reference lens."""
        raw_bhw = self.dense_net(feature_bchw, *attentions)[:, 0]
        return functional.softplus(raw_bhw) * self.config.unit_m
