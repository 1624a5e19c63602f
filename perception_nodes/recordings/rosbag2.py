"""Any rosbag2 (mcap or sqlite3): its messages are played as the bytes they were recorded as, on their own
topics.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader

from perception_core.geometry import transform_from_quaternion
from perception_nodes.recordings import cdr
from perception_nodes.recordings.bag_salvage import (
    BagTopic,
    Damage,
    McapSalvage,
    SqliteSalvage,
)
from perception_nodes.recordings.bag_types import BagTypes
from perception_nodes.recordings.interface import (
    CameraIntrinsics,
    RecordingError,
    StaticTransform,
)
from perception_nodes.recordings.items import FaultItem, Item, SerializedItem

STORAGE_SUFFIXES = (".mcap", ".db3")
TF_STATIC = "/tf_static"
#: Key of a bag's custom metadata that names the rig it was made for.
RIG_KEY = "mmmt_rig"

#: Stamps further than this from the time of recording are on another clock (a simulator's, or a driver's
#: own).
_SAME_CLOCK_NS = 10_000_000_000
_CLOCK_PROBE_MESSAGES = 200
_DEFAULT_PERIOD_S = 0.1

_FORMATS = {MessageDefinitionFormat.MSG: "ros2msg", MessageDefinitionFormat.IDL: "ros2idl"}


def storage_files(path: Path) -> tuple[Path, ...]:
    """Lists a bag's storage files in order of recording (bag_2 before bag_10); empty where `path` holds
    none.
    """
    if path.is_file():
        return (path,) if path.suffix in STORAGE_SUFFIXES else ()
    if not path.is_dir():
        return ()
    found = [file for file in path.iterdir() if file.suffix in STORAGE_SUFFIXES and file.is_file()]

    def natural(file: Path) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]

    return tuple(sorted(found, key=natural))


class Rosbag2Recording:
    """A rosbag2 folder or a single .mcap or .db3 file.

    A bag that was cut off, or has no metadata.yaml because its recorder died, plays as far as it goes.

    Attributes:
        topics: The bag's topics by name.
    """

    kind = "rosbag2"
    endless = False

    def __init__(self, path: str | Path) -> None:
        """Opens the bag.

        Args:
            path: Folder with metadata.yaml and storage files, or one storage file.

        Raises:
            RecordingError: It is not a rosbag2 or nothing of it can be read.
        """
        self.path = Path(path)
        self.name = self.path.stem if self.path.is_file() else self.path.resolve().name
        self.sensor_frames: dict[str, str] = {}
        self.rig_name: str | None = None
        self.end_fault: str | None = None
        self._damage: str | None = None
        self.topics: dict[str, BagTopic] = {}
        times = self._open_whole() or self._open_salvaged()
        self.start_ns, end_ns = times
        self._types = BagTypes(self.topics.values())
        self._shifters: dict[str, Callable[[bytes, int], bytes] | None] = {}
        self.clock_offset_ns = self._probe_clock()
        self.duration_s = (end_ns - self.start_ns) * 1e-9 + self._period_s(end_ns)
        storage = ", ".join(sorted({file.suffix[1:] for file in storage_files(self.path)}))
        self.description = f"rosbag2 ({storage}) with {len(self.topics)} topics, {self.duration_s:.1f} s" + (
            f"; damaged: {self._damage}" if self._damage else ""
        )

    # -- opening ---------------------------------------------------------------------------------------------

    def _open_whole(self) -> tuple[int, int] | None:
        """Opens the bag through its index; None where that is not possible."""
        try:
            with Reader(self.path) as reader:
                if not reader.message_count:
                    raise RecordingError(f"{self.path}: the bag holds no messages")
                for connection in reader.connections:
                    known = self.topics.get(connection.topic)
                    self.topics[connection.topic] = BagTopic(
                        connection.topic,
                        connection.msgtype,
                        connection.msgdef.data,
                        _FORMATS.get(connection.msgdef.format, ""),
                        is_latched_connection(connection),
                        (connection.msgcount or 0) + ((known.count or 0) if known else 0),
                    )
                custom = getattr(reader.storage.metadata, "custom", None)
                if isinstance(custom, dict) and isinstance(custom.get(RIG_KEY), str):
                    self.rig_name = custom[RIG_KEY]
                return reader.start_time, reader.end_time - 1
        except RecordingError:
            raise
        except (
            Exception
        ) as error:  # rosbags raises its own, sqlite's, yaml's and index errors for a damaged bag
            self._damage = f"{type(error).__name__}: {error}"
            self.topics = {}
            return None

    def _open_salvaged(self) -> tuple[int, int]:
        """Reads what a damaged bag still has."""
        first_ns: int | None = None
        last_ns = 0
        for source in self._salvage_sources():
            for found in source.messages():
                if isinstance(found, Damage):
                    continue
                topic, time_ns, _ = found
                self.topics.setdefault(topic.name, topic)
                first_ns = time_ns if first_ns is None else min(first_ns, time_ns)
                last_ns = max(last_ns, time_ns)
        if first_ns is None:
            raise RecordingError(
                f"{self.path}: nothing of this bag can be read ({self._damage}); "
                "a whole rosbag2 is a folder with metadata.yaml and .mcap or .db3 files"
            )
        return first_ns, last_ns

    def _salvage_sources(self) -> list[McapSalvage | SqliteSalvage]:
        sources: list[McapSalvage | SqliteSalvage] = []
        for file in storage_files(self.path):
            try:
                sources.append(McapSalvage(file) if file.suffix == ".mcap" else SqliteSalvage(file))
            except (ValueError, OSError) as error:
                self._damage = str(error)
        return sources

    def _probe_clock(self) -> int:
        """Finds out whether the messages' stamps are on the clock of the recorder."""
        ages = []
        for topic, time_ns, data in self._raw(0, None):
            if self._types.begins_with_header(topic.message_type) and (stamp_ns := self._stamp(data)):
                ages.append(time_ns - stamp_ns)
            if len(ages) >= _CLOCK_PROBE_MESSAGES:
                break
        typical = int(statistics.median(ages)) if ages else 0
        return typical if abs(typical) > _SAME_CLOCK_NS else 0

    @staticmethod
    def _stamp(data: bytes) -> int:
        try:
            return cdr.read_stamp(data)
        except ValueError:
            return 0

    def _period_s(self, end_ns: int) -> float:
        """One period of the slowest regular sensor: what lies between the last message of a pass and the next
        pass.
        """
        counts = [
            topic.count
            for topic in self.topics.values()
            if topic.count
            and topic.count > 2
            and topic.message_type.split("/")[-1] in ("PointCloud2", "Image", "CompressedImage")
        ]
        return (end_ns - self.start_ns) * 1e-9 / (min(counts) - 1) if counts else _DEFAULT_PERIOD_S

    # -- reading ---------------------------------------------------------------------------------------------

    def _raw(self, start_ns: int, only: Collection[str] | None) -> Iterator[tuple[BagTopic, int, bytes]]:
        """Yields messages from `start_ns`; what is damaged is left out."""
        for found in self._messages_or_damage(start_ns, only):
            if not isinstance(found, Damage):
                yield found

    def _messages_or_damage(
        self, start_ns: int, only: Collection[str] | None = None
    ) -> Iterator[tuple[BagTopic, int, bytes] | Damage]:
        reached_ns, at_reached = start_ns, 0
        if self._damage is None:
            try:
                with Reader(self.path) as reader:
                    connections = [c for c in reader.connections if only is None or c.topic in only]
                    for connection, time_ns, data in (
                        reader.messages(connections, start=start_ns) if connections else ()
                    ):
                        at_reached = at_reached + 1 if time_ns == reached_ns else 1
                        reached_ns = time_ns
                        yield self.topics[connection.topic], time_ns, bytes(data)
                return
            except Exception as error:  # see _open_whole
                yield Damage(
                    f"{self.path.name}: {type(error).__name__}: {error}; reading on record by record",
                    final=False,
                )
        for source in self._salvage_sources():
            for found in source.messages():
                if isinstance(found, Damage):
                    yield found
                elif (only is None or found[0].name in only) and found[1] >= reached_ns:
                    if found[1] == reached_ns and at_reached > 0:
                        at_reached -= 1  # was already delivered by the reader above
                        continue
                    yield found

    def messages(self, start_s: float = 0.0) -> Iterator[Item]:
        """Yields the bag's messages in order of recording; `/tf_static` is left to `static_transforms`."""
        time_ns = self.start_ns + round(start_s * 1e9)
        self.end_fault = None
        for found in self._messages_or_damage(time_ns):
            if isinstance(found, Damage):
                if found.final:
                    self.end_fault = found.message
                source = "cut_recording" if found.final else "damaged_recording"
                yield FaultItem(time_ns, source, found.message)
                continue
            topic, time_ns, data = found
            if topic.name == TF_STATIC:
                continue
            yield SerializedItem(
                time_ns,
                topic.name,
                topic.message_type,
                data,
                topic.latched,
                self._shifter(topic.message_type),
            )

    def _shifter(self, message_type: str) -> Callable[[bytes, int], bytes] | None:
        if message_type not in self._shifters:
            self._shifters[message_type] = self._types.shifter(message_type)
        return self._shifters[message_type]

    def static_transforms(self) -> tuple[StaticTransform, ...]:
        """Returns every transform of `/tf_static`, the newest where one was recorded more than once.

        Raises:
            RecordingError: A message on `/tf_static` is not a TFMessage.
        """
        transforms: dict[tuple[str, str], StaticTransform] = {}
        for message in self.decoded(TF_STATIC):
            try:
                for stamped in message.transforms:
                    translation, rotation = stamped.transform.translation, stamped.transform.rotation
                    transforms[stamped.header.frame_id, stamped.child_frame_id] = StaticTransform(
                        stamped.header.frame_id,
                        stamped.child_frame_id,
                        transform_from_quaternion(
                            (translation.x, translation.y, translation.z),
                            (rotation.x, rotation.y, rotation.z, rotation.w),
                        ),
                    )
            except (AttributeError, ValueError) as error:
                raise RecordingError(
                    f"{self.path}: {TF_STATIC} holds what is no rigid transform: {error}"
                ) from error
        return tuple(transforms.values())

    def decoded(self, topic: str, limit: int | None = None) -> Iterator[Any]:
        """Yields the decoded messages of one topic (attribute-style objects of `rosbags`), at most `limit`.

        Stops as soon as the bag's index says there are no more.
        """
        if topic not in self.topics:
            return
        count = self.topics[topic].count
        most = min(limit if limit is not None else 1 << 62, count if count is not None else 1 << 62)
        for number, (found, _, data) in enumerate(self._raw(0, {topic}), start=1):
            yield self._types.decode(data, found.message_type)
            if number >= most:
                return

    def camera_intrinsics(self) -> dict[str, CameraIntrinsics]:
        """Returns nothing: a bag's CameraInfo messages are played like any other."""
        return {}

    def close(self) -> None:
        """Does nothing: files are open only while they are read."""


def is_latched_connection(connection: Any) -> bool:
    """Tells whether a connection of a `rosbags` reader was offered with transient-local durability."""
    return any(
        getattr(profile.durability, "name", "") == "TRANSIENT_LOCAL"
        for profile in connection.ext.offered_qos_profiles
    )
