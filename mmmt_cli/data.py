"""`mmmt data`: inspect and generate recordings and data sets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmt_cli.data_overlay import overlay
from mmmt_cli.data_synth import synth
from mmmt_cli.data_to_bag import to_bag
from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from training.synth.recording import Progress

data_app = typer.Typer(no_args_is_help=True, help="Inspect and generate recordings and data sets.")
data_app.command("overlay")(overlay)
data_app.command("synth")(synth)
data_app.command("to-bag")(to_bag)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Shows a bar on standard error and yields the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def demo_recording() -> Path:
    """Returns the project's own recording, generated with a bar on first use."""
    from training.synth.recording import ensure_demo_recording

    with progress_bar("Generating the demo's street") as progress:
        return ensure_demo_recording(progress=progress)


@data_app.command("synth-drive")
def synth_drive(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bag; default: the cache of generated drives.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the drive.")] = 6.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the street and of sensor noise.")] = 7,
    width: Annotated[
        int, typer.Option(min=64, max=3840, help="Width of the pictures; their height is 9/16 of it.")
    ] = 640,
    camera_divider: Annotated[int, typer.Option(min=1, help="Pictures with every so-manieth sweep.")] = 2,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Rendering processes; default: one per core.")
    ] = None,
) -> None:
    """Drive through a generated street and record it as a rosbag2 (mcap) with ground truth; prints the bag's
    folder.
    """
    from training.synth.recording import DriveOptions, ensure_demo_recording, write_recording

    options = DriveOptions(
        seconds=seconds, seed=seed, width=width, height=round(width * 9 / 16), camera_divider=camera_divider
    )
    try:
        with progress_bar("Generating a street") as progress:
            if out is None:
                folder = ensure_demo_recording(progress=progress, options=options, processes=processes)
            else:
                folder = write_recording(out, options, progress, processes)
    except OSError as error:
        raise ConfigurationError(f"the drive cannot be written: {error}") from error
    typer.echo(folder)


@data_app.command("info")
def info(
    recording: Annotated[Path, typer.Argument(help="Recording of any kind that replay can play.")],
) -> None:
    """Say what a recording holds."""
    from perception_nodes.recordings import RecordingError, open_recording
    from perception_nodes.recordings.rosbag2 import Rosbag2Recording

    try:
        opened = open_recording(recording)
    except RecordingError as error:
        raise ConfigurationError(str(error)) from error
    typer.echo(f"{opened.name}: {opened.description}")
    typer.echo(f"rig: {opened.rig_name or 'not known; `mmmt rig draft` writes one'}")
    if isinstance(opened, Rosbag2Recording):
        for topic in opened.topics.values():
            typer.echo(f"  {topic.name}  {topic.message_type}  {'?' if topic.count is None else topic.count}")
    else:
        for modality, frame in opened.sensor_frames.items():
            typer.echo(f"  {modality}  ({frame})")
    opened.close()
