"""Control: how far proposed steering, speed and waypoints lie from what the driver did next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.evaluation.accumulate import pair, refuse_not_finite, same_options
from training.evaluation.result import EvaluationError, Metric, Result, ratio


@dataclass(frozen=True)
class ControlResult(Result):
    """Result of `ControlEvaluator`.

    Attributes:
        steering_deg: Mean absolute error of the front wheels' angle.
        steering_rmse_deg: Root of its mean square.
        speed_mps: Mean absolute error of the proposed speed.
        speed_rmse_mps: Root of its mean square.
        ade_m: Average displacement: mean distance of the waypoints a sample has, then mean over samples.
        fde_m: Final displacement: mean distance of the last waypoint, over samples that have it.
        displacement_m: Mean distance of each waypoint, over samples that have it; NaN where none has.
        samples: Samples with control targets.
        samples_with_steering: Samples whose steering angle is known.
        samples_with_waypoints: Samples with at least one waypoint.
    """

    task: ClassVar[str] = "control"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "steering_deg": Metric("steering error", False, "°"),
        "steering_rmse_deg": Metric("steering RMSE", False, "°"),
        "speed_mps": Metric("speed error", False, "m/s"),
        "speed_rmse_mps": Metric("speed RMSE", False, "m/s"),
        "ade_m": Metric("ADE", False, "m"),
        "fde_m": Metric("FDE", False, "m"),
    }

    steering_deg: float
    steering_rmse_deg: float
    speed_mps: float
    speed_rmse_mps: float
    ade_m: float
    fde_m: float
    displacement_m: tuple[float, ...]
    samples: int
    samples_with_steering: int
    samples_with_waypoints: int


class ControlEvaluator:
    """Sums errors over samples."""

    def __init__(self, waypoints: int) -> None:
        """Starts empty.

        Args:
            waypoints: Number of waypoints of a sample, may be 0.
        """
        self.waypoints = waypoints
        self._samples_with_waypoints, self._average = 0, 0.0
        # steering and speed: absolute and squared
        self._sums: NDArray[np.float64] = np.zeros((2, 2))
        self._counts: NDArray[np.int64] = np.zeros(2, dtype=np.int64)
        self._distance_sum: NDArray[np.float64] = np.zeros(waypoints)
        self._distance_count: NDArray[np.int64] = np.zeros(waypoints, dtype=np.int64)

    def update(
        self,
        predicted: tuple[Any, Any, Any],
        truth: tuple[Any, Any, Any],
        waypoint_valid_bk: Any | None = None,
        steering_valid_b: Any | None = None,
    ) -> None:
        """Adds B samples.

        Args:
            predicted: Steering [rad] of B values in any shape, speed [m/s] likewise, waypoints [B, K, 2] [m].
            truth: The same of the driver.
            waypoint_valid_bk: bool, None: all waypoints count.
            steering_valid_b: bool, None: all steering angles count.

        Raises:
            EvaluationError: Shapes do not fit or a prediction is not finite.
        """
        for index, (what, valid) in enumerate((("steering", steering_valid_b), ("speed", None))):
            guess_b, true_b, valid_b = pair(
                what,
                torch.as_tensor(predicted[index]).reshape(-1),
                torch.as_tensor(truth[index]).reshape(-1),
                None if valid is None else torch.as_tensor(valid).reshape(-1),
            )
            refuse_not_finite(what, guess_b)
            difference_b = (guess_b.double() - true_b.double())[valid_b]
            if what == "steering":
                difference_b = torch.rad2deg(difference_b)
            self._counts[index] += difference_b.numel()
            self._sums[index] += [float(difference_b.abs().sum()), float(difference_b.square().sum())]
        guess, true, valid_bk = pair("waypoints", predicted[2], truth[2], waypoint_valid_bk, trailing=1)
        if guess.ndim != 3 or guess.shape[1:] != (self.waypoints, 2):
            raise EvaluationError(f"waypoints of shape {tuple(guess.shape)} are not [B, {self.waypoints}, 2]")
        refuse_not_finite("waypoints", guess[valid_bk])
        distance_bk = (guess.double() - true.double()).norm(dim=-1)
        distance_bk = torch.where(valid_bk, distance_bk, torch.zeros_like(distance_bk))
        count_b = valid_bk.sum(dim=1)
        there = count_b > 0
        self._average += float((distance_bk.sum(dim=1)[there] / count_b[there]).sum())
        self._samples_with_waypoints += int(there.sum())
        self._distance_sum += distance_bk.sum(dim=0).cpu().numpy()
        self._distance_count += valid_bk.sum(dim=0).cpu().numpy()

    def merge(self, other: ControlEvaluator) -> None:
        """Adds what another evaluator has seen; see `Evaluator`."""
        same_options("control evaluators", self.waypoints, other.waypoints)
        self._counts = self._counts + other._counts
        self._samples_with_waypoints += other._samples_with_waypoints
        self._average += other._average
        self._sums = self._sums + other._sums
        self._distance_sum = self._distance_sum + other._distance_sum
        self._distance_count = self._distance_count + other._distance_count

    def compute(self) -> ControlResult:
        """Returns the result over everything seen so far."""
        (steering, steering_squared), (speed, speed_squared) = (
            (ratio(row[0], count, math.nan), ratio(row[1], count, math.nan))
            for row, count in zip(self._sums, self._counts, strict=True)
        )
        displacement = tuple(
            ratio(total, count, empty=math.nan)
            for total, count in zip(self._distance_sum, self._distance_count, strict=True)
        )
        return ControlResult(
            steering_deg=steering,
            steering_rmse_deg=math.sqrt(steering_squared),
            speed_mps=speed,
            speed_rmse_mps=math.sqrt(speed_squared),
            ade_m=ratio(self._average, self._samples_with_waypoints, empty=math.nan),
            fde_m=displacement[-1] if displacement else math.nan,
            displacement_m=displacement,
            samples=int(self._counts[1]),
            samples_with_steering=int(self._counts[0]),
            samples_with_waypoints=self._samples_with_waypoints,
        )
