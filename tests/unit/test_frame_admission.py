"""Admission control: never more frames under way than allowed, and never shut for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.fusion.frame_admission import FrameAdmission


def test_a_frame_ends_when_every_task_reported() -> None:
    admission = FrameAdmission(["detection3d_head", "map_head"], max_in_flight=1, timeout_s=2.0)
    admission.enter(1, now_s=0.0)
    assert not admission.may_enter(0.1)
    assert not admission.report(1, "detection3d_head")
    assert not admission.report(1, "lidar_net"), "inner stages do not end a frame"
    assert not admission.may_enter(0.2)
    assert admission.report(1, "map_head")
    assert admission.may_enter(0.3)


def test_a_dead_head_shuts_the_door_only_until_the_timeout() -> None:
    admission = FrameAdmission(["head"], max_in_flight=1, timeout_s=0.5)
    admission.enter(1, now_s=0.0)
    assert not admission.may_enter(0.49)
    assert admission.seconds_to_next_timeout(0.4) == pytest.approx(0.1)
    assert admission.may_enter(0.51)


def test_a_dead_head_is_not_waited_for_again_until_it_reports() -> None:
    admission = FrameAdmission(["alive", "dead"], max_in_flight=1, timeout_s=0.5)
    admission.enter(1, now_s=0.0)
    admission.report(1, "alive")
    assert admission.may_enter(0.6)
    admission.enter(2, now_s=0.6)
    assert admission.report(2, "alive"), "the dead head no longer holds the frame"
    admission.report(1, "dead")
    admission.enter(3, now_s=0.7)
    assert not admission.report(3, "alive"), "it is back and counts again"


def test_without_tasks_everything_enters() -> None:
    admission = FrameAdmission([], max_in_flight=1, timeout_s=1.0)
    admission.enter(1, 0.0)
    assert admission.may_enter(0.0)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        FrameAdmission(["head"], max_in_flight=0, timeout_s=1.0)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.floats(0, 0.2)), max_size=60),
    st.integers(1, 3),
)
def test_never_more_under_way_than_allowed(events: list[tuple[bool, int, float]], limit: int) -> None:
    admission = FrameAdmission(["a", "b"], max_in_flight=limit, timeout_s=1.0)
    now, trace = 0.0, 0
    for arrives, reported, pause in events:
        now += pause
        if arrives and admission.may_enter(now):
            trace += 1
            admission.enter(trace, now)
        elif not arrives:
            admission.report(reported, "a")
            admission.report(reported, "b")
        assert len(admission) <= limit
    assert admission.may_enter(now + 1.01)
