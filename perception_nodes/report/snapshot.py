"""Collects, now and then, everything that belongs to one frame: its sensor messages and what the tasks made
of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perception_nodes.recordings.cdr import read_stamp
from perception_nodes.report.message_log import LoggedMessage

#: Two stamps closer than this are the same instant: float offsets of the rig are rounded to nanoseconds.
SAME_STAMP_NS = 1_000
#: Ground truth belongs to the frame whose stamp is at most this far away.
GROUND_TRUTH_TOLERANCE_NS = 60_000_000


def stamp_ns_of(serialized: bytes) -> int:
    """Header stamp of a serialized message in nanoseconds, 0 where it is too short to have one."""
    try:
        return read_stamp(serialized)
    except ValueError:
        return 0


@dataclass
class Snapshot:
    """Messages of one frame.

    Attributes:
        trace_id: The frame, 0 where no task output came and only sensor data is shown.
        taken_ns: CLOCK_MONOTONIC when it was complete.
        messages: Sensor messages, task outputs, ground truth.
    """

    trace_id: int
    taken_ns: int
    messages: list[LoggedMessage]


@dataclass
class _Candidate:
    """Outputs received so far for one frame."""

    sensors: dict[str, int]
    first_ns: int
    outputs: dict[str, LoggedMessage] = field(default_factory=dict)


class SnapshotCollector:
    """Decides what to keep. Outside a capture, sensor messages are dropped at once, which costs nothing.

    A capture begins every `period_s`: sensor messages are buffered until a frame's outputs have come whose
    sensor stamps are all in the buffer, so that picture, points and boxes belong together however late
    the perception is.
    """

    def __init__(
        self,
        offsets_ns: Mapping[str, int],
        period_s: float = 2.0,
        patience_s: float = 3.0,
        grace_s: float = 0.6,
        max_buffer_bytes: int = 128 << 20,
    ) -> None:
        """Sets the limits.

        Args:
            offsets_ns: The rig's stamp offset of each modality.
            period_s: From the beginning of one capture to the next.
            patience_s: A capture without any output of its frames ends after this with sensor data alone.
            grace_s: Time the slower tasks of a frame have after its first output.
            max_buffer_bytes: The oldest sensor messages of a capture go when they take more.
        """
        self._offsets_ns = dict(offsets_ns)
        self._output_topics: set[str] = (
            set()
        )  # of the tasks that have been heard: a frame's outputs are whole with them
        self.period_ns = int(period_s * 1e9)
        self._patience_ns = int(patience_s * 1e9)
        self._grace_ns = int(grace_s * 1e9)
        self._max_buffer_bytes = max_buffer_bytes
        self._next_ns = 0
        self._begun_ns: int | None = None
        self._sensors: dict[str, list[tuple[int, LoggedMessage]]] = {}
        self._buffer_bytes = 0
        self._candidates: dict[int, _Candidate] = {}
        self._ground_truth: list[tuple[int, LoggedMessage]] = []

    @property
    def capturing(self) -> bool:
        """Whether messages are being kept right now."""
        return self._begun_ns is not None

    def expect(self, topic: str) -> None:
        """Notes that a task publishes on `topic`: from now on a frame's outputs are whole only with it."""
        self._output_topics.add(topic)

    def begin_if_due(self, now_ns: int) -> bool:
        """Begins a capture when it is time; returns whether one is running."""
        if self._begun_ns is None and now_ns >= self._next_ns:
            self._begun_ns = now_ns
            self._next_ns = now_ns + self.period_ns
        return self._begun_ns is not None

    def add_sensor(self, modality: str, message: LoggedMessage) -> None:
        """Offers a sensor message; kept only during a capture."""
        if not self.begin_if_due(message.received_ns):
            return
        stamp_ns = stamp_ns_of(message.data) + self._offsets_ns.get(modality, 0)
        self._sensors.setdefault(modality, []).append((stamp_ns, message))
        self._buffer_bytes += len(message.data)
        while self._buffer_bytes > self._max_buffer_bytes:
            longest = max(self._sensors.values(), key=len)
            if len(longest) <= 1:
                break
            self._buffer_bytes -= len(longest.pop(0)[1].data)

    def add_ground_truth(self, message: LoggedMessage) -> None:
        """Offers annotated objects."""
        if self.capturing:
            self._ground_truth.append((stamp_ns_of(message.data), message))

    def add_output(self, trace_id: int, sensors: Mapping[str, int], message: LoggedMessage) -> None:
        """Offers a task output.

        Args:
            trace_id: Its frame.
            sensors: Stamp in nanoseconds of every valid modality of the frame.
            message: The output.
        """
        self.expect(message.topic)
        if self._begun_ns is None:
            return
        if any(self._find(modality, stamp_ns) is None for modality, stamp_ns in sensors.items()):
            return  # the frame was measured before the capture began, or the sensor message itself was lost
        candidate = self._candidates.setdefault(trace_id, _Candidate(dict(sensors), message.received_ns))
        candidate.outputs[message.topic] = message

    def poll(self, now_ns: int) -> Snapshot | None:
        """Returns the snapshot once it is complete, and ends the capture."""
        if self._begun_ns is None:
            return None
        for trace_id, candidate in self._candidates.items():
            whole = self._output_topics <= candidate.outputs.keys()
            if whole or now_ns - candidate.first_ns >= self._grace_ns:
                return self._finish(trace_id, candidate, now_ns)
        if now_ns - self._begun_ns >= self._patience_ns:
            return self._finish(0, None, now_ns)
        return None

    def _find(self, modality: str, stamp_ns: int) -> LoggedMessage | None:
        for known_ns, message in reversed(self._sensors.get(modality, [])):
            if abs(known_ns - stamp_ns) <= SAME_STAMP_NS:
                return message
        return None

    def _finish(self, trace_id: int, candidate: _Candidate | None, now_ns: int) -> Snapshot | None:
        messages: list[LoggedMessage] = []
        if candidate is None:
            messages += [buffered[-1][1] for buffered in self._sensors.values() if buffered]
            frame_ns = max((buffered[-1][0] for buffered in self._sensors.values() if buffered), default=0)
        else:
            found = (self._find(modality, stamp_ns) for modality, stamp_ns in candidate.sensors.items())
            messages += [message for message in found if message is not None]
            messages += candidate.outputs.values()
            first_output = next(iter(candidate.outputs.values()))
            frame_ns = stamp_ns_of(first_output.data)
        if self._ground_truth:
            stamp_ns, truth = min(self._ground_truth, key=lambda entry: abs(entry[0] - frame_ns))
            if abs(stamp_ns - frame_ns) <= GROUND_TRUTH_TOLERANCE_NS:
                messages.append(truth)
        self._begun_ns = None
        self._sensors, self._candidates, self._ground_truth = {}, {}, []
        self._buffer_bytes = 0
        return Snapshot(trace_id, now_ns, messages) if messages else None
