"""Serialized: bytes inside the handle, whole after a trip through the middleware's own serialization."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies
from mmmt_msgs.msg import TensorHandle
from rclpy.serialization import deserialize_message, serialize_message

from perception_nodes.transport.interface import TensorMismatchError
from perception_nodes.transport.serialized import SerializedReader, SerializedWriter

DTYPES = (torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32)


@hypothesis.settings(deadline=None, max_examples=50, derandomize=True)
@hypothesis.given(
    dtype=strategies.sampled_from(DTYPES),
    shape=strategies.lists(strategies.integers(0, 5), max_size=4),
    seed=strategies.integers(0, 2**31),
)
def test_every_dtype_survives_the_middleware(dtype: torch.dtype, shape: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    octets = torch.randint(
        0, 2 if dtype == torch.bool else 256, (*shape, dtype.itemsize), generator=generator
    )
    tensor = octets.to(torch.uint8).view(dtype).reshape(shape)
    (sent,) = SerializedWriter().put(3, {"x": tensor})
    received = deserialize_message(serialize_message(sent), TensorHandle)
    found = SerializedReader().take(3, [received])["x"]
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_truncated_bytes_are_refused() -> None:
    (handle,) = SerializedWriter().put(3, {"x": torch.zeros(4)})
    handle.data = handle.data[:-1]
    with pytest.raises(
        TensorMismatchError, match=r"'x' of frame 3: expected 16 bytes for float32\[4\], got 15"
    ):
        SerializedReader().take(3, [handle])
