"""Decides how often a fault that keeps happening is told. Knows no ROS."""

from __future__ import annotations

from dataclasses import dataclass

#: Diagnostics repeat a fault that lasts at most this often.
PUBLISH_PERIOD_S = 1.0
#: The log repeats it after one second, then two, four, …, but at least this often.
LONGEST_LOG_PERIOD_S = 32.0
#: A fault not seen for this long is over; its return is news.
FORGOTTEN_AFTER_S = 10.0


@dataclass(frozen=True)
class Telling:
    """What to do about one occurrence.

    Attributes:
        count: Occurrences since the fault began, this one included.
        log: Write a line.
        publish: Publish a diagnostic.
    """

    count: int
    log: bool
    publish: bool


@dataclass
class _Fault:
    count: int = 0
    seen_s: float = float("-inf")
    published_s: float = float("-inf")
    logged_s: float = float("-inf")
    log_period_s: float = PUBLISH_PERIOD_S


class FaultLog:
    """Knows each kind of fault by its name."""

    def __init__(self) -> None:
        """Knows of none."""
        self._faults: dict[str, _Fault] = {}

    def tell(self, kind: str, now_s: float) -> Telling:
        """Takes one occurrence.

        Args:
            kind: Stable name of the fault.
            now_s: Monotonic time.
        """
        fault = self._faults.get(kind)
        if fault is None or now_s - fault.seen_s > FORGOTTEN_AFTER_S:
            fault = self._faults[kind] = _Fault()
        first = fault.count == 0
        fault.count += 1
        fault.seen_s = now_s
        publish = now_s - fault.published_s >= PUBLISH_PERIOD_S
        if publish:
            fault.published_s = now_s
        log = now_s - fault.logged_s >= fault.log_period_s
        if log:
            fault.logged_s = now_s
            if not first:
                fault.log_period_s = min(2 * fault.log_period_s, LONGEST_LOG_PERIOD_S)
        return Telling(fault.count, log, publish)
