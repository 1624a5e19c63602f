"""What this machine itself takes to wake a process on another core, with nothing of the stack in between.

    this process, first core ─► pipe ─► sleeping process, last core ─► pipe ─► this process

On a virtual machine whose host runs something else on the sleeping core, this is what any hand-over between
processes costs, and no part of the stack's own work.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection

ROUNDS = 60
#: So long a core sleeps between two frames of a slow replay.
_PAUSE_S = 0.25


def measure_handover() -> dict[str, float]:
    """Returns median and 90th percentile of the time there and back, halved, in milliseconds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    cores = sorted(os.sched_getaffinity(0))
    echo = context.Process(target=_echo, args=(there, cores[-1]), daemon=True)
    echo.start()
    try:
        os.sched_setaffinity(0, cores[:1])
        here.send_bytes(b"?")
        here.recv_bytes()  # the other process has started
        times_ms = []
        for _ in range(ROUNDS):
            time.sleep(_PAUSE_S)
            begun = time.monotonic()
            here.send_bytes(b"?")
            here.recv_bytes()
            times_ms.append((time.monotonic() - begun) * 1e3 / 2)
        here.send_bytes(b"")
    finally:
        os.sched_setaffinity(0, cores)
        here.close()
        echo.join(2.0)
        if echo.is_alive():
            echo.kill()
    deciles = statistics.quantiles(times_ms, n=10)
    return {"p50_ms": round(deciles[4], 3), "p90_ms": round(deciles[8], 3)}


def _echo(pipe: Connection, core: int) -> None:
    os.sched_setaffinity(0, {core})
    while message := pipe.recv_bytes():
        pipe.send_bytes(message)
