"""Who is who: tokens that tell a reader whether a handle was made in its own process or on its own host."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

SHARED_MEMORY_FOLDER = Path("/dev/shm")


class _ProcessToken:
    """Random name of this process (pids are reused), renewed in a forked child."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.value = f"{os.getpid()}-{secrets.token_hex(8)}"


_process_token = _ProcessToken()


def process_token() -> str:
    """Returns the token of this process; no other process ever has the same."""
    return _process_token.value


def host_token() -> str:
    """Returns a token shared by exactly those processes that can see each other's shared memory.

    It joins the boot id with the device number of the shared-memory file system: two containers of one host
    have the same boot id but, unless they share their IPC namespace, different file systems.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = os.uname().nodename
    try:
        memory = SHARED_MEMORY_FOLDER.stat().st_dev
    except OSError:
        memory = 0
    return f"{boot}-{memory}"
