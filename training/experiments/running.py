"""Does the runs of an experiment, one after the other; what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_core.configuration import ConfigurationError
from training.datasets.dataset import SampleDataset
from training.datasets.files import read_json
from training.datasets.missing_sensor import MissingSensor
from training.evaluation.result import Result, write_json
from training.experiments.catalog import Experiment, Variant
from training.experiments.report import ALL_SENSORS, ExperimentReport, Metrics, RunReport
from training.provenance import describe_origin
from training.recipes import Recipe, TrainingSetup, create_recipe
from training.recipes.running import last_checkpoint, train_recipe
from training.trainer.evaluating import evaluate
from training.trainer.fitting import FitOptions
from training.trainer.metrics_log import read_metrics, series

#: Written into the folder of a run when all of it is done.
RESULT_FILE = "result.json"

_RATIOS = ("gamma_task/", "gamma_task_calibrated/", "gamma_modal/", "gamma_modal_calibrated/")


@dataclass(frozen=True)
class ExperimentOptions:
    """How an experiment is done.

    Attributes:
        recipe: Recipe that is varied.
        seeds: Each variant is trained with each.
        overrides: Settings changed in all variants.
        limit: Steps an epoch and batches an evaluation at most; None: all.
        accelerator: Lightning's name of the kind of device.
    """

    recipe: str = "fuller_micro"
    seeds: tuple[int, ...] = (0,)
    overrides: tuple[str, ...] = ()
    limit: int | None = None
    accelerator: str = "auto"


def run_experiment(
    experiment: Experiment,
    data: Path,
    runs: Path,
    out: Path,
    options: ExperimentOptions,
    say: Callable[[str], None] = lambda text: None,
) -> ExperimentReport:
    """Trains every variant with every seed and writes the report after each run.

    Args:
        experiment: What.
        data: Folder of the data set.
        runs: Folder of the runs. A finished run of the same settings, data and limit is taken as it is, an
            interrupted one is resumed.
        out: Result file.
        options: How.
        say: Told what is done.

    Raises:
        ConfigurationError: A variant does not fit the recipe.
        DataError, TrainingDivergedError: See `train_recipe`.
    """
    if not experiment.variants or not options.seeds:
        raise ConfigurationError(f"experiment {experiment.name}: no variant or no seed to train")
    finished: list[RunReport] = []
    data_record: dict[str, Any] = {}
    total = len(experiment.variants) * len(options.seeds)

    def report(complete: bool) -> ExperimentReport:
        return ExperimentReport(
            experiment=experiment.name,
            title=experiment.title,
            complete=complete,
            recipe=options.recipe,
            overrides=options.overrides,
            variants={variant.name: variant.overrides for variant in experiment.variants},
            bounds=tuple(variant.name for variant in experiment.bounds),
            data=data_record,
            seeds=options.seeds,
            limit=options.limit,
            runs=tuple(finished),
            origin=describe_origin(),
        )

    for seed in options.seeds:
        for variant in experiment.variants:
            recipe, overrides = variant_recipe(variant, experiment, options, seed)
            setup = recipe.build(data)
            data_record = setup.data_record
            folder = runs / _folder_name(variant, seed, recipe, setup, options)
            say(f"[{len(finished) + 1}/{total}] {variant.name}, seed {seed}: {folder}")
            finished.append(_one_run(experiment, variant, seed, recipe, overrides, setup, folder, options))
            latest = report(complete=len(finished) == total)
            latest.write(out)
    return latest


def variant_recipe(
    variant: Variant, experiment: Experiment, options: ExperimentOptions, seed: int
) -> tuple[Recipe, tuple[str, ...]]:
    """Returns a variant's recipe and the overrides that make it.

    Raises:
        ConfigurationError: A setting does not exist in the recipe.
    """
    curves = ("training.evaluate_every=1",) if experiment.curves else ()
    overrides = (*variant.overrides, *options.overrides, *curves, f"training.seed={seed}")
    return create_recipe(options.recipe, overrides), overrides


def _folder_name(
    variant: Variant, seed: int, recipe: Recipe, setup: TrainingSetup, options: ExperimentOptions
) -> str:
    """Returns a name that differs where anything differs that the result depends on."""
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "data": setup.data_record.get("digest"),
        "limit": options.limit,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
    words = "".join(letter if letter.isalnum() else "-" for letter in variant.name.lower())
    return f"{options.recipe}-{words}-seed{seed}-{digest}"


def _one_run(
    experiment: Experiment,
    variant: Variant,
    seed: int,
    recipe: Recipe,
    overrides: tuple[str, ...],
    setup: TrainingSetup,
    folder: Path,
    options: ExperimentOptions,
) -> RunReport:
    done = _read_result(folder / RESULT_FILE)
    checkpoint = last_checkpoint(folder)
    if done is None:
        fit_options = FitOptions(
            accelerator=options.accelerator,
            limit=options.limit,
            resume=checkpoint if checkpoint.is_file() else None,
        )
        result = train_recipe(recipe, setup, folder, overrides=overrides, options=fit_options)
        done = RunReport(
            variant=variant.name,
            seed=seed,
            folder=folder.name,
            results={ALL_SENSORS: _metrics(result.results)},
            details={task: item.to_json() for task, item in result.results.items()},
            curve=_curve(folder),
            imbalance=imbalance(folder),
            steps=result.steps,
            wall_s=round(result.wall_s, 1),
        )
        write_json(folder / RESULT_FILE, done.model_dump(mode="json"))
    missing = [sensor for sensor in experiment.missing if f"without {sensor}" not in done.results]
    if missing:
        done = _with_conditions(done, missing, checkpoint, setup, recipe, options)
        write_json(folder / RESULT_FILE, done.model_dump(mode="json"))
    # A run shared between experiments may have another name there.
    return done.model_copy(update={"variant": variant.name})


def _with_conditions(
    done: RunReport,
    missing: list[Any],
    checkpoint: Path,
    setup: TrainingSetup,
    recipe: Recipe,
    options: ExperimentOptions,
) -> RunReport:
    """Evaluates a trained network without some sensors."""
    from training.trainer.checkpoints import load_network, read_checkpoint

    validation = setup.validation
    if validation is None:
        raise ConfigurationError(f"recipe {recipe.name} has no data to evaluate on")
    load_network(checkpoint, read_checkpoint(checkpoint), setup.learner)
    results = dict(done.results)
    for sensor in missing:
        dataset: SampleDataset = MissingSensor(validation, sensor)
        found = evaluate(
            setup.learner,
            dataset,
            batch_size=recipe.training.batch_size,
            workers=recipe.training.workers,
            limit=options.limit,
        )
        results[f"without {sensor}"] = _metrics(found)
    return done.model_copy(update={"results": results})


def _read_result(path: Path) -> RunReport | None:
    return RunReport.model_validate(read_json(path)) if path.is_file() else None


def _metrics(results: Mapping[str, Result]) -> Metrics:
    return {
        task: {name: value if math.isfinite(value) else None for name, value in result.scalars().items()}
        for task, result in results.items()
    }


def _curve(folder: Path) -> tuple[dict[str, Any], ...]:
    """Reads the headline numbers after each evaluated epoch."""
    points = []
    for path in sorted((folder / "evaluation").glob("epoch-*.json")):
        content = dict(read_json(path))
        metrics = {
            task: {
                name: value
                for name, value in values.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            }
            for task, values in content["results"].items()
        }
        points.append({"epoch": content["epoch"], "metrics": metrics})
    return tuple(points)


def imbalance(folder: Path) -> dict[str, float]:
    """Returns the median over steps of max(γ, 1 / γ) for every logged ratio γ."""
    rows = read_metrics(folder)
    names = {name for row in rows for name in row if name.startswith(_RATIOS)}
    return {
        name: statistics.median(max(value, 1 / value) for value in series(rows, name)[1] if value > 0)
        for name in sorted(names)
    }
