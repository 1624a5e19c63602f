"""The study's store: one line of JSON a trial, written when the trial is done."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_core.atomic_write import write_atomically
from perception_core.configuration import ConfigurationError
from training.search.ednas.space import Decisions
from training.search.ednas.trial import TrialOutcome


@dataclass(frozen=True)
class Trial:
    """A trial that is done.

    Attributes:
        id: Number in the study.
        decisions: What was tried.
        reward: Rwd.
        accuracy: Acc.
        outcome: What it found.
    """

    id: int
    decisions: Decisions
    reward: float
    accuracy: float
    outcome: TrialOutcome


class StudyStore:
    """A file of trials.

    Its first line describes the study; a study goes on only with the same description. A line that was cut
    off by a kill is dropped, and its trial runs again.

    Args:
        path: The file; None: trials are kept in memory only.
        description: Plain values that decide what the trials are: seed, controller, objective …

    Raises:
        ConfigurationError: The file is of another study, or broken elsewhere than at its end.
    """

    def __init__(self, path: str | Path | None, description: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.trials: dict[int, Trial] = {}
        self._description = json.loads(json.dumps(description))
        if self.path is None:
            return
        if self.path.is_file() and self.path.stat().st_size:
            self._read(self.path)
        else:
            header = json.dumps({"study": self._description})
            write_atomically(self.path, (header + "\n").encode())

    def add(self, trial: Trial) -> None:
        """Enters a trial; it is on the disk when this returns.

        Raises:
            ValueError: The trial is there already.
        """
        if trial.id in self.trials:
            raise ValueError(f"trial {trial.id} is there already")
        self.trials[trial.id] = trial
        if self.path is None:
            return
        line = json.dumps(dataclasses.asdict(trial))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        lines = content.split(b"\n")
        whole, rest = lines[:-1], lines[-1]
        if rest:  # killed while writing
            write_atomically(path, b"".join(line + b"\n" for line in whole))
        for number, line in enumerate(whole, start=1):
            try:
                entry = json.loads(line)
                if number == 1:
                    self._check(entry["study"], path)
                    continue
                trial = _trial_of(entry)
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, ConfigurationError):
                    raise
                raise ConfigurationError(f"{path}:{number}: is no trial of a study: {error}") from error
            self.trials[trial.id] = trial
        if not whole:
            raise ConfigurationError(f"{path}: is no study; remove it to start one")

    def _check(self, found: Mapping[str, Any], path: Path) -> None:
        differing = [
            key
            for key in sorted({*found, *self._description})
            if found.get(key) != self._description.get(key)
        ]
        if differing:
            raise ConfigurationError(
                f"{path}: holds a study with another {', '.join(differing)}; use another file, or the same "
                "settings to go on"
            )


def _trial_of(entry: Mapping[str, Any]) -> Trial:
    outcome = dict(entry["outcome"])
    outcome["accuracy_curve"] = tuple(float(value) for value in outcome["accuracy_curve"])
    trial = Trial(
        int(entry["id"]),
        tuple(int(value) for value in entry["decisions"]),
        float(entry["reward"]),
        float(entry["accuracy"]),
        TrialOutcome(**outcome),
    )
    if not math.isfinite(trial.reward):
        raise ValueError(f"reward {trial.reward}")
    return trial
