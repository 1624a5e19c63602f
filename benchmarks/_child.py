"""One function of a benchmark in a process of its own: `python -m benchmarks._child MODULE FUNCTION JSON`.

The function's result goes to standard output as one line of JSON; all else it prints goes to standard error.
A receiver learns that its sender has ended by a line on its standard input (see `Ending`).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Child:
    """Parent's end of one such process."""

    def __init__(
        self, module: str, function: str, arguments: Mapping[str, Any], environment: Mapping[str, str | None]
    ) -> None:
        """Starts it.

        Args:
            module: Module of benchmarks/.
            function: Function in it.
            arguments: Its keyword arguments, JSON values only.
            environment: Changes to this process' environment; None removes a variable.
        """
        self._what = f"{module}.{function}"
        merged = {**os.environ, **environment}
        merged["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._child", module, function, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in merged.items() if value is not None},
        )

    def end(self) -> None:
        """Tells the process that nothing more will come."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("end\n")
            self._process.stdin.flush()

    def result(self, timeout_s: float) -> Any:
        """Waits for the result.

        Raises:
            RuntimeError: The process failed or took too long.
        """
        try:
            output, _ = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self._what} did not end within {timeout_s:.0f} s") from None
        if self._process.returncode != 0:
            raise RuntimeError(f"{self._what} failed with exit code {self._process.returncode}, see above")
        return json.loads(output.splitlines()[-1])

    def kill(self) -> None:
        """Ends the process at once, where it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


class Ending:
    """Receiver's side of `Child.end`: knows when the sender has ended and all has settled."""

    def __init__(self, settle_s: float) -> None:
        """Starts to listen.

        Args:
            settle_s: Seconds to wait after the end for what is still on its way.
        """
        self._settle_s = settle_s
        self._ended_at: float | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def is_over(self) -> bool:
        """True once the sender has ended and the time to settle has passed."""
        return self._ended_at is not None and time.monotonic() > self._ended_at + self._settle_s

    def _listen(self) -> None:
        sys.stdin.readline()
        self._ended_at = time.monotonic()


def run_pair(
    module: str,
    receiver: str,
    sender: str,
    arguments: Mapping[str, Any],
    environment: Mapping[str, str | None],
    timeout_s: float,
) -> tuple[Any, Any]:
    """Runs a receiver and a sender beside each other and returns their results."""
    receiving = Child(module, receiver, arguments, environment)
    sending = Child(module, sender, arguments, environment)
    try:
        sent = sending.result(timeout_s)
        receiving.end()
        return receiving.result(timeout_s), sent
    finally:
        sending.kill()
        receiving.kill()


def dds_environments() -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Returns the changes to the environment for Fast DDS as it comes, and with the shipped profile."""
    from perception_nodes.transport import dds_profile

    default: dict[str, str | None] = dict.fromkeys(dds_profile.PROFILE_VARIABLES)
    return default, {**default, dds_profile.profile_variable(): str(dds_profile.profile_path())}


def percentile(values: Sequence[float], share: float) -> float | None:
    """Returns a percentile by linear interpolation, None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _main() -> None:
    module, function, arguments = sys.argv[1:4]
    real = os.dup(1)
    os.dup2(2, 1)
    result = getattr(importlib.import_module(f"benchmarks.{module}"), function)(**json.loads(arguments))
    with os.fdopen(real, "w", encoding="utf-8") as output:
        output.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    _main()
