"""Figures of a run: `summary.json`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from mmmt_msgs.msg import ControlCommand, StageTiming

from perception_core.atomic_write import write_atomically
from perception_core.bundle import TrainingRecord
from perception_core.deployment import ResolvedDeployment
from perception_core.platform.path_latency import nearest_rank
from perception_nodes.nodes.latency_monitor import NODE_NAME as LATENCY_MONITOR
from perception_nodes.report.control_judge import UnsafeTicks
from perception_nodes.report.path_samples import PathRecord
from perception_nodes.report.recorded_run import ObjectCount, RecordedRun, sum_over_restarts
from perception_nodes.report.run_facts import ProcessFacts, RunFacts

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class FrameCounts:
    """sensor_fusion's account: `in` = `out` + `dropped`; `masked` of `out` lacked a sensor; `fallback` is
    apart.
    """

    received: int
    out: int
    dropped: int
    masked: int
    fallback: int
    drop_reasons: dict[str, int] = field(default_factory=dict)
    masked_by_modality: dict[str, int] = field(default_factory=dict)
    rejected_by_modality: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file, where `received` is called `in`."""
        values = dataclasses.asdict(self)
        return {"in": values.pop("received"), **values}


@dataclass(frozen=True)
class PathFigures:
    """One path; milliseconds, None where it had no output."""

    count: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    mean_ms: float | None
    budget_ms: float | None
    deadline_misses: int
    rate_hz: float | None


@dataclass(frozen=True)
class StageFigures:
    """One stage in one process; milliseconds, None where it finished nothing.

    `compute` is the time inside the network, `run` from start to output, `wait` from complete inputs to
    start.
    """

    process: str
    device: str
    count: int
    dropped: int
    failed: int
    compute_p50_ms: float | None
    compute_p95_ms: float | None
    run_p50_ms: float | None
    run_p95_ms: float | None
    wait_p50_ms: float | None


@dataclass(frozen=True)
class ControlFigures:
    """Control's commands; `stops` counts how often it began to stop while driving."""

    ticks: int
    unsafe_ticks: int
    stops: int
    unsafe_reasons: dict[str, int] = field(default_factory=dict)
    seconds_by_state: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectFigures:
    """Objects of one task."""

    messages: int
    mean_per_message: float | None
    max_per_message: int | None
    labels: dict[str, int]


@dataclass(frozen=True)
class Fault:
    """A fault a node reported; times are seconds since the recording began."""

    source: str
    level: str
    message: str
    count: int
    first_s: float
    last_s: float


@dataclass(frozen=True)
class Summary:
    """Everything that stands in summary.json.

    Attributes:
        trained: False: the network's weights are random and its outputs mean nothing.
        missing: What the recording lacks; empty when it is complete.
    """

    recording: str | None
    deployment: str
    machine: dict[str, str]
    commit: str | None
    trained: bool
    training: TrainingRecord
    bundle: str
    rig: str
    overrides: tuple[str, ...]
    started_at: str
    duration_s: float
    ended: str
    frames: FrameCounts
    paths: dict[str, PathFigures]
    stages: dict[str, StageFigures]
    control: ControlFigures
    objects: dict[str, ObjectFigures]
    ground_truth: ObjectFigures
    maps: dict[str, int]
    respawns: dict[str, int]
    processes: tuple[ProcessFacts, ...]
    faults: tuple[Fault, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values: no NaN, no infinity, every key a string."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values["frames"] = self.frames.as_json()
        values["training"] = self.training.model_dump(mode="json")
        plain: dict[str, Any] = _plain(values)
        return plain

    def write(self, folder: Path) -> Path:
        """Writes summary.json whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        path = folder / SUMMARY_FILE
        write_atomically(path, (json.dumps(self.as_json(), indent=2, allow_nan=False) + "\n").encode())
        return path


def summarize(
    run: RecordedRun,
    facts: RunFacts,
    resolved: ResolvedDeployment,
    paths: Mapping[str, PathRecord],
    unsafe: UnsafeTicks,
) -> Summary:
    """Computes all figures of a run.

    Args:
        run: The recording.
        facts: What is known of the run otherwise.
        resolved: The deployment that ran.
        paths: From `path_samples.path_records`.
        unsafe: From `control_judge.judge_commands`.
    """
    training = resolved.bundle.spec.training
    return Summary(
        recording=facts.recording,
        deployment=resolved.deployment.name,
        machine=facts.machine,
        commit=facts.commit,
        trained=training.trained,
        training=training,
        bundle=resolved.bundle.spec.name,
        rig=resolved.rig.name,
        overrides=facts.overrides,
        started_at=facts.started_at,
        duration_s=round(run.duration_s, 3),
        ended=facts.ended,
        frames=frame_counts(run),
        paths={name: path_figures(record) for name, record in paths.items()},
        stages=stage_figures(item.message for item in run.timings),
        control=control_figures(run, unsafe),
        objects={task: object_figures(counts) for task, counts in sorted(run.objects.items())},
        ground_truth=object_figures(run.ground_truth),
        maps={
            topic.rsplit("/", 2)[-2]: count for topic, count in run.received.items() if topic.endswith("/map")
        },
        respawns={process.name: process.respawns for process in facts.processes if process.respawns},
        processes=facts.processes,
        faults=tuple(faults(run)),
        missing=tuple(run.missing),
        notes=(*facts.notes, *resolved.notes),
    )


def frame_counts(run: RecordedRun) -> FrameCounts:
    """Adds up sensor_fusion's account, over its restarts if it was respawned."""
    last = run.fusion[-1].message if run.fusion else None
    return FrameCounts(
        received=sum_over_restarts(run, lambda status: status.frames_in),
        out=sum_over_restarts(run, lambda status: status.frames_out),
        dropped=sum_over_restarts(run, lambda status: status.frames_dropped),
        masked=sum_over_restarts(run, lambda status: status.frames_masked),
        fallback=sum_over_restarts(run, lambda status: status.frames_fallback),
        drop_reasons=_table(last.drop_reasons, last.drop_counts) if last else {},
        masked_by_modality=_table(last.modalities, last.masked) if last else {},
        rejected_by_modality=_table(last.modalities, last.rejected) if last else {},
    )


def path_figures(record: PathRecord) -> PathFigures:
    """Statistics over all outputs of a path."""
    values = sorted(output.latency_ms for output in record.outputs)
    done = sorted(output.done_ns for output in record.outputs)
    span_s = (done[-1] - done[0]) * 1e-9 if len(done) > 1 else 0.0
    return PathFigures(
        count=len(values),
        p50_ms=_rank(values, 0.50),
        p95_ms=_rank(values, 0.95),
        p99_ms=_rank(values, 0.99),
        max_ms=_round(values[-1]) if values else None,
        mean_ms=_round(sum(values) / len(values)) if values else None,
        budget_ms=record.path.budget_ms,
        deadline_misses=record.deadline_misses,
        rate_hz=_round((len(done) - 1) / span_s) if span_s > 0 else None,
    )


def stage_figures(timings: Iterable[StageTiming]) -> dict[str, StageFigures]:
    """Statistics of each stage; a stage that moved to another process or device has the last one's name."""
    by_stage: dict[str, list[StageTiming]] = {}
    for timing in timings:
        by_stage.setdefault(timing.stage, []).append(timing)
    figures = {}
    for stage, reports in by_stage.items():
        done = [report for report in reports if report.outcome == StageTiming.OUTCOME_DONE]
        compute = sorted(report.compute_ns * 1e-6 for report in done)
        run = sorted((report.done_ns - report.started_ns) * 1e-6 for report in done)
        wait = sorted((report.started_ns - report.queued_ns) * 1e-6 for report in done)
        figures[stage] = StageFigures(
            process=reports[-1].process,
            device=reports[-1].device,
            count=len(done),
            dropped=sum(report.outcome == StageTiming.OUTCOME_DROPPED for report in reports),
            failed=sum(report.outcome == StageTiming.OUTCOME_FAILED for report in reports),
            compute_p50_ms=_rank(compute, 0.50),
            compute_p95_ms=_rank(compute, 0.95),
            run_p50_ms=_rank(run, 0.50),
            run_p95_ms=_rank(run, 0.95),
            wait_p50_ms=_rank(wait, 0.50),
        )
    return figures


STATE_NAMES = {
    ControlCommand.STATE_DISENGAGED: "disengaged",
    ControlCommand.STATE_DRIVING: "driving",
    ControlCommand.STATE_COMFORTABLE_STOP: "comfortable_stop",
    ControlCommand.STATE_FULL_STOP: "full_stop",
}
_STOPPING = (ControlCommand.STATE_COMFORTABLE_STOP, ControlCommand.STATE_FULL_STOP)


def control_figures(run: RecordedRun, unsafe: UnsafeTicks) -> ControlFigures:
    """Counts ticks, stops and the time spent in each state."""
    commands = run.commands
    stops = 0
    seconds: dict[str, float] = {}
    for index, item in enumerate(commands):
        state = item.message.state
        if index and state in _STOPPING and commands[index - 1].message.state == ControlCommand.STATE_DRIVING:
            stops += 1
        if index + 1 < len(commands):
            name = STATE_NAMES.get(state, f"state_{state}")
            seconds[name] = (
                seconds.get(name, 0.0) + (commands[index + 1].received_ns - item.received_ns) * 1e-9
            )
    return ControlFigures(
        ticks=len(commands),
        unsafe_ticks=unsafe.ticks,
        stops=stops,
        unsafe_reasons=unsafe.reasons,
        seconds_by_state={name: round(value, 2) for name, value in seconds.items()},
    )


def object_figures(counts: Sequence[ObjectCount]) -> ObjectFigures:
    """Counts of objects over all messages of a task."""
    labels: Counter[str] = Counter()
    for count in counts:
        labels.update(count.labels)
    totals = [count.total for count in counts]
    return ObjectFigures(
        messages=len(counts),
        mean_per_message=_round(sum(totals) / len(totals)) if totals else None,
        max_per_message=max(totals) if totals else None,
        labels=dict(labels.most_common()),
    )


def faults(run: RecordedRun) -> list[Fault]:
    """Faults the nodes reported on /diagnostics; the latency monitor's view of the paths stands in `paths`
    instead.
    """
    found: dict[str, Fault] = {}
    for item in run.diagnostics:
        for status in item.message.status:
            level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
            name = status.name
            if (
                level == 0
                or name == LATENCY_MONITOR
                or (name.startswith(f"{LATENCY_MONITOR}: ") and "->" in name)
            ):
                continue
            told = next(
                (int(pair.value) for pair in status.values if pair.key == "count" and pair.value.isdigit()), 1
            )
            known = found.get(name)
            now_s = round(run.seconds(item.received_ns), 2)
            found[name] = Fault(
                source=name,
                level="error" if status.level >= DiagnosticStatus.ERROR else "warning",
                message=status.message,
                count=max(told, known.count + 1 if known and told == 1 else 0),
                first_s=known.first_s if known else now_s,
                last_s=now_s,
            )
    return sorted(found.values(), key=lambda fault: fault.first_s)


def _table(names: Iterable[str], counts: Iterable[int]) -> dict[str, int]:
    return {name: int(count) for name, count in zip(names, counts, strict=False)}


def _rank(values: Sequence[float], fraction: float) -> float | None:
    return _round(nearest_rank(values, fraction)) if values else None


def _round(value: float) -> float:
    return round(value, 3)


def _plain(value: Any) -> Any:
    """Turns dataclasses, tuples and non-finite numbers into what strict JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
