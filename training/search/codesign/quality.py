"""Loss_sw of Eq. 3: the hybrid loss of Eq. 1, from training records, a table, or a model fitted to them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_core.configuration import ConfigurationError
from training.search.codesign.space import Architecture, ArchitectureSpace


@dataclass(frozen=True)
class QualityRecord:
    """Losses of one trained network on validation data.

    Attributes:
        control: Control losses by name (steering, speed, …): the primary task.
        tasks: Losses of the other tasks by name: auxiliary.
        measured: It was trained; False: fitted to those that were.
    """

    control: Mapping[str, float]
    tasks: Mapping[str, float]
    measured: bool = True

    def hybrid_loss(self, weight: float) -> float:
        """Returns Eq. 1: the sum of control losses and λ times the sum of the tasks'.

        Args:
            weight: λ.
        """
        return sum(self.control.values()) + weight * sum(self.tasks.values())


class QualityEvaluator(Protocol):
    """What tells the quality of a network of a space."""

    def quality(self, architecture: Architecture) -> QualityRecord:
        """Returns the losses of a network, trained or fitted.

        Raises:
            ConfigurationError: It cannot be told.
        """
        ...


class QualityTable:
    """Networks that were trained: a file of JSON lines, one a network, which grows while training goes on.

    A line has `choices` (choice to option, by name), `control` and `tasks` (name to loss). Where a network
    stands twice, the later line counts.

    Attributes:
        records: What is known.
    """

    def __init__(self, space: ArchitectureSpace, path: Path | None = None) -> None:
        """Reads a file; None or a missing one: empty.

        Raises:
            ConfigurationError: A line is wrong; names file and line.
        """
        self.space = space
        self.path = path
        self.records: dict[Architecture, QualityRecord] = {}
        if path is not None and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            for number, line in enumerate(lines, start=1):
                self._read(line, number, last=number == len(lines))

    def _read(self, line: str, number: int, last: bool) -> None:
        try:
            entry = json.loads(line)
            architecture = self.space.from_names(entry["choices"])
            record = QualityRecord(
                {name: float(value) for name, value in entry["control"].items()},
                {name: float(value) for name, value in entry["tasks"].items()},
            )
        except json.JSONDecodeError as error:
            if last:
                return  # written while the training was cut off; that network is trained again
            raise ConfigurationError(f"{self.path}:{number}: not a JSON line: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"{self.path}:{number}: not a quality record: {error}") from error
        self.records[architecture] = record

    def quality(self, architecture: Architecture) -> QualityRecord:
        """See QualityEvaluator."""
        if architecture not in self.records:
            raise ConfigurationError(
                f"{self.path}: the network {self.space.names_of(architecture)} was not trained; train it, or "
                "fit a model to those that were (FittedQuality)"
            )
        return self.records[architecture]

    def add(self, architecture: Architecture, record: QualityRecord) -> None:
        """Adds a network and appends it to the file."""
        self.records[architecture] = record
        if self.path is None:
            return
        entry = {
            "choices": self.space.names_of(architecture),
            "control": dict(record.control),
            "tasks": dict(record.tasks),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


class TrainedQuality:
    """Trains a network when its quality is asked for, and remembers it."""

    def __init__(self, table: QualityTable, train: Callable[[Mapping[str, object]], QualityRecord]) -> None:
        """Takes a table to remember in and a proxy training, called with a network's arguments."""
        self.table = table
        self._train = train

    def quality(self, architecture: Architecture) -> QualityRecord:
        """See QualityEvaluator."""
        if architecture not in self.table.records:
            self.table.add(architecture, self._train(self.table.space.arguments_of(architecture)))
        return self.table.records[architecture]


class FittedQuality:
    """Networks that were trained as they are, others by an additive model of the options.

    Each loss is a mean and a term for every option, by ridge regression: right where choices act
    independently, and with fewer networks than options no more than a guide. `effects` is what the
    differentiable search descends.

    Attributes:
        effects: By loss name, a mean and the terms by choice and option.
    """

    def __init__(self, table: QualityTable, ridge: float = 0.1) -> None:
        """Fits.

        Raises:
            ConfigurationError: Fewer than two networks were trained.
        """
        if len(table.records) < 2:
            raise ConfigurationError(
                f"{table.path}: {len(table.records)} networks were trained; at least two are needed to tell "
                "others' quality"
            )
        self.table = table
        self.effects: dict[tuple[str, str], tuple[float, tuple[NDArray[np.float64], ...]]] = {}
        features = _one_hot(table.space, table.records)
        for group in ("control", "tasks"):
            for name in getattr(next(iter(table.records.values())), group):
                values = np.array(
                    [getattr(record, group).get(name, np.nan) for record in table.records.values()]
                )
                self.effects[group, name] = _ridge(table.space, features, values, ridge)

    def quality(self, architecture: Architecture) -> QualityRecord:
        """See QualityEvaluator."""
        known = self.table.records.get(architecture)
        if known is not None:
            return known
        losses: dict[str, dict[str, float]] = {"control": {}, "tasks": {}}
        for (group, name), (mean, terms) in self.effects.items():
            value = mean + sum(float(terms[k][option]) for k, option in enumerate(architecture))
            losses[group][name] = max(0.0, value)
        return QualityRecord(losses["control"], losses["tasks"], measured=False)

    def hybrid_effects(self, weight: float) -> tuple[float, tuple[NDArray[np.float64], ...]]:
        """Returns Eq. 1 as a mean and terms by choice and option."""
        mean, terms = 0.0, [np.zeros(len(choice.options)) for choice in self.table.space.choices]
        for (group, _), (own_mean, own_terms) in self.effects.items():
            factor = 1.0 if group == "control" else weight
            mean += factor * own_mean
            terms = [total + factor * own for total, own in zip(terms, own_terms, strict=True)]
        return mean, tuple(terms)


def _one_hot(space: ArchitectureSpace, architectures: Iterable[Architecture]) -> NDArray[np.float64]:
    """(networks, options of all choices)."""
    rows = []
    for architecture in architectures:
        row: list[float] = []
        for choice, option in zip(space.choices, architecture, strict=True):
            row += [1.0 if option == k else 0.0 for k in range(len(choice.options))]
        rows.append(row)
    return np.array(rows)


def _ridge(
    space: ArchitectureSpace, features: NDArray[np.float64], values: NDArray[np.float64], ridge: float
) -> tuple[float, tuple[NDArray[np.float64], ...]]:
    known = np.isfinite(values)
    mean = float(values[known].mean())
    matrix = features[known]
    weights = np.linalg.solve(
        matrix.T @ matrix + ridge * np.eye(matrix.shape[1]), matrix.T @ (values[known] - mean)
    )
    ends = np.cumsum([len(choice.options) for choice in space.choices])[:-1]
    return mean, tuple(np.split(weights, ends))
