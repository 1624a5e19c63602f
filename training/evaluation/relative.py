"""How much better or worse a multi-task model is than its baselines, as each of the papers defines it.

All of them add relative changes (M - M_baseline) / M_baseline. They differ in the sign and in what they
divide by. Here each metric knows which way is better, so a sign cannot be forgotten:

| measure | formula | better |
|---|---|---|
| FULLER Δ_MTL, Eq. 9 | sum of the relative drops of *all metrics* / number of *tasks* | lower |
| TAG Δ_T, Eq. 6 | mean over tasks, one metric each | higher |
| AutoMTL Δt, section 4.1 | mean over a task's metrics, then over tasks | higher |
| EDNAS ΔT, section 4.1 | as AutoMTL's | higher |

FULLER's equation speaks of "the performance of the i-th task", but its tables add the drops of mAP, NDS and
mIoU and divide by the two tasks, so that detection, which has two metrics, weighs double. `fuller_delta_mtl`
follows the tables; `RelativeResult.mean_over_tasks` beside it is what AutoMTL, EDNAS and TAG would report.
`docs/evaluation.md` lists where the papers' tables and sentences contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from perception_core.configuration import nearest
from training.evaluation.result import EvaluationError, Metric, Result

#: Measured values by task and metric.
TaskMetrics = Mapping[str, Mapping[str, float]]

#: Which way each metric is better, under the names of our results and of the papers' tables.
HIGHER_IS_BETTER: dict[str, bool] = {
    "mean_ap": True,
    "nds": True,
    "translation_m": False,
    "scale": False,
    "orientation_rad": False,
    "velocity_mps": False,
    "attribute": False,
    "detection_score": True,
    "average_precision": True,
    "centre_distance": True,
    "size_similarity": True,
    "yaw_similarity": True,
    "pitch_roll_similarity": True,
    "miou": True,
    "miou_at_half": True,
    "pixel_accuracy": True,
    "class_accuracy": True,
    "cross_entropy": False,
    "abs_error": False,
    "rel_error": False,
    "rmse": False,
    "delta_1": True,
    "delta_2": True,
    "delta_3": True,
    "mean_deg": False,
    "median_deg": False,
    "within_11": True,
    "within_22": True,
    "within_30": True,
    "cosine_error": False,
    "steering_deg": False,
    "steering_rmse_deg": False,
    "speed_mps": False,
    "speed_rmse_mps": False,
    "ade_m": False,
    "fde_m": False,
}


@dataclass(frozen=True)
class RelativeResult(Result):
    """How a model compares with its baselines; all numbers in percent of the baseline's.

    Attributes:
        delta: The paper's measure, with the paper's sign.
        mean_over_tasks: Mean over tasks of `per_task`: positive is better, whatever the paper's sign.
        per_task: Mean over the task's metrics of `per_metric`.
        per_metric: Gain by task and metric: positive is better, also for errors.
    """

    task: ClassVar[str] = "relative"
    metrics: ClassVar[Mapping[str, Metric]] = {"delta": Metric("Δ", True)}

    delta: float
    mean_over_tasks: float
    per_task: dict[str, float]
    per_metric: dict[str, dict[str, float]]


@dataclass(frozen=True)
class FullerDelta(RelativeResult):
    """FULLER's Δ_MTL: an average drop, so lower is better."""

    metrics: ClassVar[Mapping[str, Metric]] = {"delta": Metric("Δ_MTL", False)}


def relative_gain(value: float, baseline: float, higher_is_better: bool) -> float:
    """Returns by how many percent of the baseline a value is better (negative: worse).

    Raises:
        EvaluationError: The baseline is 0.
    """
    if baseline == 0:
        raise EvaluationError("a relative measure needs a baseline other than 0")
    change = 100.0 * (value - baseline) / baseline
    return change if higher_is_better else -change


def relative_gains(
    model: TaskMetrics, baseline: TaskMetrics, directions: Mapping[str, bool] | None = None
) -> dict[str, dict[str, float]]:
    """Returns the gain in percent by task and metric.

    Args:
        model: Values of the model.
        baseline: Values of the baselines, for the same tasks and metrics.
        directions: Which way metrics are better that `HIGHER_IS_BETTER` does not know.

    Raises:
        EvaluationError: There is no task, tasks or metrics differ, a direction is not known or a baseline
            is 0.
    """
    known = {**HIGHER_IS_BETTER, **(directions or {})}
    if not model:
        raise EvaluationError("a relative measure needs at least one task")
    _same_names("tasks", model, baseline)
    gains: dict[str, dict[str, float]] = {}
    for task, values in model.items():
        _same_names(f"metrics of {task}", values, baseline[task])
        if not values:
            raise EvaluationError(f"task '{task}' has no metric")
        for metric in values:
            if metric not in known:
                raise EvaluationError(
                    f"not known whether higher {metric} of {task} is better; give its direction"
                    + nearest(metric, known)
                )
        gains[task] = {
            metric: relative_gain(value, baseline[task][metric], known[metric])
            for metric, value in values.items()
        }
    return gains


def _same_names(what: str, model: Mapping[str, object], baseline: Mapping[str, object]) -> None:
    if set(model) != set(baseline):
        raise EvaluationError(
            f"{what} of model and baseline differ: {', '.join(sorted(model))} and "
            f"{', '.join(sorted(baseline))}"
        )


def _means(gains: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], float]:
    per_task = {task: sum(values.values()) / len(values) for task, values in gains.items()}
    return per_task, sum(per_task.values()) / len(per_task)


def fuller_delta_mtl(
    model: TaskMetrics, upper_bound: TaskMetrics, directions: Mapping[str, bool] | None = None
) -> FullerDelta:
    """Average drop against single-task upper bounds, Eq. 9 of FULLER as its tables 1 and 2 compute it.

    Args:
        model: E.g. `{"detection3d": {"mean_ap": 59.1, "nds": 65.0}, "map_segmentation": {"miou": 44.0}}`.
        upper_bound: The same of the single-task models.
        directions: See `relative_gains`.

    Returns:
        `delta`: the sum of all metrics' drops divided by the number of tasks; lower is better.

    Raises:
        EvaluationError: See `relative_gains`.
    """
    gains = relative_gains(model, upper_bound, directions)
    per_task, mean = _means(gains)
    drop = -sum(gain for values in gains.values() for gain in values.values()) / len(gains)
    return FullerDelta(drop, mean, per_task, gains)


def automtl_delta_t(
    model: TaskMetrics, single_task: TaskMetrics, directions: Mapping[str, bool] | None = None
) -> RelativeResult:
    """Relative performance Δt of AutoMTL, section 4.1: mean over metrics within tasks, then over tasks.

    Raises:
        EvaluationError: See `relative_gains`.
    """
    gains = relative_gains(model, single_task, directions)
    per_task, mean = _means(gains)
    return RelativeResult(mean, mean, per_task, gains)


def ednas_delta_t(
    model: TaskMetrics, baseline: TaskMetrics, directions: Mapping[str, bool] | None = None
) -> RelativeResult:
    """ΔT of EDNAS, section 4.1: averages the gains ΔT_i of tasks, each the mean over its metrics (table 2).

    Its tables 2 and 5 take single-task models as the baseline, table 4 the multi-task baseline.

    Raises:
        EvaluationError: See `relative_gains`.
    """
    return automtl_delta_t(model, baseline, directions)


def tag_delta_t(
    model: TaskMetrics, single_task: TaskMetrics, directions: Mapping[str, bool] | None = None
) -> RelativeResult:
    """Averaged relative performance Δ_T of TAG, Eq. 6, with its one metric a task.

    Raises:
        EvaluationError: See `relative_gains`; or a task has several metrics.
    """
    for task, values in model.items():
        if len(values) > 1:
            raise EvaluationError(
                f"TAG's Δ_T takes one metric a task (DS, mIoU, RMSE); {task} has {', '.join(sorted(values))}"
            )
    return automtl_delta_t(model, single_task, directions)


#: The metrics each paper compares by, by task.
PAPER_METRICS: dict[str, dict[str, tuple[str, ...]]] = {
    "fuller": {
        "detection3d": ("mean_ap", "nds"),
        "map_segmentation": ("miou",),
        "foreground_segmentation": ("miou",),
    },
    "tag": {
        "mono_detection3d": ("detection_score",),
        "semantic_segmentation": ("miou",),
        "depth": ("rmse",),
    },
    "automtl": {
        "semantic_segmentation": ("miou", "pixel_accuracy"),
        "depth": ("abs_error", "rel_error", "delta_1", "delta_2", "delta_3"),
        "normals": ("mean_deg", "median_deg", "within_11", "within_22", "within_30"),
        "edges": ("abs_error",),
        "keypoints": ("abs_error",),
    },
    "ednas": {
        "semantic_segmentation": ("miou", "pixel_accuracy"),
        "depth": ("abs_error", "rel_error"),
        "normals": ("mean_deg", "within_11", "within_22", "within_30"),
    },
}


def comparable(
    model: Mapping[str, Mapping[str, object]],
    baseline: Mapping[str, Mapping[str, object]],
    measure: str,
    chosen: Sequence[str] | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Picks from whole results what a measure compares.

    Args:
        model: By task, as `Result.to_json` gives it.
        baseline: Likewise.
        measure: Key of PAPER_METRICS.
        chosen: `task.metric` to compare instead of the paper's.

    Returns:
        Values of the model and of the baseline by task and metric: of all tasks both have.

    Raises:
        EvaluationError: Both have no task in common, or a value is missing.
    """
    wanted: dict[str, list[str]] = {}
    if chosen:
        for name in chosen:
            task, _, metric = name.partition(".")
            wanted.setdefault(task, []).append(metric)
    else:
        for task, compared in PAPER_METRICS[measure].items():
            if task in model and task in baseline:
                wanted[task] = list(compared)
    if not wanted:
        raise EvaluationError(
            f"model ({', '.join(model)}) and baselines ({', '.join(baseline)}) have no task in common that "
            f"{measure} compares ({', '.join(PAPER_METRICS[measure])})"
        )
    sides: list[dict[str, dict[str, float]]] = []
    for who, results in (("model", model), ("baseline", baseline)):
        side: dict[str, dict[str, float]] = {}
        for task, metrics in wanted.items():
            for metric in metrics:
                value = results.get(task, {}).get(metric)
                if not isinstance(value, (int, float)):
                    raise EvaluationError(f"the {who} has no {task}.{metric}")
                side.setdefault(task, {})[metric] = float(value)
        sides.append(side)
    return sides[0], sides[1]
