"""The supervisor with real child processes: respawn, order of shutdown, giving up, exit codes, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perception_core.resources import package_root
from perception_nodes.runtime.process_list import NO_RESPAWN, ProcessDescription, RespawnPolicy
from perception_nodes.runtime.supervisor import StopTimeouts, Supervisor

PATIENCE_S = 60.0
QUICK = RespawnPolicy(initial_delay_s=0.1, max_failed_starts=3, max_failures=3)

SLEEP = "import time; time.sleep(600)"
#: Stops in order on SIGINT and writes down when it was asked to.
OBEDIENT = """
import pathlib, signal, sys, time
from perception_nodes.runtime.parent_death import die_with_parent
from perception_nodes.runtime.ready_signal import signal_ready
def stop(number, frame):
    pathlib.Path(sys.argv[1]).write_text(f"{time.monotonic()} {signal.Signals(number).name}")
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
die_with_parent()
print("started", flush=True)
signal_ready()
while True:
    time.sleep(0.05)
"""


def child(name: str, program: str, *arguments: str, **fields: object) -> ProcessDescription:
    environment = {"PYTHONPATH": str(package_root())}
    command = (sys.executable, "-c", program, *arguments)
    return ProcessDescription(name, (), command, environment, **{"respawn": QUICK, **fields})  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def quiet(name: str, line: str) -> None:
    """Keeps the children's output off the terminal."""


def obedient(name: str, folder: Path, **fields: object) -> ProcessDescription:
    return child(name, OBEDIENT, str(folder / name), signals_ready=True, **fields)


def test_a_killed_child_is_started_again_and_nothing_else_dies(tmp_path: Path) -> None:
    supervisor = Supervisor([obedient("a", tmp_path), obedient("b", tmp_path)], on_line=quiet)
    supervisor.start()
    try:
        assert supervisor.wait_ready(PATIENCE_S)
        before = supervisor.pids
        assert before["a"] is not None
        os.kill(before["a"], signal.SIGKILL)
        wait_until(lambda: supervisor.pids["a"] not in (None, before["a"]), "the child is back")
        assert supervisor.pids["b"] == before["b"]
        assert supervisor.restart_counts == {"a": 1, "b": 0}
        wait_until(lambda: (supervisor.exit_codes["a"]) == [-signal.SIGKILL], "its end is on record")
    finally:
        supervisor.stop()


def test_processes_stop_in_order(tmp_path: Path) -> None:
    ranks = {"safety": 30, "perception": 20, "sensing": 10}
    supervisor = Supervisor(
        [obedient(name, tmp_path, shutdown_rank=rank) for name, rank in ranks.items()], on_line=quiet
    )
    supervisor.start()
    assert supervisor.wait_ready(PATIENCE_S)

    assert supervisor.stop() == 0

    said = {name: (tmp_path / name).read_text(encoding="utf-8").split() for name in ranks}
    order = sorted(ranks, key=lambda name: float(said[name][0]))
    assert order == ["sensing", "perception", "safety"]
    assert {words[1] for words in said.values()} == {"SIGINT"}
    assert supervisor.exit_codes == {name: [0] for name in ranks}
    assert set(supervisor.pids.values()) == {None}


STUBBORN = """
import signal, sys, time
from perception_nodes.runtime.ready_signal import signal_ready
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
signal_ready()
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("ignores", "ends_with"), [(["SIGINT"], signal.SIGTERM), (["SIGINT", "SIGTERM"], signal.SIGKILL)]
)
def test_a_child_that_does_not_listen_is_stopped_harder(ignores: list[str], ends_with: int) -> None:
    process = child("stubborn", STUBBORN, *ignores, signals_ready=True)
    supervisor = Supervisor([process], on_line=quiet, timeouts=StopTimeouts(0.3, 0.3))
    supervisor.start()
    assert supervisor.wait_ready(PATIENCE_S)

    assert supervisor.stop() == 1

    assert supervisor.exit_codes == {"stubborn": [-ends_with]}


def test_asking_twice_cuts_the_shutdown_short() -> None:
    process = child("stubborn", STUBBORN, "SIGINT", "SIGTERM", signals_ready=True)
    supervisor = Supervisor([process], on_line=quiet, timeouts=StopTimeouts(300.0, 300.0))
    supervisor.start()
    assert supervisor.wait_ready(PATIENCE_S)

    supervisor.request_stop()
    supervisor.request_stop()

    assert supervisor.wait(PATIENCE_S) == 1


def test_restarts_are_further_and_further_apart_and_end(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    program = "import sys, time; open(sys.argv[1], 'a').write(f'{time.monotonic()}\\n'); sys.exit(3)"
    policy = RespawnPolicy(initial_delay_s=0.2, factor=4.0, max_delay_s=60.0, max_failed_starts=2)
    lines: list[str] = []
    supervisor = Supervisor(
        [child("broken", program, str(starts), respawn=policy), obedient("fine", tmp_path)],
        on_line=lambda name, line: lines.append(f"{name}: {line}"),
    )

    supervisor.start()

    assert supervisor.wait(PATIENCE_S) == 1
    assert supervisor.exit_codes["broken"] == [3, 3, 3]
    assert supervisor.given_up == ("broken",)
    at = [float(line) for line in starts.read_text(encoding="utf-8").split()]
    assert at[1] - at[0] >= 0.2
    assert at[2] - at[1] >= 0.8
    assert any(
        "'broken' ended" in line and "does not start (3 times in a row), giving up" in line for line in lines
    )


def test_a_child_that_had_run_for_long_starts_with_a_clean_record() -> None:
    policy = RespawnPolicy(initial_delay_s=0.01, stable_s=0.2, max_failed_starts=1)
    supervisor = Supervisor(
        [child("flaky", "import time; time.sleep(0.4); exit(1)", respawn=policy)], on_line=quiet
    )
    supervisor.start()
    try:
        wait_until(lambda: supervisor.restart_counts["flaky"] >= 3, "it was started again three times")
        assert supervisor.given_up == ()
    finally:
        supervisor.stop()


def test_a_configuration_error_is_not_tried_again(tmp_path: Path) -> None:
    supervisor = Supervisor([child("wrong", "exit(2)"), obedient("fine", tmp_path)], on_line=quiet)
    supervisor.start()

    assert supervisor.wait(PATIENCE_S) == 2
    assert supervisor.exit_codes["wrong"] == [2]
    assert supervisor.restart_counts["wrong"] == 0


def test_a_program_that_does_not_exist_is_a_configuration_error(tmp_path: Path) -> None:
    lines: list[str] = []
    missing = ProcessDescription("missing", (), (str(tmp_path / "nowhere"),))
    supervisor = Supervisor([missing], on_line=lambda name, line: lines.append(line))
    supervisor.start()

    assert supervisor.wait(PATIENCE_S) == 2
    assert any("process 'missing' cannot be started" in line and "nowhere" in line for line in lines)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_process_that_ends_the_run_gives_it_its_exit_code(tmp_path: Path, code: int) -> None:
    replay = child("replay", f"exit({code})", respawn=NO_RESPAWN, ends_run=True, start_when_ready=True)
    supervisor = Supervisor([obedient("stack", tmp_path), replay], on_line=quiet)
    supervisor.start()

    assert supervisor.wait(PATIENCE_S) == code
    assert supervisor.exit_codes == {"stack": [0], "replay": [code]}


def test_what_waits_for_the_stack_starts_when_it_is_ready(tmp_path: Path) -> None:
    slow = OBEDIENT.replace("signal_ready()\n", "time.sleep(0.5); signal_ready()\n", 2).replace(
        "import time.sleep(0.5); ", "import "
    )
    stack = child("stack", slow, str(tmp_path / "stack"), signals_ready=True)
    late = child("late", SLEEP, start_when_ready=True)
    supervisor = Supervisor([late, stack], on_line=quiet)
    supervisor.start()
    try:
        wait_until(lambda: supervisor.pids["stack"] is not None, "the stack is started")
        assert supervisor.pids["late"] is None
        assert not supervisor.wait_ready(0.0)
        assert supervisor.wait_ready(PATIENCE_S)
        wait_until(lambda: supervisor.pids["late"] is not None, "the late process is started")
    finally:
        supervisor.stop()


def test_stopping_during_start_up_is_no_fault() -> None:
    supervisor = Supervisor([child("starting", SLEEP, signals_ready=True)], on_line=quiet)
    supervisor.start()
    wait_until(lambda: supervisor.pids["starting"] is not None, "it is started")

    assert supervisor.stop() == 0


def test_every_line_says_whose_it_is_and_is_logged(tmp_path: Path) -> None:
    program = (
        "import sys; print('out', flush=True); print('err \\u00e9', file=sys.stderr); "
        "sys.stdout.buffer.write(b'\\xff\\n')"
    )
    lines: list[tuple[str, str]] = []
    supervisor = Supervisor(
        [child("talker", program, respawn=NO_RESPAWN)],
        log_directory=tmp_path / "logs",
        on_line=lambda name, line: lines.append((name, line)),
    )
    supervisor.start()

    assert supervisor.wait(PATIENCE_S) == 0
    assert {("talker", "out"), ("talker", "err é"), ("talker", "�")} <= set(lines)
    logged = (tmp_path / "logs" / "talker.log").read_bytes().splitlines()
    assert sorted(logged) == sorted([b"out", "err é".encode(), b"\xff"])


def test_a_full_disk_ends_the_log_not_the_process(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "talker.log").symlink_to("/dev/full")
    lines: list[tuple[str, str]] = []
    supervisor = Supervisor(
        [child("talker", "print('one'); print('two'); print('three')", respawn=NO_RESPAWN)],
        log_directory=logs,
        on_line=lambda name, line: lines.append((name, line)),
    )
    supervisor.start()

    assert supervisor.wait(PATIENCE_S) == 0
    assert [line for name, line in lines if name == "talker"] == ["one", "two", "three"]
    complaints = [line for name, line in lines if "cannot be written" in line]
    assert len(complaints) == 1
    assert "talker.log" in complaints[0]


SUPERVISING = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_supervisor import obedient
from perception_nodes.runtime.supervisor import Supervisor, run_until_signal
supervisor = Supervisor([obedient("a", Path(sys.argv[2])), obedient("b", Path(sys.argv[2]))],
                        on_line=lambda name, line: print(f"{name}: {line} {supervisor.pids}", flush=True))
sys.exit(run_until_signal(supervisor))
"""


def supervise_elsewhere(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Starts a supervisor with two children in another process; returns it and the children's process ids."""
    environment = {**os.environ, "PYTHONPATH": str(package_root())}
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISING, str(Path(__file__).parent), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "all processes are ready" in line:
            pids = eval(line[line.index("{") :])
            return process, list(pids.values())
    raise AssertionError("the supervisor ended before its children were ready")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_orphans_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    process, pids = supervise_elsewhere(tmp_path)
    assert all(is_running(pid) for pid in pids)

    process.kill()
    process.wait()

    wait_until(lambda: not any(is_running(pid) for pid in pids), "the children are gone")
    assert (tmp_path / "a").read_text(encoding="utf-8").endswith("SIGTERM")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_supervisor_stops_all_in_order(tmp_path: Path, number: int) -> None:
    process, pids = supervise_elsewhere(tmp_path)

    process.send_signal(number)

    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert not any(is_running(pid) for pid in pids)
    assert (tmp_path / "a").read_text(encoding="utf-8").endswith("SIGINT")
