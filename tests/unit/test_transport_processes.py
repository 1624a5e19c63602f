"""Shared memory between processes: who is killed harms nobody else, and what it held is given back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mmmt_msgs.msg import TensorHandle
from transport_child import Child, handle_to_fields
from transport_fixtures import assert_same, make_frame

from perception_nodes.transport.interface import TensorExpiredError
from perception_nodes.transport.shared_memory import (
    SharedMemoryOptions,
    SharedMemoryReader,
    SharedMemoryWriter,
)
from perception_nodes.transport.shared_memory_run import reclaim, segments, sweep_stale_runs


@pytest.fixture
def options() -> Iterator[SharedMemoryOptions]:
    """Options of a run of its own, reclaimed at the end."""
    options = SharedMemoryOptions(f"test-{secrets.token_hex(6)}", "net", 4, 2)
    yield options
    reclaim(options.run_id)
    assert segments(options.run_id) == []


def handles_from(answer: list[dict[str, Any]]) -> list[TensorHandle]:
    return [TensorHandle(**fields) for fields in answer]


def test_frame_reaches_another_process(options: SharedMemoryOptions) -> None:
    writer, child = SharedMemoryWriter(options), Child("reader", options.run_id)
    for trace in range(1, 9):
        handles = writer.put(trace, make_frame(trace))
        child.tell({"trace_id": trace, "handles": [handle_to_fields(handle) for handle in handles]})
        assert child.answer() == {name: float(tensor.sum()) for name, tensor in make_frame(trace).items()}
    child.kill()
    writer.close()


def test_killed_reader_does_not_freeze_the_writer(options: SharedMemoryOptions) -> None:
    writer, child = SharedMemoryWriter(options), Child("reader", options.run_id)
    witness = SharedMemoryReader(options)
    handles = writer.put(1, make_frame(1))
    child.tell({"trace_id": 1, "handles": [handle_to_fields(handle) for handle in handles]})
    child.answer()  # it now holds the frame
    child.kill()
    longest = 0.0
    for trace in range(2, 300):
        begin = time.monotonic()
        handles = writer.put(trace, make_frame(trace))
        longest = max(longest, time.monotonic() - begin)
        assert_same(witness.take(trace, handles), make_frame(trace))
    assert longest < 10  # a writer that waits for a reader waits for ever; a busy machine may take seconds
    witness.close()
    writer.close()


def test_writer_is_killed_and_its_successor_is_heard(options: SharedMemoryOptions) -> None:
    reader = SharedMemoryReader(options)
    first = Child("writer", options.run_id)
    first.tell({"trace_id": 1})
    handles = handles_from(first.answer())
    held = reader.take(1, handles)
    first.kill()
    stale = handles_from([dict(handle_to_fields(handle), handle=handle.handle + "0") for handle in handles])
    with pytest.raises(TensorExpiredError, match="frame 2 of 'net'"):
        reader.take(2, stale)
    for trace in range(3, 9):  # more than there are places for writers: the dead must be cleaned up
        successor = Child("writer", options.run_id)
        successor.tell({"trace_id": trace})
        assert_same(reader.take(trace, handles_from(successor.answer())), make_frame(trace))
        successor.kill()
    assert_same(held, make_frame(1))
    reader.close()


def test_dead_process_is_cleaned_up_while_others_live(options: SharedMemoryOptions) -> None:
    witness = SharedMemoryReader(options)
    before = len(segments(options.run_id))
    child = Child("writer", options.run_id)
    child.tell({"trace_id": 1})
    child.answer()
    assert len(segments(options.run_id)) > before
    child.kill()
    deadline = time.monotonic() + 10
    while any(path.suffix == ".data" for path in segments(options.run_id)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(path.suffix == ".data" for path in segments(options.run_id))
    witness.close()


def test_stale_runs_are_swept_and_living_ones_spared(options: SharedMemoryOptions) -> None:
    living = SharedMemoryWriter(options)
    living.put(1, make_frame(1))
    dead_run = f"test-{secrets.token_hex(6)}"
    child = Child("writer", dead_run)
    child.tell({"trace_id": 1})
    child.answer()
    sweep_stale_runs()
    assert segments(dead_run)  # it lives
    child.kill()
    assert segments(dead_run)  # killed processes clear nothing away
    assert sweep_stale_runs() > 0
    assert segments(dead_run) == []
    reader = SharedMemoryReader(options)
    assert_same(reader.take(2, living.put(2, make_frame(2))), make_frame(2))
    reader.close()
    living.close()
