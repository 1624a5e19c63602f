"""What a coordinator knows of the frames under way, from the stages' reports."""

from __future__ import annotations

import threading
from collections.abc import Callable


class FrameWatch:
    """Newest frame, and newest output of each component on each device. Written and read by two threads."""

    def __init__(self, clock_ns: Callable[[], int] | None = None) -> None:
        """Starts with nothing heard.

        Args:
            clock_ns: The clock that frames are numbered by, where they are times: the next frame may come
                long after the newest one and then be numbered by now. None: they are only counted.
        """
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._newest = -1
        self._outputs: dict[tuple[str, str], int] = {}

    def begun(self, frame: int) -> None:
        """A frame was put together."""
        with self._lock:
            self._newest = max(self._newest, frame)

    def output(self, component: str, device: str, frame: int) -> None:
        """A component on a device has given its output of a frame."""
        with self._lock:
            key = (component, device)
            self._outputs[key] = max(self._outputs.get(key, -1), frame)
            self._newest = max(self._newest, frame)

    def newest(self) -> int:
        """Newest frame known of; -1: none."""
        with self._lock:
            return self._newest

    def newest_possible(self) -> int:
        """No frame that was put together up to now has a larger number than this, as far as is known."""
        newest = self.newest()
        return newest if self._clock_ns is None else max(newest, self._clock_ns())

    def newest_output(self, component: str, device: str) -> int:
        """Newest frame a component on a device gave its output of; -1: none."""
        with self._lock:
            return self._outputs.get((component, device), -1)
