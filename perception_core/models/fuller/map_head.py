"""Fuller-seg: learned class queries, one decoder layer, masks as dot products with a BEV feature."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct, DecoderLayer, FeedForward
from perception_core.models.fuller.configuration import MapHeadConfig
from perception_core.models.interface import Component
from perception_core.ops.bev_grid import BevGrid


class MapHead(nn.Module):
    """Binary masks of map layers, S = sigmoid(M . F)."""

    token_position_t2: torch.Tensor

    def __init__(self, config: MapHeadConfig, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        #: A BEV encoder of the head's own; nothing where all heads share one.
        self.encoder: nn.Module = nn.Identity()
        self.output_grid = grid.refined(config.cell_subdivision)
        self.to_mask_feature = ConvNormAct(channels, config.mask_channels)
        self.query = nn.Embedding(len(config.classes), config.mask_channels)
        self.query_position = nn.Embedding(len(config.classes), config.mask_channels)
        self.position_embedding = FeedForward(2, config.mask_channels, config.mask_channels)
        self.decoder = DecoderLayer(config.mask_channels, config.heads, config.hidden_channels)
        self.to_mask_embedding = FeedForward(config.mask_channels, config.mask_channels, config.mask_channels)
        self.class_bias = nn.Parameter(torch.zeros(len(config.classes)))
        tokens = grid.model_copy(update={"cell_size": grid.cell_size * config.token_stride})
        positions = tokens.normalized(tokens.cell_centre(torch.arange(tokens.cells)))
        self.register_buffer("token_position_t2", positions, persistent=False)

    def forward(self, bev_feature_bchw: torch.Tensor) -> torch.Tensor:
        """Returns mask logits (B, K, rows, columns) on `output_grid`."""
        feature_bchw = self.to_mask_feature(self.encoder(bev_feature_bchw))
        token_bchw = functional.avg_pool2d(feature_bchw, self.config.token_stride)
        batch_size = feature_bchw.shape[0]
        query_bkc = self.decoder(
            self.query.weight.unsqueeze(0).expand(batch_size, -1, -1),
            self.query_position.weight.unsqueeze(0),
            token_bchw.flatten(2).transpose(1, 2),
            self.position_embedding(self.token_position_t2),
        )
        embedding_bkc = self.to_mask_embedding(query_bkc)
        # Scaled as in attention: keeps the logits of an untrained head near zero.
        scale = 1.0 / math.sqrt(self.config.mask_channels)
        logits_bkhw = torch.einsum("bkc,bchw->bkhw", embedding_bkc * scale, feature_bchw)
        logits_bkhw = logits_bkhw + self.class_bias.view(1, -1, 1, 1)
        if self.config.cell_subdivision > 1:
            # The product is linear in F, so resizing the K logits equals resizing F and costs a fraction.
            size = (self.output_grid.rows, self.output_grid.columns)
            logits_bkhw = functional.interpolate(logits_bkhw, size=size, mode="bilinear", align_corners=False)
        return logits_bkhw


class MapComponent(Component):
    """`map_segmentation_head` for one frame."""

    dense_dynamic = ((),)

    def forward(self, bev_feature_bchw: torch.Tensor) -> torch.Tensor:
        """Returns map_probability_khw, rows along +y, columns along +x."""
        probability_bkhw: torch.Tensor = self.network(bev_feature_bchw).sigmoid()
        return probability_bkhw[0].contiguous()


class ForegroundComponent(MapComponent):
    """`foreground_segmentation_head` for one frame."""

    def forward(self, bev_feature_bchw: torch.Tensor) -> torch.Tensor:
        """Returns foreground_probability_khw, rows along +y, columns along +x."""
        return super().forward(bev_feature_bchw)
