"""How a node or a signal asks its process to stop in order."""

from __future__ import annotations

import os
import select

from perception_nodes.runtime.exit_codes import EXIT_OK


class StopRequest:
    """Set once; the main thread of the process waits for it.

    It is a pipe rather than a threading.Event so that a signal handler can set it whatever lock the
    interrupted code holds.
    """

    def __init__(self) -> None:
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._writable, False)
        self._is_set = False
        self.exit_code = EXIT_OK
        self.reason = ""

    def set(self, reason: str, exit_code: int = EXIT_OK) -> None:
        """Asks for a stop; the first request counts."""
        if not self._is_set:
            self.reason, self.exit_code, self._is_set = reason, exit_code, True
            os.write(self._writable, b"1")

    def is_set(self) -> bool:
        """Says whether a stop was asked for."""
        return self._is_set

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for a request; True when there is one."""
        select.select([self._readable], [], [], timeout_s)
        return self._is_set


_process_stop: StopRequest | None = None


def process_stop() -> StopRequest:
    """The stop request of this process; a fork has its own."""
    global _process_stop
    if _process_stop is None:
        _process_stop = StopRequest()
    return _process_stop


def _forget_parents() -> None:
    """A fork would share its parent's pipe, and stop with it."""
    global _process_stop
    _process_stop = None


os.register_at_fork(after_in_child=_forget_parents)


def request_process_stop(reason: str, exit_code: int = EXIT_OK) -> None:
    """Ends the process that hosts the calling node, in order; e.g. replay at the end of its recording.

    Args:
        reason: One line for the log.
        exit_code: Exit code of the process (perception_nodes.runtime.exit_codes).
    """
    process_stop().set(reason, exit_code)
