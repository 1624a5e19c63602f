"""Two clocks read at one moment, also by a thread that loses its core in between."""

from __future__ import annotations

from collections.abc import Iterator

from perception_nodes.runtime.moment import at_one_moment


def test_a_pause_between_the_readings_is_not_taken() -> None:
    now_ns = 0
    pauses: Iterator[int] = iter([25_000_000, 1_000])

    def first() -> int:
        return now_ns

    def second() -> int:
        nonlocal now_ns
        now_ns += next(pauses)
        return now_ns

    started_ns, stamp_ns = at_one_moment(first, second)
    assert stamp_ns - started_ns == 1_000


def test_where_every_reading_is_interrupted_the_closest_is_taken() -> None:
    now_ns = 0
    pauses: Iterator[int] = iter([9_000_000, 5_000_000, 7_000_000, 8_000_000, 6_000_000])

    def second() -> int:
        nonlocal now_ns
        now_ns += next(pauses)
        return now_ns

    started_ns, stamp_ns = at_one_moment(lambda: now_ns, second)
    assert stamp_ns - started_ns == 5_000_000
