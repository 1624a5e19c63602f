"""Depth: absolute and relative error, root mean square error and the share of pixels within 1.25^k.

As AutoMTL (section 4.1), EDNAS (section 4.1) and TAG (section IV-C) define them, over all valid pixels of the
set, each pixel counting the same. The quantity need not be metric depth: AdaShare's preprocessed Cityscapes,
on which AutoMTL and EDNAS report, holds inverse depths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from training.evaluation.accumulate import pair, refuse_not_finite, same_options
from training.evaluation.result import Metric, Result, ratio

#: Base of the thresholds on max(prediction / truth, truth / prediction).
DELTA_BASE = 1.25
_DELTAS = 3


@dataclass(frozen=True)
class DepthResult(Result):
    """Result of `DepthEvaluator`, in the unit of the truth (metres, unless the data set has something else).

    Attributes:
        abs_error: Mean |prediction - truth|, AbsE.
        rel_error: Mean |prediction - truth| / truth, RelE.
        rmse: Root of the mean squared difference.
        delta_1, delta_2, delta_3: Share of pixels with max(p / t, t / p) < 1.25, 1.25², 1.25³.
        pixels: Number of pixels that count.
    """

    task: ClassVar[str] = "depth"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "abs_error": Metric("AbsE", False, "m"),
        "rel_error": Metric("RelE", False),
        "rmse": Metric("RMSE", False, "m"),
        "delta_1": Metric("δ < 1.25", True, "%"),
        "delta_2": Metric("δ < 1.25²", True, "%"),
        "delta_3": Metric("δ < 1.25³", True, "%"),
    }

    abs_error: float
    rel_error: float
    rmse: float
    delta_1: float
    delta_2: float
    delta_3: float
    pixels: int


class DepthEvaluator:
    """Sums errors over pixels whose truth is known."""

    def __init__(self, max_depth: float = math.inf) -> None:
        """Starts empty.

        Args:
            max_depth: Pixels whose truth lies beyond do not count.
        """
        self.max_depth = max_depth
        self._pixels = 0
        self._sums = torch.zeros(3, dtype=torch.float64)
        self._within = [0] * _DELTAS

    def update(self, predicted: Any, truth: Any, valid: Any | None = None) -> None:
        """Adds depth images of any shape.

        Args:
            predicted: Depth. Where it is not positive, no δ is met and the errors count as they are.
            truth: Of the same shape. Only finite positive values count.
            valid: bool, None: all of those count.

        Raises:
            EvaluationError: Shapes do not fit or a prediction that counts is not finite.
        """
        predicted_tensor, truth_tensor, keep = pair("depth", predicted, truth, valid)
        keep = keep & torch.isfinite(truth_tensor) & (truth_tensor > 0) & (truth_tensor <= self.max_depth)
        guess_n, true_n = predicted_tensor[keep].double(), truth_tensor[keep].double()
        refuse_not_finite("depth", guess_n)
        difference_n = (guess_n - true_n).abs()
        sums = (difference_n.sum(), (difference_n / true_n).sum(), difference_n.square().sum())
        self._sums += torch.stack(sums).cpu()
        self._pixels += true_n.numel()
        factor_n = torch.maximum(guess_n / true_n, true_n / guess_n.clamp_min(0.0))
        for index in range(_DELTAS):
            self._within[index] += int((factor_n < DELTA_BASE ** (index + 1)).sum())

    def merge(self, other: DepthEvaluator) -> None:
        """Adds what another evaluator has seen; see `Evaluator`."""
        same_options("depth evaluators", self.max_depth, other.max_depth)
        self._sums = self._sums + other._sums
        self._pixels += other._pixels
        self._within = [mine + others for mine, others in zip(self._within, other._within, strict=True)]

    def compute(self) -> DepthResult:
        """Returns the result over everything seen so far."""
        absolute, relative, squared = (
            ratio(total, self._pixels, empty=math.nan) for total in self._sums.tolist()
        )
        delta_1, delta_2, delta_3 = (ratio(count, self._pixels, empty=0.0) for count in self._within)
        return DepthResult(absolute, relative, math.sqrt(squared), delta_1, delta_2, delta_3, self._pixels)
