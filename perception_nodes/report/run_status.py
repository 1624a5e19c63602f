"""What is known of a running stack at a moment, and how one process tells another."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class PathFigures:
    """The latency of one path.

    Attributes:
        modality: Where the path begins.
        task: Where it ends.
        p50_ms: Median.
        p99_ms: 99th percentile.
    """

    modality: str
    task: str
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class RunStatus:
    """What is known at the moment.

    Attributes:
        progress: Share of the recording played, None where the recording has no end.
        finished: The recording was played; `whole` says whether to its end.
        frames_in, frames_out: sensor_fusion's account.
        path: The latest statistics of the path shown: the first one with outputs.
        state: Control's state, None while it publishes nothing.
    """

    progress: float | None = None
    finished: bool = False
    whole: bool = True
    frames_in: int = 0
    frames_out: int = 0
    path: PathFigures | None = None
    state: int | None = None

    def to_line(self) -> str:
        """Returns one line of text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_line(cls, line: str) -> RunStatus:
        """Reads what `to_line` wrote.

        Raises:
            ValueError: The line is something else.
        """
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError(f"no status of a run: {line[:80]!r}")
        try:
            path = values.pop("path", None)
            return cls(**values, path=None if path is None else PathFigures(**path))
        except TypeError as error:
            raise ValueError(f"no status of a run: {line[:80]!r}: {error}") from error
