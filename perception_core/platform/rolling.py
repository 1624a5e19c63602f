"""Statistics over the last seconds, in bounded memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence


def nearest_rank(sorted_values: Sequence[float], fraction: float) -> float:
    """Returns the smallest value that at least `fraction` of the values do not exceed; NaN where there are
    none.

    No interpolation: with few values the tail is then the largest one, never something smaller that did not
    happen.
    """
    if not sorted_values:
        return math.nan
    return sorted_values[max(0, math.ceil(fraction * len(sorted_values)) - 1)]


class RollingWindow:
    """Values of the last seconds, bounded in number."""

    def __init__(self, window_s: float, max_samples: int) -> None:
        self._window_s = window_s
        self.entries: deque[tuple[float, float]] = deque(maxlen=max_samples)

    def add(self, time_s: float, value: float) -> None:
        """Adds a value."""
        self.entries.append((time_s, value))

    def expire(self, now_s: float) -> None:
        """Forgets what is older than the window."""
        while self.entries and now_s - self.entries[0][0] > self._window_s:
            self.entries.popleft()

    def values(self) -> list[float]:
        """Returns the values, oldest first."""
        return [value for _, value in self.entries]

    def mean(self) -> float:
        """Returns their mean, NaN where there are none."""
        return sum(self.values()) / len(self.entries) if self.entries else math.nan


class Heartbeat:
    """When something last happened and how often it usually does."""

    def __init__(self) -> None:
        self.last_s: float | None = None
        self._intervals: deque[float] = deque(maxlen=32)

    def beat(self, now_s: float, longest_interval_s: float) -> None:
        """Notes that it happened now; a longer interval than the given one is an outage."""
        # An outage is no sample of the usual period: else the next outage would be noticed later.
        if self.last_s is not None and 0.0 <= now_s - self.last_s <= longest_interval_s:
            self._intervals.append(now_s - self.last_s)
        self.last_s = now_s if self.last_s is None else max(self.last_s, now_s)

    @property
    def period_s(self) -> float:
        """Median of the last intervals, NaN before there are any."""
        return nearest_rank(sorted(self._intervals), 0.5)

    def silence_s(self, now_s: float) -> float:
        """Returns the time since it last happened, infinite where it never did."""
        return math.inf if self.last_s is None else max(0.0, now_s - self.last_s)
