"""When this machine's cores stood still: a thread that sleeps two milliseconds on each of them and notes how
late it wakes. It goes before all other work where this process may ask for that, so that what it sees is the
host of a virtual machine (or its kernel) and not the load of the stack.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

#: A core that wakes a sleeper so much later than asked stood still.
STALL_S = 0.01
_PERIOD_S = 0.002

#: Begin and end, seconds of the monotonic clock.
Interval = tuple[float, float]


class StallWatch:
    """Watches every core of this process between entering and leaving.

    Attributes:
        stalls: When any core stood still, known once it was left.
    """

    def __init__(self) -> None:
        self.stalls: list[Interval] = []
        self._watchers: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> StallWatch:
        """Starts to watch; returns itself."""
        context = multiprocessing.get_context("spawn")  # a process each: threads would wait for each other
        for core in sorted(os.sched_getaffinity(0)):
            here, there = context.Pipe()
            watcher = context.Process(target=_watch, args=(there, core), daemon=True)
            watcher.start()
            there.close()
            self._watchers.append((watcher, here))
        for _, pipe in self._watchers:
            pipe.recv()  # it watches
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops watching."""
        for _, pipe in self._watchers:
            pipe.send(None)
        for watcher, pipe in self._watchers:
            self.stalls += pipe.recv()
            pipe.close()
            watcher.join()
        self.stalls.sort()


def disturbed(begin_s: float, end_s: float, stalls: Sequence[Interval]) -> bool:
    """Says whether a core stood still at some time between `begin_s` and `end_s`."""
    return any(begin < end_s and end > begin_s for begin, end in stalls)


def _watch(pipe: Connection, core: int) -> None:
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(PermissionError):  # a busy core then counts as one that stood still
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    pipe.send(None)
    stalls: list[Interval] = []
    while not pipe.poll():
        before = time.monotonic()
        time.sleep(_PERIOD_S)
        now = time.monotonic()
        if now - before > _PERIOD_S + STALL_S:
            stalls.append((before + _PERIOD_S, now))
    pipe.recv()
    pipe.send(stalls)
