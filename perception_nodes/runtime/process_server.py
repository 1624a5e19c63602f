"""Starts processes of the stack as forks of one that has everything imported already.

Importing torch and its like takes seconds a process. Done once, the stack starts sooner, its processes share
the memory of what was imported, and a killed one is back in a fraction of a second. The server imports and
forks; it never starts threads, never opens a device and never speaks ROS, so that what its forks inherit is
whole.

A fork's parent exits at once, and the kernel hands the fork to the nearest subreaper: the supervisor, which
can then wait for it as for a child of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from perception_nodes.runtime.parent_death import PARENT_VARIABLE, die_with_parent
from perception_nodes.runtime.ready_signal import READY_VARIABLE

SERVER_MODULE = "perception_nodes.runtime.process_server"

#: What processes of the stack import, dearest first. rclpy is not among them: its import starts threads.
PRELOADED_MODULES = (
    "torch",
    "cv2",
    "iceoryx2",
    "perception_core.backends.torch_backend",
    "perception_core.control.controller",
    "perception_core.deployment",
    "perception_core.models",
    "perception_nodes.fusion.image_decoding",
    "perception_nodes.recordings.opening",
    "perception_nodes.runtime.process",
    "perception_nodes.transport.shared_memory",
    "diagnostic_msgs.msg",
    "mmmt_msgs.msg",
    "nav_msgs.msg",
    "sensor_msgs.msg",
    "visualization_msgs.msg",
)

#: Read when an interpreter or a library starts: a process that has its own must be started afresh.
_READ_AT_START = ("LD_", "PYTHON", "MALLOC_", "GLIBC_")

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_LIMIT = 1 << 20
#: A server that answers later than this hangs.
_ANSWER_LIMIT_S = 20.0


class ProcessServerError(RuntimeError):
    """The server cannot start the process; starting it afresh may still work."""


class ForkedProcess:
    """A process of the server, with the part of `subprocess.Popen` that a supervisor needs."""

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code (negative: ended by that signal), None while the process runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signals the process unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the process unless it has ended."""
        self.send_signal(signal.SIGKILL)


class ProcessServer:
    """The supervisor's side: starts the server and asks it for processes.

    Making one turns the calling process into a subreaper, and it must be made in the thread that outlives the
    processes.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Starts the server, which then imports for a while.

        Args:
            environment: The whole environment of the server.

        Raises:
            ProcessServerError: This system cannot do it.
        """
        if not sys.platform.startswith("linux"):
            raise ProcessServerError("forked processes need Linux")
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", SERVER_MODULE, "--socket", str(theirs.fileno())],
                env={**environment, PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # ours may be a program's input
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._socket = ours
        self._socket.settimeout(0.0)
        self._is_ready = False

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def ready(self) -> bool:
        """Says whether everything is imported.

        Raises:
            ProcessServerError: The server is gone.
        """
        if not self._is_ready:
            try:
                self._is_ready = bool(self._socket.recv(_MESSAGE_LIMIT))
            except BlockingIOError:
                pass
            except OSError as error:
                raise ProcessServerError(f"the process server is gone: {error}") from error
            else:
                if not self._is_ready:
                    raise ProcessServerError("the process server ended while it imported")
        return self._is_ready

    def start(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], ready_descriptor: int
    ) -> ForkedProcess:
        """Starts a process of the stack (perception_nodes.runtime.process).

        Args:
            name: Shown by `ps -o comm`, cut to 15 characters.
            arguments: Its arguments.
            environment: Its whole environment.
            ready_descriptor: Write end of the pipe in which it says that it is ready.

        Raises:
            ProcessServerError: The server is gone or does not answer.
        """
        readable, writable = os.pipe()
        request = {"name": name, "arguments": list(arguments), "environment": dict(environment)}
        try:
            self._socket.settimeout(_ANSWER_LIMIT_S)
            socket.send_fds(self._socket, [json.dumps(request).encode()], [writable, ready_descriptor])
            answer = self._socket.recv(_MESSAGE_LIMIT)
            if not answer:
                raise ProcessServerError("the process server is gone")
            reply = json.loads(answer)
            if "error" in reply:
                raise ProcessServerError(str(reply["error"]))
        except (OSError, ValueError, ProcessServerError) as error:
            os.close(readable)
            raise ProcessServerError(str(error)) from error
        finally:
            os.close(writable)
        return ForkedProcess(int(reply["pid"]), os.fdopen(readable, "rb"))

    def close(self) -> None:
        """Ends the server; its processes go on."""
        self._socket.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:  # in the middle of an import
            self._process.kill()
            self._process.wait()


def needs_fresh_interpreter(environment: Mapping[str, str], inherited: Mapping[str, str]) -> bool:
    """Says whether a process' environment holds what only a new interpreter would read.

    Args:
        environment: The process' environment.
        inherited: The server's.
    """
    return any(
        value != inherited.get(name) for name, value in environment.items() if name.startswith(_READ_AT_START)
    )


# -- the server's side


def serve(connection: socket.socket) -> tuple[str, ...] | None:
    """Imports, then forks a process for each request, until the supervisor hangs up.

    Returns:
        None in the server; in a forked process the arguments it is to run with.
    """
    for module in PRELOADED_MODULES:
        try:
            importlib.import_module(module)
        except Exception as error:  # the processes that need it will say so themselves, each for its node
            print(f"process server: {module}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()  # collections in the forks leave the shared pages alone
    connection.send(b"{}")
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_LIMIT, 2)
        except ConnectionResetError:
            return None
        if not message:
            return None
        request = json.loads(message)
        try:
            pid = _fork_orphan()
        except OSError as error:
            _answer(connection, descriptors, {"error": f"cannot fork: {error}"})
            continue
        if pid == 0:
            connection.close()
            return _become(request, *descriptors)
        _answer(connection, descriptors, {"pid": pid})


def _answer(connection: socket.socket, descriptors: Sequence[int], reply: Mapping[str, object]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    connection.send(json.dumps(reply).encode())


def _fork_orphan() -> int:
    """Forks a process that leads its own session, and whose parent is gone, when this returns; 0 in itself.

    Raises:
        OSError: There is no room for a process, or there are threads, whose locks a fork would inherit.
    """
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise OSError("something that was imported has started a thread")
    readable, writable = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid:
            os._exit(0)
        # Said by itself and only now: who is told the process may at once want to kill all its session.
        os.setsid()
        os.write(writable, str(os.getpid()).encode())
        os.close(readable)
        os.close(writable)
        return 0
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        text = pipe.read()
    os.waitpid(middle, 0)
    if not text:
        raise OSError("no room for another process")
    return int(text)


def _become(request: Mapping[str, object], output: int, ready: int) -> tuple[str, ...]:
    """Turns a fork into the process asked for: its streams, environment and name."""
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    environment = {str(key): str(value) for key, value in dict(request["environment"]).items()}  # type: ignore[call-overload]
    environment[READY_VARIABLE] = str(ready)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    _prctl_name(str(request["name"]))
    _limit_threads()
    _await_parent(int(environment[PARENT_VARIABLE]))
    return tuple(str(argument) for argument in request["arguments"])  # type: ignore[attr-defined]


def _limit_threads() -> None:
    """Does what the OpenMP library did when it was loaded, with the number this process was given."""
    threads = os.environ.get("OMP_NUM_THREADS")
    torch = sys.modules.get("torch")
    if threads is not None and torch is not None:
        torch.set_num_threads(int(threads))


def _await_parent(pid: int, patience_s: float = 5.0) -> None:
    """Waits until the kernel has handed this process to the supervisor."""
    deadline = time.monotonic() + patience_s
    while os.getppid() != pid and time.monotonic() < deadline:
        time.sleep(0.001)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise ProcessServerError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


def _prctl_name(name: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(f"mmmt-{name}".encode()[:15]), 0, 0, 0)


def main() -> int:
    """Serves; in a forked process, runs it.

    Returns:
        Exit code of the server or of the process.
    """
    parser = argparse.ArgumentParser(prog="mmmt_process_server", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="inherited socket of the supervisor")
    descriptor = parser.parse_args().socket
    die_with_parent()
    with socket.socket(fileno=descriptor) as connection:
        arguments = serve(connection)
    if arguments is None:
        return 0
    from perception_nodes.runtime import process

    sys.argv = ["mmmt_process", *arguments]
    return process.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
