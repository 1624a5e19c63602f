"""Cityscapes-3D's Detection Score: the official scripts as the judge."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.geometry import rotation_from_quaternion, yaw_of
from training.evaluation.cityscapes3d_detection import (
    CLASSES,
    Cityscapes3dEvaluator,
    VehicleBox,
    amodal_box,
    evaluate_folder,
)
from training.evaluation.cityscapes_scripts import quiet_scripts
from training.evaluation.relative import HIGHER_IS_BETTER
from training.evaluation.result import EvaluationError

#: About the calibration of the data set: camera 1.7 m ahead of the rear axle, 1.2 m above the ground.
SENSOR: dict[str, Any] = {
    "fx": 2262.5,
    "fy": 2265.3,
    "u0": 1096.0,
    "v0": 513.1,
    "sensor_T_ISO_8855": [[1, 0, 0, -1.7], [0, 1, 0, 0.1], [0, 0, 1, -1.22]],
}
SIZES = {
    "car": (4.4, 1.8, 1.5),
    "truck": (7.5, 2.5, 3.2),
    "bus": (11.0, 2.5, 3.3),
    "train": (25.0, 2.6, 3.6),
    "motorcycle": (2.2, 0.9, 1.4),
    "bicycle": (1.8, 0.6, 1.2),
}


INCOMPLETE: dict[str, Any] = {
    "label": "car",
    "score": None,
    "2d": {"amodal": [0, 0, 1, 1]},
    "3d": {"center": [1, 2, 3], "dimensions": [1, 2, 3], "rotation": [1, 0, 0, 0]},
}


def boxes_of(index: int) -> list[VehicleBox]:
    """One object of each class, on a slope, far enough apart not to be taken for each other."""
    rng = np.random.default_rng(index)
    boxes = []
    for number, label in enumerate(CLASSES):
        x = 18.0 + 12.0 * number + 7.0 * index
        y = (number - 2.5) * 0.12 * x
        angles = rng.uniform(-0.1, 0.1, 2)
        box = (x, y, SIZES[label][2] / 2, *SIZES[label], float(rng.uniform(-3, 3)))
        boxes.append(VehicleBox.from_angles(label, 1.0, box, angles))
    return boxes


def image_name(index: int) -> str:
    return f"lindau_{index:06d}_000019"


def write_truth(folder: Path, images: int = 2, score: bool = False) -> Path:
    city = folder / "val" / "lindau"
    city.mkdir(parents=True)
    for index in range(images):
        objects = []
        for box in boxes_of(index):
            amodal = list(amodal_box(box, SENSOR))
            item: dict[str, Any] = {
                "2d": {"modal": amodal, "amodal": amodal},
                "3d": {
                    "center": box.centre,
                    "dimensions": box.size,
                    "rotation": box.rotation_wxyz,
                    "type": "",
                    "format": "CRS_ISO8855",
                },
                "label": box.label,
                "instanceId": 26000,
                "occlusion": 0,
                "truncation": 0,
            }
            objects.append({**item, "score": 1.0} if score else item)
        content = {"imgWidth": 2048, "imgHeight": 1024, "sensor": SENSOR, "objects": objects, "ignore": []}
        (city / f"{image_name(index)}_gtBbox3d.json").write_text(json.dumps(content))
    return folder / "val"


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_truth(tmp_path_factory.mktemp("cityscapes") / "gtBbox3d")


def judged(truth: Path, change: Any = lambda box: box, images: int = 2) -> Any:
    evaluator = Cityscapes3dEvaluator()
    for index in range(images):
        evaluator.update(image_name(index), [b for b in map(change, boxes_of(index)) if b is not None])
    return evaluator.compute(truth)


@pytest.mark.parametrize("score", [False, True])
def test_perfect_predictions_score_one(tmp_path: Path, score: bool) -> None:
    result = judged(write_truth(tmp_path, score=score))
    for name, value in result.scalars().items():
        assert value == pytest.approx(1.0, abs=1e-9), name
    assert result.class_scores == pytest.approx(dict.fromkeys(CLASSES, 1.0), abs=1e-9)
    assert result.truth_boxes == dict.fromkeys(CLASSES, 2)
    assert result.images == 2
    assert json.dumps(result.to_json(), allow_nan=False)


def test_nothing_found_scores_zero(truth: Path) -> None:
    result = judged(truth, lambda box: None)
    assert all(value == 0.0 for value in result.scalars().values())


def test_a_class_that_is_not_found_counts_in_the_mean(truth: Path) -> None:
    result = judged(truth, lambda box: None if box.label == "car" else box)
    assert result.class_scores["car"] == 0.0
    assert result.detection_score == pytest.approx(5 / 6)


def test_each_similarity_sees_its_own_error(truth: Path) -> None:
    # half of a size only: the box's outline in the image must still match at IoU 0.7
    def longer(box: VehicleBox) -> VehicleBox:
        return dataclasses.replace(box, size=(box.size[0], box.size[1], box.size[2] * 1.1))

    result = judged(truth, longer)
    assert result.average_precision == pytest.approx(1.0)
    assert result.size_similarity == pytest.approx(1 / 1.1)
    assert result.yaw_similarity == pytest.approx(1.0)
    assert result.centre_distance == pytest.approx(1.0)

    def turned(box: VehicleBox) -> VehicleBox:
        w, x, y, z = box.rotation_wxyz  # by 180 degrees about the box's own vertical axis
        return dataclasses.replace(box, rotation_wxyz=(-z, y, -x, w))

    result = judged(truth, turned)
    assert result.average_precision == pytest.approx(1.0)
    assert result.yaw_similarity == pytest.approx(0.0, abs=0.02)
    assert result.size_similarity == pytest.approx(1.0)
    assert result.detection_score < 0.8


def test_a_class_at_one_depth_only_has_no_similarity(tmp_path: Path) -> None:
    """A peculiarity of the official scripts, which the documentation names."""
    result = judged(write_truth(tmp_path, images=1), images=1)
    assert result.average_precision == pytest.approx(1.0)
    assert result.detection_score == 0.0


def test_parts_merge(truth: Path) -> None:
    parts = []
    for index in range(2):
        part = Cityscapes3dEvaluator()
        part.update(image_name(index), boxes_of(index))
        parts.append(part)
    parts[0].merge(parts[1])
    assert parts[0].compute(truth).detection_score == pytest.approx(1.0)
    with pytest.raises(EvaluationError, match="twice"):
        parts[0].merge(parts[1])


def test_metrics_have_directions(truth: Path) -> None:
    metrics = judged(truth).metrics
    assert all(HIGHER_IS_BETTER[name] == metric.higher_is_better for name, metric in metrics.items())


def test_folder_of_predictions(truth: Path, tmp_path: Path) -> None:
    evaluator = Cityscapes3dEvaluator()
    evaluator.update(image_name(0), boxes_of(0))
    evaluator.write(tmp_path / "predictions", truth)
    # the other image has no file: nothing was found in it
    result = evaluate_folder(truth, tmp_path / "predictions")
    assert 0 < result.average_precision < 1
    with pytest.raises(EvaluationError, match=r"1 images .* have no prediction, e\.g\. lindau_000001_000019"):
        evaluator.compute(truth)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "needs a list 'objects'"),
        ('{"objects": [{"label": "car"}]}', "object 0: KeyError"),
        (json.dumps({"objects": [INCOMPLETE]}), "object 0"),
    ],
)
def test_damaged_predictions_are_refused(truth: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / f"{image_name(0)}_predBbox3d.json").write_text(content)
    with pytest.raises(EvaluationError, match=f"_predBbox3d.json: .*{message}"):
        evaluate_folder(truth, tmp_path)


def test_wrong_truth_and_boxes_are_refused(truth: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no \*_gtBbox3d\.json"):
        evaluate_folder(tmp_path, tmp_path)
    with pytest.raises(EvaluationError, match="no such folder"):
        evaluate_folder(truth, tmp_path / "nowhere")
    evaluator = Cityscapes3dEvaluator()
    with pytest.raises(EvaluationError, match="no name of an image"):
        evaluator.update("lindau", [])
    good = boxes_of(0)[0]
    with pytest.raises(EvaluationError, match="unknown class 'cars'; did you mean 'car'"):
        evaluator.update(image_name(0), [dataclasses.replace(good, label="cars")])
    with pytest.raises(EvaluationError, match="not finite"):
        evaluator.update(image_name(0), [dataclasses.replace(good, score=float("nan"))])
    evaluator.update(image_name(7), [])
    with pytest.raises(EvaluationError, match="lindau_000007_000019_gtBbox3d"):
        evaluator.write(tmp_path / "out", truth)
    (tmp_path / "x_0_0_gtBbox3d.json").write_text('{"objects": [], "sensor": {}}')
    (tmp_path / "x_0_0_predBbox3d.json").write_text('{"objects": []}')
    (tmp_path / "x_0_0_gtBbox3d.json").write_text(json.dumps({"objects": [], "sensor": SENSOR}))
    with pytest.raises(EvaluationError, match="no object of"):
        evaluate_folder(tmp_path, tmp_path)


@given(st.floats(-3.1, 3.1), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
@settings(max_examples=20)
def test_angles_become_a_rotation_and_back(yaw: float, pitch: float, roll: float) -> None:
    box = VehicleBox.from_angles("car", 0.5, (1.0, 2.0, 3.0, 4.0, 2.0, 1.5, yaw), (pitch, roll))
    w, x, y, z = box.rotation_wxyz
    rotation = rotation_from_quaternion((x, y, z, w))
    assert yaw_of(rotation) == pytest.approx(yaw, abs=1e-9)
    assert np.arcsin(-rotation[2, 0]) == pytest.approx(pitch, abs=1e-9)
    assert np.arctan2(rotation[2, 1], rotation[2, 2]) == pytest.approx(roll, abs=1e-9)


def test_the_scripts_read_angles_in_another_order() -> None:
    """Of pyquaternion's `yaw_pitch_roll`, by which orientations are judged: it is R = Rx Ry Rz."""
    from pyquaternion import Quaternion

    def about(axis: str, angle: float) -> Any:
        return Quaternion(axis=[float(axis == name) for name in "xyz"], angle=angle)

    angles = (1.0, 0.1, 0.25)
    read = (about("x", angles[2]) * about("y", angles[1]) * about("z", angles[0])).yaw_pitch_roll
    assert read == pytest.approx(angles)
    ours = Quaternion(
        VehicleBox.from_angles("car", 0.5, (0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 1.0), (0.1, 0.25)).rotation_wxyz
    )
    assert ours.yaw_pitch_roll != pytest.approx(angles, abs=0.01)


def test_the_scripts_leave_logging_and_the_folder_alone(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    judged(truth)
    with quiet_scripts():
        import cityscapesscripts.evaluation.evalObjectDetection3d  # noqa: F401
    assert list(logging.getLogger().handlers) == handlers
    assert logging.getLogger().level == level
    assert logging.root.manager.disable == 0
    assert list(tmp_path.iterdir()) == []
