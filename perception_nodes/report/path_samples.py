"""Every output of every path of a recorded run, from the same code the latency monitor uses while the stack
runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perception_core.bundle import BundleSpec
from perception_core.control.tasks import required_tasks
from perception_core.platform.path_latency import (
    LatencyPath,
    PathLatencyTracker,
    StageReport,
    paths_of,
)
from perception_core.rig import Rig
from perception_nodes.nodes.latency_monitor import stage_report
from perception_nodes.report.recorded_run import RecordedRun

#: The monitor looks for silent paths this often, and so does the replay of its input.
_LOOK_PERIOD_NS = 100_000_000


@dataclass
class Output:
    """One output of a path.

    Attributes:
        trace_id: Its frame.
        done_ns: When it was published, CLOCK_MONOTONIC.
        latency_ms: From the sensor's stamp to then.
        shares_ms: The latency by stage, empty where a stage's report is missing.
    """

    trace_id: int
    done_ns: int
    latency_ms: float
    shares_ms: dict[str, float] = field(default_factory=dict)


@dataclass
class PathRecord:
    """All outputs of one path.

    Attributes:
        path: The path.
        outputs: In order of reception.
        deadline_misses: As the latency monitor counts them: over budget, failed, or missing while the path
            was silent.
    """

    path: LatencyPath
    outputs: list[Output] = field(default_factory=list)
    deadline_misses: int = 0


class _Collector:
    """Listens to a tracker."""

    def __init__(self, records: Mapping[str, PathRecord]) -> None:
        self._records = records
        self._pending: dict[tuple[str, int, int], Output] = {}

    def on_output(self, path: LatencyPath, report: StageReport, latency_ms: float) -> None:
        output = Output(report.trace_id, report.done_ns, latency_ms)
        self._records[path.name].outputs.append(output)
        self._pending[(path.name, report.trace_id, report.done_ns)] = output

    def on_shares(self, path: LatencyPath, report: StageReport, shares_ms: Mapping[str, float]) -> None:
        output = self._pending.pop((path.name, report.trace_id, report.done_ns), None)
        if output is not None:
            output.shares_ms = dict(shares_ms)


def path_records(
    run: RecordedRun, bundle: BundleSpec, rig: Rig, budgets_ms: Mapping[str, float]
) -> dict[str, PathRecord]:
    """Feeds all recorded timings to the monitor's path code.

    Args:
        run: The recording.
        bundle: Component graph.
        rig: Modalities.
        budgets_ms: Budgets of the deployment.

    Returns:
        Each path by its name, those without any output too.
    """
    paths = paths_of(bundle, rig, budgets_ms, required_tasks(bundle))
    records = {path.name: PathRecord(path) for path in paths}
    host = run.host or (run.timings[0].message.host if run.timings else "")
    tracker = PathLatencyTracker(paths, host, run.begun_ns, listener=_Collector(records))
    # Silence after the last frame is the end of the recording, not a fault of the path.
    last_input_ns = max(
        (item.received_ns for item in run.timings if item.message.stage == "sensor_fusion"), default=0
    )
    next_look_ns = run.begun_ns + _LOOK_PERIOD_NS
    for item in run.timings:
        while next_look_ns <= min(item.received_ns, last_input_ns):
            tracker.snapshot(next_look_ns)
            next_look_ns += _LOOK_PERIOD_NS
        try:
            report = stage_report(item.message)
        except ValueError:
            continue  # an outcome this version does not know is no output
        tracker.accept(report, item.received_ns)
    for statistics in tracker.snapshot(max(last_input_ns, run.begun_ns)).paths:
        records[statistics.path.name].deadline_misses = statistics.deadline_misses
    return records
