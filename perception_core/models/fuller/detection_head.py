"""Fuller-det: a query head whose queries come from a heat map (TransFusion), with one decoder layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from perception_core.models.blocks import ConvNormAct, DecoderLayer, FeedForward
from perception_core.models.fuller.configuration import DetectionHeadConfig
from perception_core.models.interface import Component
from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.box_codec import BoxCodec
from perception_core.ops.peaks import suppress_non_peaks, top_peaks

#: Numbers of each regressed attribute, in the order of `box_codec`.
ATTRIBUTES = {"offset": 2, "height": 1, "log_size": 3, "heading": 2, "velocity": 2}

#: BEV cells along one side of a token of the cross-attention.
_TOKEN_STRIDE = 2


@dataclass(frozen=True)
class DetectionOutput:
    """What the head says of a batch, before decoding; the losses work on this.

    Attributes:
        heatmap_logits_bkhw: Class heat map.
        query_position_bq2: x y of each query's cell centre, metres, ego frame.
        query_class_bq: Class that made the query.
        query_score_bq: Heat-map score of the query's cell, without gradient.
        class_logits_bqk: The decoder's classification.
        code_bqe: Boxes encoded by `box_codec` relative to the query positions.
    """

    heatmap_logits_bkhw: torch.Tensor
    query_position_bq2: torch.Tensor
    query_class_bq: torch.Tensor
    query_score_bq: torch.Tensor
    class_logits_bqk: torch.Tensor
    code_bqe: torch.Tensor


def start_rare(layer: nn.Module, probability: float) -> None:
    """Sets a classifying layer's bias so that before training every class has this probability."""
    assert isinstance(layer.bias, torch.Tensor)
    nn.init.constant_(layer.bias, -math.log(1 / probability - 1))


class HeatmapNet(nn.Module):
    """The head's dense part: class heat map, and the tokens that queries attend to."""

    def __init__(self, config: DetectionHeadConfig, channels: int) -> None:
        super().__init__()
        self.hidden = ConvNormAct(channels, config.heatmap_channels)
        self.classify = nn.Conv2d(config.heatmap_channels, len(config.classes), kernel_size=1)
        self.tokens = ConvNormAct(channels, channels, stride=_TOKEN_STRIDE)
        nn.init.normal_(self.classify.weight, std=0.01)
        start_rare(self.classify, config.initial_probability)

    def forward(self, bev_feature_bchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns heat-map logits (B, K, H, W) and tokens (B, C, H / 2, W / 2)."""
        return self.classify(self.hidden(bev_feature_bchw)), self.tokens(bev_feature_bchw)


class DetectionHead(nn.Module):
    """Queries at the heat map's peaks, refined by one decoder layer, read out by small networks."""

    token_position_t2: torch.Tensor

    def __init__(self, config: DetectionHeadConfig, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        #: A BEV encoder of the head's own; nothing where all heads share one.
        self.encoder: nn.Module = nn.Identity()
        self.to_feature: nn.Module = nn.Identity()
        if config.channels is not None:
            self.to_feature = ConvNormAct(channels, config.channels)
            channels = config.channels
        self.codec = BoxCodec(grid.cell_size)
        self.point_like = tuple(config.classes.index(name) for name in config.point_like_classes)
        self.heatmap_net = HeatmapNet(config, channels)
        self.class_embedding = nn.Embedding(len(config.classes), channels)
        self.position_embedding = FeedForward(2, channels, channels)
        self.decoder = DecoderLayer(channels, config.heads, config.hidden_channels)
        self.classify = FeedForward(channels, channels, len(config.classes))
        self.regress = nn.ModuleDict(
            {name: FeedForward(channels, channels, size) for name, size in ATTRIBUTES.items()}
        )
        start_rare(self.classify[-1], config.initial_probability)
        tokens = grid.model_copy(update={"cell_size": grid.cell_size * _TOKEN_STRIDE})
        positions = tokens.normalized(tokens.cell_centre(torch.arange(tokens.cells)))
        self.register_buffer("token_position_t2", positions, persistent=False)

    def forward(self, bev_feature_bchw: torch.Tensor) -> DetectionOutput:
        """Detects in a batch of fused features."""
        config = self.config
        bev_feature_bchw = self.to_feature(self.encoder(bev_feature_bchw))
        heatmap_logits_bkhw, token_bchw = self.heatmap_net(bev_feature_bchw)
        # Which cells become queries is a choice without a gradient; the heat map learns from its own loss.
        heatmap_bkhw = suppress_non_peaks(
            heatmap_logits_bkhw.detach().sigmoid(), config.peak_window, self.point_like
        )
        score_bq, class_bq, cell_bq = top_peaks(heatmap_bkhw, config.queries)
        position_bq2 = self.grid.cell_centre(cell_bq)
        channels = bev_feature_bchw.shape[1]
        feature_bsc = bev_feature_bchw.permute(0, 2, 3, 1).reshape(bev_feature_bchw.shape[0], -1, channels)
        query_bqc = feature_bsc.gather(1, cell_bq.unsqueeze(-1).expand(-1, -1, channels))
        query_bqc = query_bqc + self.class_embedding(class_bq)
        query_bqc = self.decoder(
            query_bqc,
            self.position_embedding(self.grid.normalized(position_bq2)),
            token_bchw.permute(0, 2, 3, 1).flatten(1, 2),
            self.position_embedding(self.token_position_t2),
        )
        code_bqe = torch.cat([branch(query_bqc) for branch in self.regress.values()], dim=-1)
        return DetectionOutput(
            heatmap_logits_bkhw=heatmap_logits_bkhw,
            query_position_bq2=position_bq2,
            query_class_bq=class_bq,
            query_score_bq=score_bq,
            class_logits_bqk=self.classify(query_bqc),
            code_bqe=code_bqe,
        )

    def decode(self, output: DetectionOutput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns boxes (B, Q, 9) in the ego frame, scores (B, Q) and labels (B, Q), best first.

        As in TransFusion a query keeps the class that made it, and its score is the product of heat map and
        decoder.
        """
        boxes = self.codec.decode(output.code_bqe, output.query_position_bq2)
        probability = (
            output.class_logits_bqk.sigmoid().gather(2, output.query_class_bq.unsqueeze(-1)).squeeze(-1)
        )
        score, order = (probability * output.query_score_bq).sort(dim=1, descending=True)
        boxes = boxes.gather(1, order.unsqueeze(-1).expand_as(boxes))
        return boxes, score, output.query_class_bq.gather(1, order)


class DetectionComponent(Component):
    """`detection3d_head` for one frame."""

    dense_name = "heatmap_net"
    dense_dynamic = ((),)

    def forward(self, bev_feature_bchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns detection_boxes_q9, detection_scores_q and detection_labels_q."""
        head = self.network
        assert isinstance(head, DetectionHead)
        boxes, scores, labels = head.decode(head(bev_feature_bchw))
        return boxes[0], scores[0], labels[0]
