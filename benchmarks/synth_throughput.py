"""Generates a small data set with one worker and with several, and asks how many keyframes a minute come out.

    town ─► population ─► world ─┬─ per keyframe: step ─► six cameras, ten LiDAR turns ─► files
                                 └─ … one process a scene

`keyframes_per_minute` is over the wall clock, from the first scene's beginning to the last table; making the
worlds and starting the workers is in it. `keyframes_per_cpu_minute` divides by processor time of all workers
instead, so it does not depend on what else the machine does: what falls there with more workers is what they
take from each other (memory bandwidth, shared cores). Formats of pictures count pictures.
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

NAME = "synth_throughput"

_log = logging.getLogger(__name__)


def run(
    output_format: Annotated[
        str, typer.Option("--format", help="nuscenes, cityscapes-3d, nyuv2 or taskonomy.")
    ] = "nuscenes",
    scale: Annotated[str, typer.Option(help="tiny, small or full.")] = "small",
    preset: Annotated[str, typer.Option(help="easy, standard or hard.")] = "standard",
    scenes: Annotated[
        int, typer.Option(help="Scenes of each measurement; not fewer than workers.", min=1)
    ] = 2,
    keyframes: Annotated[
        int, typer.Option(help="Keyframes of a scene; 0: as many as the scale has.", min=0)
    ] = 0,
    workers: Annotated[str, typer.Option(help="Numbers of rendering processes to compare.")] = "1,2",
    seed: Annotated[int, typer.Option(help="Of the worlds.", min=0)] = 7,
) -> dict[str, Any]:
    """Generates the same data set once for each number of workers."""
    write, pictures_of_scene = _writer(output_format, scale, preset, scenes, keyframes, seed)
    counts = [int(count) for count in workers.split(",")]
    measured: dict[str, Any] = {}
    for count in counts:
        _log.info("%s worker(s) …", count)
        measured[str(count)] = _measured(write, count)
    rates = [measured[str(count)]["keyframes_per_minute"] for count in counts]
    return {
        "format": output_format,
        "scale": scale,
        "preset": preset,
        "scenes": scenes,
        "keyframes_of_a_scene": pictures_of_scene,
        "cores": len(os.sched_getaffinity(0)),
        "workers": measured,
        "speed_up": round(rates[-1] / rates[0], 3),
    }


def _writer(
    output_format: str, scale: str, preset: str, scenes: int, keyframes: int, seed: int
) -> tuple[Callable[[Path, int], int], int]:
    """Returns what generates a data set and says how many keyframes it has, and their number in a scene."""
    from perception_core.configuration import ConfigurationError, nearest
    from training.synth.image_scale import find_image_scale
    from training.synth.world.presets import find_preset, find_scale

    common: dict[str, Any] = {"scenes": scenes, "seed": seed, "preset": find_preset(preset)}
    if output_format == "nuscenes":
        from training.synth.nuscenes import dataset as nuscenes

        # the devkit counts the boxes at the end and takes seconds to import: the first count would pay for it
        importlib.import_module("nuscenes.eval.detection.utils")
        recorded = find_scale(scale)
        recorded = recorded.model_copy(update={"keyframes": keyframes or recorded.keyframes})
        options = nuscenes.DatasetOptions(**common, scale=recorded)
        return (
            lambda folder, processes: nuscenes.write_dataset(folder, options, None, processes).keyframes
        ), recorded.keyframes
    if output_format == "cityscapes-3d":
        from training.synth.cityscapes3d import dataset as cityscapes3d

        size = find_image_scale(scale, cityscapes3d.SCALES)
        size = size.model_copy(update={"keyframes": keyframes or size.keyframes})
        city = cityscapes3d.CityscapesOptions(**common, scale=size)
        return (
            lambda folder, processes: sum(
                cityscapes3d.write_dataset(folder, city, None, processes).images.values()
            )
        ), size.keyframes
    from training.synth.adashare import dataset as adashare
    from training.synth.adashare.layouts import LAYOUTS

    if output_format not in LAYOUTS:
        names = ("nuscenes", "cityscapes-3d", *LAYOUTS)
        raise ConfigurationError(f"no format '{output_format}'{nearest(output_format, names)}")
    size = find_image_scale(scale, LAYOUTS[output_format].scales)
    size = size.model_copy(update={"keyframes": keyframes or size.keyframes})
    views = adashare.AdaShareOptions.model_validate({**common, "layout": output_format, "scale": size})
    return (
        lambda folder, processes: sum(adashare.write_dataset(folder, views, None, processes).images.values())
    ), size.keyframes * views.views


def _measured(write: Callable[[Path, int], int], workers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="mmmt-throughput-") as folder:
        cpu, start = _cpu_s(), time.perf_counter()
        keyframes = write(Path(folder) / "data", workers)
        wall_s, cpu_s = time.perf_counter() - start, _cpu_s() - cpu
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "keyframes": keyframes,
        "wall_s": round(wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "keyframes_per_minute": round(60 * keyframes / wall_s, 2),
        "keyframes_per_cpu_minute": round(60 * keyframes / cpu_s, 2),
        "megabytes": round(size / 1e6, 1),
    }


def _cpu_s() -> float:
    """Returns processor time of this process and of its finished workers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
