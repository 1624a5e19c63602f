"""Reads rosbag2 storage files that were cut off or damaged, as far as they go.

A recorder that lost power leaves an mcap file without its summary, or an SQLite file that is shorter than its
header says.
Ordinary readers refuse both. These go record by record: what is whole is yielded, then one `Damage` says
where it ends.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rosbags.rosbag2.metadata import parse_qos

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _FOOTER, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x02, 0x0F
_MESSAGE_HEADER = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK_HEADER = struct.Struct("<QQQI")  # first and last time, uncompressed size, crc
_LARGEST_RECORD = 1 << 32


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag.

    Attributes:
        name: Topic.
        message_type: e.g. `sensor_msgs/msg/Image`.
        definition: Message definition as stored, empty where the bag has none.
        definition_format: `ros2msg`, `ros2idl` or empty.
        latched: Offered with transient-local durability.
        count: Messages according to the bag's index, None where there is no index.
    """

    name: str
    message_type: str
    definition: str = field(default="", repr=False)
    definition_format: str = ""
    latched: bool = False
    count: int | None = None


@dataclass(frozen=True)
class Damage:
    """A part of a file that could not be read.

    Attributes:
        message: What is wrong and where.
        final: Nothing after it can be read.
    """

    message: str
    final: bool


def is_latched(qos_profiles: object) -> bool:
    """Tells whether a recorded `offered_qos_profiles` (YAML text or parsed list) contains transient-local
    durability.
    """
    try:
        profiles = parse_qos(qos_profiles)  # type: ignore[arg-type]
    except (
        Exception
    ):  # recorders wrote several dialects of this text; a profile that cannot be read is not a latched one
        return False
    return any(getattr(profile.durability, "name", "") == "TRANSIENT_LOCAL" for profile in profiles)


# -- mcap ----------------------------------------------------------------------------------------------------


class _CutError(Exception):
    """The bytes end inside a record."""


def _take(stream: memoryview, position: int, size: int) -> tuple[memoryview, int]:
    if position + size > len(stream):
        raise _CutError
    return stream[position : position + size], position + size


def _take_text(stream: memoryview, position: int) -> tuple[bytes, int]:
    size_bytes, position = _take(stream, position, 4)
    text, position = _take(stream, position, int.from_bytes(size_bytes, "little"))
    return bytes(text), position


def _decompress_available(compression: str, data: bytes) -> bytes:
    """Decompresses as much as there is; a cut stream gives its beginning."""
    if compression == "":
        return data
    if compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor

        return bytes(LZ4FrameDecompressor().decompress(data))
    if compression == "zstd":
        import zstandard

        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))
    raise ValueError(f"chunk compression '{compression}' is not known")


class McapSalvage:
    """Reads an mcap file front to back without its summary.

    Attributes:
        topics: Topics met so far, by channel id.
    """

    def __init__(self, path: Path) -> None:
        """Remembers the file.

        Args:
            path: The .mcap file.

        Raises:
            ValueError: The file does not begin like an mcap file.
        """
        self.path = path
        self.topics: dict[int, BagTopic] = {}
        self._schemas: dict[int, tuple[str, str, str]] = {}
        with path.open("rb") as stream:
            if stream.read(len(_MCAP_MAGIC)) != _MCAP_MAGIC:
                raise ValueError(f"{path} is not an mcap file: it does not begin with the mcap magic bytes")

    def scan_topics(self) -> None:
        """Reads the file once without keeping messages, so that `topics` is complete."""
        for _ in self.messages():
            pass

    def messages(self) -> Iterator[tuple[BagTopic, int, bytes] | Damage]:
        """Yields (topic, log time in ns, CDR bytes) in file order, and a Damage for each unreadable part."""
        with self.path.open("rb") as stream:
            stream.seek(len(_MCAP_MAGIC))
            yield from self._records(stream)

    def _records(self, stream: BinaryIO) -> Iterator[tuple[BagTopic, int, bytes] | Damage]:
        while True:
            offset = stream.tell()
            head = stream.read(9)
            if len(head) == len(_MCAP_MAGIC) and head == _MCAP_MAGIC:
                return
            if len(head) < 9:
                yield Damage(f"{self.path.name} is cut off at byte {offset + len(head)}", final=True)
                return
            code, size = head[0], int.from_bytes(head[1:9], "little")
            if code in (_FOOTER, _DATA_END):
                return
            if size > _LARGEST_RECORD:
                yield Damage(f"{self.path.name}: no valid record at byte {offset}", final=True)
                return
            if code not in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK):
                stream.seek(size, 1)  # attachments, indexes: not needed
                continue
            body = stream.read(size)
            cut = len(body) < size
            if code == _CHUNK:
                yield from self._chunk(memoryview(body), cut, offset)
            elif not cut:
                try:
                    message = self._record(code, memoryview(body))
                except (_CutError, struct.error, UnicodeDecodeError) as error:
                    yield Damage(
                        f"{self.path.name}: damaged record at byte {offset} ({error!r})", final=False
                    )
                    continue
                if message is not None:
                    yield message
            if cut:
                yield Damage(f"{self.path.name} is cut off at byte {offset + 9 + len(body)}", final=True)
                return

    def _chunk(
        self, body: memoryview, cut: bool, offset: int
    ) -> Iterator[tuple[BagTopic, int, bytes] | Damage]:
        try:
            header, position = _take(body, 0, _CHUNK_HEADER.size)
            _, _, uncompressed_size, crc = _CHUNK_HEADER.unpack(header)
            compression, position = _take_text(body, position)
            _, position = _take(body, position, 8)
            records = _decompress_available(compression.decode(), bytes(body[position:]))
            if not cut and (len(records) != uncompressed_size or (crc and zlib.crc32(records) != crc)):
                raise ValueError("its checksum or size is wrong")
        except _CutError:
            return  # the cut itself is reported by the caller
        except (
            Exception
        ) as error:  # decompressors raise their own types; whatever they say, this chunk is lost
            if not cut:
                yield Damage(f"{self.path.name}: chunk at byte {offset} is damaged ({error})", final=False)
            return
        found: list[tuple[BagTopic, int, bytes]] = []
        view, position = memoryview(records), 0
        while position < len(view):
            try:
                head, after_head = _take(view, position, 9)
                record, position = _take(view, after_head, int.from_bytes(head[1:9], "little"))
                message = self._record(head[0], record)
            except (_CutError, struct.error, UnicodeDecodeError):
                break  # the cut went through this record
            if message is not None:
                found.append(message)
        yield from sorted(found, key=lambda message: message[1])

    def _record(self, code: int, body: memoryview) -> tuple[BagTopic, int, bytes] | None:
        if code == _SCHEMA:
            key = int.from_bytes(body[:2], "little")
            name, position = _take_text(body, 2)
            encoding, position = _take_text(body, position)
            definition, _ = _take_text(body, position)
            self._schemas[key] = (name.decode(), encoding.decode(), definition.decode())
        elif code == _CHANNEL:
            key, schema = struct.unpack_from("<HH", body)
            topic, position = _take_text(body, 4)
            _, position = _take_text(body, position)
            metadata, _ = _take_text(body, position)
            if key not in self.topics and schema in self._schemas:
                type_name, schema_encoding, text = self._schemas[schema]
                qos = self._metadata(memoryview(metadata)).get("offered_qos_profiles", "")
                self.topics[key] = BagTopic(topic.decode(), type_name, text, schema_encoding, is_latched(qos))
        elif code == _MESSAGE:
            channel, _, log_time, _ = _MESSAGE_HEADER.unpack_from(body)
            if channel in self.topics:
                return self.topics[channel], log_time, bytes(body[_MESSAGE_HEADER.size :])
        return None

    @staticmethod
    def _metadata(body: memoryview) -> dict[str, str]:
        values, position = {}, 0
        while position < len(body):
            key, position = _take_text(body, position)
            value, position = _take_text(body, position)
            values[key.decode()] = value.decode()
        return values


# -- sqlite3 -------------------------------------------------------------------------------------------------


class SqliteSalvage:
    """Reads a .db3 file message by message in the order of recording.

    Attributes:
        topics: Topics by id.
    """

    def __init__(self, path: Path) -> None:
        """Reads the topics.

        Args:
            path: The .db3 file.

        Raises:
            ValueError: Not even the topics can be read.
        """
        self.path = path
        self.topics: dict[int, BagTopic] = {}
        try:
            connection = self._connect()
            try:
                definitions = self._definitions(connection)
                rows = connection.execute(
                    "SELECT id, name, type, offered_qos_profiles FROM topics"
                ).fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise ValueError(f"{path} cannot be read as a rosbag2 sqlite3 file: {error}") from error
        for key, name, message_type, qos in rows:
            definition, encoding = definitions.get(message_type, ("", ""))
            self.topics[key] = BagTopic(name, message_type, definition, encoding, is_latched(qos))

    def scan_topics(self) -> None:
        """Does nothing: the topics are in a table of their own."""

    def messages(self) -> Iterator[tuple[BagTopic, int, bytes] | Damage]:
        """Yields (topic, log time in ns, CDR bytes) in order of recording and a final Damage where the file
        ends early.
        """
        connection = self._connect()
        try:
            cursor = connection.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id")
            for topic, time_ns, data in cursor:
                if topic in self.topics:
                    yield self.topics[topic], int(time_ns), bytes(data)
        except sqlite3.Error as error:
            yield Damage(f"{self.path.name} is cut off or damaged ({error})", final=True)
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        # as_uri() escapes what would otherwise be read as URI syntax; immutable: a journal of the dead
        # recorder is not replayed
        connection = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        # SQLite refuses a file shorter than its header says unless the schema is declared writable (its
        # recovery mode)
        connection.execute("PRAGMA writable_schema=ON")
        return connection

    @staticmethod
    def _definitions(connection: sqlite3.Connection) -> dict[str, tuple[str, str]]:
        try:
            rows = connection.execute(
                "SELECT topic_type, encoded_message_definition, message_definition_encoding"
                " FROM message_definitions"
            ).fetchall()
        except sqlite3.OperationalError:  # rosbag2 before Iron had no such table
            return {}
        return {message_type: (definition, encoding) for message_type, definition, encoding in rows}
