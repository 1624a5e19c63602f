"""The latency monitor over DDS: what is slow or dead is told, and named, within a second."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from mmmt_msgs.msg import LatencyStatus, StageTiming
from safety_fixtures import BUDGET_MS, FRAME_PERIOD_S, SafetySide


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "runs" / "timings.jsonl"


@pytest.fixture(scope="module")
def side(record: Path) -> Iterator[SafetySide]:
    side = SafetySide({"latency_monitor": {"record_to": str(record)}})
    yield side
    side.close()


def settle(side: SafetySide) -> None:
    """Waits until every path with a budget is well but control's, which is not engaged."""
    side.stages.dead.clear()
    side.stages.extra_s.clear()
    since = time.monotonic()
    side.wait_for(
        lambda: (
            side.latency[-1:]
            and side.latency[-1][0] > since
            and side.latency[-1][1].level == LatencyStatus.OK
        ),
        30.0,
        "an OK status",
    )


def told_within(side: SafetySide, level: int, words: str, since: float) -> float:
    """Returns after how many seconds a status of at least this level with these words came, without those
    in which the machine stood still.
    """

    def find() -> float | None:
        return next(
            (
                max(0.0, at - since - side.stalls.stalled_s(since))
                for at, s in side.latency
                if at > since and s.level >= level and words in s.message
            ),
            None,
        )

    return side.wait_for(find, 10.0, f"level {level} with {words!r}")


def test_statistics_of_a_steady_stack(side: SafetySide) -> None:
    settle(side)
    side.wait_for(lambda: max(p.count for p in side.latency[-1][1].paths) > 5, 10.0, "some frames")
    status = side.latency[-1][1]
    by_name = {f"{p.modality}->{p.task}": p for p in status.paths}
    assert {m for m, _ in (name.split("->") for name in by_name)} == set(side.rig.modalities)
    lidar = by_name["lidar->detection3d"]
    assert lidar.count > 5
    assert 56.999 <= lidar.p50_ms <= lidar.p95_ms <= lidar.p99_ms <= lidar.max_ms
    assert lidar.p50_ms < 80.0 or side.stalls.stalled_s(0.0) > 1.0
    assert lidar.rate_hz == pytest.approx(1 / FRAME_PERIOD_S, rel=0.2)
    assert lidar.budget_ms == BUDGET_MS
    assert lidar.stages[0] == "sensor"
    assert lidar.stages[-1] == "transport"
    shares = dict(zip(lidar.stages, lidar.stage_mean_ms, strict=True))
    assert shares["lidar_net"] == pytest.approx(20.0, abs=1.0)
    assert sum(shares.values()) == pytest.approx(lidar.mean_ms, rel=0.2)


def test_slow_component_is_told_and_named_within_a_second(side: SafetySide) -> None:
    settle(side)
    since = time.monotonic()
    side.stages.extra_s["camera_net"] = 2.0  # with the frame that is due within FRAME_PERIOD_S
    first_s = FRAME_PERIOD_S + 2.0
    assert told_within(side, LatencyStatus.WARN, "camera_net took", since) < first_s + 1.0
    assert told_within(side, LatencyStatus.ERROR, "in a row", since) < first_s + 3.0


@pytest.mark.parametrize("stage", ["sensor_fusion", "bev_fuser"])
def test_dead_component_is_told_and_named_within_a_second(side: SafetySide, stage: str) -> None:
    settle(side)
    since = time.monotonic()
    side.stages.dead.add(stage)
    assert told_within(side, LatencyStatus.ERROR, f"{stage} has not reported", since) < FRAME_PERIOD_S + 1.1
    side.wait_for(
        lambda: next(
            (
                s
                for at, s in side.diagnostics
                # a machine that stands still for a second lets other stages be late too, for as long
                if at > since
                and s.name == "latency_monitor: lidar->detection3d"
                and s.level == s.ERROR
                and stage in s.message
            ),
            None,
        ),
        3.0,
        f"an error that names {stage} on /diagnostics",
    )


def test_masked_camera_is_a_warning(side: SafetySide) -> None:
    settle(side)
    since = time.monotonic()
    camera = next(name for name in side.rig.modalities if name != "lidar")
    side.stages.masked.add(camera)
    try:
        assert told_within(side, LatencyStatus.WARN, f"{camera} is masked", since) < 3.0
    finally:
        side.stages.masked.clear()


def test_nonsense_does_not_stop_it(side: SafetySide) -> None:
    settle(side)
    since = time.monotonic()
    low, high = -(2**63), 2**63 - 1
    for outcome in (0, 1, 2, 99):
        for queued, done in ((low, high), (high, low), (0, 0)):
            timing = StageTiming(
                trace_id=2**64 - 1,
                stage="bev_fuser",
                queued_ns=queued,
                started_ns=queued,
                done_ns=done,
                outcome=outcome,
            )
            side.stages.timing.publish(timing)
    side.stages.timing.publish(StageTiming())
    side.wait_for(
        lambda: any(at > since and "not understood" in s.message for at, s in side.diagnostics),
        3.0,
        "a fault",
    )
    settle(side)


def test_records_every_timing_as_json_lines(side: SafetySide, record: Path) -> None:
    settle(side)
    side.change_monitor(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    try:
        lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    finally:
        side.change_monitor(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    assert len(lines) > 20
    fused = next(line for line in lines if line["stage"] == "bev_fuser")
    assert fused["queued_ns"] <= fused["started_ns"] <= fused["done_ns"]
    assert {share[0] for share in fused["sensors"]} == set(side.rig.modalities)


@pytest.mark.parametrize("path", ["/dev/full", "/proc/nowhere/timings.jsonl"])
def test_record_that_cannot_be_written_is_one_fault_and_the_monitor_goes_on(path: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this machine")
    own = SafetySide({"latency_monitor": {"record_to": path}})
    try:
        own.wait_for(
            lambda: any("timings are no" in s.message for _, s in own.diagnostics),
            20.0,
            "a fault about the record",
        )
        settle(own)
        count = len(own.latency)
        own.wait_for(lambda: len(own.latency) > count + 5, 6.0, "further statuses")
    finally:
        own.close()
