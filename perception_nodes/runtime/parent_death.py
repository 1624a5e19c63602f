"""No orphans: a process started by the supervisor ends when the supervisor is gone, however it went."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: The supervisor puts its process id here.
PARENT_VARIABLE = "MMMT_SUPERVISOR_PID"

_PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Asks the kernel to signal this process when its parent dies; does nothing when no supervisor started
    it.

    The kernel counts the thread that started us as the parent, so the supervisor starts children from one
    lasting thread.

    Args:
        signal_number: What to send; the default lets the process shut down in order.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):  # it died before we asked
        print(f"the supervisor {parent} that started this process is gone; ending", file=sys.stderr)
        raise SystemExit(1)
