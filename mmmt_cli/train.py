"""`mmmt train`: train a recipe, resume it, make its bundle; run the experiments."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from training.evaluation.result import Result
    from training.export.checkpoint_bundle import ExportedBundle

EXIT_DIVERGED = 1

_RECIPE = "recipe"
_SEEDS = "--seeds"


class RecipeGroup(TyperGroup):
    """Takes a first word that is no sub-command for a recipe, and several numbers after `--seeds`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Completes the arguments."""
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = [_RECIPE, *args]
        return super().parse_args(ctx, repeat_seeds(args))


def repeat_seeds(arguments: list[str]) -> list[str]:
    """Turns `--seeds 0 1 2` into `--seeds 0 --seeds 1 --seeds 2`, as options are repeated everywhere else."""
    result: list[str] = []
    in_seeds = False
    for argument in arguments:
        if argument == _SEEDS:
            in_seeds = True
            continue
        in_seeds = in_seeds and argument.isdigit()
        result += [_SEEDS, argument] if in_seeds else [argument]
    return result


train_app = typer.Typer(
    cls=RecipeGroup,
    no_args_is_help=True,
    add_completion=False,
    help="Train a recipe: `mmmt train RECIPE --data D --out DIR`. `mmmt train --list` names the recipes.",
)

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the run.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the data set.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe. May be repeated."),
]


@contextlib.contextmanager
def said_plainly() -> Iterator[None]:
    """Turns errors of data and evaluation into the command's one message, divergence into another exit code.

    Raises:
        ConfigurationError: For errors of data and evaluation.
        typer.Exit: Training diverged.
    """
    from training.datasets.files import DataError
    from training.datasets.sample import SampleError
    from training.evaluation.result import EvaluationError
    from training.trainer.module import TrainingDivergedError

    try:
        yield
    except (DataError, EvaluationError, SampleError) as error:
        raise ConfigurationError(str(error)) from error
    except TrainingDivergedError as error:
        typer.secho(f"mmmt: {error}", fg="red", err=True)
        raise typer.Exit(EXIT_DIVERGED) from error


@train_app.command(_RECIPE, hidden=True)
def train_command(
    recipe: Annotated[str | None, typer.Argument(help="A name of `mmmt train --list`.")] = None,
    data: DataOption = None,
    out: OutOption = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) of each machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, started through torchrun.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Steps an epoch and batches an evaluation at most: a trial.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT/last.ckpt.")] = False,
    settings: SetOption = None,
    bundle: Annotated[Path | None, typer.Option(help="Write the trained network's bundle here.")] = None,
    graphs: Annotated[bool, typer.Option(help="Export ONNX graphs into the bundle.")] = True,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the whole configuration as YAML.")] = False,
) -> None:
    """Train a recipe."""
    if list_recipes:
        _list()
        return
    if recipe is None:
        raise ConfigurationError("name a recipe, one of `mmmt train --list`")
    from training.recipes import create_recipe

    chosen = create_recipe(recipe, settings or ())
    if show:
        _show(chosen)
        return
    if data is None or out is None:
        raise ConfigurationError(f"mmmt train {recipe}: --data and --out are needed")
    from training.recipes.running import last_checkpoint, train_recipe
    from training.trainer.fitting import FitOptions

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = FitOptions(
        devices=devices,
        nodes=nodes,
        accelerator=accelerator,
        limit=limit,
        resume=last_checkpoint(out) if resume else None,
    )
    with said_plainly():
        setup = chosen.build(data)
        result = train_recipe(chosen, setup, out, overrides=settings or (), options=options)
    if not result.is_main:
        return
    typer.echo(f"{result.checkpoint}: {result.steps} steps, {result.wall_s:.0f} s")
    print_results(result.results)
    if bundle is not None:
        from training.export.checkpoint_bundle import bundle_of_checkpoint

        print_bundle(bundle_of_checkpoint(result.checkpoint, bundle, graphs=graphs))


def _list() -> None:
    from training.recipes import list_recipes

    recipes = list_recipes()
    width = max(map(len, recipes))
    for name, description in recipes.items():
        typer.echo(f"{name:<{width}}  {description}")


def _show(recipe: Any) -> None:
    import yaml

    typer.echo(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=110), nl=False)


def print_results(results: dict[str, Result]) -> None:
    """Prints the headline numbers of an evaluation."""
    for task, result in results.items():
        shown = []
        for name, value in result.scalars().items():
            metric = result.metrics[name]
            number = f"{100 * value:.2f} %" if metric.unit == "%" else f"{value:.4g} {metric.unit}".strip()
            shown.append(f"{metric.title} {number}")
        typer.echo(f"{task}: {', '.join(shown)}")


def print_bundle(exported: ExportedBundle) -> None:
    """Prints what a bundle holds and how well its graphs agree with the network."""
    bundle = exported.bundle
    size = sum(file.stat().st_size for file in bundle.path.iterdir())
    typer.echo(f"{bundle.path}: {', '.join(bundle.spec.components)}; {size / 1e6:.1f} MB")
    for item in exported.agreements:
        said = (
            f"{item.backend} differs by at most {item.max_abs_error:.2g} (relative {item.max_rel_error:.2g})"
            if item.exported
            else "runs in torch, no graph"
        )
        typer.echo(f"  {item.component}: {said}")


@train_app.command("experiment")
def experiment_command(
    name: Annotated[str | None, typer.Argument(help="A name of `mmmt train experiment --list`.")] = None,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file of the results.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(_SEEDS, help="E.g. --seeds 0 1 2. Default: 0.")] = None,
    recipe: Annotated[
        str, typer.Option(help="Recipe whose settings the experiment varies.")
    ] = "fuller_micro",
    runs: Annotated[
        Path, typer.Option(help="Folder of the runs; a run that is there is not trained again.")
    ] = Path("runs/experiments"),
    limit: Annotated[int | None, typer.Option(min=1, help="Steps an epoch at most: a trial.")] = None,
    settings: SetOption = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
    list_experiments: Annotated[bool, typer.Option("--list", help="List the experiments.")] = False,
) -> None:
    """Train and compare the variants of an experiment; resumable, run by run."""
    from training.experiments.catalog import EXPERIMENTS, find_experiment

    if list_experiments:
        width = max(map(len, EXPERIMENTS))
        for experiment in EXPERIMENTS.values():
            typer.echo(
                f"{experiment.name:<{width}}  {len(experiment.variants)} runs a seed: {experiment.title}"
            )
        return
    if name is None:
        raise ConfigurationError("name an experiment, one of `mmmt train experiment --list`")
    chosen = find_experiment(name)
    if data is None or out is None:
        raise ConfigurationError(f"mmmt train experiment {name}: --data and --out are needed")
    from mmmt_cli.train_tables import print_experiment
    from training.experiments.running import ExperimentOptions, run_experiment

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = ExperimentOptions(
        recipe=recipe, seeds=tuple(seeds or (0,)), overrides=tuple(settings or ()), limit=limit
    )

    def say(text: str) -> None:
        typer.echo(text, err=True)

    with said_plainly():
        report = run_experiment(chosen, data, runs, out, options, say)
    print_experiment(report)
    if plots is not None:
        from training.experiments.plots import plot_experiment

        for path in plot_experiment(report, runs, plots):
            typer.echo(str(path))
