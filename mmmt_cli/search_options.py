"""Options and output that the commands of `mmmt search` have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from training.search.stages import StageProgress

DataArgument = Annotated[
    Path, typer.Argument(help="Folder of a data set of images with dense labels (Cityscapes, NYUv2 …).")
]
TaskOption = Annotated[
    list[str],
    typer.Option("--task", help="A task, e.g. semantic_segmentation or depth; may be repeated."),
]
ImageOption = Annotated[
    str, typer.Option("--image", metavar="HEIGHTxWIDTH", help="Size of the images, e.g. 128x256.")
]
TrainPartOption = Annotated[str, typer.Option(help="Part of the data set that is trained on.")]
JudgedPartOption = Annotated[str, typer.Option(help="Part of the data set that is judged by.")]
KindOption = Annotated[str | None, typer.Option(help="Kind of the data set; default: by its files.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images a step.")]
OutOption = Annotated[
    Path, typer.Option("--out", help="Folder of the search; an interrupted one there is taken up again.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything.")]


def image_size(text: str) -> tuple[int, int]:
    """Turns `128x256` into height and width.

    Raises:
        ConfigurationError: It is something else.
    """
    height, separator, width = text.partition("x")
    if not (separator and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ConfigurationError(f"--image: expected HEIGHTxWIDTH in pixels, e.g. 128x256, got '{text}'")
    return int(height), int(width)


@contextlib.contextmanager
def stage_bars() -> Iterator[StageProgress]:
    """Shows a bar a stage on standard error and yields the function that moves them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        shown: dict[str, Any] = {}

        def move(stage: str, done: int, total: int) -> None:
            if stage not in shown:
                shown[stage] = bars.add_task(stage, total=total)
            bars.update(shown[stage], completed=done)

        yield move


def print_metrics(title: str, metrics: dict[str, dict[str, float]]) -> None:
    """Prints metrics by task."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column("task")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for task, values in metrics.items():
        for name, value in values.items():
            table.add_row(task, name, f"{value:.4f}")
    Console().print(table)
