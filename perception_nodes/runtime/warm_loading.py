"""Loads a network beside the work that its device is doing, so that a component that comes costs those that
are there as little as can be.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from perception_core.deployment import Device

Loaded = TypeVar("Loaded")

#: Steps of niceness below the device's work: about a third of its share of a core. Much less would keep
#: Python's global lock in the hands of a thread that hardly ever runs.
WARMING_NICENESS = 5


def load_beside(load: Callable[[], Loaded], device: Device) -> Loaded:
    """Runs `load` on a thread of its own, pinned to the device's cores, and returns its result.

    The thread has a lower priority where what it starts does not outlive it. Threads inherit niceness and an
    unprivileged process cannot take it back: a runtime that keeps compute threads of its own (onnxruntime
    and OpenVINO on more than one core) would run at that priority for ever.

    Args:
        load: Loads the network and runs example frames.
        device: Where it will run.

    Raises:
        Exception: What `load` raises.
    """
    future: Future[Loaded] = Future()

    def run() -> None:
        try:
            if device.kind == "cpu" and device.cores:
                os.sched_setaffinity(0, device.cores)
            if keeps_no_threads(device):
                thread = threading.get_native_id()
                niceness = os.getpriority(os.PRIO_PROCESS, thread)
                os.setpriority(os.PRIO_PROCESS, thread, niceness + WARMING_NICENESS)
            future.set_result(load())
        except BaseException as error:  # handed to the caller through the future
            future.set_exception(error)

    thread = threading.Thread(target=run, name="warming", daemon=True)
    thread.start()
    thread.join()
    return future.result()


def keeps_no_threads(device: Device) -> bool:
    """Says whether what loading starts on a device ends with the thread that loads."""
    return device.kind == "cpu" and (device.backend == "torch" or len(device.cores) == 1)
