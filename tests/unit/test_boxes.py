"""Boxes as records: what of a head's output counts as an object."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception_core.boxes import Box3D, decode_boxes

NAMES = ("car", "pedestrian")


def boxes_of(count: int) -> torch.Tensor:
    return torch.tensor([[10.0 * index, 1.0, 0.5, 4.0, 2.0, 1.5, 0.3, 3.0, -1.0] for index in range(count)])


def test_objects_come_best_first_and_above_the_threshold() -> None:
    found = decode_boxes(
        boxes_of(4),
        torch.tensor([0.2, 0.9, 0.05, 0.4]),
        torch.tensor([0, 1, 0, 0]),
        NAMES,
        score_threshold=0.1,
    )
    assert [box.score for box in found] == pytest.approx([0.9, 0.4, 0.2])
    assert [box.label for box in found] == ["pedestrian", "car", "car"]
    assert found[0].centre == pytest.approx((10.0, 1.0, 0.5))
    assert found[0].velocity == pytest.approx((3.0, -1.0))
    assert len(decode_boxes(boxes_of(4), torch.ones(4), torch.zeros(4).long(), NAMES, max_boxes=2)) == 2


def test_what_cannot_be_an_object_is_left_out() -> None:
    boxes = boxes_of(5)
    boxes[0, 0] = float("nan")
    boxes[1, 7] = float("inf")
    boxes[2, 4] = 0.0
    scores = torch.tensor([0.9, 0.9, 0.9, 0.9, float("nan")])
    found = decode_boxes(boxes, scores, torch.tensor([0, 0, 0, 2, 0]), NAMES)
    assert found == []


def test_corners_follow_heading() -> None:
    box = Box3D("car", 1.0, (10.0, 5.0, 1.0), (4.0, 2.0, 1.5), np.pi / 2)
    corners = box.corners()
    assert corners.shape == (8, 3)
    assert corners[:, 1].max() == pytest.approx(7.0)  # the length lies along +y
    assert corners[:, 0].max() == pytest.approx(11.0)
    assert corners[0] == pytest.approx([9.0, 7.0, 0.25])  # bottom front left
