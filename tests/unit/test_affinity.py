"""Pinning, and reading back what the kernel says of every thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from perception_core.configuration import ConfigurationError
from perception_nodes.runtime.affinity import (
    describe_affinities,
    parse_core_list,
    pin_process,
    thread_affinities,
)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("0,2", (0, 2)), ("0-1,4-5,9", (0, 1, 4, 5, 9)), ("", ())],
)
def test_core_lists_are_read(text: str, cores: tuple[int, ...]) -> None:
    assert parse_core_list(text) == cores


def test_threads_of_this_process_are_seen() -> None:
    started, end = threading.Event(), threading.Event()
    own: list[int] = []

    def pin_and_wait() -> None:
        own.append(threading.get_native_id())
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        started.set()
        end.wait()

    thread = threading.Thread(target=pin_and_wait)
    thread.start()
    started.wait()
    try:
        found = {entry.thread_id: entry.cores for entry in thread_affinities()}
        assert found[own[0]] == (min(os.sched_getaffinity(0)),)
        assert found[threading.get_native_id()] == tuple(sorted(os.sched_getaffinity(0)))
    finally:
        end.set()
        thread.join()


def test_a_pinned_process_has_all_threads_on_its_core() -> None:
    core = max(os.sched_getaffinity(0))
    program = (
        "import threading\n"
        "from perception_nodes.runtime.affinity import pin_process, thread_affinities\n"
        f"pin_process([{core}])\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(sorted({entry.cores for entry in thread_affinities()}), len(thread_affinities()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == f"[({core},)] 2"


def test_pinning_to_a_core_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot pin to core"):
        pin_process([4096])


def test_no_cores_means_no_pinning() -> None:
    before = os.sched_getaffinity(0)
    pin_process(())
    assert os.sched_getaffinity(0) == before


def test_a_process_that_does_not_exist_is_said_so() -> None:
    with pytest.raises(ProcessLookupError):
        thread_affinities(2**22 + 1)


def test_the_summary_names_cores() -> None:
    assert "thread(s) on cores" in describe_affinities(thread_affinities())
