"""Starts a list of processes without the `launch` package, keeps them running and stops them in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_nodes.runtime.child_output import ChildOutput, ProcessLog
from perception_nodes.runtime.exit_codes import EXIT_CONFIGURATION, EXIT_FAULT, EXIT_OK
from perception_nodes.runtime.parent_death import PARENT_VARIABLE
from perception_nodes.runtime.process_list import PROCESS_MODULE, THREAD_VARIABLES, ProcessDescription
from perception_nodes.runtime.process_server import (
    ForkedProcess,
    ProcessServer,
    ProcessServerError,
    needs_fresh_interpreter,
)
from perception_nodes.runtime.ready_signal import READY_VARIABLE

_POLL_S = 0.05
_FORKABLE = (sys.executable, "-m", PROCESS_MODULE)


@dataclass(frozen=True)
class StopTimeouts:
    """How long each group of processes gets at shutdown.

    Attributes:
        interrupt_s: After SIGINT, before SIGTERM.
        terminate_s: After SIGTERM, before SIGKILL.
    """

    interrupt_s: float = 8.0
    terminate_s: float = 4.0


@dataclass
class _Child:
    description: ProcessDescription
    process: subprocess.Popen[bytes] | ForkedProcess | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    failures: int = 0
    restarts: int = 0
    ready: bool = False
    was_ready: bool = False
    ready_descriptor: int | None = None
    finished: bool = False
    gave_up: bool = False
    exit_codes: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def running(self) -> bool:
        return self.process is not None

    @property
    def waiting_for_others(self) -> bool:
        return self.process is None and not self.finished and self.restart_at is None


class Supervisor:
    """Runs processes until one of them ends the run, something cannot be kept running, or `stop` is called.

    A child killed from outside is started again with growing delays while nothing else is touched. Processes
    of the stack are forks of one that has imported what they need (process_server); other programs, and all
    where that is not possible, are started afresh. Children
    are started in sessions of their own, so Ctrl-C reaches the supervisor alone, which then stops them in
    order; when the supervisor itself is killed, they end too.
    """

    def __init__(
        self,
        processes: Sequence[ProcessDescription],
        *,
        log_directory: str | Path | None = None,
        on_line: Callable[[str, str], None] | None = None,
        timeouts: StopTimeouts | None = None,
        fork: bool = True,
    ) -> None:
        """Prepares; nothing is started yet.

        Args:
            processes: What to run, in the order to start it.
            log_directory: Every process' output goes to `<name>.log` there, too.
            on_line: Called with a process' name and each line of its output; None: lines are printed on
                stderr with the name in front, in colour on a terminal. The supervisor itself speaks as
                `supervisor`.
            timeouts: Patience at shutdown.
            fork: Start processes of the stack as forks of one that has everything imported.
        """
        self._fork = fork
        self._server: ProcessServer | None = None
        self._server_environment: dict[str, str] = {}
        self._children = [_Child(process) for process in processes]
        self._timeouts = timeouts or StopTimeouts()
        self._log_directory = Path(log_directory) if log_directory is not None else None
        self._output = ChildOutput([process.name for process in processes], on_line)
        # Plain flags: a signal handler may set them whatever lock the interrupted code holds.
        self._stop_requested = False
        self._kill_requested = False
        self._all_ready = threading.Event()
        self._done = threading.Event()
        self._exit_code = EXIT_OK
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    # -- for callers
    # ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the processes and returns."""
        if self._log_directory is not None:
            self._log_directory.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Waits until every process that signals readiness is ready.

        Returns:
            False when time ran out or the run ended before.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._done.is_set():
            if self._all_ready.wait(_POLL_S):
                return True
        return self._all_ready.is_set()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Waits for the end of the run.

        Returns:
            The exit code, or None when time ran out.
        """
        return self._exit_code if self._done.wait(timeout_s) else None

    def request_stop(self) -> None:
        """Asks for an ordered shutdown; asking twice cuts it short. Safe to call from a signal handler."""
        if self._stop_requested:
            self._kill_requested = True
        self._stop_requested = True

    def stop(self) -> int:
        """Stops everything in order and returns the exit code."""
        self._stop_requested = True
        if self._thread.ident is None:
            return EXIT_OK
        self._done.wait()
        return self._exit_code

    @property
    def pids(self) -> dict[str, int | None]:
        """Process id by name; None while a process is not running."""
        found = {}
        for child in self._children:
            process = child.process
            found[child.name] = process.pid if process is not None else None
        return found

    @property
    def restart_counts(self) -> dict[str, int]:
        """How often each process was started again."""
        return {child.name: child.restarts for child in self._children}

    @property
    def given_up(self) -> tuple[str, ...]:
        """Processes that failed so often that they were not started again."""
        return tuple(child.name for child in self._children if child.gave_up)

    @property
    def exit_codes(self) -> dict[str, list[int]]:
        """Exit codes of each process, oldest first; negative: ended by that signal."""
        return {child.name: list(child.exit_codes) for child in self._children}

    # -- the supervising thread
    # ------------------------------------------------------------------------------------------
    # All children are started from this one thread: the kernel tells a child of its parent's death when the
    # *thread*
    # that started it ends, and this one lasts as long as any child.

    def _run(self) -> None:
        try:
            self._start_server()
            for child in self._children:
                if not child.description.start_when_ready and not self._stop_requested:
                    self._spawn(child)
            while not self._stop_requested:
                self._watch()
                time.sleep(_POLL_S)
        except Exception as error:
            self._say(f"the supervisor failed: {type(error).__name__}: {error}")
            self._exit_code = EXIT_FAULT
        finally:
            self._stop_requested = True
            self._shut_down()
            self._close_server()
            self._reclaim()
            self._output.close()
            self._done.set()

    def _watch(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is not None:
                self._read_ready(child)
                code = child.process.poll()
                if code is not None:
                    self._on_exit(child, code, now)
                elif child.failures and now - child.started_at > child.description.respawn.stable_s:
                    child.failures = 0
            elif child.restart_at is not None and now >= child.restart_at and not self._stop_requested:
                child.restarts += 1
                self._spawn(child)
        expected = [child for child in self._children if not child.description.start_when_ready]
        if not self._all_ready.is_set() and all(child.was_ready for child in expected):
            self._all_ready.set()
            self._say("all processes are ready")
        if self._all_ready.is_set():
            for child in self._children:
                if child.description.start_when_ready and child.waiting_for_others:
                    self._spawn(child)
        if all(child.finished for child in self._children):
            self._stop_requested = True

    def _spawn(self, child: _Child) -> None:
        description = child.description
        environment = {**os.environ, **description.environment, PARENT_VARIABLE: str(os.getpid())}
        if self._log_directory is not None:
            environment.setdefault("ROS_LOG_DIR", str(self._log_directory / "ros"))
        readable, writable = os.pipe()
        child.restart_at = None
        child.ready = False
        try:
            child.process = self._start_forked(description, environment, writable) or subprocess.Popen(
                description.command,
                env={**environment, READY_VARIABLE: str(writable)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(writable,),
            )
        except OSError as error:
            os.close(readable)
            child.finished = True
            self._fail(f"process '{child.name}' cannot be started: {error}", EXIT_CONFIGURATION)
            return
        finally:
            os.close(writable)
        os.set_blocking(readable, False)
        child.ready_descriptor = readable
        child.started_at = time.monotonic()
        if not description.signals_ready:
            child.ready = child.was_ready = True
        assert child.process.stdout is not None
        log = None if self._log_directory is None else self._log_directory / f"{child.name}.log"
        self._output.follow(child.name, child.process.stdout, ProcessLog(log))

    # -- processes with everything imported

    def _start_server(self) -> None:
        """Starts the process server and waits until it has imported, or has failed to."""
        first = next((child.description for child in self._children if is_forkable(child.description)), None)
        if not self._fork or first is None:
            return
        # One thread a library: a process that has threads cannot be forked. The forks set their own number.
        threads = dict.fromkeys(THREAD_VARIABLES, "1")
        self._server_environment = {**os.environ, **first.environment, **threads}
        try:
            self._server = ProcessServer(self._server_environment)
            while not self._server.ready() and not self._stop_requested:
                time.sleep(_POLL_S)
        except (OSError, ProcessServerError) as error:
            self._give_up_server(error)

    def _start_forked(
        self, description: ProcessDescription, environment: dict[str, str], ready_descriptor: int
    ) -> ForkedProcess | None:
        """Starts a process through the server; None: it has to be started afresh."""
        if self._server is None or not is_forkable(description):
            return None
        if needs_fresh_interpreter(environment, self._server_environment):
            return None
        try:
            arguments = description.command[len(_FORKABLE) :]
            return self._server.start(description.name, arguments, environment, ready_descriptor)
        except ProcessServerError as error:
            self._give_up_server(error)
            return None

    def _give_up_server(self, error: Exception) -> None:
        self._say(f"processes are started afresh from here on: {error}")
        self._close_server()

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _read_ready(self, child: _Child) -> None:
        if child.ready_descriptor is None:
            return
        try:
            said = os.read(child.ready_descriptor, 1)
        except BlockingIOError:
            return
        os.close(child.ready_descriptor)
        child.ready_descriptor = None
        if said:
            child.ready = child.was_ready = True

    def _on_exit(self, child: _Child, code: int, now: float) -> None:
        ran_s = now - child.started_at
        self._forget(child, code)
        policy = child.description.respawn
        text = f"process '{child.name}' ended after {ran_s:.1f} s with {describe_exit(code)}"
        if child.description.ends_run:
            child.finished = True
            self._say(f"{text}; the run ends")
            self._exit_code = self._exit_code or (code if code >= 0 else EXIT_FAULT)
            self._stop_requested = True
        elif code == EXIT_CONFIGURATION:
            child.finished = True
            self._fail(f"{text}: its configuration is wrong, see above", EXIT_CONFIGURATION)
        elif not policy.enabled:
            child.finished = True
            self._say(text)
        else:
            child.failures = 1 if ran_s > policy.stable_s else child.failures + 1
            came_up = child.was_ready and child.description.signals_ready
            limit = policy.max_failures if came_up else policy.max_failed_starts
            if child.failures > limit:
                child.finished = child.gave_up = True
                what = "fails again and again" if came_up else "does not start"
                self._fail(f"{text}; it {what} ({child.failures} times in a row), giving up", EXIT_FAULT)
                return
            delay = min(policy.initial_delay_s * policy.factor ** (child.failures - 1), policy.max_delay_s)
            child.restart_at = now + delay
            self._say(f"{text}; starting it again in {delay:.1f} s")

    def _forget(self, child: _Child, code: int) -> None:
        child.exit_codes.append(code)
        child.process = None
        child.ready = False
        if child.ready_descriptor is not None:
            os.close(child.ready_descriptor)
            child.ready_descriptor = None

    def _fail(self, text: str, exit_code: int) -> None:
        self._say(text)
        self._exit_code = self._exit_code or exit_code
        self._stop_requested = True

    # -- shutdown
    # ----------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        ranks = sorted({child.description.shutdown_rank for child in self._children})
        for rank in ranks:
            group = [
                child for child in self._children if child.description.shutdown_rank == rank and child.running
            ]
            if group:
                self._stop_group(group)

    def _stop_group(self, group: Sequence[_Child]) -> None:
        steps = ((signal.SIGINT, self._timeouts.interrupt_s), (signal.SIGTERM, self._timeouts.terminate_s))
        for number, patience_s in steps:
            self._signal(group, number)
            if self._wait_for(group, patience_s):
                return
        left = [child for child in group if child.running]
        self._say(f"{', '.join(child.name for child in left)} did not stop when asked; killing")
        self._exit_code = self._exit_code or EXIT_FAULT
        for child in left:
            _kill_session(child.process)
        self._wait_for(group, 10.0, cut_short=False)

    def _signal(self, group: Iterable[_Child], number: int) -> None:
        for child in group:
            if child.process is not None:
                # Python answers an early SIGINT with a traceback, an early SIGTERM with a clean end.
                child.process.send_signal(number if child.ready else signal.SIGTERM)

    def _wait_for(self, group: Sequence[_Child], timeout_s: float, cut_short: bool = True) -> bool:
        deadline = time.monotonic() + timeout_s
        while any(child.running for child in group):
            for child in group:
                code = child.process.poll() if child.process is not None else None
                if code is not None:
                    cut_short_start = not child.ready and code == -signal.SIGTERM
                    self._forget(child, code)
                    if code != EXIT_OK and not cut_short_start:
                        self._say(f"process '{child.name}' stopped with {describe_exit(code)}")
                        self._exit_code = self._exit_code or EXIT_FAULT
            if time.monotonic() > deadline or (cut_short and self._kill_requested):
                break
            time.sleep(0.01)
        return not any(child.running for child in group)

    def _reclaim(self) -> None:
        """Frees shared memory that killed processes of this run have left."""
        for run_id in dict.fromkeys(child.description.run_id for child in self._children):
            if run_id:
                try:
                    reclaim_shared_memory(run_id)
                except (
                    Exception
                ) as error:  # the run is over; what is left is reported, not raised in a thread
                    self._say(
                        f"shared memory of run {run_id} could not be reclaimed: "
                        f"{type(error).__name__}: {error}"
                    )

    def _say(self, text: str) -> None:
        self._output.line("supervisor", text)


def is_forkable(description: ProcessDescription) -> bool:
    """Says whether a process runs the stack's own runtime, which the process server has imported."""
    return description.command[: len(_FORKABLE)] == _FORKABLE


def reclaim_shared_memory(run_id: str) -> None:
    """Removes what the transport of a run has left in shared memory."""
    try:
        from perception_nodes.transport.shared_memory_run import reclaim
    except ImportError:
        return
    reclaim(run_id)


def describe_exit(code: int) -> str:
    """Says an exit code in words, e.g. `signal SIGKILL`."""
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _kill_session(process: subprocess.Popen[bytes] | ForkedProcess | None) -> None:
    if process is None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def run_until_signal(supervisor: Supervisor, timeout_s: float | None = None) -> int:
    """Starts a supervisor in the main thread and stops it on SIGINT, SIGTERM or when time is up.

    Args:
        supervisor: Not started yet.
        timeout_s: Stop after this long; None: run until asked or done.

    Returns:
        Exit code of the run.
    """

    def on_signal(number: int, frame: Any) -> None:
        supervisor.request_stop()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        supervisor.start()
        code = supervisor.wait(timeout_s)
        return supervisor.stop() if code is None else code
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def print_line(name: str, line: str) -> None:
    """Prints a process' line as `[name] line`, for callers that want no colours."""
    print(f"[{name}] {line}", file=sys.stderr, flush=True)
