"""Latency of paths from stage reports: joining, statistics, faults, clocks, bounded memory."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.bundle import BundleSpec
from perception_core.platform.latency_paths import budget_of, paths_of
from perception_core.platform.path_latency import (
    Level,
    PathLatencyTracker,
    PathStatistics,
    TrackerOptions,
)
from perception_core.platform.rolling import nearest_rank
from perception_core.platform.stage_report import Outcome, SensorShare, StageReport
from perception_core.rig import CameraSensor, LidarSensor, Rig

MS = 1_000_000
START_NS = 1_000_000 * MS
RIG = Rig(
    name="small",
    lidar=LidarSensor(topic="/lidar"),
    cameras={"camera_front": CameraSensor(topic="/front/image")},
)


def bundle() -> BundleSpec:
    """lidar_net and camera_net feed a fuser; a second head looks at the camera alone."""
    tensors = {
        name: {"dtype": "float32", "shape": [1]}
        for name in ("lidar_bev", "camera_bev", "bev", "boxes", "layers", "mono")
    }
    components = {
        "lidar_net": {"inputs": ["points_nc"], "outputs": ["lidar_bev"]},
        "camera_net": {"inputs": ["images_vhwc", "intrinsics_v33"], "outputs": ["camera_bev"]},
        "bev_fuser": {"inputs": ["lidar_bev", "camera_bev"], "outputs": ["bev"]},
        "detection3d_head": {"inputs": ["bev"], "outputs": ["boxes"], "task": "detection3d"},
        "map_segmentation_head": {"inputs": ["bev"], "outputs": ["layers"], "task": "map_segmentation"},
        "mono_head": {"inputs": ["camera_bev"], "outputs": ["mono"], "task": "mono_detection3d"},
    }
    return BundleSpec.model_validate(
        {
            "format": 1,
            "name": "small",
            "model": {"name": "small"},
            "input": {},
            "tensors": tensors,
            "components": components,
            "weights_sha256": "0" * 64,
            "training": {"trained": False, "seed": 0},
        }
    )


BUDGETS = {"*->detection3d": 250.0, "lidar->control": 300.0}
ALL = {"lidar": True, "camera_front": True}


class Feeder:
    """Builds reports of whole frames and gives them to a tracker."""

    STAGES = {
        "sensor_fusion": ((), 2),
        "lidar_net": (("sensor_fusion",), 20),
        "camera_net": (("sensor_fusion",), 30),
        "bev_fuser": (("lidar_net", "camera_net"), 10),
        "detection3d_head": (("bev_fuser",), 10),
        "map_segmentation_head": (("bev_fuser",), 5),
        "mono_head": (("camera_net",), 5),
        "control": (("detection3d_head",), 1),
    }
    TASKS = {"detection3d_head": "detection3d", "control": "control", "mono_head": "mono_detection3d"}

    def __init__(
        self, options: TrackerOptions | None = None, budgets: dict[str, float] | None = None
    ) -> None:
        paths = paths_of(bundle(), RIG, BUDGETS if budgets is None else budgets, ("detection3d",))
        self.tracker = PathLatencyTracker(paths, "here", START_NS, options or TrackerOptions())
        self.trace = 0
        self.now_ns = START_NS

    def frame(
        self,
        received_ns: int,
        extra_ms: dict[str, int] | None = None,
        valid: dict[str, bool] | None = None,
        age_ms: int = 5,
        hand_over_ms: int = 1,
        dead: tuple[str, ...] = (),
        host: dict[str, str] | None = None,
        clock_ns: dict[str, int] | None = None,
    ) -> list[StageReport]:
        """Reports of one frame in the order in which they are done."""
        self.trace += 1
        hosts, clocks = host or {}, clock_ns or {}
        fusion_clock = clocks.get(hosts.get("sensor_fusion", "here"), 0)
        sensors = tuple(
            SensorShare(name, ok, received_ns + fusion_clock, age_ms * MS)
            for name, ok in (valid or ALL).items()
        )
        done: dict[str, int] = {}
        reports = []
        for stage, (waits, usual_ms) in self.STAGES.items():
            if stage in dead or any(feeder not in done for feeder in waits):
                continue
            queued = max((done[feeder] for feeder in waits), default=received_ns) + hand_over_ms * MS
            done[stage] = queued + (usual_ms + (extra_ms or {}).get(stage, 0)) * MS
            name = hosts.get(stage, "here")
            clock = clocks.get(name, 0)
            reports.append(
                StageReport(
                    self.trace,
                    stage,
                    self.TASKS.get(stage, ""),
                    name,
                    queued + clock,
                    queued + clock,
                    done[stage] + clock,
                    usual_ms * MS,
                    Outcome.DONE,
                    sensors,
                )
            )
        return sorted(reports, key=lambda report: report.done_ns - clocks.get(report.host, 0))

    def run(self, seconds: float, period_ms: int = 100, **changed: object) -> None:
        """Frames at a steady rate, each report given the moment it is done."""
        end = self.now_ns + round(seconds * 1e9)
        deliveries: list[tuple[int, int, StageReport]] = []
        clocks = changed.get("clock_ns") or {}
        while self.now_ns < end:
            for report in self.frame(self.now_ns, **changed):  # type: ignore[arg-type]
                deliveries.append((report.done_ns - clocks.get(report.host, 0), len(deliveries), report))
            self.now_ns += period_ms * MS
        for at_ns, _, report in sorted(deliveries):
            if at_ns <= self.now_ns:
                self.tracker.accept(report, at_ns + MS)

    def statistics(self, name: str) -> PathStatistics:
        snapshot = self.tracker.snapshot(self.now_ns)
        return next(s for s in snapshot.paths if s.path.name == name)


def test_paths_of_the_graph() -> None:
    paths = {path.name: path for path in paths_of(bundle(), RIG, BUDGETS, ("detection3d",))}
    assert set(paths) == {
        "lidar->detection3d",
        "lidar->map_segmentation",
        "lidar->control",
        "camera_front->detection3d",
        "camera_front->map_segmentation",
        "camera_front->mono_detection3d",
        "camera_front->control",
    }
    assert paths["lidar->detection3d"].stages == (
        "sensor_fusion",
        "lidar_net",
        "bev_fuser",
        "detection3d_head",
    )
    assert paths["lidar->control"].stages[-2:] == ("detection3d_head", "control")
    assert paths["camera_front->mono_detection3d"].stages == ("sensor_fusion", "camera_net", "mono_head")
    assert "camera_net" in paths["lidar->detection3d"].awaited
    assert paths["lidar->control"].budget_ms == 300.0
    assert paths["camera_front->control"].budget_ms is None


def test_exact_budget_goes_before_wildcards() -> None:
    budgets = {"lidar->detection3d": 1.0, "*->detection3d": 2.0, "lidar->*": 3.0, "*->*": 4.0}
    assert budget_of(budgets, "lidar", "detection3d") == 1.0
    assert budget_of(budgets, "camera_front", "detection3d") == 2.0
    assert budget_of(budgets, "lidar", "depth") == 3.0
    assert budget_of(budgets, "camera_front", "depth") == 4.0
    assert budget_of({}, "lidar", "depth") is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0.01, 1.0))
@settings(deadline=None, derandomize=True)
def test_nearest_rank_is_a_value_that_enough_do_not_exceed(values: list[float], fraction: float) -> None:
    values.sort()
    rank = nearest_rank(values, fraction)
    assert rank in values
    assert sum(value <= rank for value in values) >= fraction * len(values) - 1e-9
    assert sum(value < rank for value in values) < fraction * len(values) + 1e-9


def test_latency_of_a_steady_stack_and_its_shares() -> None:
    feeder = Feeder()
    feeder.run(3.0)
    lidar = feeder.statistics("lidar->detection3d")
    # 5 age + 1 + 2 fusion + 1 + 30 camera_net + 1 + 10 fuser + 1 + 10 head
    assert lidar.last_ms == lidar.p50_ms == lidar.p99_ms == lidar.max_ms == pytest.approx(61.0)
    assert lidar.rate_hz == pytest.approx(10.0, rel=0.01)
    assert lidar.count == 30
    assert lidar.level == Level.OK
    shares = dict(zip(lidar.stages, lidar.stage_mean_ms, strict=True))
    assert shares["sensor"] == pytest.approx(5.0)
    assert shares["lidar_net"] == pytest.approx(20.0)
    # three hand-overs on its own chain, one before fusion, and 10 ms waiting for the camera network
    assert shares["transport"] == pytest.approx(14.0)
    assert sum(shares.values()) == pytest.approx(lidar.mean_ms)
    camera = feeder.statistics("camera_front->detection3d")
    assert dict(zip(camera.stages, camera.stage_mean_ms, strict=True))["transport"] == pytest.approx(4.0)
    control = feeder.statistics("lidar->control")
    assert control.last_ms == pytest.approx(63.0)
    assert feeder.tracker.snapshot(feeder.now_ns).message == "all paths within budget"


def test_masked_modality_does_not_count_and_is_a_warning() -> None:
    feeder = Feeder()
    feeder.run(2.0)
    before = feeder.statistics("camera_front->detection3d").count
    feeder.run(2.0, valid={"lidar": True, "camera_front": False})
    camera = feeder.statistics("camera_front->detection3d")
    assert camera.count == before
    assert camera.level == Level.WARN
    assert "camera_front is masked" in camera.message
    assert feeder.statistics("lidar->detection3d").level == Level.OK


def test_one_miss_warns_and_is_forgotten_and_a_run_is_an_error_naming_the_stage() -> None:
    feeder = Feeder()
    feeder.run(3.0)
    feeder.run(0.4, extra_ms={"camera_net": 250})
    feeder.run(0.2)
    lidar = feeder.statistics("lidar->detection3d")
    assert lidar.level == Level.WARN
    assert "camera_net took 280 ms (usually 30 ms)" in lidar.message
    assert lidar.deadline_misses >= 1
    feeder.run(2.0)
    assert feeder.statistics("lidar->detection3d").level == Level.OK
    misses = feeder.statistics("lidar->detection3d").deadline_misses
    feeder.run(2.0, extra_ms={"camera_net": 250})
    lidar = feeder.statistics("lidar->detection3d")
    assert lidar.level == Level.ERROR
    assert "in a row" in lidar.message
    assert lidar.deadline_misses == misses + lidar.consecutive_misses


def test_p99_remembers_a_slow_phase_for_the_window_and_no_longer() -> None:
    feeder = Feeder(TrackerOptions(window_s=5.0))
    feeder.run(2.0, extra_ms={"camera_net": 150})
    feeder.run(4.0)
    assert feeder.statistics("lidar->detection3d").p99_ms == pytest.approx(211.0)
    assert feeder.statistics("lidar->detection3d").last_ms == pytest.approx(61.0)
    feeder.run(5.5)
    assert feeder.statistics("lidar->detection3d").p99_ms == pytest.approx(61.0)


@pytest.mark.parametrize(
    "stage", ["sensor_fusion", "lidar_net", "camera_net", "bev_fuser", "detection3d_head"]
)
def test_dead_stage_is_named_within_a_second(stage: str) -> None:
    feeder = Feeder()
    feeder.run(3.0)
    before = feeder.statistics("lidar->detection3d").deadline_misses
    feeder.run(1.0, dead=(stage,))
    lidar = feeder.statistics("lidar->detection3d")
    assert lidar.level == Level.ERROR
    assert lidar.message.startswith(f"{stage} has not reported for")
    assert lidar.deadline_misses > before
    assert lidar.consecutive_misses >= 5
    assert stage in feeder.tracker.snapshot(feeder.now_ns).message
    feeder.run(0.5)
    recovered = feeder.statistics("lidar->detection3d")
    assert recovered.level == Level.WARN
    assert recovered.consecutive_misses == 0
    feeder.run(1.5)
    assert feeder.statistics("lidar->detection3d").level == Level.OK


def test_silence_is_told_again_as_fast_after_an_outage() -> None:
    feeder = Feeder()
    for _ in range(3):
        feeder.run(2.0)
        feeder.run(5.0, dead=("lidar_net",))
    feeder.run(2.0)
    feeder.run(0.9, dead=("lidar_net",))
    assert feeder.statistics("lidar->detection3d").level == Level.ERROR


def test_path_that_never_comes_is_an_error_after_the_start() -> None:
    feeder = Feeder(TrackerOptions(startup_s=5.0))
    feeder.run(3.0, dead=("bev_fuser",))
    assert feeder.statistics("lidar->detection3d").level == Level.WARN
    feeder.run(4.0, dead=("bev_fuser",))
    lidar = feeder.statistics("lidar->detection3d")
    assert lidar.level == Level.ERROR
    assert lidar.message == "bev_fuser has never reported"
    assert math.isnan(lidar.p99_ms)


def test_control_that_is_not_engaged_is_no_fault_and_a_dead_one_is() -> None:
    feeder = Feeder()
    for _ in range(30):
        feeder.run(0.1, dead=("control",))
        feeder.tracker.accept(
            StageReport(
                feeder.trace,
                "control",
                "control",
                "here",
                feeder.now_ns,
                feeder.now_ns,
                feeder.now_ns,
                0,
                Outcome.DROPPED,
                (),
                "not engaged",
            ),
            feeder.now_ns,
        )
    assert feeder.statistics("lidar->control").level == Level.OK
    feeder.run(3.0)
    feeder.run(1.0, dead=("control",))
    assert feeder.statistics("lidar->control").level == Level.ERROR
    assert "control" in feeder.statistics("lidar->control").message


def test_failed_stage_is_a_miss_and_says_why() -> None:
    feeder = Feeder()
    feeder.run(2.0)
    failed = StageReport(
        feeder.trace + 1,
        "bev_fuser",
        "",
        "here",
        feeder.now_ns,
        feeder.now_ns,
        feeder.now_ns,
        0,
        Outcome.FAILED,
        (SensorShare("lidar", True, feeder.now_ns, 0),),
        "out of memory",
    )
    feeder.tracker.accept(failed, feeder.now_ns)
    lidar = feeder.statistics("lidar->detection3d")
    assert lidar.deadline_misses == 1
    assert "bev_fuser failed: out of memory" in lidar.message


def test_order_and_repetition_of_reports_do_not_matter() -> None:
    steady, shuffled = Feeder(), Feeder()
    generator = random.Random(4)
    for index in range(40):
        received = START_NS + index * 100 * MS
        reports = steady.frame(received)
        shuffled.trace = steady.trace
        mixed = reports * 2
        generator.shuffle(mixed)
        for report in reports:
            assert steady.tracker.accept(report, received + 99 * MS) is None
        refusals = [shuffled.tracker.accept(report, received + 99 * MS) for report in mixed]
        assert refusals.count("duplicate") == len(reports)
    for feeder in (steady, shuffled):
        feeder.now_ns = START_NS + 4000 * MS
    for name in ("lidar->detection3d", "camera_front->control"):
        one, other = steady.statistics(name), shuffled.statistics(name)
        assert (one.count, one.mean_ms, one.stage_mean_ms) == (
            other.count,
            other.mean_ms,
            other.stage_mean_ms,
        )


def test_duplicate_after_the_trace_expired_is_still_one() -> None:
    feeder = Feeder(TrackerOptions(max_traces=4))
    first = feeder.frame(START_NS)
    for report in first:
        feeder.tracker.accept(report, START_NS + 70 * MS)
    for index in range(1, 9):
        for report in feeder.frame(START_NS + index * 100 * MS):
            feeder.tracker.accept(report, START_NS + (index * 100 + 70) * MS)
    assert feeder.tracker.accept(first[-1], START_NS + 900 * MS) == "duplicate"
    feeder.now_ns = START_NS + 900 * MS
    assert feeder.statistics("lidar->control").count == 9


def test_restarted_stack_may_use_the_same_identities_again() -> None:
    feeder = Feeder()
    feeder.run(2.0)
    feeder.trace = 0
    feeder.run(2.0)
    assert feeder.statistics("lidar->detection3d").count == 40


def test_times_of_another_host_are_converted_and_never_flatter() -> None:
    offset = 7_000_000_000 * MS
    feeder = Feeder()
    host = {"detection3d_head": "there", "bev_fuser": "there"}
    feeder.run(3.0, host=host, clock_ns={"there": offset})
    lidar = feeder.statistics("lidar->detection3d")
    assert lidar.count >= 29
    assert 61.0 <= lidar.p50_ms <= 61.0 + 2.0  # the reports' own delivery of 1 ms stays in it
    assert dict(zip(lidar.stages, lidar.stage_mean_ms, strict=True))["bev_fuser"] == pytest.approx(10.0)


def test_whole_stack_on_another_host() -> None:
    feeder = Feeder()
    host = dict.fromkeys(Feeder.STAGES, "there")
    feeder.run(2.0, host=host, clock_ns={"there": -500_000 * MS})
    assert feeder.statistics("lidar->detection3d").p50_ms == pytest.approx(61.0)


@pytest.mark.parametrize(
    ("age_ms", "shift_ms", "reason"),
    [
        (-5_000, 0, "sensor stamp in the future"),
        (10**11, 0, "sensor stamp on another clock"),
        (0, 10_000, "done before its sensor data arrived"),
        (0, -90_000, "latency absurd"),
    ],
)
def test_unbelievable_values_are_refused_and_counted(age_ms: int, shift_ms: int, reason: str) -> None:
    feeder = Feeder()
    sensors = (SensorShare("lidar", True, START_NS + shift_ms * MS, age_ms * MS),)
    report = StageReport(
        1, "detection3d_head", "detection3d", "here", START_NS, START_NS, START_NS, 0, Outcome.DONE, sensors
    )
    assert feeder.tracker.accept(report, START_NS) == reason
    snapshot = feeder.tracker.snapshot(START_NS)
    assert snapshot.refused == {reason: 1}
    assert all(statistics.count == 0 for statistics in snapshot.paths)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"stage": "nobody"}, "stage is on no path"),
        ({"started_ns": START_NS - 10 * MS}, "stage times in disorder"),
        ({"done_ns": START_NS + 900 * MS}, "done in the future"),
        (
            {
                "queued_ns": START_NS - 20_000 * MS,
                "started_ns": START_NS - 20_000 * MS,
                "done_ns": START_NS - 20_000 * MS,
            },
            "report too old",
        ),
    ],
)
def test_impossible_reports_are_refused(changed: dict[str, object], reason: str) -> None:
    fields = {
        "trace_id": 1,
        "stage": "lidar_net",
        "task": "",
        "host": "here",
        "queued_ns": START_NS,
        "started_ns": START_NS,
        "done_ns": START_NS,
        "compute_ns": 0,
        "outcome": Outcome.DONE,
        "sensors": (),
    }
    assert Feeder().tracker.accept(StageReport(**(fields | changed)), START_NS) == reason


numbers = st.integers(-(2**63), 2**63 - 1)
near = st.integers(START_NS - 20_000 * MS, START_NS + 20_000 * MS)
times = st.one_of(near, near, numbers)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.lists(
        st.builds(
            StageReport,
            trace_id=st.integers(0, 5),
            stage=st.sampled_from([*Feeder.STAGES, "nobody"]),
            task=st.just(""),
            host=st.sampled_from(["here", "there", ""]),
            queued_ns=times,
            started_ns=times,
            done_ns=times,
            compute_ns=numbers,
            outcome=st.sampled_from(list(Outcome)),
            sensors=st.lists(
                st.builds(
                    SensorShare,
                    st.sampled_from(["lidar", "camera_front", "x"]),
                    st.booleans(),
                    times,
                    numbers,
                ),
                max_size=3,
            ).map(tuple),
            detail=st.text(max_size=5),
        ),
        max_size=60,
    )
)
def test_no_report_breaks_the_tracker_or_its_figures(reports: list[StageReport]) -> None:
    feeder = Feeder()
    for index, report in enumerate(reports):
        feeder.tracker.accept(report, START_NS + index * MS)
        for statistics in feeder.tracker.snapshot(START_NS + index * MS).paths:
            if statistics.count:
                assert 0.0 <= statistics.p50_ms <= statistics.p95_ms <= statistics.p99_ms <= statistics.max_ms
                assert statistics.max_ms <= 60_000.0
            assert statistics.deadline_misses >= 0


def test_memory_is_bounded() -> None:
    options = TrackerOptions(max_samples=100, max_traces=50)
    feeder = Feeder(options)
    for index in range(1500):
        received = START_NS + index * 20 * MS
        for report in feeder.frame(received, dead=("bev_fuser",) if index % 3 else ()):
            feeder.tracker.accept(report, received + 70 * MS)
    tracker = feeder.tracker
    assert len(tracker._traces) <= options.max_traces
    assert len(tracker._retired) <= 4 * options.max_traces
    assert all(len(state.latency_ms.entries) <= options.max_samples for state in tracker._states)
    assert sum(len(trace.awaiting_shares) for trace in tracker._traces.values()) < 1000
