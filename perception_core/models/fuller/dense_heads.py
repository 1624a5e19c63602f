"""The dense heads of BEVFusion (Liu et al., 2022): what FULLER's query heads are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct
from perception_core.models.fuller.configuration import DenseDetectionHeadConfig, DenseMapHeadConfig
from perception_core.models.fuller.detection_head import ATTRIBUTES, start_rare
from perception_core.models.interface import Component
from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.box_codec import BoxCodec
from perception_core.ops.peaks import suppress_non_peaks, top_peaks


@dataclass(frozen=True)
class DenseDetectionOutput:
    """What the dense head says of a batch, before decoding.

    Attributes:
        heatmap_logits_bkhw: Class heat map, in the order of the classes.
        code_bgehw: Box code of every cell by group, relative to the cell's centre.
        group_of_class: Group of each class.
    """

    heatmap_logits_bkhw: torch.Tensor
    code_bgehw: torch.Tensor
    group_of_class: tuple[int, ...]


class _GroupBranch(nn.Module):
    """Heat map and box attributes of one group of classes, a small branch each."""

    def __init__(self, channels: int, classes: int, initial_probability: float) -> None:
        super().__init__()
        sizes = {"heatmap": classes, **ATTRIBUTES}
        self.outputs = nn.ModuleDict(
            {
                name: nn.Sequential(
                    ConvNormAct(channels, channels), nn.Conv2d(channels, size, kernel_size=3, padding=1)
                )
                for name, size in sizes.items()
            }
        )
        heatmap = self.outputs["heatmap"]
        assert isinstance(heatmap, nn.Sequential)
        last = heatmap[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, std=0.01)
        start_rare(last, initial_probability)

    def forward(self, feature_bchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns heat-map logits and the code, attributes in the order of `box_codec`."""
        code = torch.cat([self.outputs[name](feature_bchw) for name in ATTRIBUTES], dim=1)
        return self.outputs["heatmap"](feature_bchw), code


class DenseDetectionNet(nn.Module):
    """The dense part: heat map of all classes and codes of all groups."""

    class_order: torch.Tensor

    def __init__(self, config: DenseDetectionHeadConfig, channels: int) -> None:
        super().__init__()
        self.shared = ConvNormAct(channels, config.channels)
        self.branches = nn.ModuleList(
            _GroupBranch(config.channels, len(group), config.initial_probability) for group in config.groups
        )
        grouped = [name for group in config.groups for name in group]
        order = torch.tensor([grouped.index(name) for name in config.classes])
        self.register_buffer("class_order", order, persistent=False)

    def forward(self, bev_feature_bchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns heat-map logits (B, K, H, W) and codes (B, G, 10, H, W)."""
        shared = self.shared(bev_feature_bchw)
        heatmaps, codes = zip(*(branch(shared) for branch in self.branches), strict=True)
        return torch.cat(heatmaps, dim=1).index_select(1, self.class_order), torch.stack(codes, dim=1)


class DenseDetectionHead(nn.Module):
    """Boxes at the peaks of the heat map."""

    def __init__(self, config: DenseDetectionHeadConfig, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.encoder: nn.Module = nn.Identity()
        self.codec = BoxCodec(grid.cell_size)
        self.point_like = tuple(config.classes.index(name) for name in config.point_like_classes)
        self.group_of_class = tuple(
            next(index for index, group in enumerate(config.groups) if name in group)
            for name in config.classes
        )
        self.dense_net = DenseDetectionNet(config, channels)

    def forward(self, bev_feature_bchw: torch.Tensor) -> DenseDetectionOutput:
        """Detects in a batch of fused features."""
        heatmap_logits_bkhw, code_bgehw = self.dense_net(self.encoder(bev_feature_bchw))
        return DenseDetectionOutput(heatmap_logits_bkhw, code_bgehw, self.group_of_class)

    def decode(self, output: DenseDetectionOutput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns boxes (B, Q, 9) in the ego frame, scores (B, Q) and labels (B, Q), best first."""
        heatmap_bkhw = suppress_non_peaks(
            output.heatmap_logits_bkhw.sigmoid(), self.config.peak_window, self.point_like
        )
        score_bq, class_bq, cell_bq = top_peaks(heatmap_bkhw, self.config.queries)
        group_bq = class_bq.new_tensor(output.group_of_class)[class_bq]
        batch_b1 = torch.arange(len(class_bq), device=class_bq.device).unsqueeze(1)
        code_bqe = output.code_bgehw.flatten(3)[batch_b1, group_bq, :, cell_bq]
        return self.codec.decode(code_bqe, self.grid.cell_centre(cell_bq)), score_bq, class_bq


class DenseDetectionComponent(Component):
    """`detection3d_head` with the dense head, for one frame."""

    dense_name = "dense_net"
    dense_dynamic = ((),)

    def forward(self, bev_feature_bchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns detection_boxes_q9, detection_scores_q and detection_labels_q."""
        head = self.network
        assert isinstance(head, DenseDetectionHead)
        boxes, scores, labels = head.decode(head(bev_feature_bchw))
        return boxes[0], scores[0], labels[0]


class DenseMapHead(nn.Module):
    """Two convolutions and a classification of every cell; in and out as of `MapHead`."""

    def __init__(self, config: DenseMapHeadConfig, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        self.output_grid = grid.refined(config.cell_subdivision)
        self.encoder: nn.Module = nn.Identity()
        hidden = config.channels or channels
        self.classifier = nn.Sequential(
            ConvNormAct(channels, hidden),
            ConvNormAct(hidden, hidden),
            nn.Conv2d(hidden, len(config.classes), kernel_size=1),
        )

    def forward(self, bev_feature_bchw: torch.Tensor) -> torch.Tensor:
        """Returns mask logits (B, K, rows, columns) on `output_grid`."""
        feature_bchw = self.encoder(bev_feature_bchw)
        if self.config.cell_subdivision > 1:
            size = (self.output_grid.rows, self.output_grid.columns)
            feature_bchw = functional.interpolate(
                feature_bchw, size=size, mode="bilinear", align_corners=False
            )
        logits_bkhw: torch.Tensor = self.classifier(feature_bchw)
        return logits_bkhw
