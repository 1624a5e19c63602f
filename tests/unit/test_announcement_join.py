"""The join of producers by trace: complete exactly once, bounded, and indifferent to order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.runtime.announcement_join import AnnouncementJoin


def test_completes_when_all_producers_reported() -> None:
    join: AnnouncementJoin[str] = AnnouncementJoin(["lidar_net", "camera_net"], capacity=4)
    assert join.add("lidar_net", 7, "lidar") is None
    assert join.add("camera_net", 8, "camera 8") is None
    assert join.add("camera_net", 7, "camera") == {"lidar_net": "lidar", "camera_net": "camera"}
    assert len(join) == 1


def test_incomplete_traces_are_bounded_and_the_oldest_leaves() -> None:
    join: AnnouncementJoin[str] = AnnouncementJoin(["a", "b"], capacity=2)
    for trace in range(3):
        assert join.add("a", trace, "x") is None
    assert join.add("b", 0, "late") is None, "trace 0 was evicted, so this begins it anew"
    assert join.add("b", 2, "in time") is not None


def test_unknown_producer_and_wrong_set_up_are_refused() -> None:
    with pytest.raises(KeyError, match="none of the joined"):
        AnnouncementJoin(["a"], 1).add("b", 0, "x")
    with pytest.raises(ValueError, match="distinct"):
        AnnouncementJoin(["a", "a"], 1)
    with pytest.raises(ValueError, match="capacity"):
        AnnouncementJoin(["a"], 0)


@given(st.permutations([(producer, trace) for producer in "abc" for trace in range(5)]))
def test_every_trace_completes_exactly_once_in_any_order(arrivals: list[tuple[str, int]]) -> None:
    join: AnnouncementJoin[tuple[str, int]] = AnnouncementJoin("abc", capacity=5)
    completed = [
        trace for producer, trace in arrivals if join.add(producer, trace, (producer, trace)) is not None
    ]
    assert sorted(completed) == list(range(5))
    assert len(join) == 0
