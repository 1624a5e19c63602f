"""The record of a co-search: every candidate that was judged, the front, and which one to pick."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perception_core.atomic_write import write_atomically
from perception_core.configuration import ConfigurationError, nearest
from training.search.codesign.pareto import front_of, knee
from training.search.codesign.space import Architecture, ArchitectureSpace

FORMAT = 1


@dataclass(frozen=True)
class Candidate:
    """A network on a placement.

    Attributes:
        architecture: α.
        placement: ω, component to device.
        implementation: Of the platform.
        loss_sw: Eq. 1.
        measured: Its quality was trained, not fitted.
        longest_path_ms, power_w, energy_j: Of the schedule.
        loss_hw: Eq. 3.
        objective: Loss_sw + γ1 · Loss_hw.
    """

    architecture: Architecture
    placement: Mapping[str, str]
    implementation: str
    loss_sw: float
    measured: bool
    longest_path_ms: float
    power_w: float
    energy_j: float
    loss_hw: float
    objective: float

    @property
    def point(self) -> tuple[float, float, float]:
        """What the front is of: quality, longest path, power; all smaller is better."""
        return self.loss_sw, self.longest_path_ms, self.power_w


@dataclass
class Study:
    """All that a search looked at.

    Attributes:
        space: The networks.
        settings: How it was searched, plain values.
        candidates: In the order they were judged.
        refused: Networks that fit on no placement.
        baselines: What to compare with, by name.
        history: Best objective after each generation.
    """

    space: ArchitectureSpace
    settings: Mapping[str, Any]
    candidates: list[Candidate] = field(default_factory=list)
    refused: list[Architecture] = field(default_factory=list)
    baselines: dict[str, Candidate] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)

    @property
    def best(self) -> Candidate:
        """The candidate of least Loss_sw + γ1 · Loss_hw.

        Raises:
            ConfigurationError: No network fits on the platform.
        """
        if not self.candidates:
            raise ConfigurationError(
                f"none of {len(self.refused)} networks fits on the platform within memory and budgets; raise "
                "the budgets, or allow smaller networks"
            )
        return min(self.candidates, key=lambda one: one.objective)

    @property
    def front(self) -> list[Candidate]:
        """Candidates that none betters in quality, longest path and power at once, best quality first."""
        kept = front_of([(one, one.point) for one in self.candidates])
        return sorted(kept, key=lambda one: one.point)

    def pick(self, rule: str) -> Candidate:
        """Chooses from the front.

        Args:
            rule: `objective`, `knee`, `quality`, `latency` or `power`; limits may stand before it,
                separated by commas: `latency<=120,power<=40,quality`.

        Raises:
            ConfigurationError: The rule is not understood, or nothing keeps to its limits.
        """
        *limits, goal = [part.strip() for part in rule.split(",")]
        left = self.front
        for limit in limits:
            found = re.fullmatch(r"(\w+)\s*<=\s*([0-9.]+)", limit)
            if found is None or found[1] not in _AXES:
                raise ConfigurationError(
                    f"--pick: '{limit}' is no limit; write e.g. latency<=120" + nearest(limit, _AXES)
                )
            left = [one for one in left if one.point[_AXES[found[1]]] <= float(found[2])]
            if not left:
                raise ConfigurationError(
                    f"--pick: nothing on the front keeps to {limit}; see the study for what there is"
                )
        if goal == "objective":
            return min(left, key=lambda one: one.objective)
        if goal == "knee":
            return left[knee([one.point for one in left])]
        if goal in _AXES:
            return min(left, key=lambda one: (one.point[_AXES[goal]], one.objective))
        raise ConfigurationError(f"--pick: no rule '{goal}'" + nearest(goal, ("objective", "knee", *_AXES)))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": FORMAT,
            "model": self.space.model,
            "settings": dict(self.settings),
            "best": self._plain(self.best) if self.candidates else None,
            "front": [self._plain(one) for one in self.front],
            "baselines": {name: self._plain(one) for name, one in self.baselines.items()},
            "history": self.history,
            "candidates": [self._plain(one) for one in self.candidates],
            "refused": [self.space.names_of(one) for one in self.refused],
        }

    def _plain(self, one: Candidate) -> dict[str, Any]:
        values = asdict(one)
        values["architecture"] = self.space.names_of(one.architecture)
        values["placement"] = dict(one.placement)
        return values

    def write(self, path: Path) -> None:
        """Writes the record whole or not at all."""
        write_atomically(path, json.dumps(self.as_json(), indent=1) + "\n")


_AXES = {"quality": 0, "latency": 1, "power": 2}


def read_study(path: Path, space: ArchitectureSpace) -> Study:
    """Reads a record back, to go on or to pick from it.

    Raises:
        ConfigurationError: It is damaged or of another space.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["model"] != space.model:
            raise ConfigurationError(f"{path}: a study of model '{plain['model']}', not of '{space.model}'")
        return Study(
            space,
            plain["settings"],
            [_candidate(space, one) for one in plain["candidates"]],
            [space.from_names(one) for one in plain["refused"]],
            {name: _candidate(space, one) for name, one in plain["baselines"].items()},
            list(plain["history"]),
        )
    except ConfigurationError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: not a study: {type(error).__name__}: {error}") from error


def _candidate(space: ArchitectureSpace, plain: Mapping[str, Any]) -> Candidate:
    return Candidate(**{**plain, "architecture": space.from_names(plain["architecture"])})


def architectures_of(candidates: Sequence[Candidate]) -> list[Architecture]:
    """Returns the networks of candidates, each once."""
    return list(dict.fromkeys(one.architecture for one in candidates))
