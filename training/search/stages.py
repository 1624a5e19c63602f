"""Training in stages of steps that go on where they stood after a kill."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from perception_core.atomic_write import write_atomically
from perception_core.configuration import ConfigurationError

#: Called with the stage's name, the steps done and the steps in all.
StageProgress = Callable[[str, int, int], None]


class Stateful(Protocol):
    """Has a state that can be saved: networks, optimizers, `RandomState`."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Takes a state over."""
        ...


class RandomState:
    """A generator of random numbers whose state is saved with everything else.

    Attributes:
        generator: On the CPU.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a state over."""
        self.generator.set_state(state_dict["generator"])


@dataclass(frozen=True)
class StageRecord:
    """What a stage cost (AutoMTL, Tab. 5).

    Attributes:
        stage: Name.
        steps: Steps done.
        seconds: Wall-clock time over all runs that worked on it.
    """

    stage: str
    steps: int
    seconds: float


class Stage:
    """A number of steps with checkpoints.

    Args:
        name: Of the stage and of its file, `<name>.pt`.
        steps: How many there are.
        states: All that changes; saved and restored together with torch's global generator.
        fingerprint: Plain values that must be the same to go on, e.g. the configuration.
        folder: For the checkpoint; None: none is written.
        checkpoint_every: Steps between checkpoints.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        states: Mapping[str, Stateful],
        fingerprint: Mapping[str, Any],
        folder: Path | None,
        checkpoint_every: int = 100,
    ) -> None:
        self.name, self.steps, self._states = name, steps, dict(states)
        self._fingerprint = dict(fingerprint)
        self._path = None if folder is None else folder / f"{name}.pt"
        self._checkpoint_every = max(1, checkpoint_every)

    def run(
        self, step: Callable[[int], None], seed: int, progress: StageProgress | None = None
    ) -> StageRecord:
        """Does all steps that are not done yet.

        Args:
            step: Does one step; gets its number.
            seed: Of torch's global generator at the stage's beginning (dropout draws from it).
            progress: Told after each step.

        Raises:
            ConfigurationError: The checkpoint is of another search, or is no checkpoint.
        """
        done, seconds = self._restore()
        if done == 0:
            torch.manual_seed(seed)
        start = time.perf_counter()
        while done < self.steps:
            step(done)
            done += 1
            if progress is not None:
                progress(self.name, done, self.steps)
            if done == self.steps or done % self._checkpoint_every == 0:
                self._save(done, seconds + time.perf_counter() - start)
        return StageRecord(self.name, done, seconds + time.perf_counter() - start)

    def _restore(self) -> tuple[int, float]:
        if self._path is None or not self._path.is_file():
            return 0, 0.0
        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
            fingerprint, done = saved["fingerprint"], int(saved["step"])
        except Exception as error:  # a file of another kind fails in many ways
            raise ConfigurationError(
                f"{self._path}: is no checkpoint of this search: {error}; remove it to start the stage anew"
            ) from error
        different = [
            key
            for key in sorted({*fingerprint, *self._fingerprint})
            if fingerprint.get(key) != self._fingerprint.get(key)
        ]
        if different:
            raise ConfigurationError(
                f"{self._path}: was written by a search with another {', '.join(different)}; take another "
                "folder, or the same settings to go on"
            )
        for name, state in self._states.items():
            state.load_state_dict(saved["states"][name])
        torch.set_rng_state(saved["torch"])
        return done, float(saved["seconds"])

    def _save(self, done: int, seconds: float) -> None:
        if self._path is None:
            return
        content = io.BytesIO()
        torch.save(
            {
                "fingerprint": self._fingerprint,
                "step": done,
                "seconds": seconds,
                "states": {name: state.state_dict() for name, state in self._states.items()},
                "torch": torch.get_rng_state(),
            },
            content,
        )
        write_atomically(self._path, content.getvalue())
