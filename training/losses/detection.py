"""Loss of the BEV detection heads: heat map, classification and boxes of the matched queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from perception_core.models.fuller.dense_heads import DenseDetectionOutput
from perception_core.models.fuller.detection_head import DetectionOutput
from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.box_codec import BoxCodec
from training.losses.configuration import DetectionLossConfig
from training.losses.focal import gaussian_focal_loss, sigmoid_focal_loss
from training.losses.heatmap_target import draw_heatmap
from training.losses.matching import match_queries
from training.losses.task_loss import TaskLoss, present_index

TASK = "detection3d"


class BoxTargets(Protocol):
    """Annotated boxes of one sample, e.g. `training.datasets.batch.BoxBatch`.

    Attributes:
        boxes_b9: x y z l w h yaw vx vy in the ego frame; velocity NaN where not annotated.
        labels_b: int64 class.
    """

    boxes_b9: torch.Tensor
    labels_b: torch.Tensor


def _inside(targets: BoxTargets | None, grid: BevGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the boxes a BEV head can find: centre inside the grid, and some extent."""
    assert targets is not None
    keep = grid.contains(targets.boxes_b9[:, :2]) & (targets.boxes_b9[:, 3:6] > 0).all(dim=1)
    return targets.boxes_b9[keep], targets.labels_b[keep]


class DetectionLoss:
    """Loss of Fuller-det and of its dense rival.

    Args:
        config: Weights.
        classes: Number K of classes.
        grid: The head's grid.
    """

    def __init__(self, config: DetectionLossConfig, classes: int, grid: BevGrid) -> None:
        self.config = config
        self.classes = classes
        self.grid = grid
        self.codec = BoxCodec(grid.cell_size)

    def __call__(
        self, output: DetectionOutput, boxes: Sequence[BoxTargets | None], present_b: torch.Tensor
    ) -> TaskLoss:
        """Returns the loss of a query head.

        Args:
            output: Of the head, B samples.
            boxes: Annotation of each sample; looked at only where present.
            present_b: bool (B), samples that are annotated (perhaps with no box at all).

        Raises:
            NonFiniteLossError: A term is not finite.
        """
        present = present_index(present_b, len(boxes), TASK)
        if len(present) == 0:
            return TaskLoss.without_labels(
                output.heatmap_logits_bkhw, output.class_logits_bqk, output.code_bqe
            )
        config = self.config
        decoded_bq9 = self.codec.decode(output.code_bqe.detach().float(), output.query_position_bq2)
        class_target_pqk = torch.zeros_like(output.class_logits_bqk[present])
        codes, code_targets = [], []
        for row, sample in enumerate(present.tolist()):
            target_boxes, target_labels = _inside(boxes[sample], self.grid)
            query, target = match_queries(
                output.class_logits_bqk[sample],
                decoded_bq9[sample],
                target_boxes,
                target_labels,
                self.grid,
                config,
            )
            class_target_pqk[row, query, target_labels[target]] = 1.0
            codes.append(output.code_bqe[sample, query])
            positions = output.query_position_bq2[sample, query]
            code_targets.append(self.codec.encode(target_boxes[target], positions))
        code_me, target_me = torch.cat(codes), torch.cat(code_targets)
        objects = max(len(code_me), 1)
        class_loss = sigmoid_focal_loss(
            output.class_logits_bqk[present].float(),
            class_target_pqk.float(),
            config.focal_alpha,
            config.focal_gamma,
        )
        terms = {
            "heatmap": config.heatmap_weight
            * self._heatmap_loss(output.heatmap_logits_bkhw[present], [boxes[i] for i in present.tolist()]),
            "class": config.class_weight * class_loss.sum() / objects,
            "box": config.box_weight * self._code_loss(code_me, target_me) / objects,
        }
        return TaskLoss.of_terms(TASK, terms, len(present))

    def dense(
        self, output: DenseDetectionOutput, boxes: Sequence[BoxTargets | None], present_b: torch.Tensor
    ) -> TaskLoss:
        """Returns the loss of the dense head: heat map, and the box at the cell of each object's centre."""
        present = present_index(present_b, len(boxes), TASK)
        if len(present) == 0:
            return TaskLoss.without_labels(output.heatmap_logits_bkhw, output.code_bgehw)
        codes, code_targets = [], []
        group_of_class = torch.tensor(output.group_of_class, device=output.code_bgehw.device)
        for sample in present.tolist():
            target_boxes, target_labels = _inside(boxes[sample], self.grid)
            cell = self.grid.cell_index(target_boxes[:, :2])
            codes.append(output.code_bgehw[sample].flatten(2)[group_of_class[target_labels], :, cell])
            code_targets.append(self.codec.encode(target_boxes, self.grid.cell_centre(cell)))
        code_me, target_me = torch.cat(codes), torch.cat(code_targets)
        terms = {
            "heatmap": self.config.heatmap_weight
            * self._heatmap_loss(output.heatmap_logits_bkhw[present], [boxes[i] for i in present.tolist()]),
            "box": self.config.box_weight * self._code_loss(code_me, target_me) / max(len(code_me), 1),
        }
        return TaskLoss.of_terms(TASK, terms, len(present))

    def _heatmap_loss(self, logits_pkhw: torch.Tensor, boxes: Sequence[BoxTargets | None]) -> torch.Tensor:
        config = self.config
        target_pkhw = torch.stack(
            [
                draw_heatmap(
                    *_inside(targets, self.grid),
                    self.classes,
                    self.grid,
                    config.heatmap_overlap,
                    config.heatmap_radius_cells,
                )
                for targets in boxes
            ]
        )
        peaks = (target_pkhw >= 1).sum().clamp_min(1)
        return gaussian_focal_loss(logits_pkhw.float(), target_pkhw).sum() / peaks

    def _code_loss(self, code_me: torch.Tensor, target_me: torch.Tensor) -> torch.Tensor:
        """Returns the weighted L1 distance; numbers that are not annotated (NaN) do not count."""
        known = torch.isfinite(target_me)
        weight_e = code_me.new_tensor(self.config.code_weights, dtype=torch.float32)
        distance = (code_me.float() - torch.nan_to_num(target_me)).abs()
        return (distance * known * weight_e).sum()
