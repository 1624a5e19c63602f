"""By reference: the same tensor inside one process, a bounded ring, and nothing for other processes."""

from __future__ import annotations

import os

import pytest
import torch

from perception_nodes.transport.by_reference import ByReferenceReader, ByReferenceWriter
from perception_nodes.transport.identity import process_token
from perception_nodes.transport.interface import TensorError, TensorExpiredError


def test_reader_gets_the_memory_of_the_writer() -> None:
    writer, reader = ByReferenceWriter("net", 4), ByReferenceReader()
    tensor = torch.arange(6.0).reshape(2, 3).requires_grad_()
    found = reader.take(7, writer.put(7, {"x": tensor}))["x"]
    assert found.data_ptr() == tensor.data_ptr()
    assert not found.requires_grad
    writer.close()


def test_ring_keeps_only_the_newest_frames() -> None:
    writer, reader = ByReferenceWriter("net", 3), ByReferenceReader()
    handles = {trace: writer.put(trace, {"x": torch.tensor([trace])}) for trace in range(1, 6)}
    for trace in (3, 4, 5):
        assert int(reader.take(trace, handles[trace])["x"]) == trace
    for trace in (1, 2):
        with pytest.raises(TensorExpiredError, match=f"frame {trace} .* ring of 3 frames"):
            reader.take(trace, handles[trace])
    writer.close()


def test_handle_of_another_process_is_refused() -> None:
    writer = ByReferenceWriter("net", 2)
    handles = writer.put(1, {"x": torch.zeros(1)})
    handles[0].handle = "4711-0123456789abcdef/" + handles[0].handle.partition("/")[2]
    with pytest.raises(TensorError, match="another process"):
        ByReferenceReader().take(1, handles)
    writer.close()


def test_forked_child_has_another_token() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, process_token().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 200).decode() != process_token()
    os.close(reading)
    os.close(writing)


def test_frames_of_two_writers_do_not_mix_and_end_with_their_writer() -> None:
    first, second, reader = ByReferenceWriter("net", 2), ByReferenceWriter("net", 2), ByReferenceReader()
    of_first = first.put(1, {"x": torch.tensor([10])})
    of_second = second.put(1, {"x": torch.tensor([20])})
    assert int(reader.take(1, of_first)["x"]) == 10
    assert int(reader.take(1, of_second)["x"]) == 20
    held = reader.take(1, of_first)["x"]
    first.close()
    with pytest.raises(TensorExpiredError, match="is gone"):
        reader.take(1, of_first)
    with pytest.raises(TensorError, match="closed"):
        first.put(2, {"x": torch.zeros(1)})
    assert int(held) == 10
    assert int(reader.take(1, of_second)["x"]) == 20
    second.close()
