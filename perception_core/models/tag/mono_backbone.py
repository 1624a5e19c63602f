"""`mono_backbone`: one camera's image to the feature all heads share, and the attentions they adapt it by."""

from __future__ import annotations

import torch
from torch import nn

from perception_core.models.interface import Component
from perception_core.models.tag.attention import TaskAttention
from perception_core.models.tag.backbone import TagBackbone
from perception_core.models.tag.configuration import MonoConfig, TagBackboneConfig

#: Mean and standard deviation of ImageNet's channels, 0..255, RGB.
_IMAGE_MEAN = (123.675, 116.28, 103.53)
_IMAGE_DEVIATION = (58.395, 57.12, 57.375)


class SharedFeatureNet(nn.Module):
    """The dense part: normalization, backbone and attention generator."""

    image_mean: torch.Tensor
    image_deviation: torch.Tensor

    def __init__(self, config: MonoConfig) -> None:
        super().__init__()
        self.register_buffer("image_mean", torch.tensor(_IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer(
            "image_deviation", torch.tensor(_IMAGE_DEVIATION).view(3, 1, 1), persistent=False
        )
        self.backbone = build_backbone(config)
        self.attention: TaskAttention | None = None
        if config.attention.channel or config.attention.spatial:
            backbone = self.backbone
            assert isinstance(backbone, TagBackbone)
            self.attention = TaskAttention(
                config.attention,
                backbone.semantic_channels,
                backbone.detail_channels,
                backbone.out_channels,
                len(config.tasks),
            )

    def forward(self, images_bhwc: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Returns the feature, followed by alpha and beta as far as the network has them.

        Args:
            images_bhwc: RGB, uint8 or float 0..255.
        """
        images_bchw = images_bhwc.permute(0, 3, 1, 2).to(self.image_mean.dtype)
        output = self.backbone((images_bchw - self.image_mean) / self.image_deviation)
        if self.attention is None:
            feature_bchw: torch.Tensor = output.feature_bchw
            return feature_bchw
        return output.feature_bchw, *self.attention(output.semantic_bchw, output.detail_bchw)


def build_backbone(config: MonoConfig) -> nn.Module:
    """Builds the backbone of a configuration: a module with `out_channels` and `stride` whose forward gives a
    `BackboneOutput`.
    """
    if isinstance(config.backbone, TagBackboneConfig):
        return TagBackbone(config.backbone)
    from perception_core.models.mono_baselines.building import build_baseline

    return build_baseline(config.backbone)


class MonoBackbone(nn.Module):
    """The batched network of `mono_backbone`.

    Attributes:
        dense_net: Its dense part, which is all of it.
        out_channels: Channels of the feature.
        stride: Image pixels per feature pixel.
        exportable: The dense part can be exported.
        last_layer: Sub-module of the backbone that is the last all tasks share.
    """

    def __init__(self, config: MonoConfig) -> None:
        super().__init__()
        self.config = config
        self.dense_net = SharedFeatureNet(config)
        self.out_channels: int = self.dense_net.backbone.out_channels  # type: ignore[assignment]
        self.stride: int = self.dense_net.backbone.stride  # type: ignore[assignment]
        self.exportable = bool(self.dense_net.backbone.exportable)
        self.last_layer = str(self.dense_net.backbone.last_layer)

    def forward(self, images_bhwc: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the feature (B, C, H / stride, W / stride), then alpha (B, T, C) and beta (B, 1, h, w) as
        far as the network has them.
        """
        outputs = self.dense_net(images_bhwc)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the outputs for one image, by graph name, in their order."""
        camera, attention = self.config.camera, self.config.attention
        size = (camera.image_height // self.stride, camera.image_width // self.stride)
        shapes: dict[str, tuple[int, ...]] = {"mono_feature_bchw": (1, self.out_channels, *size)}
        if attention.channel:
            shapes["mono_channel_attention_btc"] = (1, len(self.config.tasks), self.out_channels)
        if attention.spatial:
            shapes["mono_spatial_attention_b1hw"] = (1, 1, *size)
        return shapes


class MonoBackboneComponent(Component):
    """`mono_backbone` for one frame."""

    dense_name = "dense_net"
    dense_dynamic = ((),)

    def forward(
        self, mono_image_hwc: torch.Tensor, mono_valid: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Returns the outputs of `MonoBackbone`, all zero where the camera gave no image."""
        network = self.network
        assert isinstance(network, MonoBackbone)
        if mono_valid.device.type != "meta" and not bool(mono_valid.all()):
            device = mono_image_hwc.device
            outputs = tuple(torch.zeros(shape, device=device) for shape in network.shapes().values())
        else:
            outputs = network(mono_image_hwc.unsqueeze(0))
        return outputs if len(outputs) > 1 else outputs[0]
