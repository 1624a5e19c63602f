"""The process runtime with the real nodes: readiness, pinning, respawn, ordered end and clear refusals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from light_bundle import light_bundle

from perception_core.deployment import load_deployment
from perception_core.resources import package_root
from perception_nodes.runtime.affinity import thread_affinities
from perception_nodes.runtime.process import SHUTDOWN_LIMIT_S
from perception_nodes.runtime.process_list import ProcessDescription, build_process_list
from perception_nodes.runtime.supervisor import StopTimeouts, Supervisor

PATIENCE_S = 100.0
pytestmark = pytest.mark.timeout(300)


@dataclass
class RunningStack:
    """A stack under a supervisor and what it has printed."""

    processes: dict[str, ProcessDescription]
    supervisor: Supervisor
    lines: list[tuple[str, str]] = field(default_factory=list)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The shipped deployment cpu-2core without its sensors, up and ready, shared by this file."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("cpu-2core needs two cores")
    processes = build_process_list(load_deployment("cpu-2core", [f"bundle:={light_bundle()}"]))
    lines: list[tuple[str, str]] = []
    supervisor = Supervisor(
        processes,
        log_directory=tmp_path_factory.mktemp("logs"),
        on_line=lambda name, line: lines.append((name, line)),
        # Longer than a process gives itself: whoever hangs shall say so before it is killed.
        timeouts=StopTimeouts(interrupt_s=SHUTDOWN_LIMIT_S + 10.0),
    )
    supervisor.start()
    try:
        assert supervisor.wait_ready(PATIENCE_S), "\n".join(f"{name}: {line}" for name, line in lines)
        yield RunningStack({process.name: process for process in processes}, supervisor, lines)
    finally:
        supervisor.stop()


def test_every_thread_of_every_process_is_on_the_cores_of_the_deployment(stack: RunningStack) -> None:
    cores = {name: process.cores for name, process in stack.processes.items()}
    assert cores["perception_cpu0"] == (0,)
    assert cores["perception_cpu1"] == (1,)

    for name, pid in stack.supervisor.pids.items():
        assert pid is not None
        threads = thread_affinities(pid)
        assert len(threads) > 1
        for thread in threads:
            assert set(thread.cores) <= set(cores[name]), (
                f"thread {thread.name} of {name} may leave its cores"
            )
        assert threads[0].cores == cores[name]


def test_compute_threads_carry_the_name_of_their_device(stack: RunningStack) -> None:
    pid = stack.supervisor.pids["perception_cpu1"]
    assert pid is not None
    assert (Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")).count(b"OMP_NUM_THREADS=1") == 1


def test_the_nodes_of_the_safety_process_do_without_torch() -> None:
    """What may not fail leans on as little as can be; started afresh on a vehicle, it is also up sooner."""
    code = (
        "import sys\n"
        "from perception_core.deployment import load_deployment\n"
        "from perception_nodes.runtime import process\n"
        "from perception_nodes.runtime.node_registry import node_factory\n"
        "bundle = load_deployment('cpu-2core').bundle.spec\n"
        "for name in ('latency_monitor', 'control'): node_factory(name, bundle)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"], done.stderr


def test_each_process_says_that_it_is_ready(stack: RunningStack) -> None:
    for name, process in stack.processes.items():
        said = [line for who, line in stack.lines if who == name and f"{name}: ready:" in line]
        assert said
        assert all(node in said[0] for node in process.nodes)


def test_a_killed_process_comes_back_and_nothing_else_dies(stack: RunningStack) -> None:
    before = stack.supervisor.pids
    victim = before["perception_cpu0"]
    assert victim is not None

    os.kill(victim, signal.SIGKILL)

    def ready_lines() -> list[str]:
        return [line for who, line in stack.lines if who == "perception_cpu0" and ": ready:" in line]

    wait_until(lambda: stack.supervisor.pids["perception_cpu0"] not in (None, victim), "it is started again")
    wait_until(lambda: len(ready_lines()) == 2, "it is ready again")
    after = stack.supervisor.pids
    assert {name: pid for name, pid in after.items() if name != "perception_cpu0"} == {
        name: pid for name, pid in before.items() if name != "perception_cpu0"
    }
    assert stack.supervisor.restart_counts["perception_cpu0"] == 1


def test_the_stack_stops_in_order_with_exit_code_0(stack: RunningStack) -> None:
    code = stack.supervisor.stop()
    assert code == 0, "\n".join(f"{who}: {line}" for who, line in stack.lines[-40:])

    codes = stack.supervisor.exit_codes
    assert codes.pop("perception_cpu0") == [-signal.SIGKILL, 0]
    assert set(map(tuple, codes.values())) == {(0,)}
    stopped = [who for who, line in stack.lines if ": stopping: SIGINT" in line]
    assert stopped[0] == "sensing"
    assert stopped[-1] == "safety"


# -- what one process refuses
# ------------------------------------------------------------------------------------------------


def run_process(*arguments: str, seconds: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package_root()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "perception_nodes.runtime.process", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds)


def test_an_unknown_process_is_refused() -> None:
    done = run_process("--deployment", "cpu-2core", "--process", "safty")

    assert done.returncode == 2
    assert "no process 'safty'; did you mean 'safety'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("engage_on_strat:=true", "control has no such parameter; did you mean 'engage_on_start'?"),
        ("full_stop_age_s:=14", "'full_stop_age_s' of node 'control' must lie in 0.05..10, got 14"),
    ],
    ids=["unknown", "out of range"],
)
def test_a_parameter_that_cannot_be_is_refused(override: str, words: str) -> None:
    done = run_process(
        "--deployment", "cpu-2core", "--process", "safety", "--override", f"parameters.control.{override}"
    )

    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_unreadable_weights_end_the_process_with_one_clear_error(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(load_deployment("cpu-2core").bundle.path, bundle)
    (bundle / "weights.safetensors").write_bytes(b"not weights")

    done = run_process(
        "--deployment", "cpu-2core", "--process", "perception_cpu1", "--override", f"bundle:={bundle}"
    )

    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "could not configure" in line and "ERROR" in line]
    assert len(said) == 1
    assert "weights" in said[0]
    assert "Traceback" not in done.stderr


def test_ros_arguments_reach_the_nodes(tmp_path: Path) -> None:
    """As launch_ros passes them: what follows --ros-args belongs to rclpy."""
    environment = {**os.environ, "PYTHONPATH": str(package_root())}
    log = (tmp_path / "out").open("w+", encoding="utf-8")
    command = [sys.executable, "-m", "perception_nodes.runtime.process", "--deployment", "cpu-2core"]
    command += [
        "--process",
        "safety",
        "--use-sim-time",
        "--ros-args",
        "-r",
        "__ns:=/other",
        "--log-level",
        "debug",
    ]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_until(lambda: "safety: ready:" in (tmp_path / "out").read_text(encoding="utf-8"), "it is ready")
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        log.close()
    assert code == 0
    assert "[DEBUG]" in (tmp_path / "out").read_text(encoding="utf-8")
