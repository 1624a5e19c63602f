"""Segmentation in the bird's-eye view as BEVFusion and FULLER measure it.

Classes may overlap, so each has an intersection over union of its own, at several thresholds of its
probability over the whole set; the best threshold of each class counts (BEVFusion's `iou@max`), and the mean
over classes is the mIoU of FULLER's tables. BEVFusion adds 1e-7 to the unions, which no digit of a table sees
and which would keep a perfect prediction from scoring 1: left out here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.evaluation.accumulate import pair, refuse_not_finite, same_options
from training.evaluation.result import EvaluationError, Metric, Result, mean_measured

#: BEVFusion's thresholds.
THRESHOLDS: tuple[float, ...] = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)


@dataclass(frozen=True)
class BevMapResult(Result):
    """Result of `BevMapEvaluator`.

    Attributes:
        miou: Mean over classes of their best IoU. Classes in neither truth nor prediction are left out
            (BEVFusion counts them as 0; they do not occur on its split).
        miou_at_half: Mean over classes of the IoU at threshold 0.5, which needs no choice on the test set;
            NaN where 0.5 is not among the thresholds.
        class_iou: Best IoU by class; NaN for a class in neither truth nor any prediction.
        best_threshold: Where that is.
        iou_at: IoU by class at each threshold; NaN where truth and prediction are empty.
        thresholds: The thresholds.
        cells: Cells that count, over all samples, a class.
    """

    task: ClassVar[str] = "map_segmentation"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "miou": Metric("mIoU (best threshold)", True, "%"),
        "miou_at_half": Metric("mIoU (threshold 0.5)", True, "%"),
    }

    miou: float
    miou_at_half: float
    class_iou: dict[str, float]
    best_threshold: dict[str, float]
    iou_at: dict[str, tuple[float, ...]]
    thresholds: tuple[float, ...]
    cells: int


@dataclass(frozen=True)
class ForegroundMapResult(BevMapResult):
    """The same for foreground segmentation in the bird's-eye view (FULLER, table 6)."""

    task: ClassVar[str] = "foreground_segmentation"


class BevMapEvaluator:
    """Counts cells by class, truth and how many thresholds their probability reaches."""

    def __init__(
        self,
        class_names: Sequence[str],
        thresholds: Sequence[float] = THRESHOLDS,
        result: type[BevMapResult] = BevMapResult,
    ) -> None:
        """Starts empty.

        Args:
            class_names: In the order of the masks.
            thresholds: Increasing; a probability that equals one reaches it.
            result: Kind of result, by task.

        Raises:
            EvaluationError: There is no class, or the thresholds do not increase.
        """
        if not class_names:
            raise EvaluationError("BEV segmentation: no class names")
        if not thresholds or any(a >= b for a, b in itertools.pairwise(thresholds)):
            raise EvaluationError(f"BEV segmentation: thresholds must increase, not {list(thresholds)}")
        self.class_names = tuple(class_names)
        self.thresholds = tuple(float(threshold) for threshold in thresholds)
        self._result = result
        # [class, truth 0/1, number of thresholds reached]
        self._cells: NDArray[np.int64] = np.zeros(
            (len(self.class_names), 2, len(self.thresholds) + 1), dtype=np.int64
        )

    def update(self, probability_bkhw: Any, truth_bkhw: Any, valid: Any | None = None) -> None:
        """Adds maps.

        Args:
            probability_bkhw: [..., K, H, W], 0..1.
            truth_bkhw: bool of the same shape.
            valid: bool that broadcasts to that shape, None: every cell counts.

        Raises:
            EvaluationError: Shapes do not fit or a probability is not finite.
        """
        probability, truth, keep = pair("BEV segmentation", probability_bkhw, truth_bkhw, valid)
        classes = len(self.class_names)
        if probability.ndim < 3 or probability.shape[-3] != classes:
            raise EvaluationError(
                f"BEV segmentation: maps of shape {tuple(probability.shape)} are not [..., {classes}, H, W]"
            )
        refuse_not_finite("BEV segmentation", probability[keep])
        # compared in single precision, as networks give it
        thresholds = torch.tensor(self.thresholds, dtype=torch.float32, device=probability.device)
        reached = torch.bucketize(probability.float(), thresholds, right=True)
        bins = len(self.thresholds) + 1
        index = torch.arange(classes, device=probability.device).view(-1, 1, 1)
        cell = (index * 2 + truth.bool().long()) * bins + reached
        counts = torch.bincount(cell[keep].reshape(-1), minlength=classes * 2 * bins)
        self._cells += counts.cpu().numpy().reshape(self._cells.shape)

    def merge(self, other: BevMapEvaluator) -> None:
        """Adds what another evaluator has seen; see `Evaluator`."""
        mine = (self.class_names, self.thresholds)
        same_options("BEV segmentation evaluators", mine, (other.class_names, other.thresholds))
        self._cells += other._cells

    def compute(self) -> BevMapResult:
        """Returns the result over everything seen so far."""
        # at threshold number t a cell counts as predicted if it reaches more than t thresholds
        at_least = self._cells[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]
        intersection = at_least[:, 1].astype(np.float64)
        true = self._cells[:, 1].sum(axis=1, keepdims=True)
        union = true + at_least[:, 0]
        iou = np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)
        occurs = (union > 0).any(axis=1)
        best = np.where(np.isnan(iou), -1.0, iou).argmax(axis=1)
        best_iou = np.where(occurs, iou[np.arange(len(iou)), best], np.nan)
        half = self.thresholds.index(0.5) if 0.5 in self.thresholds else None
        names = self.class_names
        return self._result(
            miou=mean_measured(best_iou),
            miou_at_half=np.nan if half is None else mean_measured(iou[:, half]),
            class_iou={name: float(value) for name, value in zip(names, best_iou, strict=True)},
            best_threshold={
                name: self.thresholds[index] if there else np.nan
                for name, index, there in zip(names, best, occurs, strict=True)
            },
            iou_at={name: tuple(float(v) for v in row) for name, row in zip(names, iou, strict=True)},
            thresholds=self.thresholds,
            cells=int(self._cells[0].sum()),
        )
