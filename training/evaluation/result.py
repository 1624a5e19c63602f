"""What every evaluator gives: a typed result whose numbers know their unit and which way is better."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perception_core.atomic_write import write_atomically


class EvaluationError(ValueError):
    """Predictions cannot be evaluated; the message says which, why and what to do."""


@dataclass(frozen=True)
class Metric:
    """What a number of a result means.

    Attributes:
        title: As tables and papers write it, e.g. `mIoU`.
        higher_is_better: Direction; relative measures take their sign from it.
        unit: `%` for shares (the value itself is 0..1), `m`, `deg` …; empty for other numbers.
    """

    title: str
    higher_is_better: bool
    unit: str = ""


@dataclass(frozen=True)
class Result:
    """Base of all results: a frozen dataclass of numbers and of numbers by class.

    Scores (higher is better) are 0 where nothing was measured; errors are then NaN, because 0 would claim
    perfection. NaN becomes null in JSON.

    Attributes:
        task: Task of the design, e.g. `depth`.
        metrics: The headline numbers by field name, in the order of tables.
    """

    task: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]

    def scalars(self) -> dict[str, float]:
        """Returns the headline numbers by field name."""
        return {name: float(getattr(self, name)) for name in self.metrics}

    def to_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values; NaN and infinities become null."""
        return {
            "task": self.task,
            **{field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)},
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON so that a file of that name is always whole.

    Args:
        path: Its folder is made.
        content: Values of `Result.to_json`, or results themselves.
    """
    write_atomically(path, (_written(_plain(content)) + "\n").encode())


def _written(value: Any, indent: str = "") -> str:
    """Writes objects one key a line and lists on one line: a curve of a hundred numbers is one line."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    deeper = indent + "  "
    lines = (f"{deeper}{json.dumps(key)}: {_written(item, deeper)}" for key, item in value.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def ratio(part: float, whole: float, empty: float) -> float:
    """Returns part / whole, `empty` where there is nothing."""
    return float(part) / float(whole) if whole else empty


def mean_measured(values: NDArray[np.float64]) -> float:
    """Returns the mean of a score over classes, leaving out NaN; 0 where nothing was measured."""
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if measured.size else 0.0
