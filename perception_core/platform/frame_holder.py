"""Frames of a component that may be moved: which to work on now, which to keep, and what is still under way.
Free of ROS and networks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from perception_core.platform.replacement import FrameGate, Verdict

Frame = TypeVar("Frame")


class FrameHolder(Generic[Frame]):
    """A node's gate together with the frames it holds. Frames and requests come on different threads."""

    def __init__(self, gate: FrameGate, capacity: int) -> None:
        """Starts with nothing held.

        Args:
            gate: Of a running node, or of one that owns nothing yet.
            capacity: Frames held at most; the oldest goes. Tensors of older ones would have expired anyway.
        """
        self._gate = gate
        self._capacity = capacity
        self._held: OrderedDict[int, Frame] = OrderedDict()
        self._pending = 0
        self._last_output = -1
        self._lock = threading.Lock()

    @property
    def newest(self) -> int:
        """Newest frame that was complete here; -1: none yet."""
        with self._lock:
            return self._gate.newest

    @property
    def last_output(self) -> int:
        """Newest frame whose output was given; -1: none yet."""
        with self._lock:
            return self._last_output

    def hear(self, number: int, frame: Frame) -> bool:
        """A frame is complete.

        Returns:
            Whether to work on it now; it then counts as pending until `done`.
        """
        with self._lock:
            self._gate = self._gate.seen(number)
            verdict = self._gate.verdict(number)
            if verdict is Verdict.WORK:
                self._pending += 1
                return True
            if verdict is Verdict.HOLD:
                self._held[number] = frame
                while len(self._held) > self._capacity:
                    self._held.pop(min(self._held))
            return False

    def gave_output(self, number: int) -> None:
        """The output of a frame has been handed on."""
        with self._lock:
            self._last_output = max(self._last_output, number)

    def done(self) -> None:
        """A pending frame was worked on or dropped."""
        with self._lock:
            self._pending -= 1

    def counted(self, action: Callable[[], None]) -> Callable[[], None]:
        """Returns the action with `done` behind it."""

        def run() -> None:
            try:
                action()
            finally:
                self.done()

        return run

    def drained(self) -> bool:
        """Nothing is pending, and every frame that was its own has come: one it gave up was complete here.

        Producers announce their frames in order, so nothing older follows.
        """
        with self._lock:
            owned = self._gate.owned
            end = owned[-1][1] if owned else None
            return self._pending == 0 and (end is None or self._gate.newest >= end)

    # -- requests of the coordinator, see FrameGate

    def offer(self, switch_frame: int) -> bool:
        """See FrameGate.offer."""
        with self._lock:
            self._gate, can_hold = self._gate.offer(switch_frame)
            self._sort()  # an earlier offer's frames may be the other node's now
            return can_hold

    def give_up(self, switch_frame: int) -> bool:
        """See FrameGate.give_up."""
        with self._lock:
            self._gate, agreed = self._gate.give_up(switch_frame)
            return agreed

    def settle(self, switch_frame: int | None, accepted: bool) -> list[Frame]:
        """See FrameGate.settle; returns the held frames to work on now, oldest first.

        Args:
            switch_frame: None: whichever was offered.
            accepted: The old node has agreed.
        """
        with self._lock:
            frame = self._gate.offered_from if switch_frame is None else switch_frame
            if frame is not None:
                self._gate = self._gate.settle(frame, accepted)
            return self._sort()

    def let_go(self) -> None:
        """See FrameGate.let_go."""
        with self._lock:
            self._gate = self._gate.let_go()
            self._sort()

    def take_over(self, first_frame: int) -> list[Frame]:
        """See FrameGate.take_over; returns the held frames to work on now, oldest first.

        Never takes over frames from before the one it gave up: those it has worked on.
        """
        with self._lock:
            end = self._gate.owned[-1][1] if self._gate.owned else None
            self._gate = self._gate.take_over(first_frame if end is None else max(first_frame, end))
            return self._sort()

    def _sort(self) -> list[Frame]:
        """Looks at the held frames again; returns those to work on."""
        ready = []
        for number in sorted(self._held):
            verdict = self._gate.verdict(number)
            if verdict is Verdict.HOLD:
                continue
            frame = self._held.pop(number)
            if verdict is Verdict.WORK:
                self._pending += 1
                ready.append(frame)
        return ready
