"""The latency monitor: listens to every stage's timing and says how late each path is and which stage is
to blame.
"""

from __future__ import annotations

import math
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from mmmt_msgs.msg import LatencyStatus, PathLatency, StageTiming
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType

from perception_core.control.tasks import required_tasks
from perception_core.platform.path_latency import (
    LatencySnapshot,
    Outcome,
    PathLatencyTracker,
    PathStatistics,
    SensorShare,
    StageReport,
    TrackerOptions,
    paths_of,
)
from perception_nodes import topics
from perception_nodes.nodes.number_parameter import declare_number
from perception_nodes.nodes.timing_record import TimingRecord
from perception_nodes.runtime.drain import drained
from perception_nodes.runtime.stack_node import ProcessContext, StackNode, host_id, monotonic_ns

NODE_NAME = "latency_monitor"
#: Timings that may wait while the executor is busy with something else: all stages of a few seconds.
TIMING_DEPTH = 512


def stage_report(message: StageTiming) -> StageReport:
    """Converts a StageTiming message.

    Raises:
        ValueError: The outcome is none of the message's constants.
    """
    return StageReport(
        trace_id=message.trace_id,
        stage=message.stage,
        task=message.task,
        host=message.host,
        queued_ns=message.queued_ns,
        started_ns=message.started_ns,
        done_ns=message.done_ns,
        compute_ns=message.compute_ns,
        outcome=Outcome(message.outcome),
        sensors=tuple(
            SensorShare(s.modality, s.valid, s.received_ns, s.age_at_reception_ns) for s in message.sensors
        ),
        detail=message.detail,
    )


def path_latency_message(statistics: PathStatistics) -> PathLatency:
    """Converts one path's statistics."""
    budget = statistics.path.budget_ms
    return PathLatency(
        modality=statistics.path.modality,
        task=statistics.path.task,
        count=statistics.count,
        last_ms=statistics.last_ms,
        mean_ms=statistics.mean_ms,
        p50_ms=statistics.p50_ms,
        p95_ms=statistics.p95_ms,
        p99_ms=statistics.p99_ms,
        max_ms=statistics.max_ms,
        rate_hz=statistics.rate_hz,
        budget_ms=math.nan if budget is None else budget,
        deadline_misses=statistics.deadline_misses,
        consecutive_misses=statistics.consecutive_misses,
        stages=list(statistics.stages),
        stage_mean_ms=list(statistics.stage_mean_ms),
    )


class LatencyMonitorNode(StackNode):
    """Publishes LatencyStatus at a fixed rate and /diagnostics once a second; can record all timings to a
    file.
    """

    def __init__(self, context: ProcessContext) -> None:
        super().__init__(context, NODE_NAME)
        defaults = TrackerOptions()
        self._rate_hz = declare_number(self, "rate_hz", 10.0, "rate of LatencyStatus [Hz]", 1.0, 100.0)
        self._diagnostics_rate_hz = declare_number(
            self, "diagnostics_rate_hz", 1.0, "rate of /diagnostics [Hz]", 0.1, 10.0
        )
        self._options = TrackerOptions(
            window_s=declare_number(
                self,
                "window_s",
                defaults.window_s,
                "statistics are taken over this much time [s]",
                1.0,
                600.0,
            ),
            silence_periods=declare_number(
                self,
                "silence_periods",
                defaults.silence_periods,
                "usual periods without output after which a path is silent",
                1.5,
                100.0,
            ),
            startup_s=declare_number(
                self,
                "startup_s",
                defaults.startup_s,
                "time a path may take to its first output [s]",
                0.0,
                600.0,
            ),
            max_latency_s=declare_number(
                self,
                "max_latency_s",
                defaults.max_latency_s,
                "a larger latency is not believed [s]",
                1.0,
                3600.0,
            ),
            misses_for_error=int(
                declare_number(
                    self,
                    "misses_for_error",
                    defaults.misses_for_error,
                    "deadline misses in a row that are an error",
                    1,
                    10000,
                )
            ),
        )
        self.declare_parameter(
            "record_to",
            "",
            ParameterDescriptor(description="file of JSON lines for all stage timings, empty: none"),
        )
        self._tracker: PathLatencyTracker | None = None
        self._record: TimingRecord | None = None
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)

    # -- lifecycle -------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Lists the paths, creates the publishers and opens the record."""
        context = self.process_context
        paths = paths_of(
            context.bundle.spec,
            context.rig,
            context.deployment.budgets_ms,
            required_tasks(context.bundle.spec),
        )
        self._check_budgets({path.modality for path in paths}, {path.task for path in paths})
        self._tracker = PathLatencyTracker(
            paths,
            host_id(),
            monotonic_ns(),
            self._options,
        )
        self._status_publisher = self.create_publisher(
            LatencyStatus, topics.LATENCY_STATUS, topics.reliable()
        )
        self._health_publisher = self.create_publisher(
            DiagnosticArray, topics.DIAGNOSTICS, topics.reliable(16)
        )
        record_to = str(self.get_parameter("record_to").value)
        if record_to:
            self._open_record(Path(record_to).expanduser())

    def _check_budgets(self, modalities: set[str], tasks: set[str]) -> None:
        for key, budget in self.process_context.deployment.budgets_ms.items():
            modality, arrow, task = key.partition("->")
            known = arrow and modality in modalities | {"*"} and task in tasks | {"*"}
            if not known or not (math.isfinite(budget) and budget > 0):
                self.fault(
                    "budget",
                    f"budgets_ms '{key}: {budget}' concerns no path; write modality->task with a modality of"
                    f" {', '.join(sorted(modalities))} or * and a task of {', '.join(sorted(tasks))}",
                    error=False,
                )

    def _open_record(self, path: Path) -> None:
        try:
            self._record = TimingRecord(path, lambda text: self.fault("record", text))
        except OSError as error:  # the vehicle is watched without a record rather than not at all
            self.fault("record", f"record_to: {path} cannot be written: {error}; timings are not recorded")

    def start(self) -> None:
        """Subscribes and starts the timers."""
        self._subscription = self.create_subscription(
            StageTiming, topics.TIMING, self._on_timing, topics.reliable(TIMING_DEPTH)
        )
        self._timers = [
            self.create_timer(1.0 / self._rate_hz, self._publish_status, clock=self._steady_clock),
            self.create_timer(
                1.0 / self._diagnostics_rate_hz, self._publish_diagnostics, clock=self._steady_clock
            ),
        ]

    def stop(self) -> None:
        """Ends subscription and timers."""
        for timer in self._timers:
            self.destroy_timer(timer)
        self._timers = []
        self.destroy_subscription(self._subscription)

    def release(self) -> None:
        """Closes the record and forgets the statistics."""
        if self._record is not None:
            self._record.close()
            self._record = None
        self._tracker = None

    # -- work ------------------------------------------------------------------------------------------------

    def _on_timing(self, first: StageTiming) -> None:
        tracker = self._tracker
        if tracker is None:
            return
        for message in drained(self._subscription, first):
            try:
                report = stage_report(message)
            except ValueError as error:
                self.fault(
                    "timing", f"a StageTiming of '{message.stage}' is not understood: {error}", error=False
                )
                continue
            if self._record is not None:
                self._record.add(report, message.device, message.process)
            reason = tracker.accept(report, monotonic_ns())
            if reason is not None and reason != "stage is on no path":
                self.fault(
                    f"timing {report.stage}", f"{reason}; such reports do not count as outputs", error=False
                )

    def _publish_status(self) -> None:
        if self._tracker is None:
            return
        snapshot = self._tracker.snapshot(monotonic_ns())
        message = LatencyStatus(
            level=int(snapshot.level),
            message=snapshot.message,
            paths=[path_latency_message(statistics) for statistics in snapshot.paths],
        )
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self.process_context.rig.ego_frame
        self._status_publisher.publish(message)

    def _publish_diagnostics(self) -> None:
        if self._tracker is None:
            return
        array = DiagnosticArray(status=self._diagnostics(self._tracker.snapshot(monotonic_ns())))
        array.header.stamp = self.get_clock().now().to_msg()
        self._health_publisher.publish(array)

    def _diagnostics(self, snapshot: LatencySnapshot) -> list[DiagnosticStatus]:
        """One entry for the whole and one for each path."""
        process = self.process_context.process
        values = [
            KeyValue(key=f"refused: {reason}", value=str(count)) for reason, count in snapshot.refused.items()
        ]
        if self._record is not None:
            values.append(KeyValue(key="lines not recorded", value=str(self._record.lost_lines)))
        entries = [
            DiagnosticStatus(
                level=bytes([snapshot.level]),
                name=self.get_name(),
                message=snapshot.message,
                hardware_id=process,
                values=values,
            )
        ]
        for statistics in snapshot.paths:
            budget = statistics.path.budget_ms
            figures: dict[str, float | int | None] = {
                "last_ms": statistics.last_ms,
                "p50_ms": statistics.p50_ms,
                "p99_ms": statistics.p99_ms,
                "max_ms": statistics.max_ms,
                "budget_ms": budget,
                "rate_hz": statistics.rate_hz,
                "count": statistics.count,
                "deadline_misses": statistics.deadline_misses,
            }
            shares = dict(zip(statistics.stages, statistics.stage_mean_ms, strict=True))
            entries.append(
                DiagnosticStatus(
                    level=bytes([statistics.level]),
                    name=f"{self.get_name()}: {statistics.path.name}",
                    message=statistics.message or "within budget",
                    hardware_id=process,
                    values=[
                        KeyValue(key=key, value="none" if value is None else f"{value:.6g}")
                        for key, value in figures.items()
                    ]
                    + [
                        KeyValue(key=f"{name}_mean_ms", value=f"{value:.3f}")
                        for name, value in shares.items()
                    ],
                )
            )
        return entries
