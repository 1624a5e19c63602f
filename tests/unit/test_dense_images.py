"""Pictures and points of dense outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.dense_images import (
    UNKNOWN_CLASS,
    class_colours,
    class_image,
    cloud_points,
    depth_image,
    depth_picture,
)


def test_the_best_class_wins_after_raising() -> None:
    logits = torch.zeros(3, 2, 2)
    logits[1, :, 0] = 4.0
    logits[2, :, 1] = 4.0
    image = class_image(logits, (4, 8))
    assert image.dtype == np.uint8
    assert (image[:, :4] == 1).all()
    assert (image[:, 4:] == 2).all()
    logits[0, 0, 0] = float("nan")
    assert class_image(logits, (2, 2))[0, 0] == UNKNOWN_CLASS


def test_every_class_has_a_colour() -> None:
    table = class_colours(("road", "car", "something else"))
    assert table[0].tolist() == [128, 64, 128]
    assert table[2].any()
    assert not table[UNKNOWN_CLASS].any()


@settings(max_examples=50, deadline=None)
@given(st.floats(1.0, 60.0), st.floats(0.001, 0.05))
def test_a_plane_keeps_its_depth_when_raised(nearest: float, slope: float) -> None:
    """The inverse depth of a plane is linear in the pixel: raised depth lies on the same plane."""
    rows = torch.arange(8, dtype=torch.float32)
    inverse = 1 / nearest + slope * rows
    depth = (1 / inverse).unsqueeze(1).expand(8, 4)
    raised = depth_image(depth, (32, 16), 1e6)
    places = (np.arange(32) + 0.5) / 4 - 0.5
    inside = (places >= 0) & (places <= 7)
    np.testing.assert_allclose(raised[inside, 0], 1 / (1 / nearest + slope * places[inside]), rtol=1e-4)


def test_unknown_and_far_depths_are_not_numbers() -> None:
    depth = torch.tensor([[5.0, 0.0, float("nan"), 90.0, -1.0, 20.0]])
    image = depth_image(depth, (1, 6), 80.0)
    assert np.isfinite(image).tolist() == [[True, False, False, False, False, True]]
    assert image[0, 5] == pytest.approx(20.0)
    points = torch.arange(18, dtype=torch.float32).view(6, 3)
    cloud = cloud_points(points, depth, 80.0)
    assert np.isfinite(cloud).all(axis=1).tolist() == [True, False, False, False, False, True]
    assert cloud[5].tolist() == [15.0, 16.0, 17.0]
    picture = depth_picture(image, 80.0)
    assert picture.shape == (1, 6, 3)
    assert not picture[0, 1].any()
    assert picture[0, 0, 0] > picture[0, 5, 0]  # near is warm
