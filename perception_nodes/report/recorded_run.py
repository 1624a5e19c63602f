"""Reads back what the recorder wrote, decoded, and says what of it is missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticArray
from mmmt_msgs.msg import ControlCommand, DetectedObjectArray, FusionStatus, LatencyStatus, StageTiming
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.serialization import deserialize_message

from perception_nodes import topics
from perception_nodes.report.message_log import LoggedMessage, read_log
from perception_nodes.report.recorder import MESSAGES_FILE, RECORDER_FILE

M = TypeVar("M")


@dataclass(frozen=True)
class Received(Generic[M]):
    """A message and when the recorder received it, CLOCK_MONOTONIC nanoseconds."""

    received_ns: int
    message: M


@dataclass(frozen=True)
class ObjectCount:
    """How many objects one message held, by label."""

    received_ns: int
    trace_id: int
    labels: dict[str, int]

    @property
    def total(self) -> int:
        """All objects."""
        return sum(self.labels.values())


@dataclass
class RecordedRun:
    """A recorded run.

    Attributes:
        begun_ns: Start of the recording, CLOCK_MONOTONIC; the zero of every time axis.
        ended_ns: Its end.
        host: Host of the recorder, as in StageTiming.
        timings, commands, fusion, latency, diagnostics, odometry, reference_paths: Messages in order of
            reception.
        objects: By task; ground truth is no task.
        ground_truth: Annotated objects.
        received: How many messages came on each topic, logged or not.
        snapshots: Files of whole frames, in order of time.
        missing: What is missing and why, one sentence each.
    """

    begun_ns: int = 0
    ended_ns: int = 0
    host: str = ""
    timings: list[Received[StageTiming]] = field(default_factory=list)
    commands: list[Received[ControlCommand]] = field(default_factory=list)
    fusion: list[Received[FusionStatus]] = field(default_factory=list)
    latency: list[Received[LatencyStatus]] = field(default_factory=list)
    diagnostics: list[Received[DiagnosticArray]] = field(default_factory=list)
    odometry: list[Received[Odometry]] = field(default_factory=list)
    reference_paths: list[Received[PathMessage]] = field(default_factory=list)
    objects: dict[str, list[ObjectCount]] = field(default_factory=dict)
    ground_truth: list[ObjectCount] = field(default_factory=list)
    received: dict[str, int] = field(default_factory=dict)
    snapshots: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return max(0.0, (self.ended_ns - self.begun_ns) * 1e-9)

    def seconds(self, time_ns: int) -> float:
        """Time since the beginning."""
        return (time_ns - self.begun_ns) * 1e-9


def load_run(folder: Path) -> RecordedRun:
    """Reads a recording; never raises for what is missing or damaged, but lists it in `missing`."""
    run = RecordedRun()
    account = _read_account(folder, run)
    try:
        for message in read_log(folder / MESSAGES_FILE):
            _take(run, message)
    except FileNotFoundError:
        run.missing.append(f"{MESSAGES_FILE}: there is none: nothing was recorded")
    except (OSError, ValueError, KeyError) as error:
        run.missing.append(f"{MESSAGES_FILE}: the rest cannot be read: {error}")
    if account is None:
        times = [item.received_ns for item in (*run.timings, *run.commands, *run.fusion)]
        run.begun_ns, run.ended_ns = (min(times), max(times)) if times else (0, 0)
        run.snapshots = sorted(folder.glob("snapshot_*.log"))
    run.missing += _find_gaps(run)
    return run


def _read_account(folder: Path, run: RecordedRun) -> dict[str, Any] | None:
    """Reads recorder.json into `run`; returns None where the recorder could not write it."""
    path = folder / RECORDER_FILE
    try:
        account: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        run.begun_ns, run.ended_ns = int(account["begun_ns"]), int(account["ended_ns"])
        run.host = str(account.get("host", ""))
        run.received = dict(account["received"])
        run.snapshots = [folder / name for name in account["snapshots"] if (folder / name).is_file()]
        run.missing += account["failures"]
        run.missing += [
            f"{count} messages of {topic} were not written" for topic, count in account["missing"].items()
        ]
    except FileNotFoundError:
        run.missing.append(
            f"{RECORDER_FILE}: there is none: the recorder was ended before it could finish, "
            "or its disk is full"
        )
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        run.missing.append(f"{RECORDER_FILE}: cannot be read: {error}")
        return None
    return account


def _take(run: RecordedRun, logged: LoggedMessage) -> None:
    """Decodes one logged message into its list."""
    name = logged.type_name.rsplit("/", 1)[-1]
    lists: dict[str, tuple[type, list[Any]]] = {
        "StageTiming": (StageTiming, run.timings),
        "ControlCommand": (ControlCommand, run.commands),
        "FusionStatus": (FusionStatus, run.fusion),
        "LatencyStatus": (LatencyStatus, run.latency),
        "DiagnosticArray": (DiagnosticArray, run.diagnostics),
        "Odometry": (Odometry, run.odometry),
        "Path": (PathMessage, run.reference_paths),
    }
    if name in lists:
        message_type, messages = lists[name]
        messages.append(Received(logged.received_ns, deserialize_message(logged.data, message_type)))
    elif name == "DetectedObjectArray":
        decoded = deserialize_message(logged.data, DetectedObjectArray)
        counts = dict(Counter(item.label for item in decoded.objects))
        count = ObjectCount(logged.received_ns, decoded.trace_id, counts)
        if logged.topic.endswith(topics.GROUND_TRUTH_OBJECTS):
            run.ground_truth.append(count)
        else:
            run.objects.setdefault(task_of(logged.topic), []).append(count)


def task_of(topic: str) -> str:
    """Task of a topic such as `/mmmt/tasks/detection3d/objects`."""
    return topic.rsplit("/", 2)[-2]


def _find_gaps(run: RecordedRun) -> list[str]:
    """Counts what never arrived, from the senders' own counters."""
    gaps = []
    lost = lost_in_sequence(item.message.sequence for item in run.commands)
    if lost:
        gaps.append(f"{lost} control commands never reached the recorder")
    emitted = sum_over_restarts(run, lambda status: status.frames_out + status.frames_fallback)
    timed = sum(
        item.message.stage == "sensor_fusion" and item.message.outcome == StageTiming.OUTCOME_DONE
        for item in run.timings
    )
    # The last status may be older than the last frames, so only too few timings mean a loss.
    if emitted > timed:
        gaps.append(f"timings of {emitted - timed} of {emitted} emitted frames never reached the recorder")
    return gaps


def lost_in_sequence(numbers: Iterable[int]) -> int:
    """How many numbers of a counter are missing; where it goes back, its sender was restarted."""
    lost = 0
    previous: int | None = None
    for current in numbers:
        if previous is not None and current > previous + 1:
            lost += current - previous - 1
        previous = current
    return lost


def sum_over_restarts(run: RecordedRun, value: Callable[[FusionStatus], int]) -> int:
    """Total of a counter of sensor_fusion that begins anew when the process is respawned."""
    total = 0
    previous: FusionStatus | None = None
    for item in run.fusion:
        status = item.message
        if previous is not None and status.frames_in < previous.frames_in:
            total += value(previous)
        previous = status
    return total + (value(previous) if previous is not None else 0)
