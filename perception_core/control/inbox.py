"""What control last received and how old that is."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from perception_core.control.centre_line import DrivableGrid
from perception_core.control.path import FloatArray
from perception_core.control.sight_distance import Footprint
from perception_core.platform.path_latency import SensorShare

#: A latency measured across two monotonic clocks is some arbitrary large or negative number; nothing real is
#: this late.
BELIEVABLE_LATENCY_S = 60.0
NANOSECONDS = 1e-9


def measured_latency_s(sensors: Iterable[SensorShare], received_ns: int) -> float | None:
    """Returns how old the oldest sensor data in an output was when the output arrived, in seconds.

    None where that cannot be told because the sensors' arrival was stamped by another host's clock; the
    latency monitor's figures then stand alone. Infinite where the sensor stamps are on another ROS clock:
    such data may be of any age.

    Args:
        sensors: The output's stamps.
        received_ns: Arrival of the output, CLOCK_MONOTONIC of this host.
    """
    worst: float | None = None
    for share in sensors:
        if not share.valid:
            continue
        age_s = share.age_at_reception_ns * NANOSECONDS
        if age_s > BELIEVABLE_LATENCY_S:
            return math.inf
        inside_s = (received_ns - share.received_ns) * NANOSECONDS
        if 0.0 <= inside_s <= BELIEVABLE_LATENCY_S:
            worst = max(worst or 0.0, max(0.0, age_s) + inside_s)
    return worst


@dataclass(frozen=True)
class DetectionOutput:
    """One output of a detection task.

    Attributes:
        task: The task.
        trace_id: Its frame.
        received_s: Arrival here, steady clock.
        latency_s: See `measured_latency_s`.
        sensors: Its frame's stamps.
        footprints: Ground rectangles of the objects that count, in the ego frame at the frame's stamp.
    """

    task: str
    trace_id: int
    received_s: float
    latency_s: float | None
    sensors: tuple[SensorShare, ...]
    footprints: tuple[Footprint, ...]

    @property
    def alive(self) -> frozenset[str]:
        """Modalities the frame contains."""
        return frozenset(share.modality for share in self.sensors if share.valid)

    @property
    def newest_sensor_ns(self) -> int | None:
        """Arrival of the newest sensor data in it; None where the frame contains none."""
        return max((share.received_ns for share in self.sensors if share.valid), default=None)


@dataclass(frozen=True)
class MapOutput:
    """One output of a map task: the drivable area in the ego frame at the frame's stamp."""

    received_s: float
    latency_s: float | None
    grid: DrivableGrid


@dataclass(frozen=True)
class EgoMotion:
    """Odometry: speed along x in m/s and yaw rate in rad/s of the ego frame."""

    received_s: float
    speed_mps: float
    yaw_rate_rps: float


@dataclass(frozen=True)
class ReferenceLine:
    """A reference path in the ego frame as it was at `received_s`."""

    received_s: float
    points_n2: FloatArray


@dataclass(frozen=True)
class LearnedProposal:
    """What the learned control head proposes; waypoints in the ego frame, shape (N, 2), possibly none."""

    received_s: float
    latency_s: float | None
    steering_rad: float
    speed_mps: float
    waypoints_n2: FloatArray

    def is_finite(self) -> bool:
        """True where every value is a number."""
        return (
            math.isfinite(self.steering_rad)
            and math.isfinite(self.speed_mps)
            and bool((abs(self.waypoints_n2) < 1e6).all())
        )


@dataclass(frozen=True)
class LatencyFigures:
    """The latency monitor's status: for each (modality, task) the larger of p99 and newest latency, in
    seconds.
    """

    received_s: float
    worst_s: dict[tuple[str, str], float]


class DetectionInbox:
    """The newest believable output of every detection task.

    An output counts as new only if it holds newer sensor data than the one before: a stage that repeats
    itself is not alive.
    """

    INTERVALS = 5

    def __init__(self, tasks: Iterable[str], max_latency_s: float, stale_s: float) -> None:
        """Creates an inbox.

        Args:
            tasks: Detection tasks.
            max_latency_s: An output whose sensor data is older at its arrival is no new perception.
            stale_s: An output this old no longer keeps one with other stamps out.
        """
        self._newest: dict[str, DetectionOutput] = {}
        self._intervals: dict[str, deque[float]] = {task: deque(maxlen=self.INTERVALS) for task in tasks}
        self._max_latency_s = max_latency_s
        self._stale_s = stale_s

    def accept(self, output: DetectionOutput) -> str:
        """Takes an output.

        Returns:
            Why it is not used, empty where it is.
        """
        if output.task not in self._intervals:
            return f"task '{output.task}' is not among {', '.join(self._intervals)}"
        if not all(footprint.is_finite() for footprint in output.footprints):
            return "an object is not finite"
        if output.latency_s is not None and not output.latency_s <= self._max_latency_s:
            return f"its sensor data was {output.latency_s:.2f} s old when it arrived"
        newest = self._newest.get(output.task)
        if newest is not None:
            age_s = output.received_s - newest.received_s
            if output.trace_id == newest.trace_id:
                return "it repeats a frame"
            ours, theirs = newest.newest_sensor_ns, output.newest_sensor_ns
            if ours is not None and theirs is not None and theirs <= ours and age_s <= self._stale_s:
                return "its sensor data is not newer than what came before"
            if age_s <= self._stale_s:  # an outage is no usual interval; it has its own consequences
                self._intervals[output.task].append(age_s)
        self._newest[output.task] = output
        return ""

    def newest(self, task: str) -> DetectionOutput | None:
        """Returns a task's newest output."""
        return self._newest.get(task)

    def age_s(self, tasks: Iterable[str], now_s: float) -> float:
        """Returns the time since the last of the tasks was heard, infinite where one never was or none is
        asked for.
        """
        ages = [
            math.inf if (newest := self._newest.get(task)) is None else max(0.0, now_s - newest.received_s)
            for task in tasks
        ]
        return max(ages, default=math.inf)

    def longest_interval_s(self, task: str) -> float:
        """Returns the longest of a task's last few intervals between outputs, 0 before there are two."""
        return max(self._intervals[task], default=0.0)
