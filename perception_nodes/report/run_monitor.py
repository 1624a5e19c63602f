"""Knows what a running stack does, for a progress bar and for the end of the recording."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

from perception_nodes.report.run_status import RunStatus
from perception_nodes.runtime.parent_death import PARENT_VARIABLE
from perception_nodes.transport import dds_profile

LISTENER_MODULE = "perception_nodes.report.run_listener"

#: A listener that does not end so soon after it was asked to is killed: the middleware may have locked it
#: up. Not sooner: a killed participant leaves shared memory behind.
_END_LIMIT_S = 15.0
#: How often a listener that ended by itself is started again.
_RESTARTS = 3


class RunMonitor:
    """Keeps the status that a listener, a process of its own, tells of the stack."""

    def __init__(self, module: str = LISTENER_MODULE) -> None:
        """Starts listening.

        Args:
            module: What is run as the listener.
        """
        self.status = RunStatus()
        self._module = module
        self._closing = False
        self._lock = threading.Lock()
        self._listener = self._start()
        self._thread = threading.Thread(target=self._read, name="run_monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening; returns within seconds whatever the listener does."""
        with self._lock:
            self._closing = True
            listener = self._listener
        listener.terminate()
        try:
            listener.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            listener.kill()
            listener.wait()
        self._thread.join(_END_LIMIT_S)

    def __enter__(self) -> RunMonitor:
        """Returns itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Stops listening."""
        self.close()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **dds_profile.environment(), PARENT_VARIABLE: str(os.getpid())},
        )

    def _read(self) -> None:
        restarts = 0
        while True:
            for line in self._listener.stdout or ():
                try:
                    self.status = RunStatus.from_line(line)
                except ValueError as error:
                    print(f"run_monitor: {error}", file=sys.stderr, flush=True)
            code = self._listener.wait()
            with self._lock:
                if self._closing:
                    return
                print(f"run_monitor: the listener ended with code {code}", file=sys.stderr, flush=True)
                if restarts == _RESTARTS:
                    break
                restarts += 1
                # Whether the recording was played is kept by its publisher for whoever asks later.
                self._listener = self._start()
        print("run_monitor: the listener does not stay; nothing more is known", file=sys.stderr, flush=True)
