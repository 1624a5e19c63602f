"""Late fusion of the BEV model's and the monocular model's objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.control.object_fusion import (
    FusionObject,
    FusionOptions,
    explained_by,
    footprints_later,
    fuse_objects,
    unexplained,
)
from perception_core.control.sight_distance import Footprint
from perception_core.geometry import inverse, planar_motion, transform_points

footprints = st.builds(
    Footprint,
    st.floats(-20, 80),
    st.floats(-15, 15),
    st.floats(0.3, 12),
    st.floats(0.3, 3),
    st.floats(-3.2, 3.2),
)
several = st.lists(footprints, max_size=5)
scores = st.floats(0, 1)


def car(x: float, y: float = 0.0, yaw: float = 0.0) -> Footprint:
    return Footprint(x, y, 4.2, 1.8, yaw)


def objects(items, task: str, score: float = 0.5) -> list[FusionObject]:
    return [FusionObject(item, f"{task}{index}", score, (task,)) for index, item in enumerate(items)]


@settings(max_examples=100, deadline=None)
@given(several, several)
def test_nobody_vanishes_and_nobody_is_matched_twice(primary, secondary) -> None:
    matches = explained_by(primary, secondary)
    assert len(matches) == len(secondary)
    found = [match for match in matches if match is not None]
    assert len(set(found)) == len(found)
    fused = fuse_objects(objects(primary, "bev"), objects(secondary, "mono"))
    kept = [item.footprint for item in fused]
    assert all(item in kept for item in primary)
    for item, match in zip(secondary, matches, strict=True):
        assert item in kept or match is not None
    assert len(fused) == len(primary) + len(secondary) - len(found)
    assert [item.score for item in fused] == sorted((item.score for item in fused), reverse=True)


@settings(max_examples=100, deadline=None)
@given(several, several)
def test_what_is_explained_lies_within_the_tolerances(primary, secondary) -> None:
    options = FusionOptions()
    for guess, match in zip(secondary, explained_by(primary, secondary, options), strict=True):
        if match is None:
            continue
        measured = primary[match]
        range_m = math.hypot(measured.x, measured.y)
        bearing = np.array([measured.x, measured.y]) / max(range_m, 1e-9)
        difference = np.array([guess.x - measured.x, guess.y - measured.y])
        assert abs(difference @ bearing) <= 0.15 * range_m + 1.0 + 1e-9
        across = abs(difference[0] * bearing[1] - difference[1] * bearing[0])
        largest = (math.hypot(guess.length, guess.width) + math.hypot(measured.length, measured.width)) / 2
        assert across <= 0.5 + largest + 1e-9


@settings(max_examples=100, deadline=None)
@given(several, several, st.randoms(use_true_random=False))
def test_the_order_of_objects_does_not_matter(primary, secondary, random) -> None:
    # Objects that are equal may be exchanged, so sets of what is left are compared.
    left = sorted(map(repr, unexplained(primary, secondary)))
    random.shuffle(primary)
    random.shuffle(secondary)
    assert len(unexplained(primary, secondary)) == len(left)


@settings(max_examples=100, deadline=None)
@given(several)
def test_alone_the_secondary_model_is_the_list(secondary) -> None:
    assert unexplained([], secondary) == tuple(secondary)
    fused = fuse_objects([], objects(secondary, "mono"))
    assert [item.footprint for item in fused] == list(secondary)


def test_a_guess_along_the_line_of_sight_is_the_measured_object() -> None:
    bev, mono = car(30.0, 6.0), car(33.0, 6.6)
    assert explained_by([bev], [mono]) == (0,)
    (fused,) = fuse_objects(
        [FusionObject(bev, "car", 0.6, ("bev",))], [FusionObject(mono, "truck", 0.5, ("mono",))]
    )
    assert fused.footprint == bev
    assert fused.label == "car"
    assert fused.sources == ("bev", "mono")
    assert fused.score == pytest.approx(0.8)


def test_the_same_distance_across_the_line_of_sight_is_another_object() -> None:
    assert explained_by([car(30.0)], [car(30.0, 3.3)]) == (None,)
    # Two cars that stand side by side are two, however close.
    assert explained_by([car(30.0)], [car(30.0, 1.8)]) == (None,)
    # The widths count as seen from the vehicle: a car across the road is as wide as it is long.
    assert explained_by([car(30.0, 0.0, math.pi / 2)], [car(30.0, 1.8)]) == (0,)


def test_two_guesses_at_one_object_leave_one() -> None:
    assert explained_by([car(30.0)], [car(33.0), car(30.5)]) == (None, 0)


def test_a_guess_far_nearer_than_anything_measured_stays() -> None:
    assert explained_by([car(30.0)], [car(20.0)]) == (None,)
    assert explained_by([car(8.0)], [car(5.0)]) == (None,)


def test_what_is_not_finite_explains_nothing() -> None:
    assert explained_by([car(math.nan)], [car(30.0)]) == (None,)
    assert explained_by([car(30.0)], [car(30.0, math.inf)]) == (None,)


def test_tolerances_are_checked() -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        FusionOptions(range_m=-1.0)


@settings(max_examples=60, deadline=None)
@given(several, st.floats(0, 20), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_standing_objects_move_as_the_vehicle_does(items, speed, yaw_rate, later_s) -> None:
    moved = footprints_later(items, speed, yaw_rate, later_s)
    transform = inverse(planar_motion(speed, yaw_rate, later_s))
    for before, after in zip(items, moved, strict=True):
        expected = transform_points(transform, [before.x, before.y, 0.0])
        assert (after.x, after.y) == pytest.approx(tuple(expected[:2]))
        nose = [before.x + math.cos(before.yaw), before.y + math.sin(before.yaw), 0.0]
        turned = transform_points(transform, nose) - expected
        assert (
            math.atan2(turned[1], turned[0])
            == pytest.approx(math.atan2(math.sin(after.yaw), math.cos(after.yaw)), abs=1e-6)
            or abs(abs(after.yaw) - math.pi) < 1e-3
        )
    back = footprints_later(moved, speed, yaw_rate, -later_s)
    for before, after in zip(items, back, strict=True):
        assert (after.x, after.y, after.yaw) == pytest.approx((before.x, before.y, before.yaw), abs=1e-6)
