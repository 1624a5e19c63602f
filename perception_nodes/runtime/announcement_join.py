"""Joins the announcements of several producers into complete inputs, frame by frame. Knows no rclpy."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

Announcement = TypeVar("Announcement")


class AnnouncementJoin(Generic[Announcement]):
    """Collects one announcement per producer for each trace.

    Producers may report a frame in any order and may skip frames; a frame that never completes leaves when
    `capacity` newer frames have begun.
    """

    def __init__(self, producers: Sequence[str], capacity: int) -> None:
        """Creates the join.

        Args:
            producers: Names that must all have announced a trace before it is complete.
            capacity: Incomplete traces kept.

        Raises:
            ValueError: There is no producer, a name repeats, or the capacity is not positive.
        """
        if not producers or len(set(producers)) != len(producers):
            raise ValueError(f"producers must be distinct and at least one, got {list(producers)}")
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._producers = frozenset(producers)
        self._capacity = capacity
        self._waiting: OrderedDict[int, dict[str, Announcement]] = OrderedDict()

    def add(self, producer: str, trace_id: int, announcement: Announcement) -> dict[str, Announcement] | None:
        """Takes one announcement; returns all of the trace's announcements by producer once it is complete.

        Raises:
            KeyError: The producer is none of those joined.
        """
        if producer not in self._producers:
            raise KeyError(f"'{producer}' is none of the joined producers {sorted(self._producers)}")
        parts = self._waiting.setdefault(trace_id, {})
        parts[producer] = announcement
        if len(parts) == len(self._producers):
            del self._waiting[trace_id]
            return parts
        while len(self._waiting) > self._capacity:
            self._waiting.popitem(last=False)
        return None

    def clear(self) -> None:
        """Forgets every incomplete trace."""
        self._waiting.clear()

    def __len__(self) -> int:
        """Number of incomplete traces held."""
        return len(self._waiting)
