"""Tests of writing files whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from perception_core.atomic_write import write_atomically


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_bytes_and_text_land_in_a_folder_made_for_them(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b.json", "grün\n")
    assert (tmp_path / "a" / "b.json").read_bytes() == "grün\n".encode()
    write_atomically(tmp_path / "a" / "b.json", b"\x00new")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"\x00new"
    assert names_in(tmp_path / "a") == ["b.json"]


def test_a_failure_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "inside").write_text("x")
    with pytest.raises(OSError, match=r"."):
        write_atomically(target, b"new")  # a folder cannot be replaced by a file
    assert (target / "inside").exists()
    assert names_in(tmp_path) == ["folder"]


def test_a_file_is_readable_as_any_other_new_one(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_reader_sees_one_writer_whole_whoever_writes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = {bytes([letter]) * 20_000 for letter in range(4)}
    write_atomically(path, min(contents))

    def write(content: bytes) -> None:
        for _ in range(20):
            write_atomically(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_bytes())
    for writer in writers:
        writer.join()
    assert seen <= contents
    assert names_in(tmp_path) == ["file"]
