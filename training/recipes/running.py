"""Trains a recipe on a data set: what `mmmt train` and the experiments do."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.provenance import current_commit
from training.recipes.recipe import Recipe, TrainingSetup
from training.trainer.checkpoints import LAST, read_checkpoint
from training.trainer.fitting import FitOptions, FitResult, fit
from training.trainer.module import CHECKPOINT_KEY

logger = logging.getLogger(__name__)

#: Settings that may change when a run is resumed without anything being computed differently.
_FREE_TO_CHANGE = (
    *("training.workers", "training.logger", "training.log_every", "training.keep_checkpoints"),
    *("training.evaluate_every", "training.samples_a_pass"),
)


def run_record(recipe: Recipe, overrides: Sequence[str], data_record: dict[str, Any]) -> dict[str, Any]:
    """Returns what checkpoints and bundles shall know of a run; plain values."""
    return {
        "recipe": recipe.name,
        "overrides": list(overrides),
        "settings": recipe.model_dump(mode="json"),
        "data": data_record,
        "commit": current_commit(),
    }


def train_recipe(
    recipe: Recipe,
    setup: TrainingSetup,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    options: FitOptions | None = None,
) -> FitResult:
    """Trains a recipe.

    Args:
        recipe: The recipe, overrides applied.
        setup: What it has built.
        out: Folder of the run.
        overrides: As given, for the record.
        options: How it is started.

    Raises:
        ConfigurationError, TrainingDivergedError: See `training.trainer.fitting.fit`.
    """
    options = options or FitOptions()
    if options.resume is not None:
        _tell_changes(options.resume, recipe, setup)
    return fit(
        setup.learner,
        setup.training,
        setup.validation,
        recipe.training,
        out,
        calibration=recipe.calibration,
        options=options,
        run_record=run_record(recipe, overrides, setup.data_record),
    )


def last_checkpoint(out: Path) -> Path:
    """Returns where a run's last checkpoint lies."""
    return out / LAST


def _tell_changes(checkpoint: Path, recipe: Recipe, setup: TrainingSetup) -> None:
    """Warns where a run is resumed with other settings or data than it was begun with."""
    begun = read_checkpoint(checkpoint)[CHECKPOINT_KEY]["run"]
    before, now = dict(_flat(begun.get("settings", {}))), dict(_flat(recipe.model_dump(mode="json")))
    changed = [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in _FREE_TO_CHANGE
    ]
    if changed:
        logger.warning("%s: resumed with other settings: %s", checkpoint, "; ".join(changed))
    digests = begun.get("data", {}).get("digest"), setup.data_record.get("digest")
    if digests[0] != digests[1]:
        logger.warning("%s: resumed on other data than it was begun with", checkpoint)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
