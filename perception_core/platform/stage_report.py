"""What a stage of the running stack reports about one frame."""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: Stage and task name of the control node, the end of every `modality->control` path.
CONTROL = "control"


class Outcome(enum.IntEnum):
    """How a stage ended a frame; the values of mmmt_msgs/StageTiming."""

    DONE = 0
    DROPPED = 1
    FAILED = 2


@dataclass(frozen=True)
class SensorShare:
    """One modality's share in a frame, see mmmt_msgs/SensorStamp; times in nanoseconds."""

    modality: str
    valid: bool
    received_ns: int
    age_at_reception_ns: int


@dataclass(frozen=True)
class StageReport:
    """What one stage did for one frame, see mmmt_msgs/StageTiming; times are CLOCK_MONOTONIC nanoseconds
    of `host`.
    """

    trace_id: int
    stage: str
    task: str
    host: str
    queued_ns: int
    started_ns: int
    done_ns: int
    compute_ns: int
    outcome: Outcome
    sensors: tuple[SensorShare, ...]
    detail: str = ""

    @property
    def duration_ms(self) -> float:
        """Time from the stage's start to its output."""
        return max(0, self.done_ns - max(self.started_ns, self.queued_ns)) * 1e-6
