"""Generates a whole multi-task image data set in AdaShare's layout: scenes in parallel, resumable.

How scenes come to count is in `training.synth.resumable`; a scene's record are the names of its files. The
list of files by part, without which the loaders see nothing, is made out of those at the end.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from perception_core.configuration import ConfigurationError, StrictModel
from training.datasets.image_layouts import CLASS_NAMES_FILE
from training.synth.adashare.cameras import VIEW_YAWS_DEG, view_cameras
from training.synth.adashare.layouts import LAYOUTS, AdaShareLayout, ViewName
from training.synth.image_scale import ImageScale
from training.synth.resumable import Progress, SceneFolder, Step, render_all
from training.synth.splits import SPLITS, SplitScene, split_scenes
from training.synth.world.presets import PRESETS, Preset
from training.synth.world.world import make_world

_FORMAT = 1
_FIRST_KEYFRAME_S, _BETWEEN_KEYFRAMES_S = 0.1, 0.5


class AdaShareOptions(StrictModel):
    """What is generated; the same options always give the same bytes on one machine.

    Attributes:
        layout: nyuv2 (three tasks) or taskonomy (five).
        scenes: How many.
        seed: Of everything.
        preset: How hard the worlds are.
        scale: How much is recorded of each; None: the layout's tiny.
        views: Pictures of a keyframe: ahead, behind, left, right.
        slope_m: Amplitude of the terrain.
    """

    layout: Literal["nyuv2", "taskonomy"]
    scenes: int = Field(ge=1)
    seed: int = 7
    preset: Preset = PRESETS["standard"]
    scale: ImageScale | None = None
    views: int = Field(2, ge=1, le=len(VIEW_YAWS_DEG))
    slope_m: float = Field(3.0, ge=0.0, le=6.0)

    @property
    def files(self) -> AdaShareLayout:
        """Where its files lie."""
        return LAYOUTS[self.layout]

    @property
    def size(self) -> ImageScale:
        """How much is recorded of each scene."""
        return self.scale or self.files.scales["tiny"]


@dataclass(frozen=True)
class Summary:
    """What was generated.

    Attributes:
        folder: The data set.
        images: By part.
    """

    folder: Path
    images: dict[str, int]


def write_dataset(
    folder: Path, options: AdaShareOptions, progress: Progress | None = None, processes: int | None = None
) -> Summary:
    """Generates a data set, or what an interrupted run left of it.

    Args:
        folder: Empty, absent, or begun earlier with the same options.
        options: What to generate.
        progress: Called after each picture.
        processes: Rendering processes; None: one per core this process may use.

    Raises:
        ConfigurationError: The folder holds something else, or was begun with other options; or the size has
            not the shape that the layout's intrinsics are for.
    """
    size = options.size
    if options.layout == "nyuv2" and size.image_width * 3 != size.image_height * 4:
        raise ConfigurationError(
            f"pictures of NYUv2 are 4 to 3, not {size.image_width} x {size.image_height}; "
            "its loader knows intrinsics for that shape only"
        )
    plan = split_scenes(options.scenes)
    state = SceneFolder(folder)
    wanted = options.model_dump(mode="json") | {"scale": size.model_dump(mode="json")}
    state.claim({"format": _FORMAT, "dataset": options.layout, **wanted})
    todo = [scene for scene in plan if not state.is_finished(_name(scene))]
    each = size.keyframes * options.views
    total, done = len(plan) * each, (len(plan) - len(todo)) * each
    if progress is not None:
        progress(done, total)

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    render_all(functools.partial(render_scene, folder, options), todo, processes, step)
    groups: dict[str, list[list[str]]] = {}
    for split in SPLITS:
        rows = [row for scene in plan if scene.split == split for row in state.content(_name(scene))]
        if rows:
            groups[split] = rows
    state.publish(CLASS_NAMES_FILE, json.dumps(options.files.classes(), indent=1))
    state.publish(options.files.group_file, json.dumps(groups, indent=1))
    state.drop_unfinished()
    return Summary(folder, {split: len(rows) for split, rows in groups.items()})


def _name(scene: SplitScene) -> str:
    return f"{scene.index:04d}"


def render_scene(
    folder: Path, options: AdaShareOptions, scene: SplitScene, progress: Step | None = None
) -> None:
    """Renders one scene and puts it into the data set when it is whole.

    Args:
        folder: The data set.
        options: Of the data set.
        scene: Which.
        progress: Called after each picture.
    """
    size, layout = options.size, options.files
    state = SceneFolder(folder)
    workshop = state.workshop(_name(scene))
    times = [_FIRST_KEYFRAME_S + number * _BETWEEN_KEYFRAMES_S for number in range(size.keyframes)]
    world = make_world(
        options.preset,
        options.seed,
        scene.index,
        times[-1],
        town_number=scene.town_number,
        slope_m=options.slope_m,
    )
    pixels = (size.image_width, size.image_height)
    cameras = view_cameras(layout.intrinsics(pixels), pixels, options.views)
    rows = []
    for keyframe, time in enumerate(times):
        moment = world.at(time)
        for number, camera in enumerate(cameras):
            view = world.render(camera, moment, keypoints="keypoints" in layout.tasks)
            rows.append(layout.write(workshop, ViewName(scene.index, keyframe, number), view))
            if progress is not None:
                progress()
    state.finish(_name(scene), rows, last=layout.pictures(scene.index))
