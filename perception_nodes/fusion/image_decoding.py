"""Decodes camera images, compressed or raw; refuses the truncated, the corrupt and those of a wrong size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_core.configuration import nearest

UInt8Array = NDArray[np.uint8]


class ImageError(ValueError):
    """An image cannot be used; the message says why."""


@dataclass(frozen=True)
class RawEncoding:
    """How sensor_msgs/Image lays out one encoding.

    Attributes:
        channels: Values a pixel.
        to_rgb: OpenCV conversion to RGB, None where it is RGB already.
        dtype: Type of a value.
    """

    channels: int
    to_rgb: int | None
    dtype: str = "u1"


_YUYV = RawEncoding(2, cv2.COLOR_YUV2RGB_YUY2)
_UYVY = RawEncoding(2, cv2.COLOR_YUV2RGB_UYVY)

#: Encodings of sensor_msgs/Image that can be read. OpenCV names Bayer patterns by their second row and
#: column.
RAW_ENCODINGS: dict[str, RawEncoding] = {
    "rgb8": RawEncoding(3, None),
    "bgr8": RawEncoding(3, cv2.COLOR_BGR2RGB),
    "8UC3": RawEncoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": RawEncoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": RawEncoding(4, cv2.COLOR_BGRA2RGB),
    "8UC4": RawEncoding(4, cv2.COLOR_BGRA2RGB),
    "mono8": RawEncoding(1, cv2.COLOR_GRAY2RGB),
    "8UC1": RawEncoding(1, cv2.COLOR_GRAY2RGB),
    "mono16": RawEncoding(1, cv2.COLOR_GRAY2RGB, "u2"),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "bayer_rggb8": RawEncoding(1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": RawEncoding(1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": RawEncoding(1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": RawEncoding(1, cv2.COLOR_BayerGB2RGB),
}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: What may follow a byte 0xFF inside a scan: stuffing, fill, restart markers (ITU-T T.81, section B.1.1.5).
_MAY_FOLLOW_FF = np.isin(np.arange(256), (0x00, 0xFF, *range(0xD0, 0xD8)))
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Reads width and height from a JPEG's header and checks that the file is whole.

    Raises:
        ImageError: It is no JPEG, its header is broken, or its end is missing.
    """
    if data[:2] != b"\xff\xd8":
        raise ImageError("not a JPEG: it does not begin with a start-of-image marker")
    position = 2
    size: tuple[int, int] | None = None
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 4 > len(data):
            raise ImageError("JPEG is cut off inside its header")
        if data[position] != 0xFF:
            raise ImageError(f"JPEG header is corrupt at byte {position}")
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _START_OF_FRAME and position + 9 <= len(data):
            size = (
                int.from_bytes(data[position + 7 : position + 9], "big"),
                int.from_bytes(data[position + 5 : position + 7], "big"),
            )
        position += 2 + length
        if marker == 0xDA:
            break
    if size is None:
        raise ImageError("JPEG has no frame header")
    # A file with one scan holds no second start of scan; between the scans of a progressive file lie segments
    # that may hold any bytes.
    is_single_scan = data.find(b"\xff\xda", position) < 0
    end = data.find(b"\xff\xd9", position) if is_single_scan else data.rfind(b"\xff\xd9")
    if end < position:
        raise ImageError(f"JPEG is cut off: no end-of-image marker in {len(data)} bytes")
    if is_single_scan:
        picture = np.frombuffer(data, np.uint8, end - position, position)
        following = picture[1:][picture[:-1] == 0xFF]
        if not _MAY_FOLLOW_FF[following].all():
            raise ImageError("JPEG picture data is corrupt: it holds markers that cannot occur there")
    return size


def png_size(data: bytes) -> tuple[int, int]:
    """Reads width and height from a PNG's header and checks that the file is whole.

    Raises:
        ImageError: It is no PNG or its end is missing.
    """
    if data[:8] != _PNG_SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        raise ImageError("not a PNG: its header is broken")
    if data.rfind(b"IEND") < 33:
        raise ImageError(f"PNG is cut off: no end chunk in {len(data)} bytes")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def decode_compressed(
    data: Any, reduction: int = 1, expected_size: tuple[int, int] | None = None
) -> UInt8Array:
    """Decodes a JPEG, PNG or any other format OpenCV knows.

    Args:
        data: Anything with the buffer interface.
        reduction: Shrink by 1, 2, 4 or 8 while decoding (JPEG only, where it saves most of the work).
        expected_size: Width and height the image must have; None: any.

    Returns:
        [h, w, 3] RGB.

    Raises:
        ImageError: The image is truncated, corrupt, of an unknown format or of another size.
    """
    content = bytes(memoryview(data))
    if not content:
        raise ImageError("image is empty")
    known_size: tuple[int, int] | None = None
    is_jpeg = content[:2] == b"\xff\xd8"
    if is_jpeg:
        known_size = jpeg_size(content)
    elif content[:8] == _PNG_SIGNATURE:
        known_size = png_size(content)
    if known_size is not None:
        _check_size(known_size, expected_size)
    # Orientation tags would turn the image away from its calibration.
    flags = _REDUCED[reduction if is_jpeg else 1] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"image cannot be decoded: {error.err}") from error
    if image is None:
        raise ImageError(f"image of {len(content)} bytes cannot be decoded: corrupt or of an unknown format")
    if known_size is None:
        _check_size((image.shape[1], image.shape[0]), expected_size)
    rgb: UInt8Array = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)  # type: ignore[assignment]
    return rgb


def decode_raw(
    data: Any,
    *,
    encoding: str,
    width: int,
    height: int,
    step: int,
    is_bigendian: bool = False,
    expected_size: tuple[int, int] | None = None,
) -> UInt8Array:
    """Reads a sensor_msgs/Image.

    Args:
        data: Anything with the buffer interface.
        encoding: Key of `RAW_ENCODINGS`.
        width: Pixels.
        height: Pixels.
        step: Bytes a row, padding included.
        is_bigendian: Byte order of 16-bit values.
        expected_size: Width and height the image must have; None: any.

    Returns:
        [h, w, 3] RGB; may be a view of `data`.

    Raises:
        ImageError: The encoding is unknown, data is missing or the size is another.
    """
    if encoding not in RAW_ENCODINGS:
        raise ImageError(f"image encoding '{encoding}' is not supported" + nearest(encoding, RAW_ENCODINGS))
    layout = RAW_ENCODINGS[encoding]
    if width <= 0 or height <= 0:
        raise ImageError(f"image has the size {width}x{height}")
    _check_size((width, height), expected_size)
    kind = np.dtype(layout.dtype).newbyteorder(">" if is_bigendian else "<")
    row = width * layout.channels * kind.itemsize
    if step < row:
        raise ImageError(f"image rows of {step} bytes cannot hold {width} pixels of {encoding} ({row} bytes)")
    content = np.frombuffer(data, np.uint8)
    needed = (height - 1) * step + row
    if content.size < needed:
        raise ImageError(
            f"image is cut off: {width}x{height} {encoding} needs {needed} bytes, got {content.size}"
        )
    image: NDArray[Any] = np.ndarray(
        (height, width, layout.channels),
        dtype=kind,
        buffer=content,
        strides=(step, layout.channels * kind.itemsize, kind.itemsize),
    )
    if kind.itemsize == 2:
        image = (image >> 8).astype(np.uint8)
    if layout.to_rgb is None:
        return image
    pixels = np.ascontiguousarray(image)
    rgb: UInt8Array = cv2.cvtColor(pixels[..., 0] if layout.channels == 1 else pixels, layout.to_rgb)  # type: ignore[assignment]
    return rgb


def _check_size(size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    if expected is not None and size != tuple(expected):
        raise ImageError(
            f"image is {size[0]}x{size[1]} but the calibration is for {expected[0]}x{expected[1]}: "
            "its intrinsics do not fit"
        )
