"""Reads what runs have logged to CSV, also where a run was resumed and wrote several files."""

from __future__ import annotations

import csv
from pathlib import Path

from perception_core.configuration import ConfigurationError

#: Folder of the logger within a run's folder.
LOG_FOLDER = "log"


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Returns a run's logged values, one dictionary a row, in the order of steps.

    Where a resumed run went again through steps that an interrupted one had logged, the later values count.

    Raises:
        ConfigurationError: Nothing was logged there.
    """
    files = sorted((run / LOG_FOLDER).glob("version_*/metrics.csv"), key=_version)
    if not files:
        raise ConfigurationError(f"{run / LOG_FOLDER}: no metrics.csv of a training run")
    rows: list[dict[str, float]] = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as opened:
            found = [
                {key: float(value) for key, value in row.items() if value not in ("", None)}
                for row in csv.DictReader(opened)
            ]
        if found:
            first = min(row["step"] for row in found)
            rows = [row for row in rows if row["step"] < first] + found
    return rows


def series(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Returns steps and values of one logged name, empty where it was never logged."""
    chosen = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in chosen], [value for _, value in chosen]


def _version(file: Path) -> int:
    return int(file.parent.name.removeprefix("version_"))
