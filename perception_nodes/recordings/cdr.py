"""Stamps inside serialized messages: read and moved without decoding the message.

A message whose first member is a std_msgs/Header begins, after the four bytes of CDR encapsulation, with the
stamp: int32
seconds and uint32 nanoseconds in the byte order the encapsulation names (OMG DDS-RTPS 2.5, section 10;
DDS-XTypes 1.3,
section 7.6.3).
"""

from __future__ import annotations

import struct

_ENCAPSULATION_BYTES = 4
_STAMP_BYTES = 8


def _stamp_format(data: bytes) -> str:
    if len(data) < _ENCAPSULATION_BYTES + _STAMP_BYTES:
        raise ValueError(f"a serialized message of {len(data)} bytes is too short to hold a header")
    return (
        "<iI" if data[1] & 1 else ">iI"
    )  # the lowest bit of the representation identifier is the byte order


def read_stamp(data: bytes) -> int:
    """Returns the header stamp in nanoseconds.

    Args:
        data: Serialized message whose first member is a header.

    Raises:
        ValueError: The message is too short to hold one.
    """
    seconds, nanoseconds = struct.unpack_from(_stamp_format(data), data, _ENCAPSULATION_BYTES)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def write_stamp(data: bytes, stamp_ns: int) -> bytes:
    """Returns a copy of the message with another header stamp; no other byte changes.

    Raises:
        ValueError: The message is too short, or the stamp does not fit builtin_interfaces/Time.
    """
    layout = _stamp_format(data)
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    if not -(2**31) <= seconds < 2**31:
        raise ValueError(f"stamp {stamp_ns} ns does not fit the 32-bit seconds of builtin_interfaces/Time")
    patched = bytearray(data)
    struct.pack_into(layout, patched, _ENCAPSULATION_BYTES, seconds, nanoseconds)
    return bytes(patched)


def shift_stamp(data: bytes, delta_ns: int) -> bytes:
    """Returns a copy of the message with its header stamp moved; a zero stamp means `not stamped` and stays.

    Raises:
        ValueError: As for `write_stamp`.
    """
    stamp_ns = read_stamp(data)
    return data if stamp_ns == 0 else write_stamp(data, stamp_ns + delta_ns)
