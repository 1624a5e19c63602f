"""Tests of what `mmmt bench overhead` makes of frames."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from benchmarks import _handover, overhead
from benchmarks._stalls import STALL_S, StallWatch, disturbed


@pytest.fixture(autouse=True)
def _quick_handover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_handover, "ROUNDS", 5)
    monkeypatch.setattr(_handover, "_PAUSE_S", 0.01)


def frame(begun: float, end_to_end: float, networks: float = 50.0, stalled: bool = False) -> dict[str, float]:
    return {
        "begun": begun,
        "end_to_end": end_to_end,
        "preparation": 10.0,
        "networks": networks,
        "stalled": float(stalled),
    }


def test_overhead_is_the_median_of_what_is_left_of_each_frame() -> None:
    found = overhead._summary([frame(0, 100, 60), frame(1000, 70, 50), frame(2000, 200, 170)])
    assert found["overhead_ms"] == 20.0
    assert found["limit_ms"] == 10.0
    assert not found["within_limit"]
    assert found["overlapping_left_out"] == 0


def test_frames_that_began_while_another_was_under_way_are_left_out() -> None:
    found = overhead._summary([frame(0, 500, 480), frame(100, 50, 0), frame(450, 300, 0), frame(760, 80, 65)])
    assert found["frames"] == 2
    assert found["overlapping_left_out"] == 2
    assert found["overhead_ms"] == 7.5


@pytest.mark.parametrize(("calm", "counted"), [(5, 5), (4, 7)])
def test_frames_of_a_machine_that_stood_still_count_where_hardly_any_other_is_left(
    calm: int, counted: int
) -> None:
    frames = [frame(1000 * number, 100, 80) for number in range(calm)]
    frames += [frame(1000 * (calm + number), 900, 80, stalled=True) for number in range(3)]
    found = overhead._summary(frames)
    assert found["frames"] == counted
    assert found["stalled_left_out"] == len(frames) - counted
    assert found["overhead_ms"] == 10.0
    assert found["with_stalls"]["frames"] == len(frames)


def test_replay_is_slowed_down_while_most_frames_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = []

    def frames_of(deployment: str, recording: Any, rig: Any, seconds: float, rate: float) -> Any:
        rates.append(rate)
        return [frame(100.0 / rate * number, 450.0, 435.0) for number in range(8)]

    monkeypatch.setattr(overhead, "_frames_of", frames_of)
    found = overhead.run(recording=None, rig=None, seconds=30.0, rate=0.4, warm_up=2)
    assert rates == [0.4, 0.2] * 2
    for deployment in overhead.DEPLOYMENTS:
        assert found[deployment]["rate"] == 0.2
        assert found[deployment]["frames"] == 6
        assert found[deployment]["overlapping_left_out"] == 0
        assert found[deployment]["within_limit"]


def test_where_a_slower_replay_leaves_no_frames_the_slowest_with_some_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def frames_of(deployment: str, recording: Any, rig: Any, seconds: float, rate: float) -> Any:
        return [frame(number, 900.0) for number in range(5)] if rate > 0.15 else []

    monkeypatch.setattr(overhead, "_frames_of", frames_of)
    found = overhead.run(recording=None, rig=None, seconds=30.0, rate=0.4, warm_up=2)
    assert found["cpu-2core"]["rate"] == 0.2
    assert found["cpu-2core"]["frames"] == 1
    assert found["cpu-2core"]["overlapping_left_out"] == 2


def test_a_stack_that_gives_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "_frames_of", lambda *_: [])
    with pytest.raises(RuntimeError, match="no frame came through"):
        overhead.run(recording=None, rig=None, seconds=30.0, rate=0.4, warm_up=2)


def test_a_handover_takes_time_and_leaves_this_process_its_cores() -> None:
    cores = os.sched_getaffinity(0)
    found = _handover.measure_handover()
    assert 0 < found["p50_ms"] <= found["p90_ms"]
    assert os.sched_getaffinity(0) == cores


def test_a_core_that_keeps_a_sleeper_waiting_stood_still() -> None:
    with StallWatch() as watch:
        watcher, _ = watch._watchers[0]
        assert watcher.pid is not None
        time.sleep(0.05)
        begin = time.monotonic()
        os.kill(watcher.pid, signal.SIGSTOP)
        time.sleep(0.1)
        os.kill(watcher.pid, signal.SIGCONT)
        end = time.monotonic()
        time.sleep(0.05)
    assert disturbed(begin, end, watch.stalls)
    assert watch.stalls == sorted(watch.stalls)
    assert all(later - earlier > STALL_S for earlier, later in watch.stalls)
    assert not disturbed(0.0, 0.001, watch.stalls)
