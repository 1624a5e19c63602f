"""Output of many processes on one terminal: every line says whose it is, and every process has a log file."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

_COLOURS = ("36", "32", "33", "35", "34", "96", "92", "93", "95", "94")
_SUPERVISOR = "supervisor"


class ProcessLog:
    """The log file of one process; a full disk ends the log, not the process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def write(self, line: bytes) -> str | None:
        """Appends a line.

        Returns:
            What went wrong, once; None when all is well.
        """
        if self._path is None:
            return None
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._file.write(line)
        except OSError as error:
            message = f"{self._path}: cannot be written ({error}); this log ends here"
            self._path = None
            return message
        return None

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class ChildOutput:
    """Reads the output of processes in threads and hands it on line by line."""

    def __init__(self, names: Sequence[str], on_line: Callable[[str, str], None] | None = None) -> None:
        """Prepares.

        Args:
            names: Process names, for aligned columns and colours.
            on_line: Takes (name, line); None: print on stderr.
        """
        self._on_line = on_line or self._print
        self._width = max(map(len, (*names, _SUPERVISOR)))
        self._colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False)) | {_SUPERVISOR: "1"}
        self._coloured = sys.stderr.isatty()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def follow(self, name: str, stream: IO[bytes], log: ProcessLog) -> None:
        """Reads a process' output until it ends."""
        thread = threading.Thread(
            target=self._read, args=(name, stream, log), name=f"output-{name}", daemon=True
        )
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def line(self, name: str, text: str) -> None:
        """Hands one line on."""
        with self._lock:
            self._on_line(name, text)

    def close(self) -> None:
        """Waits shortly for output that is still in the pipes of ended processes."""
        for thread in self._threads:
            thread.join(1.0)

    def _read(self, name: str, stream: IO[bytes], log: ProcessLog) -> None:
        with stream:
            for raw in iter(stream.readline, b""):
                trouble = log.write(raw)
                self.line(name, raw.decode("utf-8", errors="replace").rstrip())
                if trouble:
                    self.line(_SUPERVISOR, trouble)
        log.close()

    def _print(self, name: str, text: str) -> None:
        label = f"[{name}]".ljust(self._width + 2)
        if self._coloured:
            label = f"\x1b[{self._colours.get(name, '0')}m{label}\x1b[0m"
        try:
            print(f"{label} {text}", file=sys.stderr, flush=True)
        except (OSError, ValueError):  # the terminal is gone; the log files go on
            self._on_line = lambda name, text: None
