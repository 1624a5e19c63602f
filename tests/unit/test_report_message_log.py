"""The recording's file format: exact, and readable however it ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.report.message_log import MessageLogWriter, read_log

MESSAGES = st.lists(
    st.tuples(st.sampled_from(["/a", "/b", "/c/d"]), st.integers(0, 2**60), st.binary(max_size=200)),
    max_size=30,
)


def write(path: Path, messages: list[tuple[str, int, bytes]]) -> MessageLogWriter:
    writer = MessageLogWriter(path)
    for topic, received_ns, data in messages:
        writer.append(topic, f"pkg/msg/{topic[-1]}", received_ns, data)
    writer.close()
    return writer


@settings(max_examples=40, deadline=None)
@given(messages=MESSAGES)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, messages: list) -> None:
    path = tmp_path_factory.mktemp("log") / "messages.log"
    write(path, messages)
    assert [(m.topic, m.received_ns, m.data) for m in read_log(path)] == messages


@settings(max_examples=40, deadline=None)
@given(messages=MESSAGES.filter(bool), data=st.data())
def test_a_torn_file_gives_its_whole_messages(
    tmp_path_factory: pytest.TempPathFactory, messages: list, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "messages.log"
    write(path, messages)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(8, len(content)))])
    found = [(m.topic, m.received_ns, m.data) for m in read_log(path)]
    assert found == messages[: len(found)]


def test_a_full_disk_is_found_once_and_everything_missing_is_counted() -> None:
    writer = MessageLogWriter(Path("/dev/full"))
    assert writer.append("/a", "pkg/msg/A", 1, b"x")
    assert writer.flush() is False
    assert writer.flush() is True
    assert writer.append("/a", "pkg/msg/A", 2, b"y")
    assert writer.close() is True
    assert writer.written == {}
    assert writer.missing == {"/a": 2}
    assert writer.failure is not None
    assert "No space left on device" in writer.failure


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "messages.log"
    path.write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match="not a message log"):
        list(read_log(path))
