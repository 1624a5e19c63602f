"""Surface normals: angle between prediction and truth (AutoMTL and EDNAS, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.evaluation.accumulate import pair, refuse_not_finite
from training.evaluation.result import Metric, Result, ratio

#: Angles below which a normal counts as right.
WITHIN_DEG: tuple[float, ...] = (11.25, 22.5, 30.0)
_BINS_PER_DEGREE = 100


@dataclass(frozen=True)
class NormalsResult(Result):
    """Result of `NormalsEvaluator`.

    Attributes:
        mean_deg: Mean angle over all pixels.
        median_deg: Median angle, to 0.01°.
        within_11, within_22, within_30: Share of pixels with an angle below 11.25°, 22.5°, 30°.
        cosine_error: Mean of 1 - cosine, the loss Taskonomy's normals are evaluated by (AutoMTL).
        pixels: Number of pixels that count.
    """

    task: ClassVar[str] = "normals"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mean_deg": Metric("mean angle", False, "°"),
        "median_deg": Metric("median angle", False, "°"),
        "within_11": Metric("within 11.25°", True, "%"),
        "within_22": Metric("within 22.5°", True, "%"),
        "within_30": Metric("within 30°", True, "%"),
        "cosine_error": Metric("1 - cosine", False),
    }

    mean_deg: float
    median_deg: float
    within_11: float
    within_22: float
    within_30: float
    cosine_error: float
    pixels: int


class NormalsEvaluator:
    """Sums angles; keeps a histogram of them in steps of 0.01° for the median."""

    def __init__(self) -> None:
        """Starts empty."""
        self._angle_sum, self._cosine_error_sum, self._pixels = 0.0, 0.0, 0
        self._within = [0] * len(WITHIN_DEG)
        # bin 0: exactly zero; bin k: above k - 1 and up to k steps
        self._histogram: NDArray[np.int64] = np.zeros(180 * _BINS_PER_DEGREE + 1, dtype=np.int64)

    def update(self, predicted: Any, truth: Any, valid: Any | None = None) -> None:
        """Adds images of normals.

        Args:
            predicted: [..., 3] of any length; a vector of length zero points nowhere and counts as 90° off.
            truth: [..., 3] of any length; vectors of length zero or not finite do not count.
            valid: bool [...], None: all others count.

        Raises:
            EvaluationError: Shapes do not fit or a prediction that counts is not finite.
        """
        guess, true, keep = pair("normals", predicted, truth, valid, trailing=1)
        keep = keep & torch.isfinite(true).all(dim=-1) & (true != 0).any(dim=-1)
        guess_n3, true_n3 = guess[keep].double(), true[keep].double()
        refuse_not_finite("normals", guess_n3)
        guess_n3, true_n3 = _unit(guess_n3), _unit(true_n3)
        # of unit vectors; unlike the arc cosine exact at zero and precise near it
        apart_n, together_n = (guess_n3 - true_n3).norm(dim=-1), (guess_n3 + true_n3).norm(dim=-1)
        angle_n = 2.0 * torch.rad2deg(torch.atan2(apart_n, together_n))
        nowhere_n = (guess_n3 == 0).all(dim=-1)
        angle_n = torch.where(nowhere_n, torch.full_like(angle_n, 90.0), angle_n)
        self._angle_sum += float(angle_n.sum())
        self._cosine_error_sum += float(torch.where(nowhere_n, 1.0, apart_n.square() / 2.0).sum())
        self._pixels += angle_n.numel()
        for index, limit in enumerate(WITHIN_DEG):
            self._within[index] += int((angle_n < limit).sum())
        last = len(self._histogram) - 1
        step_n = (angle_n * _BINS_PER_DEGREE).ceil().long().clamp_(0, last)
        self._histogram += torch.bincount(step_n, minlength=last + 1).cpu().numpy()

    def merge(self, other: NormalsEvaluator) -> None:
        """Adds what another evaluator has seen; see `Evaluator`."""
        self._angle_sum += other._angle_sum
        self._cosine_error_sum += other._cosine_error_sum
        self._pixels += other._pixels
        self._within = [mine + others for mine, others in zip(self._within, other._within, strict=True)]
        self._histogram = self._histogram + other._histogram

    def compute(self) -> NormalsResult:
        """Returns the result over everything seen so far."""
        within_11, within_22, within_30 = (ratio(count, self._pixels, empty=0.0) for count in self._within)
        return NormalsResult(
            mean_deg=ratio(self._angle_sum, self._pixels, empty=math.nan),
            median_deg=self._median(),
            within_11=within_11,
            within_22=within_22,
            within_30=within_30,
            cosine_error=ratio(self._cosine_error_sum, self._pixels, empty=math.nan),
            pixels=self._pixels,
        )

    def _median(self) -> float:
        if not self._pixels:
            return math.nan
        cumulated = self._histogram.cumsum()
        lower = int(np.searchsorted(cumulated, (self._pixels - 1) // 2 + 1))
        upper = int(np.searchsorted(cumulated, self._pixels // 2 + 1))
        return (_middle_deg(lower) + _middle_deg(upper)) / 2


def _middle_deg(step: int) -> float:
    return (step - 0.5) / _BINS_PER_DEGREE if step else 0.0


def _unit(vectors_n3: torch.Tensor) -> torch.Tensor:
    # divided by the largest part first: squares of very small numbers vanish
    vectors_n3 = vectors_n3 / vectors_n3.abs().amax(dim=-1, keepdim=True).clamp_min(
        torch.finfo(torch.float64).tiny
    )
    return vectors_n3 / vectors_n3.norm(dim=-1, keepdim=True).clamp_min(1e-12)
