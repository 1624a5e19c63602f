"""Plays a recording in time: items are read ahead in one thread so that another can hand them out when they
are due.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from perception_nodes.recordings.interface import Recording
from perception_nodes.recordings.items import (
    FaultItem,
    ImageItem,
    Item,
    PointsItem,
    SerializedItem,
)

_READ_AHEAD_BYTES = 64 << 20
_READ_AHEAD_ITEMS = 512


@dataclass(frozen=True)
class Range:
    """Which part of a recording is played, how often.

    Attributes:
        start_s: Seconds into the recording.
        duration_s: Length of one pass; 0: to the recording's end.
        passes: Number of passes; 0: for ever.
    """

    start_s: float = 0.0
    duration_s: float = 0.0
    passes: int = 1

    def pass_ns(self, recording: Recording) -> int:
        """Returns the length of one pass in nanoseconds of the recording's clock.

        Raises:
            ValueError: The range begins behind the recording's end.
        """
        remaining = float("inf") if recording.endless else recording.duration_s - self.start_s
        if remaining <= 0:
            raise ValueError(
                f"start {self.start_s:g} s lies behind the end of '{recording.name}' "
                f"({recording.duration_s:.3f} s)"
            )
        wanted = (
            self.duration_s
            if self.duration_s > 0
            else recording.duration_s
            if recording.endless
            else remaining
        )
        return round(min(wanted, remaining) * 1e9)


@dataclass(frozen=True)
class Due:
    """An item and when it is due.

    Attributes:
        elapsed_ns: Recording time since the first pass began.
        looped_ns: How much of it are earlier passes: what recorded stamps must move by so that they never
            jump back.
        item: The item; None at the very end.
        prepared: What `prepare` made of it.
    """

    elapsed_ns: int
    looped_ns: int
    item: Item | None
    prepared: object


class ReadAhead:
    """Reads a recording in its own thread, a bounded amount ahead."""

    def __init__(self, recording: Recording, part: Range, prepare: Callable[[Item], object]) -> None:
        """Starts reading.

        Args:
            recording: What to read.
            part: Which part, how often.
            prepare: Called for every item in the reading thread; its result travels with the item.
        """
        self._recording = recording
        self._part = part
        self._pass_ns = part.pass_ns(recording)
        self._prepare = prepare
        self._waiting: deque[tuple[Due, int]] = deque()
        self._bytes = 0
        self._stopped = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="replay-read-ahead", daemon=True)
        self._thread.start()

    @property
    def total_ns(self) -> int:
        """Recording time of all passes together; 0 where there is no end."""
        return self._pass_ns * self._part.passes

    def next(self, timeout_s: float) -> Due | None:
        """Takes the next item, or None where none was read within `timeout_s`."""
        with self._condition:
            if (
                not self._condition.wait_for(lambda: self._waiting or self._stopped, timeout_s)
                or not self._waiting
            ):
                return None
            due, size = self._waiting.popleft()
            self._bytes -= size
            self._condition.notify_all()
            return due

    def stop(self) -> None:
        """Ends reading and joins the thread."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._thread.join(timeout=10.0)

    def _put(self, due: Due) -> bool:
        size = _size_of(due.item)
        with self._condition:
            self._condition.wait_for(
                lambda: (
                    self._stopped
                    or not self._waiting
                    or (self._bytes + size <= _READ_AHEAD_BYTES and len(self._waiting) < _READ_AHEAD_ITEMS)
                )
            )
            if self._stopped:
                return False
            self._waiting.append((due, size))
            self._bytes += size
            self._condition.notify_all()
            return True

    def _read(self) -> None:
        begin_ns = self._recording.start_ns + round(self._part.start_s * 1e9)
        looped_ns = number = 0
        try:
            while self._part.passes == 0 or number < self._part.passes:
                playable = 0
                for item in self._recording.messages(self._part.start_s):
                    elapsed_ns = max(item.time_ns - begin_ns, 0)
                    if elapsed_ns >= self._pass_ns:
                        break
                    playable += not isinstance(item, FaultItem)
                    if not self._put(Due(looped_ns + elapsed_ns, looped_ns, item, self._prepare(item))):
                        return
                number += 1
                looped_ns += self._pass_ns
                if not playable:
                    break  # nothing would ever come: do not spin over an empty recording
        except Exception as error:  # a reader's own mistake must end the replay with a message, not silently
            fault = FaultItem(
                begin_ns,
                "recording",
                f"reading '{self._recording.name}' failed: {type(error).__name__}: {error}",
            )
            self._recording.end_fault = fault.message
            self._put(Due(looped_ns, looped_ns, fault, None))
        self._put(Due(looped_ns, looped_ns, None, None))


def _size_of(item: Item | None) -> int:
    if isinstance(item, SerializedItem | ImageItem):
        return len(item.data)
    return item.points_nc.nbytes if isinstance(item, PointsItem) else 256


class PlayClock:
    """Maps recording time to the monotonic clock, with a rate and pauses; thread-safe.

    Rebased stamps are wall time: with a rate other than 1 they advance by what passes on the wall, not in the
    recording.
    """

    def __init__(self, rate: float, paused: bool) -> None:
        """Creates a clock that has not begun.

        Args:
            rate: Recording seconds per second, above 0.
            paused: Begin paused.
        """
        self._rate = rate
        self._anchor_ns: int | None = None
        self._paused_at_ns: int | None = 0 if paused else None
        self._lock = threading.Lock()
        self._wall_minus_monotonic_ns = time.time_ns() - time.monotonic_ns()

    def begin(self) -> None:
        """Recording time zero is now."""
        with self._lock:
            now = time.monotonic_ns()
            self._anchor_ns = now
            if self._paused_at_ns is not None:
                self._paused_at_ns = now

    @property
    def paused(self) -> bool:
        """Tells whether time stands still."""
        return self._paused_at_ns is not None

    def pause(self, paused: bool) -> None:
        """Stops or continues."""
        with self._lock:
            now = time.monotonic_ns()
            if paused and self._paused_at_ns is None:
                self._paused_at_ns = now
            elif not paused and self._paused_at_ns is not None:
                if self._anchor_ns is not None:
                    self._anchor_ns += now - self._paused_at_ns
                self._paused_at_ns = None

    def due_ns(self, elapsed_ns: int) -> int | None:
        """Returns when recording time `elapsed_ns` falls due on the monotonic clock; None while paused."""
        with self._lock:
            if self._paused_at_ns is not None or self._anchor_ns is None:
                return None
            return self._anchor_ns + round(elapsed_ns / self._rate)

    def elapsed_ns(self) -> int:
        """Returns the recording time now."""
        with self._lock:
            if self._anchor_ns is None:
                return 0
            now = time.monotonic_ns() if self._paused_at_ns is None else self._paused_at_ns
            return round((now - self._anchor_ns) * self._rate)

    def slip(self, late_ns: int) -> None:
        """Moves everything that is still to come: reading could not keep up."""
        with self._lock:
            if self._anchor_ns is not None:
                self._anchor_ns += late_ns

    def wall_ns(self, monotonic_ns: int) -> int:
        """Returns the wall time of a moment of the monotonic clock."""
        return monotonic_ns + self._wall_minus_monotonic_ns

    def follow_wall_clock(self) -> None:
        """Takes over steps of the wall clock, which would make stamps old or future."""
        self._wall_minus_monotonic_ns = time.time_ns() - time.monotonic_ns()
