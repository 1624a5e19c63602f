"""How a process tells the supervisor that it is ready: one byte through an inherited pipe."""

from __future__ import annotations

import os

#: The supervisor puts the number of the pipe's file descriptor here.
READY_VARIABLE = "MMMT_READY_FD"


def signal_ready() -> None:
    """Says that this process is ready; does nothing when no supervisor started it."""
    descriptor = os.environ.pop(READY_VARIABLE, None)
    if descriptor is None:
        return
    try:
        os.write(int(descriptor), b"1")
    except BrokenPipeError:
        return  # the supervisor is gone; the kernel tells us so, too
    finally:
        os.close(int(descriptor))
