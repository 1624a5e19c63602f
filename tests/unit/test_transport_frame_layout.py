"""Damaged shared memory is recognized, never followed."""

from __future__ import annotations

import ctypes

import hypothesis
import pytest
import torch
from hypothesis import strategies

from perception_nodes.transport.frame_layout import (
    FrameLayout,
    is_channels_last,
    read_header,
    read_table,
    tensor_area,
    view,
)
from perception_nodes.transport.interface import TensorError

PLAN = {
    "a": (torch.float32, (3, 5)),
    "b": (torch.bool, (7,)),
    "c": (torch.int64, (0, 2)),
    "d": (torch.float64, ()),
    "e": (torch.float32, (1, 3, 2, 2)),
}


def written() -> ctypes.Array[ctypes.c_uint8]:
    """Returns memory with a frame in it."""
    layout = FrameLayout.plan(PLAN, channels_last={"e"})
    memory = (ctypes.c_uint8 * layout.nbytes)()
    layout.write_header(memoryview(memory).cast("B"), 2**64 - 1, 9)
    return memory


def test_what_was_written_is_read() -> None:
    memory = written()
    octets, address = memoryview(memory).cast("B"), ctypes.addressof(memory)
    header = read_header(octets)
    assert (header.trace_id, header.sequence) == (2**64 - 1, 9)
    entries = read_table(octets, header, address)
    assert {name: (entry.dtype, entry.shape) for name, entry in entries.items()} == {
        "a": ("float32", (3, 5)), "b": ("bool", (7,)), "c": ("int64", (0, 2)), "d": ("float64", ()),
        "e": ("float32", (1, 3, 2, 2)),
    }  # fmt: skip
    begin = tensor_area(address, header.table_length)
    for entry in entries.values():
        tensor = view(memory, begin + entry.offset, entry)
        assert tensor.shape == entry.shape
        assert tensor.numel() == 0 or tensor.data_ptr() % 64 == 0
        assert is_channels_last(tensor) == (entry.name == "e")


@hypothesis.settings(deadline=None, max_examples=150, derandomize=True)
@hypothesis.given(
    changes=strategies.lists(
        strategies.tuples(strategies.integers(0, 330), strategies.integers(0, 255)), min_size=1, max_size=8
    ),
    length=strategies.integers(0, 700),
)
def test_damage_is_an_error_or_stays_inside_the_memory(changes: list[tuple[int, int]], length: int) -> None:
    memory = written()
    for position, value in changes:
        memory[position] = value
    octets, address = memoryview(memory).cast("B")[:length], ctypes.addressof(memory)
    try:
        header = read_header(octets)
        entries = read_table(octets, header, address)
    except TensorError:
        return
    begin = tensor_area(address, header.table_length)
    for entry in entries.values():
        assert 0 <= begin + entry.offset <= len(octets) - entry.nbytes


def test_other_content_is_named() -> None:
    with pytest.raises(TensorError, match="does not hold a frame of version 2"):
        read_header(memoryview(bytes(100)))
    with pytest.raises(TensorError, match="less than a frame's header"):
        read_header(memoryview(bytes(10)))
