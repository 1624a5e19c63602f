"""What is known of a run besides the messages recorded in it: who ran what, on what, how it ended.
`run.json` in its folder.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from perception_core.atomic_write import write_atomically

RUN_FILE = "run.json"


@dataclass(frozen=True)
class ProcessFacts:
    """What became of one process.

    Attributes:
        name: Its name in the deployment.
        respawns: How often it was started again.
        exit_code: Its last exit code, None while it runs or where it is not known.
        gave_up: It failed so often that it was not started again.
    """

    name: str
    respawns: int = 0
    exit_code: int | None = None
    gave_up: bool = False


@dataclass(frozen=True)
class RunFacts:
    """A run.

    Attributes:
        recording: Name of what was replayed; None: live sensors.
        recording_kind: E.g. `rosbag2`.
        deployment_file: Where the deployment was read from.
        overrides: `key:=value`.
        started_at: ISO 8601, local time with offset.
        duration_s: Wall-clock length.
        commit: Of the code.
        machine: Description of the computer.
        ended: Why the run ended, one sentence.
        processes: What became of each process.
        notes: Anything the reader should know, e.g. assumptions of the recording's reader.
    """

    recording: str | None
    deployment_file: str
    recording_kind: str | None = None
    overrides: tuple[str, ...] = ()
    started_at: str = ""
    duration_s: float = 0.0
    commit: str | None = None
    machine: dict[str, str] = field(default_factory=dict)
    ended: str = ""
    processes: tuple[ProcessFacts, ...] = ()
    notes: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Writes `run.json` into the run's folder.

        Raises:
            OSError: It cannot be written.
        """
        write_atomically(folder / RUN_FILE, json.dumps(dataclasses.asdict(self), indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> RunFacts:
        """Reads `run.json`.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not what `write` wrote.
        """
        path = folder / RUN_FILE
        values = json.loads(path.read_text(encoding="utf-8"))
        try:
            processes = tuple(ProcessFacts(**process) for process in values.pop("processes"))
            overrides, notes = tuple(values.pop("overrides")), tuple(values.pop("notes"))
            return cls(**values, overrides=overrides, notes=notes, processes=processes)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: not the record of a run: {error}") from error
