"""The interface of latency models, and how good their predictions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from perception_core.platform.latency.operators import Operator


class LatencyModel(Protocol):
    """Says how long a device takes for a network.

    Attributes:
        name: Of the device and the way it is known, for records.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    def latency_ms(self, operators: Sequence[Operator]) -> float:
        """Returns milliseconds of one inference."""
        ...


@dataclass(frozen=True)
class PredictionError:
    """How predictions differ from measurements.

    Attributes:
        mape: Mean of |predicted - measured| / measured.
        worst: Largest of these.
        spearman: Rank correlation; NaN for less than three networks.
        count: Networks.
    """

    mape: float
    worst: float
    spearman: float
    count: int


def prediction_error(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> PredictionError:
    """Compares predictions with measurements that the model has not seen.

    Raises:
        ValueError: Their numbers differ, there are none, or a measurement is not positive.
    """
    predicted, measured = np.asarray(predicted_ms, float), np.asarray(measured_ms, float)
    if predicted.shape != measured.shape or not measured.size or not (measured > 0).all():
        raise ValueError(
            f"need as many predictions as positive measurements, got {predicted.size} and {measured.size}"
        )
    relative = np.abs(predicted - measured) / measured
    return PredictionError(
        float(relative.mean()), float(relative.max()), _spearman(predicted, measured), measured.size
    )


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3:
        return float("nan")
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)
