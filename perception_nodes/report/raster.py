"""Pictures as data addresses, to be put into the page itself."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray


def jpeg_address(image_hwc: NDArray[np.uint8], max_width: int, quality: int = 82) -> str:
    """RGB picture as a JPEG data address, at most `max_width` pixels wide."""
    height, width = image_hwc.shape[:2]
    if width > max_width:
        size = (max_width, max(1, round(height * max_width / width)))
        image_hwc = cv2.resize(image_hwc, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return _address(".jpg", "image/jpeg", image_hwc[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])


def png_address(image_hw4: NDArray[np.uint8]) -> str:
    """RGBA picture as a PNG data address."""
    return _address(".png", "image/png", image_hw4[..., [2, 1, 0, 3]], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _address(suffix: str, media_type: str, image: NDArray[np.uint8], options: list[int]) -> str:
    encoded, data = cv2.imencode(suffix, np.ascontiguousarray(image), options)
    if not encoded:
        raise ValueError(f"a picture of shape {image.shape} could not be encoded as {suffix}")
    return f"data:{media_type};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
