"""Semantic segmentation: mean intersection over union and pixel accuracy from one confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.evaluation.accumulate import pair, refuse_not_finite, same_options
from training.evaluation.result import EvaluationError, Metric, Result, mean_measured, ratio

#: Label of pixels that do not count, as in Cityscapes' train ids and in our samples.
IGNORED = 255


@dataclass(frozen=True)
class SegmentationResult(Result):
    """Result of `SegmentationEvaluator`.

    Attributes:
        miou: Mean of `class_iou` over classes that occur in truth or prediction, as in Cityscapes' scripts.
        pixel_accuracy: Share of pixels that are right.
        class_accuracy: Mean over classes in the truth of the share of their pixels that are right.
        cross_entropy: Mean over pixels in nats, "the task's loss" of Taskonomy (AutoMTL, section 4.1); NaN
            unless probabilities were given.
        class_iou: By class; NaN for a class in neither truth nor prediction.
        pixels: Number of pixels that count.
        confusion: Pixels by true class (row) and predicted class (column); the last column counts
            predictions outside of the classes.
    """

    task: ClassVar[str] = "semantic_segmentation"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "miou": Metric("mIoU", True, "%"),
        "pixel_accuracy": Metric("pixel accuracy", True, "%"),
        "class_accuracy": Metric("class accuracy", True, "%"),
        "cross_entropy": Metric("cross entropy", False),
    }

    miou: float
    pixel_accuracy: float
    class_accuracy: float
    cross_entropy: float
    class_iou: dict[str, float]
    pixels: int
    confusion: tuple[tuple[int, ...], ...]


class SegmentationEvaluator:
    """Counts pixels by true and predicted class."""

    def __init__(self, class_names: Sequence[str], ignored: int = IGNORED) -> None:
        """Starts empty.

        Args:
            class_names: In the order of class numbers.
            ignored: Label of pixels that do not count.

        Raises:
            EvaluationError: There is no class.
        """
        if not class_names:
            raise EvaluationError("segmentation: no class names")
        self.class_names = tuple(class_names)
        self.ignored = ignored
        count = len(self.class_names)
        self._confusion: NDArray[np.int64] = np.zeros((count, count + 1), dtype=np.int64)
        self._entropy_sum, self._entropy_pixels = 0.0, 0

    def update(self, predicted: Any, truth: Any, valid: Any | None = None) -> None:
        """Adds images of class numbers.

        Args:
            predicted: Integer classes of any shape; numbers outside of the classes count as wrong.
            truth: Integer classes of the same shape; `ignored` does not count.
            valid: bool of the same shape, None: everything but `ignored` counts.

        Raises:
            EvaluationError: Shapes do not fit or the truth has a class there is no name for.
        """
        predicted_tensor, truth_tensor, valid_tensor = pair("segmentation", predicted, truth, valid)
        if predicted_tensor.is_floating_point():
            raise EvaluationError("segmentation: class numbers must be integers; see update_probabilities")
        count = len(self.class_names)
        keep = valid_tensor & (truth_tensor != self.ignored)
        true_n = truth_tensor[keep].long()
        guess_n = predicted_tensor[keep].long()
        if true_n.numel() and (int(true_n.min()) < 0 or int(true_n.max()) >= count):
            raise EvaluationError(
                f"segmentation: the truth has classes {int(true_n.min())}..{int(true_n.max())}, names are "
                f"given for 0..{count - 1} and {self.ignored} is ignored"
            )
        guess_n = torch.where((guess_n >= 0) & (guess_n < count), guess_n, count)
        cells = torch.bincount(true_n * (count + 1) + guess_n, minlength=count * (count + 1))
        self._confusion += cells.cpu().numpy().reshape(count, count + 1)

    def update_probabilities(
        self, probability_bkhw: Any, truth_bhw: Any, valid_bhw: Any | None = None
    ) -> None:
        """Adds images of class probabilities, of which the largest is the predicted class.

        Args:
            probability_bkhw: [B, K, H, W], summing to 1 over K.
            truth_bhw: Integer classes [B, H, W].
            valid_bhw: bool, None: everything but `ignored` counts.

        Raises:
            EvaluationError: See `update`; or a probability is not finite.
        """
        probability = torch.as_tensor(probability_bkhw)
        if probability.ndim != 4 or probability.shape[1] != len(self.class_names):
            raise EvaluationError(
                f"segmentation: probabilities of shape {tuple(probability.shape)} are not [B, "
                f"{len(self.class_names)}, H, W]"
            )
        predicted_bhw, truth, valid = pair("segmentation", probability.argmax(dim=1), truth_bhw, valid_bhw)
        self.update(predicted_bhw, truth, valid)
        keep = valid & (truth != self.ignored)
        refuse_not_finite("segmentation", probability.movedim(1, -1)[keep])
        of_truth = probability.gather(1, torch.where(keep, truth, 0).long().unsqueeze(1)).squeeze(1)[keep]
        # what training frameworks do as well: a certain mistake costs much, not infinitely much
        self._entropy_sum += float(-of_truth.double().clamp_min(1e-12).log().sum())
        self._entropy_pixels += int(keep.sum())

    def merge(self, other: SegmentationEvaluator) -> None:
        """Adds what another evaluator has seen; see `Evaluator`."""
        mine, others = (self.class_names, self.ignored), (other.class_names, other.ignored)
        same_options("segmentation evaluators", mine, others)
        self._confusion += other._confusion
        self._entropy_sum += other._entropy_sum
        self._entropy_pixels += other._entropy_pixels

    def compute(self) -> SegmentationResult:
        """Returns the result over everything seen so far."""
        confusion = self._confusion
        right = np.diagonal(confusion).astype(np.float64)
        true = confusion.sum(axis=1)
        guessed = confusion[:, :-1].sum(axis=0)
        iou = _shares(right, true + guessed - right)
        accuracy = _shares(right, true)
        return SegmentationResult(
            miou=mean_measured(iou),
            pixel_accuracy=ratio(right.sum(), confusion.sum(), empty=0.0),
            class_accuracy=mean_measured(accuracy),
            cross_entropy=ratio(self._entropy_sum, self._entropy_pixels, empty=np.nan),
            class_iou={name: float(value) for name, value in zip(self.class_names, iou, strict=True)},
            pixels=int(confusion.sum()),
            confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        )


def _shares(part: NDArray[np.float64], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
