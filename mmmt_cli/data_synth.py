"""`mmmt data synth`: generate a data set of procedural streets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_core.configuration import ConfigurationError, nearest

if TYPE_CHECKING:
    from training.synth.resumable import Progress


@dataclass(frozen=True)
class _Request:
    """What was asked for; None: the format's default."""

    out: Path
    scenes: int
    seed: int
    scale: str
    preset: str
    camera_frames: int
    slope_m: float | None
    processes: int | None


def _nuscenes(request: _Request, progress: Progress) -> tuple[list[str], list[str]]:
    from training.synth.nuscenes.dataset import DatasetOptions, write_dataset
    from training.synth.world.presets import find_preset, find_scale

    if request.camera_frames not in (0, 1, 4, 9):
        raise ConfigurationError(f"--camera-frames {request.camera_frames}: must be 0, 1, 4 or 9")
    if request.slope_m:
        raise ConfigurationError("--slope-m: nuScenes' maps and poses are flat")
    options = DatasetOptions(
        scenes=request.scenes,
        seed=request.seed,
        preset=find_preset(request.preset),
        scale=find_scale(request.scale),
        camera_frames=request.camera_frames,
    )
    summary = write_dataset(request.out, options, progress, request.processes)
    lines = [f"{summary.folder}: {summary.version}, {summary.keyframes} keyframes"]
    for split in sorted({count.split for count in summary.classes}):
        held = ", ".join(f"{c.label} {c.boxes}" for c in summary.classes if c.split == split)
        lines.append(f"  {split}: {held}")
    missing = summary.missing()
    return lines, [f"no boxes within class range: {', '.join(missing)}"] if missing else []


def _cityscapes_3d(request: _Request, progress: Progress) -> tuple[list[str], list[str]]:
    from training.synth.cityscapes3d.dataset import SCALES, CityscapesOptions, write_dataset
    from training.synth.image_scale import find_image_scale
    from training.synth.world.presets import find_preset

    _no_camera_frames(request)
    options = CityscapesOptions.model_validate(
        {
            "scenes": request.scenes,
            "seed": request.seed,
            "preset": find_preset(request.preset),
            "scale": find_image_scale(request.scale, SCALES),
            **_slope(request),
        }
    )
    summary = write_dataset(request.out, options, progress, request.processes)
    lines = [f"{summary.folder}: Cityscapes-3D, {sum(summary.images.values())} images"]
    for split, images in summary.images.items():
        held = ", ".join(f"{c.label} {c.boxes}" for c in summary.classes if c.split == split)
        lines.append(f"  {split}: {images} images; {held}")
    poor = summary.at_one_depth()
    warning = "in one bin of 5 m only, for which the official scripts give a Detection Score of 0: "
    return lines, [warning + ", ".join(poor)] if poor else []


def _adashare(request: _Request, progress: Progress, layout: str) -> tuple[list[str], list[str]]:
    from training.synth.adashare.dataset import AdaShareOptions, write_dataset
    from training.synth.adashare.layouts import LAYOUTS
    from training.synth.image_scale import find_image_scale
    from training.synth.world.presets import find_preset

    _no_camera_frames(request)
    options = AdaShareOptions.model_validate(
        {
            "layout": layout,
            "scenes": request.scenes,
            "seed": request.seed,
            "preset": find_preset(request.preset),
            "scale": find_image_scale(request.scale, LAYOUTS[layout].scales),
            **_slope(request),
        }
    )
    summary = write_dataset(request.out, options, progress, request.processes)
    parts = ", ".join(f"{part} {images}" for part, images in summary.images.items())
    return [f"{summary.folder}: {', '.join(LAYOUTS[layout].tasks)}; {parts} images"], []


def _no_camera_frames(request: _Request) -> None:
    if request.camera_frames:
        raise ConfigurationError("--camera-frames: only nuScenes has pictures between keyframes")


def _slope(request: _Request) -> dict[str, float]:
    return {} if request.slope_m is None else {"slope_m": request.slope_m}


#: Formats that can be written.
FORMATS: dict[str, Callable[[_Request, Progress], tuple[list[str], list[str]]]] = {
    "nuscenes": _nuscenes,
    "cityscapes-3d": _cityscapes_3d,
    "nyuv2": lambda request, progress: _adashare(request, progress, "nyuv2"),
    "taskonomy": lambda request, progress: _adashare(request, progress, "taskonomy"),
}


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
        int,
        typer.Option(help="nuScenes: pictures of each camera between two keyframes: 0, 1, 4 or 9."),
    ] = 0,
    slope_m: Annotated[
        float | None,
        typer.Option(min=0.0, max=6.0, help="Amplitude of the terrain in metres; default: 3, nuScenes 0."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Rendering processes; default: one per core.")
    ] = None,
) -> None:
    """Generate a data set of procedural streets, in a format that its official devkit reads unchanged.

    The same arguments give the same bytes on one machine. An interrupted run is taken up where it stopped.
    """
    if output_format not in FORMATS:
        raise ConfigurationError(f"no format '{output_format}'{nearest(output_format, FORMATS)}")
    from mmmt_cli.data import progress_bar

    request = _Request(out, scenes, seed, scale, preset, camera_frames, slope_m, processes)
    title = "Keyframes" if output_format == "nuscenes" else "Pictures"
    try:
        with progress_bar(title) as progress:
            lines, warnings = FORMATS[output_format](request, progress)
    except OSError as error:
        raise ConfigurationError(f"the data set cannot be written: {error}") from error
    for line in lines:
        typer.echo(line)
    for warning in warnings:
        typer.secho(warning, fg="yellow", err=True)
