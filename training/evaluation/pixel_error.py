"""Edges and keypoints: the mean absolute error of an image of strengths.

Tiny-Taskonomy's tasks are evaluated by their losses (AutoMTL, section 4.1, after AdaShare), which for edges
and keypoints is L1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from training.evaluation.accumulate import pair, refuse_not_finite, same_options
from training.evaluation.result import Metric, Result, ratio


@dataclass(frozen=True)
class EdgesResult(Result):
    """Result of `PixelErrorEvaluator` for edges.

    Attributes:
        abs_error: Mean |prediction - truth|.
        rmse: Root of the mean squared difference.
        pixels: Number of pixels that count.
    """

    task: ClassVar[str] = "edges"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "abs_error": Metric("mean absolute error", False),
        "rmse": Metric("RMSE", False),
    }

    abs_error: float
    rmse: float
    pixels: int


@dataclass(frozen=True)
class KeypointsResult(EdgesResult):
    """The same for keypoints."""

    task: ClassVar[str] = "keypoints"


class PixelErrorEvaluator:
    """Sums differences over pixels that count."""

    def __init__(self, result: type[EdgesResult] = EdgesResult) -> None:
        """Starts empty.

        Args:
            result: EdgesResult or KeypointsResult.
        """
        self._result = result
        self._absolute, self._squared, self._pixels = 0.0, 0.0, 0

    def update(self, predicted: Any, truth: Any, valid: Any | None = None) -> None:
        """Adds images of any shape.

        Args:
            predicted: Strengths.
            truth: Of the same shape.
            valid: bool, None: all count.

        Raises:
            EvaluationError: Shapes do not fit or a prediction that counts is not finite.
        """
        guess, true, keep = pair(self._result.task, predicted, truth, valid)
        difference_n = guess[keep].double() - true[keep].double()
        refuse_not_finite(self._result.task, difference_n)
        self._absolute += float(difference_n.abs().sum())
        self._squared += float(difference_n.square().sum())
        self._pixels += difference_n.numel()

    def merge(self, other: PixelErrorEvaluator) -> None:
        """Adds what another evaluator has seen; see `Evaluator`."""
        same_options("pixel errors", self._result.task, other._result.task)
        self._absolute += other._absolute
        self._squared += other._squared
        self._pixels += other._pixels

    def compute(self) -> EdgesResult:
        """Returns the result over everything seen so far."""
        absolute = ratio(self._absolute, self._pixels, empty=math.nan)
        return self._result(
            absolute, math.sqrt(ratio(self._squared, self._pixels, empty=math.nan)), self._pixels
        )
