"""Processes forked from the process server: their own session, output, environment and end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perception_core.resources import package_root
from perception_nodes.runtime.parent_death import PARENT_VARIABLE
from perception_nodes.runtime.process_list import PROCESS_MODULE, THREAD_VARIABLES, ProcessDescription
from perception_nodes.runtime.process_server import (
    ForkedProcess,
    ProcessServer,
    ProcessServerError,
    needs_fresh_interpreter,
)
from perception_nodes.runtime.supervisor import Supervisor

PATIENCE_S = 240.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(package_root()), **dict.fromkeys(THREAD_VARIABLES, "1")}


@pytest.fixture(scope="module")
def server() -> Iterator[ProcessServer]:
    server = ProcessServer(ENVIRONMENT)
    deadline = time.monotonic() + PATIENCE_S
    while not server.ready():
        assert time.monotonic() < deadline, "the server did not finish importing"
        time.sleep(0.05)
    yield server
    server.close()


def start(server: ProcessServer, *arguments: str, **variables: str) -> tuple[ForkedProcess, int]:
    readable, writable = os.pipe()
    environment = {**ENVIRONMENT, PARENT_VARIABLE: str(os.getpid()), **variables}
    try:
        return server.start("probe", arguments, environment, writable), readable
    finally:
        os.close(writable)


def wait(process: ForkedProcess) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while (code := process.poll()) is None:
        assert time.monotonic() < deadline, "the process did not end"
        time.sleep(0.01)
    return code


def test_a_fork_speaks_through_its_own_pipe_and_ends_with_its_own_code(server: ProcessServer) -> None:
    process, readable = start(server, "--deployment", "no-such-deployment", "--process", "probe")

    assert wait(process) == 2  # a configuration error, as from a fresh interpreter
    assert b"no-such-deployment" in process.stdout.read()
    assert os.read(readable, 1) == b""  # it never said that it was ready
    process.stdout.close()
    os.close(readable)


def test_forks_are_children_of_the_caller_in_sessions_of_their_own(server: ProcessServer) -> None:
    process, readable = start(server, "--help")
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        parent, session = int(fields[1]), int(fields[3])
        assert session == process.pid
        assert parent in (os.getpid(), 1, server.pid) or fields[0] == "Z"
    except FileNotFoundError:
        pytest.fail("a process that nobody has waited for is gone: it is not a child of the caller")
    assert wait(process) == 0
    assert b"--deployment" in process.stdout.read()
    process.stdout.close()
    os.close(readable)


def test_a_fork_can_be_killed_and_leaves_the_server_alone(server: ProcessServer) -> None:
    first, first_ready = start(server, "--help")
    first.kill()
    assert wait(first) in (-signal.SIGKILL, 0)  # it may have been quicker
    second, second_ready = start(server, "--help")
    assert second.pid != first.pid
    assert wait(second) == 0
    for process, descriptor in ((first, first_ready), (second, second_ready)):
        process.stdout.close()
        os.close(descriptor)


def test_what_only_a_new_interpreter_reads_asks_for_one() -> None:
    inherited = {"PYTHONPATH": "/a", "OMP_NUM_THREADS": "1"}
    assert not needs_fresh_interpreter({"PYTHONPATH": "/a", "OMP_NUM_THREADS": "4"}, inherited)
    assert needs_fresh_interpreter({"PYTHONPATH": "/b"}, inherited)
    assert needs_fresh_interpreter({"PYTHONPATH": "/a", "LD_PRELOAD": "libasan.so"}, inherited)


def test_without_a_server_processes_are_started_afresh(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(environment: object) -> ProcessServer:
        raise ProcessServerError("not on this system")

    monkeypatch.setattr("perception_nodes.runtime.supervisor.ProcessServer", refuse)
    command = (sys.executable, "-m", PROCESS_MODULE, "--deployment", "no-such-deployment", "--process", "a")
    lines: list[str] = []
    description = ProcessDescription("a", (), command, {"PYTHONPATH": str(package_root())})
    supervisor = Supervisor([description], on_line=lambda name, line: lines.append(line))
    supervisor.start()

    assert supervisor.wait(PATIENCE_S) == 2
    assert any("started afresh from here on: not on this system" in line for line in lines)
    assert supervisor.exit_codes == {"a": [2]}
