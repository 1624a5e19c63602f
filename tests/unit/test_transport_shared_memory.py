"""Shared memory inside one process: every type survives, the ring is bounded, nobody blocks, nothing is left
behind.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from hypothesis import strategies
from transport_fixtures import assert_same, make_frame

from perception_nodes.transport.frame_layout import is_channels_last
from perception_nodes.transport.interface import TensorError, TensorExpiredError
from perception_nodes.transport.shared_memory import (
    SharedMemoryOptions,
    SharedMemoryReader,
    SharedMemoryWriter,
)
from perception_nodes.transport.shared_memory_run import segments

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
)  # fmt: skip


def options_of(ring_size: int = 4, run_id: str | None = None) -> SharedMemoryOptions:
    """Returns the options of a run of its own."""
    return SharedMemoryOptions(run_id or f"test-{secrets.token_hex(6)}", "net", ring_size, 2)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[SharedMemoryWriter, SharedMemoryReader]]:
    """A writer and a reader for the tests that only send."""
    options = options_of()
    writer, reader = SharedMemoryWriter(options), SharedMemoryReader(options)
    yield writer, reader
    writer.close()
    reader.close()


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """Returns a tensor's bytes, so that NaN equals NaN and -0 differs from 0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
@hypothesis.given(
    frame=strategies.lists(
        strategies.tuples(
            strategies.sampled_from(DTYPES),
            strategies.lists(strategies.integers(0, 5), max_size=4),
            strategies.booleans(),
        ),
        min_size=1,
        max_size=5,
    ),
    trace_id=strategies.integers(0, 2**64 - 1),
    seed=strategies.integers(0, 2**31),
)
def test_every_dtype_and_shape_survives(
    pair: tuple[SharedMemoryWriter, SharedMemoryReader],
    frame: list[tuple[torch.dtype, list[int], bool]],
    trace_id: int,
    seed: int,
) -> None:
    writer, reader = pair
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for index, (dtype, shape, transposed) in enumerate(frame):
        limit = 2 if dtype == torch.bool else 256
        octets = torch.randint(0, limit, (*shape, dtype.itemsize), generator=generator)
        tensor = octets.to(torch.uint8).view(dtype).reshape(shape)
        tensors[f"t{index}"] = tensor.transpose(0, -1) if transposed and tensor.dim() > 1 else tensor
    found = reader.take(trace_id, writer.put(trace_id, tensors))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert raw_bytes(found[name]) == raw_bytes(tensor)


def test_tensors_lie_on_cache_lines_and_are_not_copied(
    pair: tuple[SharedMemoryWriter, SharedMemoryReader],
) -> None:
    writer, reader = pair
    frame = {"a": torch.ones(3), "b": torch.ones(5, dtype=torch.uint8), "c": torch.ones(2, 2)}
    handles = writer.put(1, frame)
    first, again = reader.take(1, handles), reader.take(1, handles)
    for name, tensor in first.items():
        assert tensor.data_ptr() % 64 == 0
        assert again[name].data_ptr() == tensor.data_ptr()


def test_loaned_tensors_are_sent_as_they_are(pair: tuple[SharedMemoryWriter, SharedMemoryReader]) -> None:
    writer, reader = pair
    lent = writer.loan({"a": (torch.float32, (4, 5)), "b": (torch.bool, (3,))})
    lent["a"].copy_(torch.arange(20.0).reshape(4, 5))
    lent["b"].copy_(torch.tensor([True, False, True]))
    found = reader.take(2, writer.put(2, lent))
    assert_same(found, {"a": torch.arange(20.0).reshape(4, 5), "b": torch.tensor([True, False, True])})
    # Same sample: writer and reader map it at different addresses but at the same place within a page.
    assert found["a"].data_ptr() % 4096 == lent["a"].data_ptr() % 4096


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 64, 32, 32), (1, 1, 4, 4), (1, 7, 1, 1), (0, 3, 2, 2)])
def test_channels_last_stays_channels_last(
    pair: tuple[SharedMemoryWriter, SharedMemoryReader], shape: tuple[int, ...]
) -> None:
    writer, reader = pair
    feature_bchw = torch.rand(shape).to(memory_format=torch.channels_last)

    for trace_id, tensor in ((1, feature_bchw), (2, feature_bchw.contiguous())):
        taken = reader.take(trace_id, writer.put(trace_id, {"feature": tensor}))["feature"]

        assert torch.equal(taken, tensor)
        assert is_channels_last(taken) == is_channels_last(tensor)


def test_loan_that_was_not_put_is_dropped(pair: tuple[SharedMemoryWriter, SharedMemoryReader]) -> None:
    writer, reader = pair
    for trace in range(10, 20):
        writer.loan({"a": (torch.float32, (4, 5))})["a"].fill_(-1)
        other = {"a": torch.full((2,), float(trace))}
        assert_same(reader.take(trace, writer.put(trace, other)), other)


def test_memory_grows_with_the_frame() -> None:
    options = options_of()
    writer, reader = SharedMemoryWriter(options), SharedMemoryReader(options)
    held = {}
    for trace, size in enumerate((10, 1000, 100_000, 3_000_000, 50, 3_000_000)):
        frame = {"x": torch.full((size,), float(trace))}
        held[trace] = (reader.take(trace, writer.put(trace, frame)), frame)
    for found, frame in held.values():
        assert_same(found, frame)
    writer.close()
    reader.close()


def test_slow_reader_loses_old_frames_and_writer_never_blocks() -> None:
    options = options_of(ring_size=3)
    writer, reader = SharedMemoryWriter(options), SharedMemoryReader(options)
    longest = 0.0
    handles = {}
    for trace in range(200):
        begin = time.monotonic()
        handles[trace] = writer.put(trace, make_frame(trace))
        longest = max(longest, time.monotonic() - begin)
    assert longest < 10  # a writer that waits for a reader waits for ever; a busy machine may take seconds
    for trace in (197, 198, 199):
        assert_same(reader.take(trace, handles[trace]), make_frame(trace))
    with pytest.raises(TensorExpiredError, match="frame 196"):
        reader.take(196, handles[196])
    writer.close()
    reader.close()


def test_held_tensors_stay_whole_until_dropped_and_hoarding_is_an_error() -> None:
    options = options_of(ring_size=2)
    writer, reader = SharedMemoryWriter(options), SharedMemoryReader(options)
    held = {}
    for trace in range(options.borrowed):
        held[trace] = reader.take(trace, writer.put(trace, make_frame(trace)))
    handles = writer.put(400, make_frame(400))
    with pytest.raises(TensorError, match=f"holds tensors of {options.borrowed} frames"):
        reader.take(400, handles)
    for trace in held:
        assert_same(held[trace], make_frame(trace))
    held.clear()
    handles = writer.put(500, make_frame(500))
    assert_same(reader.take(500, handles), make_frame(500))
    writer.close()
    reader.close()


def test_two_readers_and_one_that_comes_late() -> None:
    options = options_of()
    writer = SharedMemoryWriter(options)
    first, second = SharedMemoryReader(options), SharedMemoryReader(options)
    early = writer.put(1, make_frame(1))
    late = SharedMemoryReader(options)
    for reader in (first, second):
        assert_same(reader.take(1, early), make_frame(1))
    with pytest.raises(TensorExpiredError):
        late.take(1, early)
    after = writer.put(2, make_frame(2))
    first.close()
    for reader in (second, late):
        assert_same(reader.take(2, after), make_frame(2))
        reader.close()
    writer.close()


def test_nothing_is_left_behind() -> None:
    options = options_of()
    writer, reader = SharedMemoryWriter(options), SharedMemoryReader(options)
    held = reader.take(1, writer.put(1, make_frame(1)))
    assert segments(options.run_id)
    writer.close()
    reader.close()
    assert segments(options.run_id) == []
    assert_same(held, make_frame(1))
    with pytest.raises(TensorError, match="closed"):
        writer.put(2, make_frame(2))
    with pytest.raises(TensorError, match="closed"):
        reader.take(1, [])


def test_respawned_writer_of_the_same_process_is_heard() -> None:
    options = options_of()
    reader = SharedMemoryReader(options)
    for generation in range(6):
        writer = SharedMemoryWriter(options)
        handles = writer.put(generation, make_frame(generation))
        assert_same(reader.take(generation, handles), make_frame(generation))
        writer.close()
    reader.close()
