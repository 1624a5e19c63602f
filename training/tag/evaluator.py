"""Judges what a monocular network says of batches: the same evaluators as `mmmt eval`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perception_core.boxes import decode_boxes
from perception_core.models.tag.configuration import MonoConfig
from training.datasets.batch import Batch
from training.evaluation.bundle_outputs import read_dense
from training.evaluation.cityscapes3d_detection import CLASSES, Cityscapes3dEvaluator, VehicleBox
from training.evaluation.depth import DepthEvaluator
from training.evaluation.result import EvaluationError, Result
from training.evaluation.semantic import SegmentationEvaluator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VehicleTruth:
    """Where Cityscapes' scripts find what is true of the evaluated samples.

    Attributes:
        folder: Holds `*_gtBbox3d.json` of all of them.
    """

    folder: Path


class MonoEvaluator:
    """Collects each head's output; holds no network."""

    def __init__(self, network: MonoConfig, truth: VehicleTruth | None) -> None:
        self.truth = truth
        self.parts: dict[str, Any] = {}
        self._classes = network.mono_detection3d.classes
        for task in network.tasks:
            if task == "mono_detection3d" and truth is not None:
                self.parts[task] = Cityscapes3dEvaluator()
            elif task == "semantic_segmentation":
                self.parts[task] = SegmentationEvaluator(network.semantic_segmentation.classes)
            elif task == "depth":
                self.parts[task] = DepthEvaluator()
        self._seen = dict.fromkeys(self.parts, 0)

    def add_boxes(
        self,
        boxes_bq9: torch.Tensor,
        scores_bq: torch.Tensor,
        labels_bq: torch.Tensor,
        tilt_bq2: torch.Tensor,
        batch: Batch,
    ) -> None:
        """Adds decoded boxes of the samples that have box labels; classes that Cityscapes-3D does not judge
        are left out.
        """
        if "mono_detection3d" not in self.parts:
            return
        for index in batch.present["mono_detection3d"].nonzero()[:, 0].tolist():
            found = []
            for row in range(len(scores_bq[index])):
                one = slice(row, row + 1)
                decoded = decode_boxes(
                    boxes_bq9[index, one], scores_bq[index, one], labels_bq[index, one], self._classes
                )
                angles = tilt_bq2[index, row].tolist()
                found += [
                    VehicleBox.from_angles(
                        item.label, item.score, (*item.centre, *item.size, item.yaw), angles
                    )
                    for item in decoded
                    if item.label in CLASSES
                ]
            self.parts["mono_detection3d"].update(batch.provenance[index].token, found)
            self._seen["mono_detection3d"] += 1

    def add_dense(
        self,
        task: str,
        output: torch.Tensor,
        value_bhw: torch.Tensor,
        valid_bhw: torch.Tensor,
        present_b: torch.Tensor,
    ) -> None:
        """Adds the samples that have a dense label."""
        rows = present_b.nonzero()[:, 0].tolist()
        if not rows:
            return
        size = (value_bhw.shape[-2], value_bhw.shape[-1])
        said = read_dense(task, output[rows].float(), size)
        self.parts[task].update(said, value_bhw[rows], valid_bhw[rows])
        self._seen[task] += len(rows)

    def merge(self, other: MonoEvaluator) -> None:
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
                if task == "mono_detection3d":
                    assert self.truth is not None
                    results[task] = part.compute(self.truth.folder)
                else:
                    results[task] = part.compute()
            except EvaluationError as error:
                logger.warning("%s is not evaluated: %s", task, error)
        return results
