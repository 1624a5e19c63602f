"""Judges what a FULLER network says of batches: the same evaluators as `mmmt eval`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perception_core.boxes import decode_boxes
from perception_core.models.fuller.configuration import FullerConfig
from training.datasets.batch import Batch, BevMaskBatch
from training.evaluation.bev_maps import BevMapEvaluator, ForegroundMapResult
from training.evaluation.control import ControlEvaluator
from training.evaluation.nuscenes_detection import NuscenesDetectionEvaluator, evaluate_submission
from training.evaluation.nuscenes_split import open_nuscenes
from training.evaluation.nuscenes_submission import MAX_BOXES
from training.evaluation.result import EvaluationError, Result

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoxTruth:
    """Where the devkit finds what is true of the evaluated samples.

    Attributes:
        root: Folder of the data set in nuScenes' format.
        version: Tables' folder.
        split: Split the evaluated samples are of.
    """

    root: Path
    version: str
    split: str


class FullerEvaluator:
    """Collects each head's output; holds no network."""

    def __init__(self, network: FullerConfig, truth: BoxTruth | None) -> None:
        self.truth = truth
        self.parts: dict[str, Any] = {}
        self._classes = network.detection.classes
        for task in network.tasks:
            if task == "detection3d" and truth is not None:
                self.parts[task] = NuscenesDetectionEvaluator()
            elif task == "map_segmentation":
                self.parts[task] = BevMapEvaluator(network.map_segmentation.classes)
            elif task == "foreground_segmentation":
                classes = network.foreground_segmentation.classes
                self.parts[task] = BevMapEvaluator(classes, result=ForegroundMapResult)
            elif task == "control":
                self.parts[task] = ControlEvaluator(network.control.waypoints)
        self._seen = dict.fromkeys(self.parts, 0)

    def add_boxes(
        self, boxes_bq9: torch.Tensor, scores_bq: torch.Tensor, labels_bq: torch.Tensor, batch: Batch
    ) -> None:
        """Adds decoded boxes of the samples that have box labels and a pose in the world."""
        if "detection3d" not in self.parts:
            return
        for index in _present(batch, "detection3d"):
            world_from_ego = batch.world_from_ego_b44[index].cpu().numpy()
            found = decode_boxes(
                boxes_bq9[index], scores_bq[index], labels_bq[index], self._classes, max_boxes=MAX_BOXES
            )
            self.parts["detection3d"].update(batch.provenance[index].token, found, world_from_ego)
            self._seen["detection3d"] += 1

    def add_masks(self, task: str, logits_bkhw: torch.Tensor, masks: BevMaskBatch, batch: Batch) -> None:
        """Adds mask logits of the samples that have such masks."""
        rows = _present(batch, task)
        if rows:
            self.parts[task].update(logits_bkhw[rows].float().sigmoid(), masks.masks_bkhw[rows])
            self._seen[task] += len(rows)

    def add_control(self, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor], batch: Batch) -> None:
        """Adds proposals for the samples that have control labels."""
        rows, labels = _present(batch, "control"), batch.control
        if not rows or labels is None:
            return
        steering, speed, waypoints = (tensor[rows].float() for tensor in output)
        self.parts["control"].update(
            (steering, speed, waypoints),
            (labels.steering_b1[rows], labels.speed_b1[rows], labels.waypoints_bk2[rows]),
            labels.waypoint_valid_bk[rows],
            steering_valid_b=labels.steering_valid_b1[rows],
        )
        self._seen["control"] += len(rows)

    def merge(self, other: FullerEvaluator) -> None:
        """Adds what another process has seen."""
        for task, part in self.parts.items():
            part.merge(other.parts[task])
            self._seen[task] += other._seen[task]

    def compute(self) -> dict[str, Result]:
        """Judges every task that was seen; one that cannot be judged is said so in the log and left out."""
        results: dict[str, Result] = {}
        for task, part in self.parts.items():
            if not self._seen[task]:
                logger.warning("%s is not evaluated: no evaluated sample has its label", task)
                continue
            try:
                results[task] = self._judge_boxes(part) if task == "detection3d" else part.compute()
            except EvaluationError as error:
                logger.warning("%s is not evaluated: %s", task, error)
        return results

    def _judge_boxes(self, part: NuscenesDetectionEvaluator) -> Result:
        assert self.truth is not None
        tables = open_nuscenes(self.truth.root, self.truth.version)
        return evaluate_submission(
            tables, part.submission, self.truth.split, only=set(part.submission.results)
        )


def _present(batch: Batch, task: str) -> Sequence[int]:
    rows: list[int] = batch.present[task].nonzero().squeeze(1).tolist()
    return rows
