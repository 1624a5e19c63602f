"""Decides whether a new frame may enter the stack: load is shed once, at the door, for all components.

Were every component to drop frames by itself, two producers of one consumer could drop different frames and
never meet again.
"""

from __future__ import annotations

from collections.abc import Iterable


class FrameAdmission:
    """Counts frames under way; knows no rclpy and no clock of its own.

    A frame is under way from its admission until every task has reported an outcome for it (done, dropped or
    failed), or until `timeout_s` has passed: a component that died must not shut the door for good. A task
    that let a frame time out is not waited for again until it reports, so that one dead task does not slow
    the others down.
    """

    def __init__(self, tasks: Iterable[str], max_in_flight: int, timeout_s: float) -> None:
        """Creates an empty account.

        Args:
            tasks: Stages whose report ends a frame: the task heads.
            max_in_flight: Frames that may be under way at once.
            timeout_s: A frame older than this no longer counts.

        Raises:
            ValueError: A limit is not positive.
        """
        if max_in_flight < 1 or timeout_s <= 0:
            raise ValueError(
                f"limits must be positive, got max_in_flight={max_in_flight}, timeout_s={timeout_s}"
            )
        self._tasks = frozenset(tasks)
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s
        self._pending: dict[int, tuple[float, set[str]]] = {}
        self._silent: set[str] = set()

    def may_enter(self, now_s: float) -> bool:
        """Says whether a frame may be admitted now; forgets frames that timed out."""
        for trace, (entered_s, waiting_for) in list(self._pending.items()):
            if now_s - entered_s >= self._timeout_s:
                self._silent |= waiting_for
                del self._pending[trace]
        return not self._tasks or len(self._pending) < self._max_in_flight

    def enter(self, trace_id: int, now_s: float) -> None:
        """Admits a frame."""
        awaited = set(self._tasks - self._silent)
        if awaited:
            self._pending[trace_id] = (now_s, awaited)

    def report(self, trace_id: int, stage: str) -> bool:
        """Takes the outcome of one stage for a frame; returns True when that ended the frame."""
        self._silent.discard(stage)
        entry = self._pending.get(trace_id)
        if entry is None:
            return False
        entry[1].discard(stage)
        if entry[1]:
            return False
        del self._pending[trace_id]
        return True

    def seconds_to_next_timeout(self, now_s: float) -> float:
        """Time until the oldest frame under way times out; the whole timeout where none is under way."""
        oldest = min((entry[0] for entry in self._pending.values()), default=now_s)
        return max(0.0, oldest + self._timeout_s - now_s)

    def __len__(self) -> int:
        """Frames under way."""
        return len(self._pending)
