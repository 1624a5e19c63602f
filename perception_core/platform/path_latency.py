"""Latency of every path from a modality's stamp to a task's output, from what the stages of the running stack
report.

A path is the part of the component graph that lies between one modality and one task. Its latency for one
frame is

    age of the sensor data when it reached the stack  +  (output done  -  sensor data received)

so that it starts at the measurement itself, and stays exact when ROS time is simulated: only the age uses ROS
time, the rest is CLOCK_MONOTONIC. Nothing here knows ROS; the latency monitor node feeds it.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from perception_core.bundle import SENSOR_FUSION
from perception_core.platform.host_clocks import HostClocks
from perception_core.platform.latency_paths import LatencyPath, budget_of, paths_of
from perception_core.platform.rolling import Heartbeat, RollingWindow, nearest_rank
from perception_core.platform.stage_report import CONTROL, Outcome, SensorShare, StageReport

__all__ = [
    "CONTROL",
    "SENSOR_SHARE",
    "TRANSPORT_SHARE",
    "LatencyPath",
    "LatencySnapshot",
    "Level",
    "Outcome",
    "PathLatencyTracker",
    "PathListener",
    "PathStatistics",
    "SensorShare",
    "StageReport",
    "TrackerOptions",
    "budget_of",
    "nearest_rank",
    "paths_of",
]

#: Names of the two shares of a path that belong to no stage.
SENSOR_SHARE = "sensor"
TRANSPORT_SHARE = "transport"

NANOSECONDS = 1e-9


class Level(enum.IntEnum):
    """Severity; the values of mmmt_msgs/LatencyStatus and of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class TrackerOptions:
    """Settings of a PathLatencyTracker.

    Attributes:
        window_s: Statistics are taken over this much time.
        max_samples: Most samples kept of one path, whatever the rate.
        trace_lifetime_s: A trace that nobody reported on for this long is forgotten.
        max_traces: Most traces kept.
        max_latency_s: A larger latency is not believed: the stamps of the sensor are on another clock.
        recent_s: A deadline miss warns for this long.
        misses_for_error: Length of a run of misses that is an error.
        silence_periods: A path without an output for this many of its usual periods is silent.
        silence_min_s: Shortest silence that is reported.
        silence_max_s: Silence that is reported whatever the usual period, unless that is itself nearly as
            long.
        startup_s: How long a path may take to its first output.
    """

    window_s: float = 30.0
    max_samples: int = 4096
    trace_lifetime_s: float = 10.0
    max_traces: int = 1024
    max_latency_s: float = 60.0
    recent_s: float = 1.0
    misses_for_error: int = 5
    silence_periods: float = 4.0
    silence_min_s: float = 0.3
    silence_max_s: float = 0.8
    startup_s: float = 20.0

    def silence_limit_s(self, period_s: float) -> float:
        """Returns after how long without output something with this usual period is silent."""
        if not math.isfinite(period_s):
            return self.silence_max_s
        usual = min(max(self.silence_periods * period_s, self.silence_min_s), self.silence_max_s)
        return max(usual, 1.5 * period_s)


@dataclass(frozen=True)
class PathStatistics:
    """Statistics of one path; milliseconds, NaN where there is no sample in the window.

    Attributes:
        path: The path.
        count: Outputs since the start.
        deadline_misses: Outputs over budget, failed frames and missing outputs of a silent path since the
            start.
        consecutive_misses: Length of the present run of them.
        silent_s: Time since the last output that contained the modality, infinite before the first.
        stages: Names of the shares: `sensor` (age at reception), the stages, `transport` (all that lies
            between them).
        stage_mean_ms: Mean of each share over the window.
        level: Severity.
        message: What is wrong, empty where nothing is.
    """

    path: LatencyPath
    count: int
    last_ms: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    rate_hz: float
    deadline_misses: int
    consecutive_misses: int
    silent_s: float
    stages: tuple[str, ...]
    stage_mean_ms: tuple[float, ...]
    level: Level
    message: str


@dataclass(frozen=True)
class LatencySnapshot:
    """All paths at one moment.

    Attributes:
        level: Worst level of a path.
        message: What is wrong and which stage is to blame; says so where nothing is.
        paths: Every path's statistics.
        refused: How many reports were not believed or not needed, by reason.
    """

    level: Level
    message: str
    paths: tuple[PathStatistics, ...]
    refused: dict[str, int]


@dataclass
class _Trace:
    """Reports of one frame by stage."""

    reports: dict[str, StageReport] = field(default_factory=dict)
    awaiting_shares: list[tuple[_PathState, float]] = field(default_factory=list)
    touched_s: float = 0.0


class _PathState:
    """Everything remembered of one path."""

    def __init__(self, path: LatencyPath, options: TrackerOptions) -> None:
        self.path = path
        self.latency_ms = RollingWindow(options.window_s, options.max_samples)
        self.share_names = (SENSOR_SHARE, *path.stages, TRANSPORT_SHARE)
        self.shares_ms = {
            name: RollingWindow(options.window_s, options.max_samples) for name in self.share_names
        }
        self.outputs = Heartbeat()
        self.count = 0
        self.last_ms = math.nan
        self.deadline_misses = 0
        self.consecutive_misses = 0
        self.last_miss_s = -math.inf
        self.last_miss_text = ""
        self.last_masked_s = -math.inf
        self.last_idle_s = -math.inf
        self.missing_counted = 0

    def miss(self, now_s: float, text: str) -> None:
        self.deadline_misses += 1
        self.consecutive_misses += 1
        self.last_miss_s = now_s
        self.last_miss_text = text


class PathListener(Protocol):
    """Hears of every single output; a report keeps them all where the tracker keeps only what is recent."""

    def on_output(self, path: LatencyPath, report: StageReport, latency_ms: float) -> None:
        """An output of the path was counted; `report` is that of its last stage."""
        ...

    def on_shares(self, path: LatencyPath, report: StageReport, shares_ms: Mapping[str, float]) -> None:
        """The latency of an output heard of before was split among its shares; not every output's can be."""
        ...


class PathLatencyTracker:
    """Joins the stages' reports by frame and keeps every path's statistics in bounded memory.

    Reports may come in any order, twice, late, never, from another host or with nonsense in them.
    """

    #: A sensor stamp this far in the future is not believed; less is taken for the jitter of synchronized
    #: clocks.
    FUTURE_TOLERANCE_S = 1.0
    #: Stage times of one clock may disagree by this much before they are refused.
    DISORDER_TOLERANCE_NS = 1_000_000

    def __init__(
        self,
        paths: Iterable[LatencyPath],
        own_host: str,
        started_ns: int,
        options: TrackerOptions | None = None,
        listener: PathListener | None = None,
    ) -> None:
        """Creates a tracker.

        Args:
            paths: The paths to keep, see `paths_of`.
            own_host: Identity of the host whose clock `received_ns` and `now_ns` are on.
            started_ns: Now, CLOCK_MONOTONIC of this host.
            options: Settings.
            listener: Told of every output.
        """
        self.options = options or TrackerOptions()
        self._listener = listener
        self._own_host = own_host
        self._started_s = started_ns * NANOSECONDS
        self._states = [_PathState(path, self.options) for path in paths]
        self._ends: dict[str, list[_PathState]] = {}
        self._through: dict[str, list[_PathState]] = {}
        for state in self._states:
            self._ends.setdefault(state.path.output_stage, []).append(state)
            for stage in state.path.awaited:
                self._through.setdefault(stage, []).append(state)
        self._stage_beats = {stage: Heartbeat() for stage in self._through}
        self._stage_ms = {
            stage: RollingWindow(self.options.window_s, self.options.max_samples) for stage in self._through
        }
        self._stage_failures: dict[str, tuple[float, str]] = {}
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._retired: OrderedDict[int, dict[str, int]] = OrderedDict()
        self._clocks = HostClocks(own_host)
        self._fusion_host: str | None = None
        self._refused: dict[str, int] = {}

    # -- reports ---------------------------------------------------------------------------------------------

    def accept(self, report: StageReport, received_ns: int) -> str | None:
        """Takes one stage's report.

        Args:
            report: The report.
            received_ns: When it arrived here, CLOCK_MONOTONIC of this host.

        Returns:
            Why it was refused, None where it was used.
        """
        reason = self._take(report, received_ns)
        if reason is not None:
            self._refused[reason] = self._refused.get(reason, 0) + 1
        return reason

    def _take(self, report: StageReport, received_ns: int) -> str | None:
        now_s = received_ns * NANOSECONDS
        if report.stage not in self._through:
            return "stage is on no path"
        tolerance = self.DISORDER_TOLERANCE_NS
        if not (
            report.queued_ns <= report.started_ns + tolerance
            and report.started_ns <= report.done_ns + tolerance
        ):
            return "stage times in disorder"
        if report.host == self._own_host:
            if report.done_ns > received_ns + tolerance:
                return "done in the future"
            if received_ns - report.done_ns > self.options.trace_lifetime_s / NANOSECONDS:
                return "report too old"
        self._clocks.observe(report.host, report.done_ns, received_ns)
        if report.stage == SENSOR_FUSION:
            self._fusion_host = report.host

        trace = self._trace_of(report, now_s)
        if trace is None:
            return "duplicate"
        if report.outcome == Outcome.DONE:
            self._stage_beats[report.stage].beat(now_s, self.options.trace_lifetime_s)
            trace.reports[report.stage] = report
            self._stage_ms[report.stage].expire(now_s)
            self._stage_ms[report.stage].add(now_s, report.duration_ms)
            reason = self._end_paths(report, trace, now_s)
        else:
            trace.reports[report.stage] = report
            reason = None
            self._note_undelivered(report, now_s)
        self._share_out(trace, now_s)
        return reason

    def _trace_of(self, report: StageReport, now_s: float) -> _Trace | None:
        """Returns the frame's entry, None where this very report was seen before."""
        self._expire_traces(now_s)
        trace = self._traces.get(report.trace_id)
        if trace is not None and report.stage in trace.reports:
            if trace.reports[report.stage].done_ns == report.done_ns:
                return None
            trace = None  # the identity is used anew: a restarted stack counts from the beginning again
            del self._traces[report.trace_id]
        retired = self._retired.get(report.trace_id)
        if trace is None and retired is not None and retired.get(report.stage) == report.done_ns:
            return None
        if trace is None:
            trace = self._traces[report.trace_id] = _Trace()
        trace.touched_s = now_s
        self._traces.move_to_end(report.trace_id)
        self._expire_traces(now_s)
        return trace

    def _expire_traces(self, now_s: float) -> None:
        while self._traces:
            trace_id, trace = next(iter(self._traces.items()))
            if (
                len(self._traces) <= self.options.max_traces
                and now_s - trace.touched_s <= self.options.trace_lifetime_s
            ):
                break
            del self._traces[trace_id]
            self._retired[trace_id] = {stage: report.done_ns for stage, report in trace.reports.items()}
            while len(self._retired) > 4 * self.options.max_traces:
                self._retired.popitem(last=False)

    def _end_paths(self, report: StageReport, trace: _Trace, now_s: float) -> str | None:
        """Counts the output for every path that ends at its stage."""
        reason = None
        shares = {share.modality: share for share in report.sensors}
        for state in self._ends.get(report.stage, ()):
            share = shares.get(state.path.modality)
            if share is None or not share.valid:
                state.last_masked_s = now_s
                continue
            latency_s = self._latency_s(report, share)
            if isinstance(latency_s, str):
                reason = latency_s
                continue
            latency_ms = latency_s * 1e3
            state.outputs.beat(now_s, self.options.trace_lifetime_s)
            state.missing_counted = 0
            state.count += 1
            state.last_ms = latency_ms
            state.latency_ms.add(now_s, latency_ms)
            state.latency_ms.expire(now_s)
            budget = state.path.budget_ms
            if budget is not None and latency_ms > budget:
                state.miss(now_s, _over_budget(latency_ms, budget))
            else:
                state.consecutive_misses = 0
            trace.awaiting_shares.append((state, latency_ms))
            if self._listener is not None:
                self._listener.on_output(state.path, report, latency_ms)
        return reason

    def _latency_s(self, report: StageReport, share: SensorShare) -> float | str:
        """Returns the latency of an output for one modality in seconds, or why it is not believed."""
        age_s = share.age_at_reception_ns * NANOSECONDS
        if age_s < -self.FUTURE_TOLERANCE_S:
            return "sensor stamp in the future"
        if age_s > self.options.max_latency_s:
            return "sensor stamp on another clock"
        fusion_host = self._fusion_host or self._own_host
        if fusion_host == report.host:
            span_ns = report.done_ns - share.received_ns
        else:
            done_ns = self._clocks.to_own_ns(report.host, report.done_ns)
            began_ns = self._clocks.to_own_ns(fusion_host, share.received_ns)
            if done_ns is None or began_ns is None:
                return "clock of its host not known yet"
            span_ns = done_ns - began_ns
        if span_ns < 0:
            return "done before its sensor data arrived"
        # A stamp slightly ahead of this clock must not make the rest look faster than it was.
        latency_s = max(0.0, age_s) + span_ns * NANOSECONDS
        return latency_s if latency_s <= self.options.max_latency_s else "latency absurd"

    def _note_undelivered(self, report: StageReport, now_s: float) -> None:
        """A dropped frame is no miss, a newer one took its place; a failed one will never come."""
        if report.outcome == Outcome.FAILED:
            self._stage_failures[report.stage] = (now_s, report.detail)
        shares = {share.modality: share.valid for share in report.sensors}
        for state in self._through[report.stage]:
            if report.outcome == Outcome.DROPPED:
                if report.stage == CONTROL:
                    state.last_idle_s = now_s
            elif state.path.budget_ms is not None and shares.get(state.path.modality, False):
                state.miss(now_s, f"{report.stage} failed: {report.detail or 'no detail given'}")

    # -- shares of the stages --------------------------------------------------------------------------------

    def _share_out(self, trace: _Trace, now_s: float) -> None:
        """Splits the latency of finished frames among the stages, as far as all of their reports are here."""
        waiting = []
        for state, latency_ms in trace.awaiting_shares:
            chain = self._critical_chain(state.path, trace)
            if chain is None:
                waiting.append((state, latency_ms))
                continue
            end = trace.reports[state.path.output_stage]
            share = next(s for s in end.sensors if s.modality == state.path.modality)
            parts = dict.fromkeys(state.share_names, 0.0)
            parts[SENSOR_SHARE] = max(0.0, share.age_at_reception_ns * 1e-6)
            for stage in chain:
                parts[stage] = trace.reports[stage].duration_ms
            parts[TRANSPORT_SHARE] = max(0.0, latency_ms - sum(parts.values()))
            self._blame(state, latency_ms, parts, trace)
            if self._listener is not None:
                self._listener.on_shares(state.path, end, parts)
            for name, value in parts.items():
                state.shares_ms[name].add(now_s, value)
                state.shares_ms[name].expire(now_s)
        trace.awaiting_shares = waiting

    def _critical_chain(self, path: LatencyPath, trace: _Trace) -> list[str] | None:
        """Follows the latest predecessor back from the output; None while a report is missing."""
        chain = []
        stage = path.output_stage
        while True:
            report = trace.reports.get(stage)
            if report is None or report.outcome != Outcome.DONE:
                return None
            chain.append(stage)
            if stage == SENSOR_FUSION:
                return chain
            candidates: list[tuple[int, str]] = []
            for feeder in path.predecessors[stage]:
                fed_by = trace.reports.get(feeder)
                if fed_by is not None and fed_by.outcome == Outcome.DONE:
                    done_ns = self._clocks.to_own_ns(fed_by.host, fed_by.done_ns)
                    if done_ns is not None:
                        candidates.append((done_ns, feeder))
                elif stage in path.joins:
                    return None
            if stage not in path.joins:
                began_ns = self._clocks.to_own_ns(report.host, report.started_ns)
                candidates = [c for c in candidates if began_ns is not None and c[0] <= began_ns]
            if not candidates:
                return None
            stage = max(candidates)[1]

    def _blame(self, state: _PathState, latency_ms: float, parts: Mapping[str, float], trace: _Trace) -> None:
        """Adds to the text of the last miss what grew most over its usual value, be it a stage the path
        only waits for.
        """
        budget = state.path.budget_ms
        if budget is None or state.last_miss_text != _over_budget(latency_ms, budget):
            return
        took = {name: parts[name] for name in (SENSOR_SHARE, TRANSPORT_SHARE)}
        usual = {name: nearest_rank(sorted(state.shares_ms[name].values()), 0.5) for name in took}
        for stage in state.path.awaited:
            report = trace.reports.get(stage)
            if report is not None:
                took[stage] = report.duration_ms
                usual[stage] = nearest_rank(sorted(self._stage_ms[stage].values()), 0.5)
        grown = {name: took[name] - (usual[name] if math.isfinite(usual[name]) else 0.0) for name in took}
        # A path that only waits for a slow stage sees it as transport: the stage is to blame, not the wait
        # for it.
        worst = max(took, key=lambda name: grown[name] * (0.5 if name == TRANSPORT_SHARE else 1.0))
        before = f" (usually {usual[worst]:.0f} ms)" if math.isfinite(usual[worst]) else ""
        state.last_miss_text += f", {worst} took {took[worst]:.0f} ms{before}"

    # -- statistics ------------------------------------------------------------------------------------------

    def snapshot(self, now_ns: int) -> LatencySnapshot:
        """Returns all statistics now and counts the missing outputs of silent paths."""
        now_s = now_ns * NANOSECONDS
        self._expire_traces(now_s)
        paths = tuple(self._statistics(state, now_s) for state in self._states)
        level = max((statistics.level for statistics in paths), default=Level.OK)
        return LatencySnapshot(
            level=level, message=_summarize(paths, level), paths=paths, refused=dict(self._refused)
        )

    def _statistics(self, state: _PathState, now_s: float) -> PathStatistics:
        state.latency_ms.expire(now_s)
        for window in state.shares_ms.values():
            window.expire(now_s)
        level, message = self._assess(state, now_s)
        values = sorted(state.latency_ms.values())
        return PathStatistics(
            path=state.path,
            count=state.count,
            last_ms=state.last_ms,
            mean_ms=state.latency_ms.mean(),
            p50_ms=nearest_rank(values, 0.50),
            p95_ms=nearest_rank(values, 0.95),
            p99_ms=nearest_rank(values, 0.99),
            max_ms=values[-1] if values else math.nan,
            rate_hz=self._rate_hz(state, now_s),
            deadline_misses=state.deadline_misses,
            consecutive_misses=state.consecutive_misses,
            silent_s=state.outputs.silence_s(now_s),
            stages=state.share_names,
            stage_mean_ms=tuple(state.shares_ms[name].mean() for name in state.share_names),
            level=level,
            message=message,
        )

    def _rate_hz(self, state: _PathState, now_s: float) -> float:
        entries = state.latency_ms.entries
        if len(entries) < 2:
            return 0.0
        first_s, last_s = entries[0][0], entries[-1][0]
        silent = state.outputs.silence_s(now_s) > self.options.silence_limit_s(state.outputs.period_s)
        span_s = (now_s if silent else last_s) - first_s
        return (len(entries) - 1) / span_s if span_s > 0 else 0.0

    def _assess(self, state: _PathState, now_s: float) -> tuple[Level, str]:
        """Returns a path's level and what is wrong with it."""
        budgeted = state.path.budget_ms is not None
        silence_s = state.outputs.silence_s(now_s)
        limit_s = self.options.silence_limit_s(state.outputs.period_s)
        if silence_s > limit_s:
            if now_s - state.last_idle_s <= self.options.silence_max_s:
                return Level.OK, ""  # control is alive and not engaged: no command is due
            if now_s - state.last_masked_s <= limit_s:
                missing = f"for {silence_s:.1f} s" if math.isfinite(silence_s) else "since the start"
                return Level.WARN, f"{state.path.modality} is masked {missing}"
            never = not math.isfinite(silence_s)
            if never and now_s - self._started_s <= self.options.startup_s:
                return Level.WARN, "no output yet"
            if budgeted:
                self._count_missing(state, silence_s, now_s)
            blame = self._silent_stage(state.path, now_s)
            text = blame or (f"no output for {silence_s:.1f} s" if not never else "no output since the start")
            return (Level.ERROR if budgeted else Level.WARN), text
        if budgeted and state.consecutive_misses >= self.options.misses_for_error:
            return (
                Level.ERROR,
                f"{state.consecutive_misses} deadlines missed in a row: {state.last_miss_text}",
            )
        if now_s - state.last_miss_s <= self.options.recent_s:
            return Level.WARN, f"deadline missed: {state.last_miss_text}"
        return Level.OK, ""

    def _count_missing(self, state: _PathState, silence_s: float, now_s: float) -> None:
        """A silent path misses one deadline with every usual period that passes."""
        period_s = state.outputs.period_s
        if not (math.isfinite(silence_s) and math.isfinite(period_s) and period_s > 0):
            return
        missing = int(silence_s / period_s)
        newly_missing = max(0, missing - state.missing_counted)
        state.deadline_misses += newly_missing
        state.consecutive_misses += newly_missing
        state.missing_counted += newly_missing
        state.last_miss_s = now_s
        state.last_miss_text = f"no output for {silence_s:.1f} s"

    def _silent_stage(self, path: LatencyPath, now_s: float) -> str:
        """Names the first stage of a silent path that does not report although those before it do; empty
        where all report.
        """
        for stage in path.awaited:
            beat = self._stage_beats[stage]
            silence_s = beat.silence_s(now_s)
            if silence_s <= self.options.silence_limit_s(beat.period_s):
                continue
            failed_s, detail = self._stage_failures.get(stage, (-math.inf, ""))
            if now_s - failed_s <= self.options.silence_max_s:
                return f"{stage} fails: {detail or 'no detail given'}"
            if not math.isfinite(silence_s):
                return f"{stage} has never reported"
            return f"{stage} has not reported for {silence_s:.1f} s"
        return ""


def _over_budget(latency_ms: float, budget_ms: float) -> str:
    return f"{latency_ms:.0f} ms of {budget_ms:.0f} ms"


def _summarize(paths: Sequence[PathStatistics], level: Level) -> str:
    """One line for the whole stack: the worst level's causes, each with the paths it concerns."""
    if level == Level.OK:
        return "all paths within budget"
    causes: dict[str, list[str]] = {}
    for statistics in paths:
        if statistics.level == level:
            causes.setdefault(statistics.message, []).append(statistics.path.name)
    texts = []
    for message, names in list(causes.items())[:3]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        texts.append(f"{message} ({', '.join(names[:3])}{more})")
    hidden = len(causes) - 3
    return "; ".join(texts) + (f"; and {hidden} more" if hidden > 0 else "")
