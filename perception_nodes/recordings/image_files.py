"""Format and size of a compressed image from its first bytes, without decoding it."""

from __future__ import annotations

import struct
from typing import Literal

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
#: Frame headers (start of frame) carry the size; C4, C8 and CC are other segments in the same range (ITU-T
#: T.81, table B.1).
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


class ImageFileError(ValueError):
    """The bytes are no JPEG or PNG image."""


def image_format(data: bytes) -> Literal["jpeg", "png"]:
    """Tells what the bytes of an image file are.

    Raises:
        ImageFileError: They are neither JPEG nor PNG.
    """
    if data.startswith(_PNG_SIGNATURE):
        return "png"
    if data.startswith(_JPEG_START):
        return "jpeg"
    raise ImageFileError(f"neither JPEG nor PNG: the file begins with {data[:8].hex(' ') or 'nothing'}")


def image_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) in pixels.

    Raises:
        ImageFileError: The header is damaged or of another format.
    """
    try:
        return _png_size(data) if image_format(data) == "png" else _jpeg_size(data)
    except (struct.error, IndexError) as error:
        raise ImageFileError("the image header is cut off") from error


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return int(width), int(height)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ImageFileError(f"no JPEG marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _JPEG_BARE_MARKERS:
            position += 2
        elif marker in _JPEG_FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return int(width), int(height)
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
