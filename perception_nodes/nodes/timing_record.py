"""Writes a run's stage timings to a file of JSON lines, beside the node and never in its way."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from perception_core.platform.path_latency import StageReport


class TimingRecord:
    """Appends stage reports to a file from its own thread.

    A slow disk costs lines, never the monitor's time; a full disk ends the record with one call of
    `on_failure`, not the node.
    """

    QUEUE_LINES = 4096
    FLUSH_PERIOD_S = 1.0

    def __init__(self, path: Path, on_failure: Callable[[str], None]) -> None:
        """Opens the file, anew, and starts the writer.

        Args:
            path: File to write; missing folders are made.
            on_failure: Called once, from the writer's thread, when writing fails.

        Raises:
            OSError: The file cannot be opened.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[str] = path.open("w", encoding="utf-8")
        self._on_failure = on_failure
        self._queue: queue.Queue[dict[str, object] | None] = queue.Queue(self.QUEUE_LINES)
        self.lost_lines = 0
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._write, name="timing_record", daemon=True)
        self._thread.start()

    def add(self, report: StageReport, device: str, process: str) -> None:
        """Queues one report; counts it as lost where the disk cannot keep up or has failed."""
        line = {**_fields(report), "device": device, "process": process}
        if self._failed.is_set():
            self.lost_lines += 1
            return
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.lost_lines += 1

    def close(self) -> None:
        """Writes what is queued and closes the file; waits a few seconds at most."""
        try:
            self._queue.put(None, timeout=1.0)
        except queue.Full:
            self._failed.set()
        self._thread.join(timeout=3.0)

    def _write(self) -> None:
        try:
            while True:
                try:
                    line = self._queue.get(timeout=self.FLUSH_PERIOD_S)
                except queue.Empty:
                    if self._failed.is_set():
                        break
                    self._file.flush()
                    continue
                if line is None:
                    break
                self._file.write(json.dumps(line) + "\n")
            self._file.close()
        except (OSError, ValueError) as error:
            self._failed.set()
            self._on_failure(
                f"timings are no longer recorded: {self.path}: {error}; free the disk and start again"
            )
            self._abandon()

    def _abandon(self) -> None:
        """Closes a file whose last lines cannot be written."""
        try:
            self._file.close()
        except OSError:
            # The buffered rest does not fit either; on_failure has said so.
            return


def _fields(report: StageReport) -> dict[str, object]:
    """Returns the line's values: the StageTiming message's fields by name."""
    return {
        "trace_id": report.trace_id,
        "stage": report.stage,
        "task": report.task,
        "host": report.host,
        "queued_ns": report.queued_ns,
        "started_ns": report.started_ns,
        "done_ns": report.done_ns,
        "compute_ns": report.compute_ns,
        "outcome": report.outcome.name,
        "detail": report.detail,
        "sensors": [
            [share.modality, share.valid, share.received_ns, share.age_at_reception_ns]
            for share in report.sensors
        ],
    }
