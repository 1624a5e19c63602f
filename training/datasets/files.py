"""Reads the files of data sets; whatever is missing, cut off or of another form is an error with its path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

#: What may stand after a JPEG's end marker: padding and trailers some cameras write.
_JPEG_TRAILER_BYTES = 1024

_REDUCED_COLOUR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class DataError(ValueError):
    """A data set or one of its files cannot be used; the message names the file, what is wrong and what to
    do.

    Attributes:
        path: The file or folder.
    """

    def __init__(self, path: str | Path, problem: str = "") -> None:
        """Creates the error; its message is `path: problem`.

        A loader's worker process hands its error on as one text: then there is no `problem`, and the text,
        which holds both, stands in place of the path.
        """
        # Both arguments, so that the error can be pickled.
        super().__init__(str(path), problem)
        self.path = Path(path)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}" if self.args[1] else str(self.args[0])


def read_bytes(path: Path) -> bytes:
    """Reads a whole file.

    Raises:
        DataError: It is missing, unreadable or empty.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(path, "file is missing") from error
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror or error}") from error
    if not content:
        raise DataError(path, "file is empty; download or generate it again")
    return content


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: It is missing or not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, f"is not valid JSON: {error}") from error


def _decode(path: Path, flags: int) -> NDArray[Any]:
    content = read_bytes(path)
    # OpenCV fills what a cut-off file lacks with grey and says nothing, so that is looked for first.
    if content.startswith(_JPEG_START) and _JPEG_END not in content[-_JPEG_TRAILER_BYTES:]:
        raise DataError(path, f"JPEG of {len(content)} bytes is cut off: its end marker is missing")
    if content.startswith(_PNG_START) and _PNG_END not in content[-_JPEG_TRAILER_BYTES:]:
        raise DataError(path, f"PNG of {len(content)} bytes is cut off: its end chunk is missing")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise DataError(path, f"image cannot be decoded: {error.err}") from error
    if image is None:
        raise DataError(path, f"image of {len(content)} bytes is corrupt or of an unknown format")
    return image


def read_image(path: Path, expected_size: tuple[int, int] | None = None, *, reduction: int = 1) -> UInt8Array:
    """Reads a colour image the way the vehicle decodes it.

    Args:
        path: JPEG, PNG or another format OpenCV knows.
        expected_size: Width and height the whole image must have; None: any.
        reduction: Shrink a JPEG by 1, 2, 4 or 8 while decoding. Other formats are read whole.

    Returns:
        [h, w, 3] RGB.

    Raises:
        DataError: The file is missing, cut off, corrupt or of another size.
    """
    with_reduction = reduction if path.suffix.lower() in (".jpg", ".jpeg") else 1
    # Orientation tags would turn the image away from its calibration.
    image = _decode(path, _REDUCED_COLOUR[with_reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    height, width = image.shape[0] * with_reduction, image.shape[1] * with_reduction
    if expected_size is not None and (width, height) != tuple(expected_size):
        raise DataError(
            path, f"image is {width}x{height}, expected {expected_size[0]}x{expected_size[1]} pixels"
        )
    rgb: UInt8Array = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    return rgb


def read_label_image(path: Path, expected_size: tuple[int, int] | None = None) -> NDArray[Any]:
    """Reads an image whose values are labels, bit by bit as stored (8 or 16 bits a channel).

    Args:
        path: PNG or another lossless format.
        expected_size: Width and height it must have; None: any.

    Returns:
        [h, w] or [h, w, C]; colour channels in the order red, green, blue.

    Raises:
        DataError: The file is missing, cut off, corrupt or of another size.
    """
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    if expected_size is not None and (image.shape[1], image.shape[0]) != tuple(expected_size):
        raise DataError(
            path,
            f"label image is {image.shape[1]}x{image.shape[0]} but its picture is "
            f"{expected_size[0]}x{expected_size[1]} pixels",
        )
    if image.ndim == 3:
        order = [2, 1, 0, *range(3, image.shape[2])]
        image = image[..., order]
    return image


def read_points(path: Path, columns: int, *, ring_column: int | None = None) -> Float32Array:
    """Reads a LiDAR sweep stored as raw float32 (nuScenes .pcd.bin, KITTI .bin).

    Args:
        path: The file.
        columns: Values a point.
        ring_column: Column that holds the number of the laser; None: there is none. It tells a sweep of
            another layout whose size happens to fit.

    Returns:
        [N, columns] as stored; points that are not finite are left out.

    Raises:
        DataError: The file is missing, has no finite point or has not so many columns.
    """
    content = read_bytes(path)
    if len(content) % (4 * columns):
        raise DataError(
            path,
            f"sweep of {len(content)} bytes is no whole number of points of {columns} float32"
            + _column_hint(content, columns),
        )
    values = np.frombuffer(content, dtype="<f4").reshape(-1, columns)
    points = values[np.isfinite(values[:, :3]).all(axis=1)]
    if len(points) == 0:
        raise DataError(path, f"sweep of {len(values)} points has no finite one")
    if ring_column is not None:
        rings = points[:, ring_column]
        if not ((rings >= 0) & (rings < _MOST_LASERS) & (rings == np.round(rings))).all():
            raise DataError(
                path,
                f"column {ring_column} does not hold laser numbers, so the sweep has not {columns} columns"
                + _column_hint(content, columns),
            )
    return np.ascontiguousarray(points, dtype=np.float32)


#: More lasers than any LiDAR has.
_MOST_LASERS = 512


def _column_hint(content: bytes, columns: int) -> str:
    guesses = [count for count in range(3, 8) if count != columns and len(content) % (4 * count) == 0]
    return f"; its size fits {' or '.join(map(str, guesses))} columns" if guesses else "; is it cut off?"
