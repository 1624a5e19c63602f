"""Image encoder of the full-size network: Swin-T, a feature pyramid, depth distribution and context."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from perception_core.configuration import ConfigurationError, nearest
from perception_core.models.blocks import ConvNormAct
from perception_core.models.fuller.camera_net import IMAGE_DEVIATION, IMAGE_MEAN
from perception_core.models.fuller.configuration import SwinCameraNetConfig
from perception_core.torchvision_compat import import_torchvision

#: Channels of Swin-T at strides 8, 16 and 32, and the index of the layer in torchvision's `features` after
#: which they are read.
_STAGES = {3: 192, 5: 384, 7: 768}


class TopDownPyramid(nn.Module):
    """Feature pyramid that joins each scale with the next coarser one by concatenation (BEVFusion's FPN).

    Only the finest scale is read.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.joins = nn.ModuleList()
        self.smooths = nn.ModuleList()
        coarser = in_channels[-1]
        for channels in reversed(in_channels[:-1]):
            self.joins.append(ConvNormAct(channels + coarser, out_channels, kernel_size=1))
            self.smooths.append(ConvNormAct(out_channels, out_channels))
            coarser = out_channels

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Returns the pyramid's finest map; `features` come finest first."""
        coarse = features[-1]
        for fine, join, smooth in zip(reversed(features[:-1]), self.joins, self.smooths, strict=True):
            resized = functional.interpolate(
                coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False
            )
            coarse = smooth(join(torch.cat((fine, resized), dim=1)))
        return coarse


class SwinImageEncoder(nn.Module):
    """Images to a depth distribution and a context at stride 8; in and out as of `ImageEncoder`.

    `backbone` has torchvision's layers under torchvision's names, so that its published weights fit.
    """

    image_mean: torch.Tensor
    image_deviation: torch.Tensor

    def __init__(self, config: SwinCameraNetConfig) -> None:
        super().__init__()
        try:
            import_torchvision()
            from torchvision.models.swin_transformer import SwinTransformer
        except ImportError as error:
            raise ConfigurationError(
                f"a network with a Swin-T image encoder needs the package torchvision: {error}"
            ) from error
        # Not persistent: constants of the code, no weights.
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "image_deviation", torch.tensor(IMAGE_DEVIATION).view(1, 3, 1, 1), persistent=False
        )
        self.backbone: nn.Module = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=96,
            depths=[2, 2, 6, 2],
            num_heads=[3, 6, 12, 24],
            window_size=[7, 7],
            stochastic_depth_prob=config.drop_path,
            num_classes=1,
        ).features
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in _STAGES.values())
        self.pyramid = TopDownPyramid(tuple(_STAGES.values()), config.neck_channels)
        self.refine = nn.Sequential(
            *(ConvNormAct(config.neck_channels, config.neck_channels) for _ in range(config.depth_layers))
        )
        self.depth_and_context = nn.Conv2d(
            config.neck_channels, config.depth_bins + config.bev_channels, kernel_size=1
        )
        self.depth_bins = config.depth_bins

    def forward(self, images_mhwc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes images, see `ImageEncoder.forward`."""
        images_mchw = images_mhwc.permute(0, 3, 1, 2).to(self.image_mean.dtype)
        x = (images_mchw - self.image_mean) / self.image_deviation
        features: list[torch.Tensor] = []
        for index, layer in enumerate(self.backbone.children()):
            x = layer(x)  # channels last after the first layer
            if index in _STAGES:
                features.append(self.norms[len(features)](x).permute(0, 3, 1, 2))
        feature = self.refine(self.pyramid(features))
        output_mhwc = self.depth_and_context(feature).permute(0, 2, 3, 1)
        depth_mhwd = output_mhwc[..., : self.depth_bins].float().softmax(dim=-1)
        return depth_mhwd, output_mhwc[..., self.depth_bins :]

    def load_backbone(self, state: Mapping[str, torch.Tensor], origin: str) -> None:
        """Loads weights of torchvision's `swin_t`, e.g. those trained on ImageNet.

        Args:
            state: Its state dict; the classifier's entries are passed over.
            origin: File they come from, for the message.

        Raises:
            ConfigurationError: They are of another network.
        """
        features = {
            name.removeprefix("features."): tensor
            for name, tensor in state.items()
            if name.startswith("features.")
        }
        own = self.backbone.state_dict()
        for name, tensor in own.items():
            if name not in features:
                raise ConfigurationError(
                    f"{origin}: no weights of torchvision's swin_t: lacks 'features.{name}'"
                    + nearest(f"features.{name}", state)
                )
            if features[name].shape != tensor.shape:
                raise ConfigurationError(
                    f"{origin}: 'features.{name}' has shape {tuple(features[name].shape)}, swin_t needs "
                    f"{tuple(tensor.shape)}"
                )
        self.backbone.load_state_dict({name: features[name] for name in own})
