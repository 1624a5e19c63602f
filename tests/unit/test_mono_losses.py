"""Losses of monocular networks: least where the labels are, and what each counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from mono_fixtures import CLASSES, INTRINSICS, USUAL, camera_pose, make_codec
from test_tag_decoding import maps_of

from perception_core.models.tag.configuration import MonoDetectionConfig
from perception_core.models.tag.heads import MonoDetectionOutput
from training.losses.dense_depth import DenseDepthLoss
from training.losses.image_labels import at_pixels_of
from training.losses.mono_configuration import (
    DenseDepthLossConfig,
    MonoDetectionLossConfig,
    SegmentationLossConfig,
)
from training.losses.mono_detection import MonoDetectionLoss
from training.losses.semantic_segmentation import SegmentationLoss
from training.losses.task_loss import NonFiniteLossError

HEAD = MonoDetectionConfig(classes=CLASSES, usual_sizes=dict(zip(CLASSES, USUAL, strict=True)), objects=5)
ROWS = [
    [15.0, 1.0, 0.8, 4.5, 1.9, 1.5, 0.4, 0.05, -0.03],
    [30.0, -5.0, 0.9, 4.0, 1.7, 1.6, -2.8, 0.0, 0.0],
]
PRESENT = torch.tensor([True])


@dataclass
class Boxes:
    boxes_b9: torch.Tensor
    labels_b: torch.Tensor
    pitch_roll_b2: torch.Tensor


def boxes_of(rows=ROWS) -> Boxes:
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 9)
    velocity = torch.full((len(rows), 2), float("nan"))
    return Boxes(
        torch.cat((rows[:, :7], velocity), dim=1), torch.zeros(len(rows), dtype=torch.int64), rows[:, 7:]
    )


def loss_of(output: MonoDetectionOutput, rows=ROWS, present=PRESENT, **config):
    loss = MonoDetectionLoss(MonoDetectionLossConfig(**config), HEAD, make_codec())
    k = torch.tensor(INTRINSICS, dtype=torch.float32).unsqueeze(0)
    pose = torch.tensor(camera_pose(), dtype=torch.float32).unsqueeze(0)
    return loss(output, [boxes_of(rows)], k, pose, present)


def test_a_head_that_says_the_truth_has_next_to_no_error() -> None:
    output, *_ = maps_of(ROWS, camera_pose(), heat=12.0)
    terms = loss_of(output).terms
    for name in ("offset_2d", "size_2d", "offset_3d", "size_3d"):
        assert terms[name] < 1e-3, name
    assert terms["heading"] < 0.01
    assert terms["tilt"] < 0.01
    assert terms["depth"] == pytest.approx(-0.5, abs=0.05)  # 0.5 of the log variance -1 the maps say
    assert terms["heatmap"] < 0.05


@pytest.mark.parametrize("part", ["offset_2d", "size_2d", "offset_3d", "size_3d", "depth", "heading", "tilt"])
def test_every_error_is_seen_by_its_term_alone(part: str) -> None:
    output, *_ = maps_of(ROWS, camera_pose(), heat=12.0)
    exact = loss_of(output).terms
    order = {
        "offset_2d": 0,
        "size_2d": 2,
        "offset_3d": 4,
        "size_3d": 6,
        "depth": 9,
        "heading": 23,
        "tilt": 35,
    }
    # heading: residuals follow 12 bins at 11; the first residual that counts is unknown, so all are moved.
    spoilt = output.code_behw.clone()
    if part == "heading":
        spoilt[:, 23:35] += 0.3
    else:
        spoilt[:, order[part]] += 0.3
    terms = loss_of(MonoDetectionOutput(output.heatmap_logits_bkhw, spoilt)).terms
    for name, value in terms.items():
        if name == part:
            assert value > exact[name] + 0.01, name
        else:
            assert value == pytest.approx(float(exact[name]), abs=1e-6), name


def test_uncertainty_weighs_depth_as_a_laplacian() -> None:
    output, *_ = maps_of(ROWS[:1], camera_pose(), heat=12.0)
    code = output.code_behw.clone()
    code[:, 9] = -math.log(17.0)  # the truth is 13.5 m from the camera
    for log_variance in (-1.0, 0.5, 3.0):
        code[:, 10] = log_variance
        found = loss_of(MonoDetectionOutput(output.heatmap_logits_bkhw, code), ROWS[:1]).terms["depth"]
        expected = math.sqrt(2) * math.exp(-log_variance / 2) * 3.5 + log_variance / 2
        assert float(found) == pytest.approx(expected, rel=1e-3)


def test_half_a_turn_of_tilt_is_a_matter_of_direction() -> None:
    """FCOS3D: the sine of the difference does not see half a turn, the direction does."""
    output, *_ = maps_of(ROWS[:1], camera_pose(), heat=12.0)
    code = output.code_behw.clone()
    code[:, 35] += math.pi
    terms = loss_of(MonoDetectionOutput(output.heatmap_logits_bkhw, code), ROWS[:1]).terms
    exact = loss_of(output, ROWS[:1]).terms
    assert terms["tilt"] == pytest.approx(float(exact["tilt"]), abs=1e-4)
    code[:, 36:38] = code[:, 36:38].flip(1)
    turned = loss_of(MonoDetectionOutput(output.heatmap_logits_bkhw, code), ROWS[:1]).terms
    assert turned["tilt"] > terms["tilt"] + 1


def test_without_objects_only_the_heat_map_learns() -> None:
    output, *_ = maps_of(ROWS, camera_pose(), heat=3.0)
    heat = output.heatmap_logits_bkhw.clone().requires_grad_()
    code = output.code_behw.clone().requires_grad_()
    loss = loss_of(MonoDetectionOutput(heat, code), rows=[])
    loss.total.backward()
    assert loss.samples == 1
    assert loss.terms["heatmap"] > 0
    assert heat.grad.abs().sum() > 0
    assert code.grad is not None
    assert not code.grad.any()


def test_without_labels_there_is_no_loss_but_a_graph() -> None:
    output, *_ = maps_of(ROWS, camera_pose())
    heat = output.heatmap_logits_bkhw.clone().requires_grad_()
    loss = loss_of(MonoDetectionOutput(heat, output.code_behw), present=torch.tensor([False]))
    assert loss.samples == 0
    loss.total.backward()
    assert not heat.grad.any()


def test_the_tasks_weight_scales_every_term() -> None:
    output, *_ = maps_of(ROWS, camera_pose())
    once, thrice = loss_of(output), loss_of(output, weight=3.0)
    assert float(thrice.total) == pytest.approx(3 * float(once.total))


def test_what_is_not_finite_is_named() -> None:
    output, *_ = maps_of(ROWS, camera_pose())
    output.code_behw[:, 2] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"mono_detection3d.*size_2d"):
        loss_of(output)


# -- segmentation --------------------------------------------------------------------------------------------


def segmentation(**config) -> SegmentationLoss:
    return SegmentationLoss(SegmentationLossConfig(**config))


def test_cross_entropy_counts_labelled_pixels_only() -> None:
    logits = torch.zeros(1, 4, 2, 4)
    label = torch.full((1, 2, 4), 255, dtype=torch.uint8)
    label[0, 0, 0] = 2
    valid = label != 255
    assert float(segmentation(weight=1.0)(logits, label, valid, PRESENT).total) == pytest.approx(math.log(4))
    logits[0, 2, 0, 0] = 50.0
    assert float(segmentation(weight=100.0)(logits, label, valid, PRESENT).total) == pytest.approx(
        0, abs=1e-3
    )
    assert segmentation()(logits, label, torch.zeros_like(valid), PRESENT).samples == 0
    assert segmentation()(logits, label, valid, torch.tensor([False])).samples == 0


def test_labels_are_met_at_either_resolution() -> None:
    label = torch.zeros(1, 8, 16, dtype=torch.uint8)
    label[:, :, 8:] = 1
    logits = torch.zeros(1, 2, 2, 4)
    logits[:, 1, :, 2:] = 9.0
    logits[:, 0, :, :2] = 9.0
    valid = torch.ones_like(label, dtype=torch.bool)
    coarse = segmentation(full_resolution=False, weight=1.0)(logits, label, valid, PRESENT)
    fine = segmentation(weight=1.0)(logits, label, valid, PRESENT)
    assert float(coarse.total) < 1e-3
    assert float(coarse.total) < float(fine.total) < 0.2  # the border is a ramp at full resolution


def test_a_class_the_head_does_not_have_is_named() -> None:
    label = torch.full((1, 2, 4), 7, dtype=torch.uint8)
    valid = torch.ones_like(label, dtype=torch.bool)
    with pytest.raises(ValueError, match="a label is class 7, the head has 4"):
        segmentation()(torch.zeros(1, 4, 2, 4), label, valid, PRESENT)


def test_labels_are_taken_from_the_middle_of_each_pixel() -> None:
    label = torch.arange(4 * 8).view(1, 4, 8)
    assert at_pixels_of(label, (2, 4)).tolist() == [[[9, 11, 13, 15], [25, 27, 29, 31]]]
    with pytest.raises(ValueError, match="no multiple"):
        at_pixels_of(label, (3, 4))


# -- depth ---------------------------------------------------------------------------------------------------


def depth(found, truth, **config):
    found = torch.tensor(found).view(1, 1, -1)
    truth = torch.tensor(truth).view(1, 1, -1)
    valid = torch.ones_like(truth, dtype=torch.bool)
    return DenseDepthLoss(DenseDepthLossConfig(**config))(found, truth, valid, PRESENT)


def test_jared_is_absolute_plus_relative_error() -> None:
    """EDNAS' Eq. 8."""
    found, truth = [2.0, 10.0, 30.0], [1.0, 12.0, 20.0]
    absolute = (1 + 2 + 10) / 3
    relative = (1 / 1 + 2 / 12 + 10 / 20) / 3
    assert float(depth(found, truth, kind="l1").total) == pytest.approx(absolute)
    total = depth(found, truth, kind="l1", relative_weight=4.0)
    assert float(total.total) == pytest.approx(absolute + 4 * relative)
    assert set(total.terms) == {"l1", "relative"}


def test_smooth_l1_is_tags() -> None:
    found = depth([2.0, 10.5], [1.0, 10.0])
    assert float(found.total) == pytest.approx(((1 - 0.5) + 0.5 * 0.25) / 2)


def test_depths_that_are_unknown_or_too_far_do_not_count() -> None:
    assert float(depth([5.0, 7.0], [5.0, 0.0], kind="l1").total) == 0
    assert float(depth([5.0, 7.0], [5.0, 200.0], kind="l1", farthest_m=100.0).total) == 0
    assert depth([5.0], [0.0]).samples == 0
