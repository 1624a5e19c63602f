"""nuScenes detection: the official devkit as the judge of what is written here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes_set_fixtures import VERSION, write_nuscenes_set

from perception_core.boxes import Box3D
from perception_core.geometry import (
    inverse,
    quaternion_from_rotation,
    rotation_about_z,
    rotation_from_quaternion,
    transform_from_quaternion,
    transform_of,
    yaw_of,
)
from perception_core.labels import NUSCENES_DETECTION_CLASSES
from training.evaluation.nuscenes_detection import (
    NuscenesDetectionEvaluator,
    class_coverage,
    evaluate_submission,
)
from training.evaluation.nuscenes_split import open_nuscenes, split_samples, split_scenes
from training.evaluation.nuscenes_submission import (
    MAX_BOXES,
    Submission,
    attribute_of,
    ground_truth_submission,
    row_of,
)
from training.evaluation.relative import HIGHER_IS_BETTER
from training.evaluation.result import EvaluationError, write_json

if TYPE_CHECKING:
    from nuscenes import NuScenes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuscenes_set(tmp_path_factory.mktemp("nuscenes") / "set")


@pytest.fixture(scope="module")
def nuscenes(root: Path) -> NuScenes:
    return open_nuscenes(root)


@pytest.fixture
def perfect(nuscenes: NuScenes) -> Submission:
    return ground_truth_submission(nuscenes, split_samples(nuscenes, "val"))


def ego_boxes(nuscenes: NuScenes, token: str) -> tuple[list[Box3D], np.ndarray]:
    """A sample's annotations as a network in the ego frame would find them."""
    sample = nuscenes.get("sample", token)
    pose = nuscenes.get(
        "ego_pose", nuscenes.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"]
    )
    w, x, y, z = pose["rotation"]
    world_from_ego = transform_from_quaternion(pose["translation"], (x, y, z, w))
    boxes = []
    for row in ground_truth_submission(nuscenes, [token]).results[token]:
        w, x, y, z = row["rotation"]
        local = inverse(world_from_ego) @ transform_from_quaternion(row["translation"], (x, y, z, w))
        velocity = world_from_ego[:3, :3].T @ [*row["velocity"], 0.0]
        width, length, height = row["size"]
        boxes.append(
            Box3D(
                row["detection_name"],
                0.9,
                tuple(local[:3, 3]),
                (length, width, height),
                yaw_of(local),
                (velocity[0], velocity[1]),
            )
        )
    return boxes, world_from_ego


def test_ground_truth_as_prediction_is_perfect(nuscenes: NuScenes, perfect: Submission) -> None:
    result = evaluate_submission(nuscenes, perfect, "val")
    assert result.mean_ap == pytest.approx(1.0, abs=1e-9)
    assert result.nds == pytest.approx(1.0, abs=1e-6)
    assert all(value == pytest.approx(1.0, abs=1e-9) for value in result.class_ap.values())
    assert result.translation_m == result.velocity_mps == result.attribute == 0.0
    assert result.truth_boxes == dict.fromkeys(NUSCENES_DETECTION_CLASSES, 6)
    assert result.predicted_boxes == result.truth_boxes
    assert result.samples == 3


def test_boxes_in_the_ego_frame_are_perfect_too(nuscenes: NuScenes, tmp_path: Path) -> None:
    parts = [NuscenesDetectionEvaluator(), NuscenesDetectionEvaluator()]
    tokens = split_samples(nuscenes, "val")
    for index, token in enumerate(tokens):
        parts[index % 2].update(token, *ego_boxes(nuscenes, token))
    parts[0].merge(parts[1])
    result = parts[0].compute(nuscenes, "val")
    assert result.mean_ap == pytest.approx(1.0, abs=1e-9)
    # attributes follow from class and speed, and are the annotated ones here
    assert result.nds == pytest.approx(1.0, abs=1e-6)
    write_json(tmp_path / "result.json", {"detection3d": result})
    read = json.loads((tmp_path / "result.json").read_text())["detection3d"]
    assert read["mean_ap"] == result.mean_ap
    assert read["class_errors"]["traffic_cone"]["orient_err"] is None
    assert read["curves"]["car"]["2"]["precision"] == [1.0] * 101


def test_nothing_found_scores_zero(nuscenes: NuScenes) -> None:
    evaluator = NuscenesDetectionEvaluator()
    for token in split_samples(nuscenes, "val"):
        evaluator.update(token, [], np.eye(4))
    result = evaluator.compute(nuscenes, "val")
    assert (result.mean_ap, result.nds) == (0.0, 0.0)
    assert result.translation_m == 1.0
    assert sum(result.predicted_boxes.values()) == 0


def test_boxes_elsewhere_score_zero(nuscenes: NuScenes, perfect: Submission) -> None:
    for rows in perfect.results.values():
        for row in rows:
            row["translation"][0] += 6.0 if row["translation"][0] < 100 else -6.0
            row["translation"][2] += 50.0
    result = evaluate_submission(nuscenes, perfect, "val")
    assert result.mean_ap < 0.1


def test_result_grows_worse_with_the_distance(nuscenes: NuScenes, perfect: Submission) -> None:
    """Boxes 1.5 m off match at 2 and 4 m only: half of the four distances."""
    for rows in perfect.results.values():
        for row in rows:
            row["translation"][0] += 1.5
    result = evaluate_submission(nuscenes, perfect, "val")
    assert result.class_ap_at["car"] == pytest.approx({"0.5": 0.0, "1": 0.0, "2": 1.0, "4": 1.0}, abs=1e-9)
    assert result.class_ap["car"] == pytest.approx(0.5, abs=1e-9)
    assert result.translation_m == pytest.approx(1.5)


def test_all_metrics_have_a_direction(nuscenes: NuScenes, perfect: Submission) -> None:
    metrics = evaluate_submission(nuscenes, perfect, "val").metrics
    assert {name: HIGHER_IS_BETTER[name] for name in metrics} == {
        name: metric.higher_is_better for name, metric in metrics.items()
    }


def test_only_the_samples_of_the_split_count(nuscenes: NuScenes) -> None:
    everything = ground_truth_submission(nuscenes, split_samples(nuscenes, "all"))
    assert len(everything.results) == 6
    assert evaluate_submission(nuscenes, everything, "val").samples == 3
    assert evaluate_submission(nuscenes, everything, "all").samples == 6
    assert evaluate_submission(nuscenes, everything, "train").mean_ap == pytest.approx(1.0, abs=1e-9)


def test_the_data_set_is_left_as_it_is(root: Path, nuscenes: NuScenes, perfect: Submission) -> None:
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    evaluate_submission(nuscenes, perfect, "val")
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    assert nuscenes.dataroot == str(root)


def test_class_coverage(nuscenes: NuScenes) -> None:
    assert class_coverage(nuscenes, "val") == dict.fromkeys(NUSCENES_DETECTION_CLASSES, 6)


def test_class_without_truth_is_counted(tmp_path: Path) -> None:
    root = write_nuscenes_set(tmp_path / "set", scenes=1, samples=1, objects_per_class=1)
    file = root / VERSION / "sample_annotation.json"
    rows = json.loads(file.read_text())
    for row in rows:
        if "bicycle" in row["token"]:
            row["num_lidar_pts"] = 0
        if "trafficcone" in row["token"]:
            row["translation"][0] += 35.0
    file.write_text(json.dumps(rows))
    nuscenes = open_nuscenes(root)
    coverage = class_coverage(nuscenes, "val")
    assert [name for name, count in coverage.items() if not count] == ["bicycle", "traffic_cone"]
    # without a neighbour in time a velocity is not known: NaN in the devkit, 0 in the submission
    perfect = ground_truth_submission(nuscenes, split_samples(nuscenes, "val"))
    result = evaluate_submission(nuscenes, perfect, "val")
    assert result.mean_ap == pytest.approx(0.8, abs=1e-9)


def test_missing_samples_are_named(nuscenes: NuScenes, perfect: Submission) -> None:
    del perfect.results["scene1-sample1"]
    with pytest.raises(EvaluationError, match=r"lacks 1 of the 3 samples.*scene1-sample1"):
        evaluate_submission(nuscenes, perfect, "val")


def test_unknown_splits_and_versions_are_refused(root: Path, nuscenes: NuScenes, tmp_path: Path) -> None:
    assert split_scenes(nuscenes, "val") == ["scene-0002"]
    with pytest.raises(EvaluationError, match="did you mean 'val'"):
        split_scenes(nuscenes, "vali")
    with pytest.raises(
        EvaluationError, match=r"none of the 2 scenes of split 'mini_val'.*use train, val, all"
    ):
        split_scenes(nuscenes, "mini_val")
    with pytest.raises(EvaluationError, match="did you mean"):
        open_nuscenes(root, "v1.0-test")
    with pytest.raises(EvaluationError, match="no v1"):
        open_nuscenes(tmp_path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    root = write_nuscenes_set(tmp_path / "set", scenes=1, samples=1)
    (root / VERSION / "ego_pose.json").unlink()
    with pytest.raises(EvaluationError, match=r"ego_pose\.json"):
        open_nuscenes(root)


# -- the submission ------------------------------------------------------------------------------------------


def test_submission_survives_its_file(tmp_path: Path, nuscenes: NuScenes, perfect: Submission) -> None:
    perfect.write(tmp_path / "submission.json")
    read = Submission.read(tmp_path / "submission.json")
    assert read.results == perfect.results
    assert read.meta == perfect.meta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detection_name": "caar"}, "did you mean 'car'"),
        ({"attribute_name": "vehicle.flying"}, "unknown attribute"),
        ({"translation": [0.0, 1.0]}, "'translation' must be a list of 3"),
        ({"size": [1.0, None, 1.0]}, "'size' is not finite"),
        ({"detection_score": None}, "'detection_score' must be a number"),
        ({"sample_token": "other"}, "'sample_token' is other"),
    ],
)
def test_wrong_submissions_are_refused(
    tmp_path: Path, perfect: Submission, change: dict[str, object], message: str
) -> None:
    next(iter(perfect.results.values()))[1].update(change)
    file = tmp_path / "submission.json"
    file.write_text(json.dumps({"meta": {}, "results": perfect.results}))
    with pytest.raises(EvaluationError, match=f"sample scene1-sample0, box 1: .*{message}"):
        Submission.read(file)


def test_files_that_are_no_submission_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "submission.json"
    with pytest.raises(EvaluationError, match="missing"):
        Submission.read(file)
    file.write_text("{")
    with pytest.raises(EvaluationError, match="not valid JSON"):
        Submission.read(file)
    file.write_text("[]")
    with pytest.raises(EvaluationError, match="'meta' and 'results'"):
        Submission.read(file)
    file.write_text(json.dumps({"meta": {}, "results": {"a": [{}] * (MAX_BOXES + 1)}}))
    with pytest.raises(EvaluationError, match="at most 500"):
        Submission.read(file)


def test_the_best_boxes_are_kept() -> None:
    boxes = [Box3D("car", score / 600, (5.0, 0.0, 1.0), (4.0, 2.0, 1.5), 0.0) for score in range(600)]
    submission = Submission()
    submission.add("a", boxes, np.eye(4))
    rows = submission.results["a"]
    assert len(rows) == MAX_BOXES
    assert rows[0]["detection_score"] == pytest.approx(599 / 600)
    assert rows[-1]["detection_score"] == pytest.approx(100 / 600)
    with pytest.raises(EvaluationError, match="twice"):
        submission.add("a", [], np.eye(4))
    with pytest.raises(EvaluationError, match="rigid"):
        submission.add("b", [], np.full((4, 4), np.nan))


def test_boxes_that_are_none_are_refused() -> None:
    with pytest.raises(EvaluationError, match="not finite"):
        row_of("a", Box3D("car", 0.5, (math.nan, 0.0, 1.0), (4.0, 2.0, 1.5), 0.0), np.eye(4))
    with pytest.raises(EvaluationError, match="did you mean 'pedestrian'"):
        row_of("a", Box3D("pedestrians", 0.5, (1.0, 0.0, 1.0), (4.0, 2.0, 1.5), 0.0), np.eye(4))


@pytest.mark.parametrize(
    ("label", "speed", "attribute"),
    [("car", 3.0, "vehicle.moving"), ("bus", 0.0, "vehicle.stopped"), ("traffic_cone", 0.0, "")],
)
def test_attributes_follow_class_and_speed(label: str, speed: float, attribute: str) -> None:
    assert attribute_of(label, speed) == attribute


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_rows_are_boxes_moved_to_the_world(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=4)
    world_from_ego = transform_of(rotation_from_quaternion(quaternion), rng.normal(size=3) * 100)
    box = Box3D(
        "car",
        float(rng.uniform(0.1, 1)),
        tuple(rng.normal(size=3) * 20),
        tuple(rng.uniform(0.5, 9, 3)),
        float(rng.uniform(-np.pi, np.pi)),
        tuple(rng.normal(size=2)),
    )
    row = row_of("a", box, world_from_ego)
    assert row["translation"] == pytest.approx((world_from_ego @ [*box.centre, 1.0])[:3])
    assert row["size"] == pytest.approx([box.size[1], box.size[0], box.size[2]])
    w, x, y, z = row["rotation"]
    expected = quaternion_from_rotation(world_from_ego[:3, :3] @ rotation_about_z(box.yaw))
    assert abs(np.dot([x, y, z, w], expected)) == pytest.approx(1.0)
    assert box.velocity is not None
    assert row["velocity"] == pytest.approx((world_from_ego[:3, :3] @ [*box.velocity, 0.0])[:2])
