"""Images of every kind come out RGB; what is broken or of another size is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.fusion.image_decoding import (
    RAW_ENCODINGS,
    ImageError,
    decode_compressed,
    decode_raw,
    jpeg_size,
    png_size,
)

WIDTH, HEIGHT = 64, 48
RGB = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
RGB[:, :32], RGB[:, 32:] = (200, 80, 20), (30, 90, 160)
BGR = RGB[..., ::-1].copy()
JPEG = cv2.imencode(".jpg", BGR, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
PROGRESSIVE = cv2.imencode(".jpg", BGR, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
PNG = cv2.imencode(".png", BGR)[1].tobytes()


@pytest.mark.parametrize(
    "data", [JPEG, PROGRESSIVE, PNG, cv2.imencode(".bmp", BGR)[1].tobytes(), JPEG + b"\xff\xd9\xff\x10"]
)
def test_compressed_images(data: bytes) -> None:
    image = decode_compressed(data, expected_size=(WIDTH, HEIGHT))
    assert np.abs(image[:, 8:24].astype(int) - (200, 80, 20)).mean() < 4
    assert np.abs(image[:, 40:].astype(int) - (30, 90, 160)).mean() < 4


def test_jpegs_shrink_while_decoding_but_report_their_true_size() -> None:
    assert decode_compressed(JPEG, 4, (WIDTH, HEIGHT)).shape == (HEIGHT // 4, WIDTH // 4, 3)
    assert decode_compressed(PNG, 4, (WIDTH, HEIGHT)).shape == (HEIGHT, WIDTH, 3)
    assert jpeg_size(JPEG) == jpeg_size(PROGRESSIVE) == png_size(PNG) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("data", [JPEG, PNG, cv2.imencode(".bmp", BGR)[1].tobytes()])
def test_another_size_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"64x48 but the calibration is for 1600x900"):
        decode_compressed(data, expected_size=(1600, 900))


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, PNG])
@given(share=st.floats(0, 0.99))
@settings(max_examples=40)
def test_cut_off_images_are_refused(data: bytes, share: float) -> None:
    with pytest.raises(ImageError):
        decode_compressed(data[: int(len(data) * share)])


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(ImageError):
            decode_compressed(start + data)


def test_overwritten_picture_data_is_noticed() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    decode_compressed(whole)
    middle = len(whole) // 2
    with pytest.raises(ImageError, match="corrupt"):
        decode_compressed(whole[:middle] + b"\xff\x10" * 20 + whole[middle + 40 :])


def encode(encoding: str) -> np.ndarray:
    if encoding in ("rgb8",):
        return RGB
    if encoding in ("bgr8", "8UC3"):
        return BGR
    if encoding == "rgba8":
        return cv2.cvtColor(RGB, cv2.COLOR_RGB2RGBA)
    if encoding in ("bgra8", "8UC4"):
        return cv2.cvtColor(RGB, cv2.COLOR_RGB2BGRA)
    if encoding in ("mono8", "8UC1"):
        return cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
    if encoding == "mono16":
        return cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY).astype(np.uint16) << 8
    if encoding.startswith("bayer"):
        pattern = encoding[6:10]
        channel = {"r": 0, "g": 1, "b": 2}
        mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
        for index, letter in enumerate(pattern):
            mosaic[index // 2 :: 2, index % 2 :: 2] = RGB[index // 2 :: 2, index % 2 :: 2, channel[letter]]
        return mosaic
    # packed YUV 4:2:2, ITU-R BT.601 as OpenCV reads it
    yuv = cv2.cvtColor(RGB, cv2.COLOR_RGB2YCrCb).astype(float)
    luma = 16 + yuv[..., 0] * 219 / 255
    u, v = 128 + (yuv[..., 2] - 128) * 224 / 255, 128 + (yuv[..., 1] - 128) * 224 / 255
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    first = 0 if encoding in ("yuyv", "yuv422_yuy2") else 1
    packed[..., first] = luma.round()
    packed[:, 0::2, 1 - first], packed[:, 1::2, 1 - first] = u[:, 0::2].round(), v[:, 0::2].round()
    return packed


@pytest.mark.parametrize("encoding", sorted(RAW_ENCODINGS))
@pytest.mark.parametrize("padding", [0, 6])
def test_raw_encodings(encoding: str, padding: int) -> None:
    content = encode(encoding).reshape(HEIGHT, -1)
    padded = np.zeros((HEIGHT, content.shape[1] * content.itemsize + padding), np.uint8)
    padded[:, : padded.shape[1] - padding] = content.view(np.uint8)
    image = decode_raw(padded.tobytes(), encoding=encoding, width=WIDTH, height=HEIGHT, step=padded.shape[1])
    assert image.shape == (HEIGHT, WIDTH, 3)
    if encoding.startswith("mono") or encoding == "8UC1":
        expected = cv2.cvtColor(cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    else:
        expected = RGB
    inner = np.abs(image.astype(int) - expected)[4:-4, [8, 16, 24, 40, 48, 56]]
    assert inner.max() <= (8 if "yu" in encoding else 1)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"encoding": "rbg8"}, "did you mean"),
        ({"width": 0}, "size 0x48"),
        ({"step": 10}, "cannot hold"),
        ({"data": bytes(100)}, "cut off"),
        ({"expected_size": (1, 2)}, "calibration is for 1x2"),
    ],
)
def test_wrong_raw_images_are_refused(changed: dict, words: str) -> None:
    arguments = {
        "data": RGB.tobytes(),
        "encoding": "rgb8",
        "width": WIDTH,
        "height": HEIGHT,
        "step": WIDTH * 3,
    } | changed
    with pytest.raises(ImageError, match=words):
        decode_raw(arguments.pop("data"), **arguments)
