"""The figures of summary.json, from recordings whose figures are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from mmmt_msgs.msg import ControlCommand, StageTiming
from report_run_fixtures import command, diagnostic, facts, frame_timings, fusion, resolve, run_of

from perception_core.deployment import ResolvedDeployment
from perception_nodes.report.control_judge import judge_commands, kind_of
from perception_nodes.report.path_samples import path_records
from perception_nodes.report.recorded_run import RecordedRun, lost_in_sequence, sum_over_restarts
from perception_nodes.report.summary import Summary, summarize


@pytest.fixture
def resolved(tmp_path: Path) -> ResolvedDeployment:
    return resolve(tmp_path)


def summary_of(run: RecordedRun, resolved: ResolvedDeployment) -> Summary:
    paths = path_records(run, resolved.bundle.spec, resolved.rig, resolved.deployment.budgets_ms)
    return summarize(run, facts(), resolved, paths, judge_commands(run, resolved))


def test_path_statistics_are_those_of_all_outputs(resolved: ResolvedDeployment) -> None:
    latencies = [60.0 + index for index in range(100)]
    timings = [item for trace, ms in enumerate(latencies, 1) for item in frame_timings(resolved, trace, ms)]
    path = summary_of(run_of(timings), resolved).paths["lidar->detection3d"]
    assert path.count == 100
    assert path.p50_ms == pytest.approx(109.0)  # nearest rank: the 50th of 60..159
    assert path.p95_ms == pytest.approx(154.0)
    assert path.p99_ms == pytest.approx(158.0)
    assert path.max_ms == pytest.approx(159.0)
    assert path.rate_hz == pytest.approx(99 / (99 * 0.1 + 0.099), rel=1e-3)


def test_outputs_over_budget_are_deadline_misses(tmp_path: Path) -> None:
    resolved = resolve(tmp_path, "whole", "budgets_ms.lidar->detection3d:=100")
    timings = [
        item
        for trace in range(1, 31)
        for item in frame_timings(resolved, trace, 150.0 if trace % 10 == 0 else 70.0)
    ]
    paths = summary_of(run_of(timings), resolved).paths
    assert paths["lidar->detection3d"].deadline_misses == 3
    assert paths["lidar->detection3d"].budget_ms == 100
    assert paths["lidar->map_segmentation"].deadline_misses == 0


def test_a_masked_sensor_has_no_output(resolved: ResolvedDeployment) -> None:
    timings = [
        item
        for trace in range(1, 11)
        for item in frame_timings(resolved, trace, 80.0, masked=("camera_back",) if trace % 2 else ())
    ]
    paths = summary_of(run_of(timings), resolved).paths
    assert paths["lidar->detection3d"].count == 10
    assert paths["camera_back->detection3d"].count == 5


def test_shares_add_up_to_the_latency(resolved: ResolvedDeployment) -> None:
    run = run_of([item for trace in range(1, 6) for item in frame_timings(resolved, trace, 90.0)])
    records = path_records(run, resolved.bundle.spec, resolved.rig, resolved.deployment.budgets_ms)
    for output in records["lidar->detection3d"].outputs:
        assert sum(output.shares_ms.values()) == pytest.approx(output.latency_ms)
        assert output.shares_ms["sensor_fusion"] == pytest.approx(10.0)


def test_a_first_command_is_judged_by_the_control_period_not_by_gaps_of_a_slow_machine(
    resolved: ResolvedDeployment,
) -> None:
    too_fast = {"measured_speed": 8.4, "speed_limit": 6.4, "speed": 6.4, "sight_distance": 41.0}
    commands = [
        command(1, 0.0, acceleration=-1.0, reaction_time=4.9, **too_fast)
    ]  # a jerk of 20 m/s3 in 50 ms
    commands += [
        command(2 + index, 0.8 * (1 + index), ControlCommand.STATE_FULL_STOP, acceleration=-5.0, speed=0.0)
        for index in range(5)
    ]
    assert judge_commands(run_of([], commands=commands), resolved).ticks == 0


def test_stage_figures_and_outcomes(resolved: ResolvedDeployment) -> None:
    timings = [item for trace in range(1, 21) for item in frame_timings(resolved, trace, 80.0)]
    timings[-1].message.outcome = StageTiming.OUTCOME_FAILED
    timings[-2].message.outcome = StageTiming.OUTCOME_DROPPED
    stages = summary_of(run_of(timings), resolved).stages
    assert stages["lidar_net"].compute_p50_ms == pytest.approx(5.0)
    assert stages["lidar_net"].run_p50_ms == pytest.approx(10.0)
    assert stages["lidar_net"].wait_p50_ms == pytest.approx(1.0)
    assert stages["lidar_net"].device == resolved.deployment.placement["lidar_net"]
    failed, dropped = timings[-1].message.stage, timings[-2].message.stage
    assert (stages[failed].count, stages[failed].failed) == (19, 1)
    assert (stages[dropped].count, stages[dropped].dropped) == (19, 1)


def test_frames_are_added_up_over_a_restart_of_sensor_fusion(resolved: ResolvedDeployment) -> None:
    run = run_of([], fusion=[fusion(1, 5, 5), fusion(2, 12, 10, 3), fusion(3, 2, 2), fusion(4, 8, 7, 1)])
    assert sum_over_restarts(run, lambda status: status.frames_in) == 20
    frames = summary_of(run, resolved).as_json()["frames"]
    assert frames["in"] == 20
    assert frames["out"] == 17
    assert frames["dropped"] == 3
    assert frames["masked"] == 4
    assert frames["in"] == frames["out"] + frames["dropped"]


def test_control_is_judged_tick_by_tick(resolved: ResolvedDeployment) -> None:
    stopping = {"state": ControlCommand.STATE_COMFORTABLE_STOP, "speed": 0.0}
    commands = [
        command(1, 0.00),
        command(2, 0.05),
        command(3, 0.10, speed=9.0),  # above its limit
        command(4, 0.15),
        command(5, 0.20, speed=math.nan),
        command(6, 0.25),
        command(7, 0.30, perception_age=2.0),  # drives on old perception
        command(8, 0.35, **stopping, acceleration=-1.0),
        command(9, 0.40, **stopping, acceleration=-2.0),
        command(10, 0.45, acceleration=-1.0),
        command(11, 0.50, **stopping, acceleration=-2.0),
    ]
    control = summary_of(run_of([], commands=commands), resolved).control
    assert control.ticks == 11
    assert control.unsafe_ticks == 3
    assert control.stops == 2
    assert control.seconds_by_state == {"driving": 0.4, "comfortable_stop": 0.1}


def test_reasons_are_counted_without_their_figures() -> None:
    assert kind_of("drives on perception 0.71 s old") == kind_of("drives on perception 1.22 s old")


@pytest.mark.parametrize(
    ("numbers", "lost"), [([], 0), ([1, 2, 3], 0), ([1, 5], 3), ([7, 8, 1, 2, 4], 1), ([3, 3, 3], 0)]
)
def test_gaps_in_a_counter(numbers: list[int], lost: int) -> None:
    assert lost_in_sequence(numbers) == lost


def test_faults_are_gathered_and_paths_left_to_the_monitor(resolved: ResolvedDeployment) -> None:
    diagnostics = [
        diagnostic(1.0, "sensor_fusion: corrupt_image camera_front", DiagnosticStatus.ERROR, 1),
        diagnostic(3.0, "sensor_fusion: corrupt_image camera_front", DiagnosticStatus.ERROR, 17),
        diagnostic(2.0, "control: odometry", DiagnosticStatus.WARN),
        diagnostic(2.5, "latency_monitor: lidar->detection3d", DiagnosticStatus.ERROR),
        diagnostic(2.5, "latency_monitor", DiagnosticStatus.ERROR),
        diagnostic(2.6, "control", DiagnosticStatus.OK),
    ]
    faults = summary_of(run_of([], diagnostics=diagnostics), resolved).faults
    assert [(fault.source, fault.level, fault.count) for fault in faults] == [
        ("sensor_fusion: corrupt_image camera_front", "error", 17),
        ("control: odometry", "warning", 1),
    ]
    assert (faults[0].first_s, faults[0].last_s) == (1.0, 3.0)


def test_an_empty_recording_is_strict_json(resolved: ResolvedDeployment, tmp_path: Path) -> None:
    summary = summary_of(RecordedRun(), resolved)
    path = summary.write(tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    values = json.loads(path.read_text(), parse_constant=refuse)
    required = {"recording", "deployment", "machine", "commit", "frames", "paths", "stages", "control"}
    assert required <= values.keys()
    assert values["frames"] == {
        **values["frames"],
        "in": 0,
        "out": 0,
        "dropped": 0,
        "masked": 0,
        "fallback": 0,
    }
    assert values["paths"]["lidar->detection3d"] == {
        **values["paths"]["lidar->detection3d"], "count": 0, "p50_ms": None, "deadline_misses": 0,
    }  # fmt: skip
    assert values["control"] == {**values["control"], "ticks": 0, "unsafe_ticks": 0, "stops": 0}
    assert values["trained"] is False
