"""Dense tasks, BEV maps and control: exact at perfection, the same in any order and in parts."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.accumulate import merged
from training.evaluation.bev_maps import BevMapEvaluator, ForegroundMapResult
from training.evaluation.control import ControlEvaluator
from training.evaluation.depth import DepthEvaluator
from training.evaluation.normals import NormalsEvaluator
from training.evaluation.pixel_error import KeypointsResult, PixelErrorEvaluator
from training.evaluation.relative import HIGHER_IS_BETTER
from training.evaluation.result import EvaluationError, Result, write_json
from training.evaluation.semantic import IGNORED, SegmentationEvaluator

CLASSES = ("road", "car", "tree")
SHAPE = (6, 7)


@dataclass(frozen=True)
class Case:
    """One evaluator with random data for it.

    `perfect` gives what a perfect network would have said of a truth.
    """

    make: Callable[[], Any]
    draw: Callable[[np.random.Generator], tuple[Any, Any, Any]]
    perfect: Callable[[Any], Any]


def draw_classes(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    truth = rng.integers(0, len(CLASSES), SHAPE).astype(np.uint8)
    truth[rng.random(SHAPE) < 0.1] = IGNORED
    return rng.integers(0, len(CLASSES) + 1, SHAPE), truth, None


def draw_maps(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    shape = (2, len(CLASSES), *SHAPE)
    return rng.random(shape, dtype=np.float32), rng.random(shape) < 0.4, None


def draw_depth(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    return rng.uniform(0.5, 80, SHAPE), rng.uniform(0.5, 80, SHAPE), rng.random(SHAPE) < 0.8


def draw_normals(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    return rng.normal(size=(*SHAPE, 3)), rng.normal(size=(*SHAPE, 3)), rng.random(SHAPE) < 0.8


def draw_strength(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    return rng.random(SHAPE), rng.random(SHAPE), rng.random(SHAPE) < 0.8


def draw_control(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    def proposal() -> tuple[Any, Any, Any]:
        return rng.normal(size=(3, 1)), rng.uniform(0, 15, (3, 1)), rng.normal(size=(3, 4, 2))

    valid = np.arange(4) < rng.integers(0, 5, (3, 1))
    return proposal(), proposal(), valid


CASES = {
    "semantic": Case(
        lambda: SegmentationEvaluator(CLASSES), draw_classes, lambda truth: truth.astype(np.int64)
    ),
    "bev": Case(lambda: BevMapEvaluator(CLASSES), draw_maps, lambda truth: truth.astype(np.float32)),
    "depth": Case(DepthEvaluator, draw_depth, np.copy),
    "normals": Case(NormalsEvaluator, draw_normals, np.copy),
    "edges": Case(PixelErrorEvaluator, draw_strength, np.copy),
    "control": Case(lambda: ControlEvaluator(4), draw_control, lambda truth: truth),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def scalars(evaluator: Any) -> dict[str, float]:
    result: dict[str, float] = evaluator.compute().scalars()
    return result


def assert_same(a: Any, b: Any) -> None:
    assert scalars(a) == pytest.approx(scalars(b), rel=1e-9, abs=1e-12, nan_ok=True)


@every_case
def test_perfect_predictions_score_exactly_one_or_zero(case: Case) -> None:
    evaluator = case.make()
    rng = np.random.default_rng(1)
    for _ in range(4):
        _, truth, valid = case.draw(rng)
        evaluator.update(case.perfect(truth), truth, valid)
    result = evaluator.compute()
    for name, value in result.scalars().items():
        if name != "cross_entropy":
            assert value == (1.0 if result.metrics[name].higher_is_better else 0.0), name


@every_case
def test_nothing_seen_scores_zero_and_has_no_error(case: Case) -> None:
    result = case.make().compute()
    for name, value in result.scalars().items():
        if result.metrics[name].higher_is_better:
            assert value == 0.0, name
        else:
            assert math.isnan(value), name
            assert result.to_json()[name] is None


@every_case
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 4))
def test_parts_merge_to_the_whole_in_any_order(case: Case, seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [case.draw(rng) for _ in range(5)]
    whole = case.make()
    for batch in batches:
        whole.update(*batch)
    pieces = [case.make() for _ in range(parts)]
    for index in rng.permutation(len(batches)):
        pieces[rng.integers(parts)].update(*batches[index])
    # as they come back from other processes
    pieces = [pickle.loads(pickle.dumps(piece)) for piece in pieces]
    before = [scalars(piece) for piece in pieces]
    assert_same(merged(pieces), whole)
    after = [scalars(piece) for piece in pieces]
    for one, other in zip(before, after, strict=True):  # merging makes a new evaluator
        assert one == pytest.approx(other, nan_ok=True)


@every_case
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_are_shares_and_errors_not_negative(case: Case, seed: int) -> None:
    evaluator = case.make()
    evaluator.update(*case.draw(np.random.default_rng(seed)))
    result = evaluator.compute()
    for name, value in result.scalars().items():
        if not math.isnan(value):
            assert value >= 0
            assert value <= 1 or not result.metrics[name].higher_is_better


@every_case
def test_tensors_and_arrays_give_the_same(case: Case) -> None:
    def to_tensor(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(to_tensor(item) for item in value)
        return None if value is None else torch.from_numpy(value)

    batch = case.draw(np.random.default_rng(3))
    a, b = case.make(), case.make()
    a.update(*batch)
    b.update(*(to_tensor(part) for part in batch))
    assert_same(a, b)


@every_case
def test_results_become_json_and_know_their_directions(case: Case, tmp_path: Path) -> None:
    evaluator = case.make()
    evaluator.update(*case.draw(np.random.default_rng(3)))
    result: Result = evaluator.compute()
    write_json(tmp_path / "result.json", {"result": result})
    read = json.loads((tmp_path / "result.json").read_text())["result"]
    assert read["task"] == result.task
    for name, value in result.scalars().items():
        assert read[name] == (None if math.isnan(value) else value)
        assert HIGHER_IS_BETTER[name] == result.metrics[name].higher_is_better


@every_case
def test_predictions_of_another_shape_are_refused(case: Case) -> None:
    predicted, truth, _ = case.draw(np.random.default_rng(3))
    shorter = tuple(part[:-1] for part in predicted) if isinstance(predicted, tuple) else predicted[:-1]
    with pytest.raises(EvaluationError, match="shape"):
        case.make().update(shorter, truth)


@pytest.mark.parametrize("name", [name for name in CASES if name != "semantic"])
def test_predictions_that_are_no_numbers_are_refused(name: str) -> None:
    case = CASES[name]
    predicted, truth, _ = case.draw(np.random.default_rng(3))
    (predicted[0] if isinstance(predicted, tuple) else predicted)[0] = np.nan
    with pytest.raises(EvaluationError, match="NaN"):
        case.make().update(predicted, truth)


def test_tasks_that_share_an_evaluator_keep_their_names() -> None:
    assert BevMapEvaluator(CLASSES, result=ForegroundMapResult).compute().task == "foreground_segmentation"
    assert PixelErrorEvaluator(KeypointsResult).compute().task == "keypoints"


def test_different_options_do_not_merge() -> None:
    for one, other in (
        (SegmentationEvaluator(CLASSES), SegmentationEvaluator(CLASSES[::-1])),
        (BevMapEvaluator(CLASSES), BevMapEvaluator(CLASSES, thresholds=(0.5,))),
        (DepthEvaluator(), DepthEvaluator(max_depth=80.0)),
        (PixelErrorEvaluator(), PixelErrorEvaluator(KeypointsResult)),
        (ControlEvaluator(4), ControlEvaluator(5)),
    ):
        with pytest.raises(EvaluationError, match="options"):
            one.merge(other)
    with pytest.raises(EvaluationError, match="nothing"):
        merged([])


# -- semantic segmentation -----------------------------------------------------------------------------------


def test_segmentation_by_hand() -> None:
    evaluator = SegmentationEvaluator(CLASSES)
    evaluator.update(np.array([0, 0, 1, 7, 1]), np.array([0, 1, 1, 0, IGNORED]))
    result = evaluator.compute()
    # road: one right, one said of a car, one missed; car: one right, one missed; no tree anywhere
    assert result.class_iou == pytest.approx({"road": 1 / 3, "car": 1 / 2, "tree": math.nan}, nan_ok=True)
    assert result.miou == pytest.approx(5 / 12)
    assert result.pixel_accuracy == pytest.approx(2 / 4)
    assert result.class_accuracy == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert result.confusion == ((1, 0, 0, 1), (1, 1, 0, 0), (0, 0, 0, 0))


def test_an_empty_prediction_has_no_intersection() -> None:
    evaluator = SegmentationEvaluator(CLASSES)
    evaluator.update(np.full((4, 4), IGNORED), np.zeros((4, 4), dtype=np.int64))
    assert evaluator.compute().miou == 0.0
    maps = BevMapEvaluator(CLASSES)
    maps.update(np.zeros((3, 4, 4)), np.ones((3, 4, 4), dtype=bool))
    assert maps.compute().miou == 0.0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_segmentation_does_not_depend_on_the_numbering_of_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, truth, _ = draw_classes(rng)
    order = rng.permutation(len(CLASSES))
    renumbered = np.full(256, IGNORED)
    renumbered[: len(CLASSES)] = order
    one, other = SegmentationEvaluator(CLASSES), SegmentationEvaluator(CLASSES)
    one.update(predicted, truth)
    other.update(renumbered[predicted], renumbered[truth])
    assert_same(one, other)


def test_segmentation_from_probabilities() -> None:
    rng = np.random.default_rng(5)
    probability = rng.dirichlet(np.ones(3), size=(2, 4, 5)).transpose(0, 3, 1, 2)
    truth = rng.integers(0, 3, (2, 4, 5))
    truth[0, 0, 0] = IGNORED
    evaluator, by_class = SegmentationEvaluator(CLASSES), SegmentationEvaluator(CLASSES)
    evaluator.update_probabilities(probability, truth)
    by_class.update(probability.argmax(axis=1), truth)
    result = evaluator.compute()
    assert result.confusion == by_class.compute().confusion
    expected = torch.nn.functional.nll_loss(
        torch.from_numpy(probability).log(), torch.from_numpy(truth), ignore_index=IGNORED
    )
    assert result.cross_entropy == pytest.approx(float(expected))


def test_segmentation_refuses_what_it_cannot_read() -> None:
    evaluator = SegmentationEvaluator(CLASSES)
    with pytest.raises(EvaluationError, match=r"names are given for 0\.\.2"):
        evaluator.update(np.zeros(3, dtype=int), np.array([0, 1, 3]))
    with pytest.raises(EvaluationError, match="integers"):
        evaluator.update(np.zeros(3), np.zeros(3, dtype=int))
    with pytest.raises(EvaluationError, match="mask of shape"):
        evaluator.update(
            np.zeros((2, 3), dtype=int), np.zeros((2, 3), dtype=int), np.ones((2, 4), dtype=bool)
        )
    with pytest.raises(EvaluationError, match=r"\[B, 3, H, W\]"):
        evaluator.update_probabilities(np.ones((1, 4, 2, 2)), np.zeros((1, 2, 2), dtype=int))
    with pytest.raises(EvaluationError, match="no class names"):
        SegmentationEvaluator(())


def test_segmentation_agrees_with_cityscapes_scripts(tmp_path: Path) -> None:
    """The official judge of Cityscapes' pixel labels, on images with every train id and ignored pixels."""
    import cv2

    from training.evaluation.cityscapes_scripts import quiet_scripts

    with quiet_scripts():
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling
        from cityscapesscripts.helpers.labels import id2label, trainId2label

    rng = np.random.default_rng(8)
    names = [trainId2label[index].name for index in range(19)]
    # some official labels are ignored, e.g. "rectification border"
    ids = np.array([label.id for label in id2label.values() if label.id >= 0])
    train_id = np.array([id2label[index].trainId for index in range(34)])
    evaluator = SegmentationEvaluator(names)
    truth_files, predicted_files = [], []
    for index in range(3):
        truth = rng.choice(ids, (40, 60)).astype(np.uint8)
        predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice(ids, truth.shape)).astype(
            np.uint8
        )
        for kind, image, files in (("truth", truth, truth_files), ("prediction", predicted, predicted_files)):
            file = tmp_path / f"{kind}_{index}.png"
            assert cv2.imwrite(str(file), image)
            files.append(str(file))
        evaluator.update(train_id[predicted], np.where(train_id[truth] == 255, IGNORED, train_id[truth]))
    options = evalPixelLevelSemanticLabeling.args
    options.quiet, options.evalInstLevelScore, options.JSONOutput = True, False, False
    official = evalPixelLevelSemanticLabeling.evaluateImgLists(predicted_files, truth_files, options)
    result = evaluator.compute()
    assert result.miou == pytest.approx(official["averageScoreClasses"], abs=1e-9)
    for name in names:
        assert result.class_iou[name] == pytest.approx(official["classScores"][name], abs=1e-9)


# -- BEV maps ------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_bev_maps_take_the_best_threshold_of_each_class(seed: int) -> None:
    """Against the definition written out: threshold the maps, count, divide."""
    rng = np.random.default_rng(seed)
    probability, truth, _ = draw_maps(rng)
    # exactly on a threshold counts as reached
    probability[rng.random(probability.shape) < 0.2] = np.float32(0.45)
    evaluator = BevMapEvaluator(CLASSES)
    evaluator.update(probability, truth)
    result = evaluator.compute()
    best = []
    for index, name in enumerate(CLASSES):
        ious = []
        for threshold in result.thresholds:
            predicted = probability[:, index] >= np.float32(threshold)
            union = (predicted | truth[:, index]).sum()
            ious.append((predicted & truth[:, index]).sum() / union)
        assert result.iou_at[name] == pytest.approx(ious)
        best.append(max(ious))
        assert result.class_iou[name] == pytest.approx(max(ious))
        assert result.best_threshold[name] == result.thresholds[int(np.argmax(ious))]
    assert result.miou == pytest.approx(np.mean(best))
    assert result.miou_at_half == pytest.approx(np.mean([result.iou_at[name][3] for name in CLASSES]))


def test_bev_map_class_that_does_not_occur_is_left_out() -> None:
    truth = np.zeros((3, 2, 2), dtype=bool)
    truth[0] = True
    evaluator = BevMapEvaluator(CLASSES)
    evaluator.update(truth.astype(np.float32), truth)
    result = evaluator.compute()
    assert result.miou == 1.0
    assert math.isnan(result.class_iou["tree"])
    assert math.isnan(result.best_threshold["tree"])
    assert result.to_json()["class_iou"] == {"road": 1.0, "car": None, "tree": None}


def test_bev_maps_refuse_wrong_options_and_shapes() -> None:
    with pytest.raises(EvaluationError, match="increase"):
        BevMapEvaluator(CLASSES, thresholds=(0.5, 0.4))
    with pytest.raises(EvaluationError, match="no class names"):
        BevMapEvaluator(())
    with pytest.raises(EvaluationError, match=r"\[\.\.\., 3, H, W\]"):
        BevMapEvaluator(CLASSES).update(np.zeros((4, 2, 2)), np.zeros((4, 2, 2), dtype=bool))


# -- depth ---------------------------------------------------------------------------------------------------


def test_depth_by_hand() -> None:
    evaluator = DepthEvaluator(max_depth=50.0)
    truth = np.array([10.0, 10.0, 10.0, 20.0, 0.0, np.nan, 60.0])
    evaluator.update(np.array([10.0, 12.5, 15.0, -1.0, 3.0, 3.0, 3.0]), truth)
    result = evaluator.compute()
    assert result.pixels == 4
    assert result.abs_error == pytest.approx((0 + 2.5 + 5 + 21) / 4)
    assert result.rel_error == pytest.approx((0 + 0.25 + 0.5 + 1.05) / 4)
    assert result.rmse == pytest.approx(math.sqrt((2.5**2 + 5**2 + 21**2) / 4))
    # a factor of exactly 1.25 is not below it; a depth behind the camera is never right
    assert (result.delta_1, result.delta_2, result.delta_3) == (1 / 4, 3 / 4, 3 / 4)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
@settings(max_examples=10)
def test_depth_ratios_do_not_depend_on_the_unit(seed: int, factor: float) -> None:
    predicted, truth, valid = draw_depth(np.random.default_rng(seed))
    one, other = DepthEvaluator(), DepthEvaluator()
    one.update(predicted, truth, valid)
    other.update(predicted * factor, truth * factor, valid)
    a, b = one.compute(), other.compute()
    assert b.abs_error == pytest.approx(a.abs_error * factor)
    assert b.rmse == pytest.approx(a.rmse * factor)
    assert b.rel_error == pytest.approx(a.rel_error)
    assert b.rmse >= b.abs_error * (1 - 1e-12)
    assert a.delta_1 <= a.delta_2 <= a.delta_3


# -- normals -------------------------------------------------------------------------------------------------


def turned(angle_deg: float) -> list[float]:
    return [math.sin(math.radians(angle_deg)), 0.0, -2.0 * math.cos(math.radians(angle_deg)) / 2.0]


def test_normals_by_hand() -> None:
    angles = [0.0, 5.0, 20.0, 25.0, 170.0]
    evaluator = NormalsEvaluator()
    predicted = np.array([*map(turned, angles), [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    truth = np.array([[0.0, 0.0, -3.0]] * 6 + [[0.0, 0.0, 0.0]])
    evaluator.update(predicted, truth)
    result = evaluator.compute()
    assert result.pixels == 6  # a truth of length zero does not count, such a prediction is 90° off
    assert result.mean_deg == pytest.approx((sum(angles) + 90) / 6)
    assert result.median_deg == pytest.approx((20 + 25) / 2, abs=0.01)
    assert (result.within_11, result.within_22, result.within_30) == (2 / 6, 3 / 6, 4 / 6)
    cosines = [math.cos(math.radians(angle)) for angle in angles]
    assert result.cosine_error == pytest.approx((6 - sum(cosines)) / 6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_normals_median_and_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, truth, _ = draw_normals(rng)
    one, other = NormalsEvaluator(), NormalsEvaluator()
    one.update(predicted, truth)
    other.update(predicted * rng.uniform(0.1, 10, (*SHAPE, 1)), truth * 1e-200)
    assert scalars(one) == pytest.approx(scalars(other), abs=0.011)
    cosine = (predicted * truth).sum(-1) / np.linalg.norm(predicted, axis=-1) / np.linalg.norm(truth, axis=-1)
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    assert one.compute().median_deg == pytest.approx(np.median(angles), abs=0.011)
    assert one.compute().mean_deg == pytest.approx(np.mean(angles), abs=1e-6)


# -- control -------------------------------------------------------------------------------------------------


def test_control_by_hand() -> None:
    evaluator = ControlEvaluator(2)
    truth = (np.zeros(2), np.array([5.0, 5.0]), np.zeros((2, 2, 2)))
    waypoints = np.array([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 2.0], [9.0, 9.0]]])
    predicted = (np.radians([2.0, -4.0]), np.array([5.0, 8.0]), waypoints)
    evaluator.update(predicted, truth, np.array([[True, True], [True, False]]))
    result = evaluator.compute()
    assert result.steering_deg == pytest.approx(3.0)
    assert result.steering_rmse_deg == pytest.approx(math.sqrt(10))
    assert result.speed_mps == pytest.approx(1.5)
    assert result.ade_m == pytest.approx(((5 + 1) / 2 + 2) / 2)
    assert result.fde_m == pytest.approx(1.0)
    assert result.displacement_m == pytest.approx((3.5, 1.0))
    assert (result.samples, result.samples_with_steering, result.samples_with_waypoints) == (2, 2, 2)


def test_control_of_a_standing_vehicle_has_no_steering() -> None:
    evaluator = ControlEvaluator(0)
    nothing = np.zeros((2, 0, 2))
    evaluator.update(
        (np.radians([2.0, 50.0]), [1.0, 1.0], nothing), ([0.0, 0.0], [0.0, 0.0], nothing), None, [True, False]
    )
    result = evaluator.compute()
    assert result.steering_deg == pytest.approx(2.0)
    assert result.speed_mps == pytest.approx(1.0)
    assert (result.samples, result.samples_with_steering) == (2, 1)


def test_control_without_waypoints() -> None:
    evaluator = ControlEvaluator(0)
    evaluator.update(([0.1], [1.0], np.zeros((1, 0, 2))), ([0.1], [1.0], np.zeros((1, 0, 2))))
    result = evaluator.compute()
    assert result.steering_deg == 0.0
    assert math.isnan(result.fde_m)
    with pytest.raises(EvaluationError, match=r"\[B, 3, 2\]"):
        ControlEvaluator(3).update(([0.1], [1.0], np.zeros((1, 2, 2))), ([0.1], [1.0], np.zeros((1, 2, 2))))
