"""The chain of work that a frame's output really waited for: through its data and the devices it shared.

End-to-end latency less the work on this chain is what the stack itself costs: transport, announcements,
executors, queues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StageRun:
    """One stage's work on one frame; times in nanoseconds of one clock.

    Attributes:
        stage: Its name.
        resource: What only one stage at a time can use: process and device.
        started_ns: When it began.
        done_ns: When its output was handed on.
        compute_ns: Time inside the network (or, for sensor_fusion, inside decoding and assembly).
    """

    stage: str
    resource: str
    started_ns: int
    done_ns: int
    compute_ns: int


def critical_chain(
    output: str, runs: Mapping[str, StageRun], feeds: Mapping[str, Sequence[str]]
) -> tuple[StageRun, ...]:
    """Walks back from an output to the stage its frame entered by.

    Before each stage stands the one that ended last among those that fed it and those that held its device
    before it began.

    Args:
        output: Stage whose output is asked about.
        runs: The frame's stages by name.
        feeds: Stage to the stages it takes inputs from.

    Returns:
        The chain, first stage first.

    Raises:
        KeyError: The output stage did not run.
    """
    chain = [runs[output]]
    while True:
        current = chain[-1]
        fed_by = [runs[name] for name in feeds.get(current.stage, ()) if name in runs]
        held_by = [
            run
            for run in runs.values()
            if run.resource == current.resource and run is not current and run.done_ns <= current.started_ns
        ]
        before = [run for run in (*fed_by, *held_by) if run not in chain]
        if not before:
            return tuple(reversed(chain))
        chain.append(max(before, key=lambda run: run.done_ns))
