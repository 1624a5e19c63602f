"""Writes label images and pictures without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_COMPRESSION = 3


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Writes an image.

    Args:
        path: Its folder exists.
        image: [H, W] of 8 or 16 bits, or [H, W, 3] RGB of 8 bits.

    Raises:
        ValueError: It cannot be stored as PNG.
        OSError: The file cannot be written.
    """
    ordered = np.ascontiguousarray(image[..., ::-1] if image.ndim == 3 else image)
    encoded, data = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])
    if not encoded:
        raise ValueError(f"{path}: an image {image.shape} of {image.dtype} cannot be stored as PNG")
    path.write_bytes(data.tobytes())
