"""Message types of a bag: how each one's stamps are found, from the definitions the bag brings along."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rosbags.typesys import (
    Stores,
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
)

from perception_nodes.recordings import cdr
from perception_nodes.recordings.bag_salvage import BagTopic

_HEADER = "std_msgs/msg/Header"
_TIME = "builtin_interfaces/msg/Time"
_IDL_SEPARATOR = "=" * 80 + "\n"


def _definitions(topic: BagTopic) -> dict[str, Any]:
    """Parses the definition a bag holds of a topic's type and of the types inside it; empty where it holds
    none.
    """
    found: dict[str, Any] = {}
    try:
        if topic.definition_format == "ros2msg":
            found.update(get_types_from_msg(topic.definition, topic.message_type))
        elif topic.definition_format == "ros2idl":
            for part in topic.definition.split(_IDL_SEPARATOR):
                idl = part.split("\n", 1)[1] if part.startswith("IDL: ") else part
                if idl.strip():
                    found.update(get_types_from_idl(idl))
    except (
        Exception
    ):  # the parser raises many types; what it cannot read leaves the built-in definition, if any
        return {}
    return found


class BagTypes:
    """Types of one bag; the bag's own definitions win over the built-in ones of ROS 2 Jazzy."""

    def __init__(self, topics: Iterable[BagTopic]) -> None:
        """Collects the definitions.

        Args:
            topics: The bag's topics.
        """
        definitions: dict[str, Any] = {}
        incomplete = False
        for topic in topics:
            if topic.message_type not in definitions:
                definitions.update(_definitions(topic))
                incomplete |= topic.message_type not in definitions
        self._store = get_typestore(Stores.EMPTY)
        # one register call: it resolves references among the given types only. The built-in ones take a
        # second to
        # register, so they are left out where the bag brings all it needs
        built_in = get_typestore(Stores.ROS2_JAZZY).fielddefs if incomplete or not definitions else {}
        self._store.register({**built_in, **definitions})

    def decode(self, data: bytes, message_type: str) -> Any:
        """Decodes a message into the attribute-style object of `rosbags`."""
        return self._store.deserialize_cdr(data, message_type)

    def begins_with_header(self, message_type: str) -> bool:
        """Tells whether the type's first member is a std_msgs/Header, whose stamp can be patched in the
        bytes.
        """
        fields = self._fields_of(message_type)
        return bool(fields) and self._named_type(fields[0][1]) == _HEADER

    def shifter(self, message_type: str) -> Callable[[bytes, int], bytes] | None:
        """Returns the function that moves all stamps of a message of this type, None for a type without
        stamps.
        """
        if self.begins_with_header(message_type) and not self._holds_time(message_type, skip_first=True):
            return cdr.shift_stamp
        if self._holds_time(message_type):
            return lambda data, delta_ns: self._shift_decoded(data, delta_ns, message_type)
        return None

    # -- inner -----------------------------------------------------------------------------------------------

    def _fields_of(self, message_type: str) -> list[tuple[str, Any]]:
        definition = self._store.fielddefs.get(message_type)
        return list(definition[1]) if definition else []

    @staticmethod
    def _named_type(description: Any) -> str | None:
        """Name of the message type of a field, looking through arrays and sequences; None for primitive
        types.
        """
        kind, value = description
        while kind.name in ("ARRAY", "SEQUENCE"):
            kind, value = value[0]
        return value if kind.name == "NAME" else None

    def _holds_time(
        self, message_type: str, skip_first: bool = False, seen: frozenset[str] = frozenset()
    ) -> bool:
        if message_type == _TIME:
            return True
        if message_type in seen:
            return False
        for _, description in self._fields_of(message_type)[1 if skip_first else 0 :]:
            name = self._named_type(description)
            if name is not None and self._holds_time(name, seen=seen | {message_type}):
                return True
        return False

    def _shift_decoded(self, data: bytes, delta_ns: int, message_type: str) -> bytes:
        message = self._store.deserialize_cdr(data, message_type)
        self._shift_fields(message, message_type, delta_ns)
        return bytes(self._store.serialize_cdr(message, message_type))

    def _shift_fields(self, message: Any, message_type: str, delta_ns: int) -> None:
        if message_type == _TIME:
            stamp_ns = message.sec * 1_000_000_000 + message.nanosec
            if stamp_ns:
                message.sec, message.nanosec = divmod(stamp_ns + delta_ns, 1_000_000_000)
            return
        for field, description in self._fields_of(message_type):
            name = self._named_type(description)
            if name is None or not self._holds_time(name):
                continue
            value = getattr(message, field)
            for element in value if isinstance(value, list | tuple) else (value,):
                self._shift_fields(element, name, delta_ns)
