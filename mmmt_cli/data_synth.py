"""`mmmt data synth`: generate a data set of procedural streets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_core.configuration import ConfigurationError, nearest

#: Formats that can be written.
FORMATS = ("nuscenes",)


def synth(
    out: Annotated[Path, typer.Option(help="Folder of the data set: empty, absent, or begun earlier.")],
    output_format: Annotated[
        str, typer.Option("--format", help=f"Format of the data set: {', '.join(FORMATS)}.")
    ] = "nuscenes",
    scenes: Annotated[
        int, typer.Option(min=1, max=800, help="How many drives; every fifth is for validation.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the worlds and of sensor noise.")] = 7,
    scale: Annotated[
        str, typer.Option(help="tiny, small or full: length of scenes, size of images.")
    ] = "tiny",
    preset: Annotated[str, typer.Option(help="easy, standard or hard.")] = "standard",
    camera_frames: Annotated[
        int, typer.Option(help="Pictures of each camera between two keyframes: 0, 1, 4 or 9.")
    ] = 0,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Rendering processes; default: one per core.")
    ] = None,
) -> None:
    """Generate a data set of procedural streets, in a format that its official devkit reads unchanged.

    The same arguments give the same bytes on one machine. An interrupted run is taken up where it stopped.
    """
    if output_format not in FORMATS:
        raise ConfigurationError(f"no format '{output_format}'{nearest(output_format, FORMATS)}")
    if camera_frames not in (0, 1, 4, 9):
        raise ConfigurationError(f"--camera-frames {camera_frames}: must be 0, 1, 4 or 9")
    from mmmt_cli.data import progress_bar
    from training.synth.nuscenes.dataset import DatasetOptions, write_dataset
    from training.synth.world.presets import find_preset, find_scale

    options = DatasetOptions(
        scenes=scenes,
        seed=seed,
        preset=find_preset(preset),
        scale=find_scale(scale),
        camera_frames=camera_frames,
    )
    try:
        with progress_bar("Keyframes") as progress:
            summary = write_dataset(out, options, progress, processes)
    except OSError as error:
        raise ConfigurationError(f"the data set cannot be written: {error}") from error
    typer.echo(f"{summary.folder}: {summary.version}, {summary.keyframes} keyframes")
    for split in sorted({count.split for count in summary.classes}):
        held = ", ".join(f"{c.label} {c.boxes}" for c in summary.classes if c.split == split)
        typer.echo(f"  {split}: {held}")
    if missing := summary.missing():
        typer.secho(f"no boxes within class range: {', '.join(missing)}", fg="yellow", err=True)
