"""Runs a whole stack with its supervisor, as `mmmt launch` does, for tests."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from light_bundle import light_bundle
from stack_probe import StackProbe

from perception_core.control.judge import unsafe_reasons
from perception_core.deployment import ResolvedDeployment, load_deployment
from perception_nodes.report.control_judge import judge_options, judged
from perception_nodes.runtime.process_list import REPLAY, build_process_list
from perception_nodes.runtime.supervisor import Supervisor

START_LIMIT_S = 240.0


class StallMeter:
    """Knows for how long at most this machine has kept a waiting thread waiting: what a test of promptness
    must allow.
    """

    def __init__(self) -> None:
        """Starts to measure."""
        self._stalls: list[tuple[float, float]] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        period_s = 0.01
        while not self._closed.is_set():
            before = time.monotonic()
            time.sleep(period_s)
            now = time.monotonic()
            if now - before > 3 * period_s:
                self._stalls.append((now, now - before - period_s))

    def stalled_s(self, since: float) -> float:
        """Sum of all stalls after `since`, seconds of the monotonic clock."""
        return sum(length for at, length in list(self._stalls) if at >= since)

    def close(self) -> None:
        """Stops measuring."""
        self._closed.set()
        self._thread.join(5)


@dataclass
class RunningStack:
    """A stack under test.

    Attributes:
        supervisor: Its supervisor.
        probe: What it publishes.
        resolved: Its deployment.
        stalls: The machine's own delays.
        lines: What its processes printed, with their names.
    """

    supervisor: Supervisor
    probe: StackProbe
    resolved: ResolvedDeployment
    stalls: StallMeter
    lines: list[tuple[str, str]]

    def judge(self) -> list[str]:
        """Returns what was unsafe about any control tick heard so far."""
        options = judge_options(self.resolved)
        vehicle = self.resolved.rig.vehicle
        found = []
        commands = [message for _, message in list(self.probe.commands)]
        for previous, current in itertools.pairwise([None, *commands]):
            dt = 0.05
            if previous is not None:
                if current.sequence <= previous.sequence:
                    previous = None
                else:
                    dt = _seconds(current.header.stamp) - _seconds(previous.header.stamp)
            reasons = unsafe_reasons(
                None if previous is None else judged(previous), judged(current), dt, vehicle, options
            )
            found += [f"command {current.sequence}: {reason}" for reason in reasons]
        return found

    def tail(self, count: int = 30) -> str:
        """The last lines of output, for failed assertions."""
        return "\n".join(f"[{name}] {line}" for name, line in self.lines[-count:])


def _seconds(stamp: Any) -> float:
    return stamp.sec + stamp.nanosec * 1e-9


@contextmanager
def running_stack(
    deployment: str, overrides: Sequence[str] = (), recording: Path | None = None
) -> Iterator[RunningStack]:
    """Starts a deployment, yields it when every process is ready, and stops it in order.

    Args:
        deployment: Name in hw_configs/ or a file.
        overrides: `key:=value` texts; the bundle is the lightest unless one of them names another.
        recording: Played in a loop, None: the test publishes sensor data itself.
    """
    given = [f"bundle:={light_bundle()}", *overrides]
    if recording is not None:
        given += [f"parameters.replay.recording:={recording}", "parameters.replay.loop:=0"]
    resolved = load_deployment(deployment, given)
    processes = build_process_list(resolved, extra=[REPLAY] if recording is not None else [])
    lines: list[tuple[str, str]] = []
    stalls = StallMeter()
    supervisor = Supervisor(processes, on_line=lambda name, line: lines.append((name, line)))
    with StackProbe() as probe:
        stack = RunningStack(supervisor, probe, resolved, stalls, lines)
        supervisor.start()
        try:
            assert supervisor.wait_ready(START_LIMIT_S), stack.tail()
            yield stack
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- output of the stack ---\n{stack.tail()}") from error
        finally:
            supervisor.stop()
            stalls.close()
