"""An append-only file of serialized ROS messages: cheap to write while the stack runs, readable however it
ended.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"MMMTLOG1"
_RECORD = struct.Struct(
    "<BIQI"
)  # kind, topic index, CLOCK_MONOTONIC nanoseconds of reception, payload length
_TOPIC, _MESSAGE = 0, 1


class LogWriteError(OSError):
    """The log can no longer be written; the message names the file, the cause and how much is missing."""


@dataclass(frozen=True)
class LoggedMessage:
    """One message of a log.

    Attributes:
        topic: Full topic name.
        type_name: ROS type, e.g. `mmmt_msgs/msg/StageTiming`.
        received_ns: CLOCK_MONOTONIC at reception.
        data: The serialized message.
    """

    topic: str
    type_name: str
    received_ns: int
    data: bytes


class MessageLogWriter:
    """Writes a log in blocks. After the first write error it takes no more and counts what is missing.

    Attributes:
        written: Messages accepted, by topic.
        missing: Messages refused or lost because the file could not be written, by topic.
        failure: What went wrong, None while all is well.
    """

    BLOCK_BYTES = 1 << 18

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: dict[str, int] = {}
        self.missing: dict[str, int] = {}
        self.failure: str | None = None
        self._topics: dict[str, int] = {}
        self._buffer = bytearray(MAGIC)
        self._buffered: list[str] = []
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            self._fail(error)

    def append(self, topic: str, type_name: str, received_ns: int, data: bytes) -> bool:
        """Adds one message.

        Returns:
            True unless this very call found that the file cannot be written: the caller then reports
            `failure` once.
        """
        if self.failure is not None:
            self.missing[topic] = self.missing.get(topic, 0) + 1
            return True
        index = self._topics.get(topic)
        if index is None:
            index = self._topics[topic] = len(self._topics)
            declaration = json.dumps({"topic": topic, "type": type_name}).encode()
            self._buffer += _RECORD.pack(_TOPIC, index, received_ns, len(declaration)) + declaration
        self._buffer += _RECORD.pack(_MESSAGE, index, received_ns, len(data))
        self._buffer += data
        self._buffered.append(topic)
        return self.flush() if len(self._buffer) >= self.BLOCK_BYTES else True

    def flush(self) -> bool:
        """Hands everything to the operating system; returns False when this call found that it cannot be
        written.
        """
        if self.failure is not None or not self._buffer:
            return True
        view = memoryview(self._buffer)
        try:
            done = 0
            while done < len(view):
                done += os.write(self._descriptor, view[done:])
        except OSError as error:
            self._fail(error)
            return False
        finally:
            view.release()
        for topic in self._buffered:
            self.written[topic] = self.written.get(topic, 0) + 1
        self._buffer = bytearray()
        self._buffered = []
        return True

    def close(self) -> bool:
        """Flushes and closes; returns False when the rest could not be written."""
        intact = self.flush()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        return intact

    def _fail(self, error: OSError) -> None:
        """Notes the failure; what was buffered may be torn, so it counts as missing."""
        self.failure = f"{self.path}: cannot be written: {error.strerror or error}"
        for topic in self._buffered:
            self.missing[topic] = self.missing.get(topic, 0) + 1
        self._buffer, self._buffered = bytearray(), []


def read_log(path: Path) -> Iterator[LoggedMessage]:
    """Yields the messages of a log in the order they were received, up to where it was torn off.

    Raises:
        ValueError: The file is no message log.
        OSError: The file cannot be read.
    """
    topics: dict[int, tuple[str, str]] = {}
    with path.open("rb") as stream:
        magic = stream.read(len(MAGIC))
        if not magic:
            return
        if magic != MAGIC:
            raise ValueError(f"{path}: not a message log (it does not start with {MAGIC.decode()})")
        while True:
            head = stream.read(_RECORD.size)
            if len(head) < _RECORD.size:
                return
            kind, index, received_ns, length = _RECORD.unpack(head)
            payload = stream.read(length)
            if len(payload) < length:
                return
            if kind == _TOPIC:
                declaration = json.loads(payload)
                topics[index] = (declaration["topic"], declaration["type"])
            elif kind == _MESSAGE and index in topics:
                yield LoggedMessage(*topics[index], received_ns, payload)
            else:
                raise ValueError(f"{path}: damaged: record of kind {kind} for topic number {index}")
