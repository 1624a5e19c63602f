"""nuScenes detection: mAP, true-positive errors and NDS by the official devkit.

The devkit judges; here its inputs are prepared, its results typed. Nothing is written into the data set's
folder: the custom split's `splits.json` the devkit wants lies in a temporary one.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import ArrayLike

from perception_core.boxes import Box3D
from perception_core.labels import NUSCENES_DETECTION_CLASSES
from training.evaluation.nuscenes_split import split_samples
from training.evaluation.nuscenes_submission import Submission
from training.evaluation.result import EvaluationError, Metric, Result

if TYPE_CHECKING:
    from nuscenes import NuScenes
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import (
        DetectionConfig,
        DetectionMetricDataList,
        DetectionMetrics,
    )

#: The devkit's configuration of the detection task.
CONFIGURATION = "detection_cvpr_2019"
_SPLIT = "evaluated"


@dataclass(frozen=True)
class PrecisionRecall:
    """One class's curve at one matching distance.

    Attributes:
        recall: 0, 0.01 … 1.
        precision: At these recalls; 0 beyond the highest recall reached.
        confidence: Score at these recalls.
    """

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True)
class NuscenesDetectionResult(Result):
    """Result of the devkit's DetectionEval.

    Attributes:
        mean_ap: Mean over the ten classes and matching distances 0.5, 1, 2, 4 m.
        nds: nuScenes detection score: (5 mAP + sum of the five 1 - min(1, error)) / 10.
        translation_m, scale, orientation_rad, velocity_mps, attribute: Mean true-positive errors (mATE,
            mASE, mAOE, mAVE, mAAE); 1 for a class without matches.
        class_ap: By class, mean over distances.
        class_ap_at: By class and distance in metres.
        class_errors: By class and error; NaN where the task has none (cones have no heading).
        truth_boxes: Evaluated boxes by class. A class with 0 has AP 0 whatever is predicted.
        predicted_boxes: Evaluated predictions by class.
        samples: Number of samples.
        curves: Precision over recall by class and distance.
    """

    task: ClassVar[str] = "detection3d"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mean_ap": Metric("mAP", True, "%"),
        "nds": Metric("NDS", True, "%"),
        "translation_m": Metric("mATE", False, "m"),
        "scale": Metric("mASE", False, "1 - IoU"),
        "orientation_rad": Metric("mAOE", False, "rad"),
        "velocity_mps": Metric("mAVE", False, "m/s"),
        "attribute": Metric("mAAE", False, "1 - accuracy"),
    }

    mean_ap: float
    nds: float
    translation_m: float
    scale: float
    orientation_rad: float
    velocity_mps: float
    attribute: float
    class_ap: dict[str, float]
    class_ap_at: dict[str, dict[str, float]]
    class_errors: dict[str, dict[str, float]]
    truth_boxes: dict[str, int]
    predicted_boxes: dict[str, int]
    samples: int
    curves: dict[str, dict[str, PrecisionRecall]]


class NuscenesDetectionEvaluator:
    """Collects boxes by sample; the devkit's tables are only opened to compute."""

    def __init__(self) -> None:
        """Starts empty."""
        self.submission = Submission()

    def update(self, sample_token: str, boxes: Iterable[Box3D], world_from_ego_44: ArrayLike) -> None:
        """Adds a sample's boxes in the ego frame; see `Submission.add`."""
        self.submission.add(sample_token, boxes, world_from_ego_44)

    def merge(self, other: NuscenesDetectionEvaluator) -> None:
        """Adds the samples of another process.

        Raises:
            EvaluationError: A sample is in both.
        """
        self.submission.merge(other.submission)

    def compute(self, nuscenes: NuScenes, split: str) -> NuscenesDetectionResult:
        """Judges what was collected against a split's annotations.

        Raises:
            EvaluationError: Samples of the split are missing; see also `evaluate_submission`.
        """
        return evaluate_submission(nuscenes, self.submission, split)


def evaluate_submission(
    nuscenes: NuScenes, submission: Submission, split: str, only: Collection[str] | None = None
) -> NuscenesDetectionResult:
    """Judges a submission by the devkit's DetectionEval.

    Args:
        nuscenes: The devkit's tables (`open_nuscenes`).
        submission: Has every sample of the split; others are left out.
        split: See `split_scenes`.
        only: Samples of the split that count; None: all. For trials on a part of a split.

    Raises:
        EvaluationError: A sample that counts is missing, none of them has an annotated box, or the split's
            scenes cannot be found.
    """
    tokens = split_samples(nuscenes, split)
    if only is not None:
        tokens = [token for token in tokens if token in only]
        if not tokens:
            raise EvaluationError(f"none of the {len(only)} samples is in split '{split}'")
    missing = [token for token in tokens if token not in submission.results]
    if missing:
        raise EvaluationError(
            f"the submission lacks {len(missing)} of the {len(tokens)} samples of split '{split}', e.g. "
            f"{missing[0]}; a sample in which nothing was found needs an empty list"
        )
    truth = evaluated_truth(nuscenes, tokens)
    configuration = _configuration()
    if any(submission.results[token] for token in tokens):
        metrics, data, predicted = _judge(nuscenes, submission, tokens)
    else:
        # the devkit cannot tell the type of boxes from none at all
        metrics, data = _nothing_found(configuration)
        predicted = {}
    return _typed(metrics, data, _count(truth.all), predicted, len(tokens), configuration)


def evaluated_truth(nuscenes: NuScenes, tokens: Sequence[str]) -> EvalBoxes:
    """Returns the annotations the devkit evaluates: in range, with points and not in bike racks.

    Raises:
        EvaluationError: There is none.
    """
    _headless()
    from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt_of_sample_tokens
    from nuscenes.eval.detection.data_classes import DetectionBox

    with _quiet():
        boxes = load_gt_of_sample_tokens(nuscenes, list(tokens), DetectionBox)
        if not boxes.all:
            raise EvaluationError(f"{nuscenes.dataroot}: the {len(tokens)} samples have no annotated box")
        return filter_eval_boxes(nuscenes, add_center_dist(nuscenes, boxes), _configuration().class_range)


def class_coverage(nuscenes: NuScenes, split: str) -> dict[str, int]:
    """Counts a split's boxes that the devkit evaluates, by class.

    A class with none gets AP 0 whatever is predicted, so an evaluation split must have all ten.

    Raises:
        EvaluationError: The split has no samples or no boxes.
    """
    counts = _count(evaluated_truth(nuscenes, split_samples(nuscenes, split)).all)
    return {name: counts.get(name, 0) for name in NUSCENES_DETECTION_CLASSES}


def _headless() -> None:
    """The devkit imports pyplot, which looks for a display unless told otherwise."""
    import matplotlib

    matplotlib.use("Agg")


def _configuration() -> DetectionConfig:
    from nuscenes.eval.common.config import config_factory

    return config_factory(CONFIGURATION)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the devkit's progress bars off the terminal; its errors are exceptions."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _judge(
    nuscenes: NuScenes, submission: Submission, tokens: Sequence[str]
) -> tuple[DetectionMetrics, DetectionMetricDataList, dict[str, int]]:
    from nuscenes.eval.detection.evaluate import DetectionEval

    scene_tokens = {nuscenes.get("sample", token)["scene_token"] for token in tokens}
    scenes = [row["name"] for row in nuscenes.scene if row["token"] in scene_tokens]
    with tempfile.TemporaryDirectory(prefix="mmmt-evaluation-") as folder, _quiet():
        place = Path(folder)
        tables = place / nuscenes.version
        tables.mkdir()
        (tables / "splits.json").write_text(json.dumps({_SPLIT: scenes}), encoding="utf-8")
        # the devkit judges whole scenes; samples that do not count are taken out of both sides below
        results: dict[str, list[dict[str, Any]]] = {
            row["token"]: [] for row in nuscenes.sample if row["scene_token"] in scene_tokens
        }
        results.update({token: submission.results[token] for token in tokens})
        chosen = Submission(results, submission.meta)
        chosen.write(place / "submission.json")
        # the same tables, with the split found in our folder
        elsewhere = copy.copy(nuscenes)
        elsewhere.dataroot = folder
        judge = DetectionEval(
            elsewhere,
            _configuration(),
            str(place / "submission.json"),
            _SPLIT,
            output_dir=str(place / "out"),
            verbose=False,
        )
        judge.gt_boxes = _boxes_of(judge.gt_boxes, tokens)
        judge.pred_boxes = _boxes_of(judge.pred_boxes, tokens)
        metrics, data = judge.evaluate()
    return metrics, data, _count(judge.pred_boxes.all)


def _boxes_of(boxes: EvalBoxes, tokens: Sequence[str]) -> EvalBoxes:
    from nuscenes.eval.common.data_classes import EvalBoxes

    kept = EvalBoxes()
    for token in tokens:
        kept.add_boxes(token, boxes[token])
    return kept


def _nothing_found(configuration: DetectionConfig) -> tuple[DetectionMetrics, DetectionMetricDataList]:
    from nuscenes.eval.detection.constants import TP_METRICS
    from nuscenes.eval.detection.data_classes import (
        DetectionMetricData,
        DetectionMetricDataList,
        DetectionMetrics,
    )

    metrics, data = DetectionMetrics(configuration), DetectionMetricDataList()
    for name in configuration.class_names:
        for distance in configuration.dist_ths:
            data.set(name, distance, DetectionMetricData.no_predictions())
            metrics.add_label_ap(name, distance, 0.0)
        for error in TP_METRICS:
            metrics.add_label_tp(name, error, float("nan") if _has_no(name, error) else 1.0)
    return metrics, data


def _has_no(label: str, error: str) -> bool:
    """Cones have no heading, and neither cones nor barriers move or have attributes."""
    if error == "orient_err":
        return label == "traffic_cone"
    return error in ("vel_err", "attr_err") and label in ("traffic_cone", "barrier")


def _count(boxes: Iterable[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for box in boxes:
        counts[box.detection_name] = counts.get(box.detection_name, 0) + 1
    return counts


def _typed(
    metrics: DetectionMetrics,
    data: DetectionMetricDataList,
    truth: Mapping[str, int],
    predicted: Mapping[str, int],
    samples: int,
    configuration: DetectionConfig,
) -> NuscenesDetectionResult:
    from nuscenes.eval.detection.constants import TP_METRICS

    errors = metrics.tp_errors
    distances = configuration.dist_ths
    names = NUSCENES_DETECTION_CLASSES
    return NuscenesDetectionResult(
        mean_ap=float(metrics.mean_ap),
        nds=float(metrics.nd_score),
        translation_m=errors["trans_err"],
        scale=errors["scale_err"],
        orientation_rad=errors["orient_err"],
        velocity_mps=errors["vel_err"],
        attribute=errors["attr_err"],
        class_ap={name: float(metrics.mean_dist_aps[name]) for name in names},
        class_ap_at={name: {f"{d:g}": metrics.get_label_ap(name, d) for d in distances} for name in names},
        class_errors={name: {e: float(metrics.get_label_tp(name, e)) for e in TP_METRICS} for name in names},
        truth_boxes={name: truth.get(name, 0) for name in names},
        predicted_boxes={name: predicted.get(name, 0) for name in names},
        samples=samples,
        curves={name: {f"{d:g}": _curve(data[(name, d)]) for d in distances} for name in names},
    )


def _curve(data: Any) -> PrecisionRecall:
    return PrecisionRecall(
        *(
            tuple(float(value) for value in values)
            for values in (data.recall, data.precision, data.confidence)
        )
    )
