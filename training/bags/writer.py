"""Writes standard rosbag2 files without ROS, through the `rosbags` library."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from training.bags.message_types import make_typestore
from training.bags.messages import Messages

_FOREVER = QosTime(2147483647, 4294967295)


def _qos(latched: bool) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 5,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


class BagWriter:
    """Writes one bag; a context manager.

    Attributes:
        messages: Makes messages of the bag's types.
    """

    def __init__(
        self,
        folder: Path,
        storage: Literal["mcap", "sqlite3"] = "mcap",
        custom: dict[str, str] | None = None,
        compressed: bool = False,
    ) -> None:
        """Creates the bag.

        Args:
            folder: New folder of the bag.
            storage: Storage plugin.
            custom: Free key-value pairs for its metadata.
            compressed: Compress with zstd: chunks of mcap, messages of sqlite3.
        """
        self._store = make_typestore()
        self.messages = Messages(self._store)
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        self._writer = Writer(folder, version=9, storage_plugin=plugin)
        if compressed:
            mode = CompressionMode.STORAGE if storage == "mcap" else CompressionMode.MESSAGE
            self._writer.set_compression(mode, CompressionFormat.ZSTD)
        for key, value in (custom or {}).items():
            self._writer.set_custom_data(key, value)
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        """Opens the bag."""
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the bag; after an error it is left without an index."""
        if kind is None:
            self._writer.close()
        else:
            self._writer.abort()

    def knows(self, message_type: str) -> bool:
        """Tells whether a type's definition is known."""
        return message_type in self._store.fielddefs

    def write(self, topic: str, message: Any, log_time_ns: int, latched: bool = False) -> None:
        """Adds a message.

        Args:
            topic: Absolute topic.
            message: From `messages`.
            log_time_ns: Time of recording.
            latched: Offer the topic with transient-local durability.
        """
        message_type = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, message_type, typestore=self._store, offered_qos_profiles=[_qos(latched)]
            )
        data = self._store.serialize_cdr(message, message_type)
        self._writer.write(self._connections[topic], log_time_ns, data)

    def write_bytes(self, topic: str, message_type: str, data: bytes, log_time_ns: int) -> None:
        """Adds serialized bytes as they are, right or wrong."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, message_type, typestore=self._store, offered_qos_profiles=[_qos(False)]
            )
        self._writer.write(self._connections[topic], log_time_ns, data)
