"""A lasting fault is told at once, then ever more rarely in the log, and steadily to diagnostics."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.runtime.fault_log import FORGOTTEN_AFTER_S, LONGEST_LOG_PERIOD_S, FaultLog


def test_the_log_falls_quiet_while_diagnostics_go_on() -> None:
    log = FaultLog()
    tellings = [log.tell("silent lidar", second * 0.5) for second in range(240)]
    assert [index * 0.5 for index, telling in enumerate(tellings) if telling.log] == [
        0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 95.0,
    ]  # fmt: skip
    assert sum(telling.publish for telling in tellings) == 120
    assert tellings[-1].count == 240


def test_a_fault_that_returns_is_news_and_kinds_are_told_apart() -> None:
    log = FaultLog()
    for second in range(20):
        log.tell("a", float(second))
    assert log.tell("b", 19.5).log
    again = log.tell("a", 19.0 + FORGOTTEN_AFTER_S + 0.1)
    assert (again.log, again.count) == (True, 1)


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200))
def test_never_silent_for_longer_than_promised(gaps: list[float]) -> None:
    log, now, logged = FaultLog(), 0.0, None
    for gap in gaps:
        now += gap
        if log.tell("a", now).log:
            logged = now
        assert logged is not None
        assert now - logged < LONGEST_LOG_PERIOD_S
