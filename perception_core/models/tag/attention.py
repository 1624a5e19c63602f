"""The task-adaptive attention generator (TAG): Eq. 3 and 4 of the paper.

What is expensive to hand from one component to another is the feature, so the generator's two halves lie in
two components: the backbone makes the attentions (Eq. 3), a head applies its own to the one shared feature
(Eq. 4). The three adapted features then never travel.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.tag.configuration import AttentionConfig


class TaskAttention(nn.Module):
    """Eq. 3: alpha_t = sigmoid(S_ch^t(x_semantic)), beta = sigmoid(S_sp(x_detail)).

    Args:
        config: Which of the two there are, and their sizes.
        semantic_channels: Of x_semantic.
        detail_channels: Of x_detail.
        channels: Of the shared feature.
        tasks: Number T of tasks.
    """

    def __init__(
        self,
        config: AttentionConfig,
        semantic_channels: int,
        detail_channels: int,
        channels: int,
        tasks: int,
    ) -> None:
        super().__init__()
        self.config = config
        if config.channel:
            self.channel = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(semantic_channels, config.hidden_channels),
                    nn.ReLU(inplace=True),
                    nn.Linear(config.hidden_channels, channels),
                )
                for _ in range(tasks)
            )
        if config.spatial:
            self.spatial = nn.Conv2d(
                detail_channels, 1, kernel_size=3, padding=config.dilation, dilation=config.dilation
            )

    def forward(self, semantic_bchw: torch.Tensor, detail_bchw: torch.Tensor) -> list[torch.Tensor]:
        """Returns alpha (B, T, C) and beta (B, 1, H, W), of these what the configuration has."""
        attentions = []
        if self.config.channel:
            pooled_bc = semantic_bchw.mean(dim=(2, 3))
            alpha_btc = torch.stack([layers(pooled_bc) for layers in self.channel], dim=1)
            attentions.append(alpha_btc.sigmoid())
        if self.config.spatial:
            attentions.append(self.spatial(detail_bchw).sigmoid())
        return attentions


def adapt(
    feature_bchw: torch.Tensor,
    channel_attention_btc: torch.Tensor | None,
    spatial_attention_b1hw: torch.Tensor | None,
    task: int,
) -> torch.Tensor:
    """Eq. 4: h_t = alpha_t * h + beta.

    Args:
        feature_bchw: The shared feature h.
        channel_attention_btc: alpha of all tasks, None without it.
        spatial_attention_b1hw: beta, None without it.
        task: Index t.

    Returns:
        The task's feature, (B, C, H, W).
    """
    if channel_attention_btc is not None:
        feature_bchw = feature_bchw * channel_attention_btc[:, task, :, None, None]
    if spatial_attention_b1hw is not None:
        feature_bchw = feature_bchw + spatial_attention_b1hw
    return feature_bchw


def heat(feature_bchw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Condenses a feature to one channel in 0..1 as the paper's Fig. 4 does, at the image's size.

    Args:
        feature_bchw: An adapted feature h_t, or the spatial attention.
        size: Rows and columns wanted.

    Returns:
        (B, rows, columns).
    """
    mean_b1hw = feature_bchw.float().mean(dim=1, keepdim=True)
    lowest = mean_b1hw.amin(dim=(2, 3), keepdim=True)
    span = (mean_b1hw.amax(dim=(2, 3), keepdim=True) - lowest).clamp_min(1e-6)
    scaled = (mean_b1hw - lowest) / span
    return functional.interpolate(scaled, size=size, mode="bilinear", align_corners=False)[:, 0]
