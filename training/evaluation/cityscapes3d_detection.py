"""Cityscapes-3D: the Detection Score by the official scripts (Gählert et al., arXiv 2006.07864).

The Detection Score of a class is its 2D average precision times the mean of four similarities of its true
positives (centre distance, size, yaw, pitch and roll), each averaged over the depths it occurs at; the
headline, TAG's DS, is the mean over classes in the truth.

What the scripts (2.3.0) do that one would not expect:

- Ground-truth objects need a `score` like predictions, which the data set's files may lack: it is added to a
  copy.
- The 2D boxes of predictions are computed from their 3D boxes for an image of 2048 x 1024, those of the truth
  are taken from its files.
- Yaw, pitch and roll are read by `pyquaternion.yaw_pitch_roll`, which takes the rotation for Rx Ry Rz, not
  for the Rz Ry Rx of ISO 8855 and of our samples. Boxes are handed over as rotations, so only the two
  similarities of orientation see it, and on level ground nothing does.
- A similarity is 0 for a class all of whose matches lie in one bin of 5 m, so a perfect prediction scores 1
  only where each class occurs at two depths at least.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from perception_core.configuration import nearest
from perception_core.geometry import quaternion_from_rotation, rotation_about_z
from training.datasets.files import DataError, read_json
from training.evaluation.cityscapes_scripts import quiet_scripts
from training.evaluation.result import EvaluationError, Metric, Result

CLASSES: tuple[str, ...] = ("car", "truck", "bus", "train", "motorcycle", "bicycle")
_SIMILARITIES = {
    "centre_distance": "Center_Dist",
    "size_similarity": "Size_Similarity",
    "yaw_similarity": "OS_Yaw",
    "pitch_roll_similarity": "OS_Pitch_Roll",
}
#: City, sequence and frame begin the name of every file that belongs to an image.
_IMAGE_NAME = re.compile(r"^[^_/]+_\d+_\d+$")


@dataclass(frozen=True)
class VehicleBox:
    """A box in the vehicle frame of Cityscapes (ISO 8855: x forward, y left, z up, rear axle on the ground).

    Attributes:
        label: One of CLASSES.
        score: 0..1.
        centre: Metres.
        size: Length, width, height in metres.
        rotation_wxyz: Vehicle from box, unit quaternion with w first.
    """

    label: str
    score: float
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation_wxyz: tuple[float, float, float, float]

    @classmethod
    def from_angles(
        cls, label: str, score: float, box_7: Sequence[float], pitch_roll_2: Sequence[float] = (0.0, 0.0)
    ) -> VehicleBox:
        """Makes a box as our samples have it: x y z l w h yaw and pitch, roll; rotation Rz Ry Rx."""
        x, y, z, length, width, height, yaw = (float(value) for value in box_7[:7])
        pitch, roll = (float(value) for value in pitch_roll_2)
        rotation_33 = rotation_about_z(yaw) @ _about_y(pitch) @ _about_x(roll)
        qx, qy, qz, qw = (float(value) for value in quaternion_from_rotation(rotation_33))
        return cls(label, float(score), (x, y, z), (length, width, height), (qw, qx, qy, qz))


def _about_y(angle: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])


def _about_x(angle: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])


@dataclass(frozen=True)
class Cityscapes3dResult(Result):
    """Result of the official evaluation; means are over classes in the truth.

    Attributes:
        detection_score: Mean Detection Score, TAG's DS.
        average_precision: Mean 2D average precision of amodal boxes at IoU 0.7.
        centre_distance, size_similarity, yaw_similarity, pitch_roll_similarity: Mean similarities of true
            positives, 1 is best.
        class_scores: Detection Score by class in the truth.
        class_values: By class in the truth: its average precision and similarities.
        working_confidence: By class: the score at which similarities are measured, chosen by the scripts.
        truth_boxes: Boxes in the truth by class.
        images: Number of images.
        curves: By class: recall and precision at the scripts' 51 thresholds of the score.
    """

    task: ClassVar[str] = "mono_detection3d"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "detection_score": Metric("Detection Score", True, "%"),
        "average_precision": Metric("2D AP", True, "%"),
        "centre_distance": Metric("centre distance", True, "%"),
        "size_similarity": Metric("size similarity", True, "%"),
        "yaw_similarity": Metric("yaw similarity", True, "%"),
        "pitch_roll_similarity": Metric("pitch/roll similarity", True, "%"),
    }

    detection_score: float
    average_precision: float
    centre_distance: float
    size_similarity: float
    yaw_similarity: float
    pitch_roll_similarity: float
    class_scores: dict[str, float]
    class_values: dict[str, dict[str, float]]
    working_confidence: dict[str, float]
    truth_boxes: dict[str, int]
    images: int
    curves: dict[str, dict[str, tuple[float, ...]]]


class Cityscapes3dEvaluator:
    """Collects boxes by image; judged by the official scripts."""

    def __init__(self) -> None:
        """Starts empty."""
        self._boxes: dict[str, list[VehicleBox]] = {}

    def update(self, image: str, boxes: Iterable[VehicleBox]) -> None:
        """Adds an image's boxes; an empty list says that nothing was found.

        Args:
            image: City, sequence and frame, e.g. `lindau_000000_000019`.
            boxes: In the vehicle frame.

        Raises:
            EvaluationError: The image was added before, its name has another form, or a box is not finite or
                of an unknown class.
        """
        if not _IMAGE_NAME.match(image):
            raise EvaluationError(f"'{image}' is no name of an image such as lindau_000000_000019")
        if image in self._boxes:
            raise EvaluationError(f"image {image} was added twice")
        found = list(boxes)
        for box in found:
            if box.label not in CLASSES:
                raise EvaluationError(
                    f"image {image}: unknown class '{box.label}'" + nearest(box.label, CLASSES)
                )
            numbers = (box.score, *box.centre, *box.size, *box.rotation_wxyz)
            if not np.isfinite(numbers).all() or min(box.size) <= 0:
                raise EvaluationError(
                    f"image {image}: box of {box.label} is not finite or has no size: {numbers}"
                )
        self._boxes[image] = found

    def merge(self, other: Cityscapes3dEvaluator) -> None:
        """Adds the images of another process.

        Raises:
            EvaluationError: An image is in both.
        """
        for image, boxes in other._boxes.items():
            self.update(image, boxes)

    def write(self, folder: Path, truth_folder: Path) -> None:
        """Writes one prediction file an image, as Cityscapes' server wants them.

        Args:
            folder: Written to.
            truth_folder: With the images' annotations or at least their `sensor`: 2D boxes need a camera.

        Raises:
            EvaluationError: An image's truth file is missing or damaged.
        """
        sensors = {image: content["sensor"] for image, content in _read_truth(truth_folder).items()}
        folder.mkdir(parents=True, exist_ok=True)
        for image, boxes in self._boxes.items():
            if image not in sensors:
                raise EvaluationError(f"{truth_folder}: no {image}_gtBbox3d.json")
            objects = [_object(box, amodal_box(box, sensors[image])) for box in boxes]
            file = folder / f"{image}_predBbox3d.json"
            file.write_text(json.dumps({"objects": objects}, allow_nan=False), encoding="utf-8")

    def compute(self, truth_folder: Path) -> Cityscapes3dResult:
        """Judges what was collected against a folder of annotations.

        Raises:
            EvaluationError: See `evaluate_folder`; or images of the truth were not added.
        """
        missing = sorted(set(_read_truth(truth_folder)) - set(self._boxes))
        if missing:
            raise EvaluationError(
                f"{len(missing)} images of {truth_folder} have no prediction, e.g. {missing[0]}; an image in "
                "which nothing was found needs an empty list"
            )
        with tempfile.TemporaryDirectory(prefix="mmmt-evaluation-") as folder:
            self.write(Path(folder), truth_folder)
            return evaluate_folder(truth_folder, Path(folder))


def amodal_box(box: VehicleBox, sensor: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Returns the 2D box (x, y, width, height) around a 3D box in a 2048 x 1024 image, by the scripts."""
    with quiet_scripts():
        from cityscapesscripts.helpers.box3dImageTransform import Box3dImageTransform, Camera
    camera = Camera(*(sensor[name] for name in ("fx", "fy", "u0", "v0", "sensor_T_ISO_8855")))
    transform = Box3dImageTransform(camera)
    transform.initialize_box(box.size, box.rotation_wxyz, box.centre)
    left, top, right, bottom = (float(value) for value in transform.get_amodal_box_2d())
    return left, top, right - left, bottom - top


def _object(box: VehicleBox, amodal_xywh: ArrayLike) -> dict[str, Any]:
    corners = [float(value) for value in np.asarray(amodal_xywh)]
    return {
        "2d": {"modal": corners, "amodal": corners},
        "3d": {
            "center": list(box.centre),
            "dimensions": list(box.size),
            "rotation": list(box.rotation_wxyz),
        },
        "label": box.label,
        "score": box.score,
    }


def _read_truth(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads annotations by image, with whatever the scripts want added.

    Raises:
        EvaluationError: There is none, or one is damaged.
    """
    files = sorted(folder.rglob("*_gtBbox3d.json"))
    if not files:
        raise EvaluationError(f"{folder}: no *_gtBbox3d.json in it or below it")
    truth = {}
    for file in files:
        try:
            content = read_json(file)
        except DataError as error:
            raise EvaluationError(str(error)) from error
        if not isinstance(content, dict) or not {"objects", "sensor"} <= set(content):
            raise EvaluationError(f"{file}: needs 'objects' and 'sensor'")
        objects = [{"score": 1.0, **item} for item in content["objects"]]
        truth[file.name.removesuffix("_gtBbox3d.json")] = {"ignore": [], **content, "objects": objects}
    return truth


def evaluate_folder(truth_folder: Path, prediction_folder: Path) -> Cityscapes3dResult:
    """Judges a folder of prediction files.

    Args:
        truth_folder: With *_gtBbox3d.json at any depth, e.g. gtBbox3d/val.
        prediction_folder: With one JSON file an image, whose names begin like the images'. An image without a
            file counts as one in which nothing was found.

    Raises:
        EvaluationError: The truth or a prediction is missing or damaged, or no object of the classes is in
            the truth.
    """
    truth = _read_truth(truth_folder)
    _check_predictions(prediction_folder)
    with quiet_scripts(), tempfile.TemporaryDirectory(prefix="mmmt-evaluation-") as folder:
        from cityscapesscripts.evaluation.evalObjectDetection3d import Box3dEvaluator
        from cityscapesscripts.evaluation.objectDetectionHelpers import EvaluationParameters

        for image, content in truth.items():
            (Path(folder) / f"{image}_gtBbox3d.json").write_text(json.dumps(content), encoding="utf-8")
        judge = Box3dEvaluator(EvaluationParameters(list(CLASSES)))
        judge.loadGT(folder)
        counts = {name: int(count) for name, count in judge._stats["GT_stats"].items()}
        if not any(counts.values()):
            raise EvaluationError(f"{truth_folder}: no object of {', '.join(CLASSES)} in {len(truth)} images")
        judge.loadPredictions(str(prediction_folder))
        _run(judge)
    return _typed(judge.results, counts, len(truth))


def _run(judge: Any) -> None:
    import tqdm

    # the scripts show a bar of their own for each run; ours is the caller's
    from cityscapesscripts.evaluation import evalObjectDetection3d

    bar = evalObjectDetection3d.tqdm
    evalObjectDetection3d.tqdm = lambda items: tqdm.tqdm(items, disable=True)
    try:
        judge.evaluate()
    finally:
        evalObjectDetection3d.tqdm = bar


def _check_predictions(folder: Path) -> None:
    """Refuses what the scripts would only log and leave out."""
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder of predictions")
    for file in sorted(folder.rglob("*.json")):
        try:
            content = read_json(file)
        except DataError as error:
            raise EvaluationError(str(error)) from error
        if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
            raise EvaluationError(f"{file}: needs a list 'objects'")
        for number, item in enumerate(content["objects"]):
            try:
                values = (
                    *item["3d"]["center"],
                    *item["3d"]["dimensions"],
                    *item["3d"]["rotation"],
                    item["score"],
                )
                complete = len(values) == 11 and bool(np.isfinite(np.array(values, dtype=np.float64)).all())
                complete = (
                    complete and isinstance(item["2d"]["amodal"], list) and isinstance(item["label"], str)
                )
            except (KeyError, TypeError, ValueError) as error:
                raise EvaluationError(f"{file}: object {number}: {type(error).__name__}: {error}") from error
            if not complete:
                raise EvaluationError(f"{file}: object {number} is incomplete or not finite")


def _typed(results: Mapping[str, Any], counts: Mapping[str, int], images: int) -> Cityscapes3dResult:
    there = [name for name in CLASSES if counts[name]]
    similarities = {name: float(results["m" + key]) for name, key in _SIMILARITIES.items()}
    return Cityscapes3dResult(
        detection_score=float(results["mDetection_Score"]),
        average_precision=float(results["mAP"]),
        **similarities,
        class_scores={name: float(results["Detection_Score"][name]) for name in there},
        class_values={
            name: {
                "average_precision": float(results["AP"][name]["auc"]),
                **{field: float(results[key][name]["auc"]) for field, key in _SIMILARITIES.items()},
            }
            for name in there
        },
        working_confidence={name: float(results["working_confidence"][name]) for name in there},
        truth_boxes=dict(counts),
        images=images,
        curves={
            name: {key: tuple(results["AP"][name]["data"][key]) for key in ("recall", "precision")}
            for name in there
        },
    )
