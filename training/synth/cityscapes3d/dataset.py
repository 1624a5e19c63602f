"""Generates a whole data set in Cityscapes-3D's layout: sequences in parallel, resumable, never half-written.

Pictures are moved to their places after everything that belongs to them, so whoever lists leftImg8bit/ while
a data set is being made finds only pictures with all their labels. How sequences come to count is in
`training.synth.resumable`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from perception_core.configuration import StrictModel
from training.evaluation.cityscapes3d_detection import CLASSES
from training.synth.cityscapes3d.plan import PlannedSequence, make_plan, time_of
from training.synth.cityscapes3d.scene import SequenceWriter
from training.synth.image_scale import ImageScale
from training.synth.resumable import Progress, SceneFolder, Step, render_all
from training.synth.splits import SPLITS
from training.synth.world.presets import PRESETS, Preset
from training.synth.world.world import make_world

_FORMAT = 1

#: Sizes of a data set; the picture of Cityscapes is twice as wide as high.
SCALES: Mapping[str, ImageScale] = {
    scale.name: scale
    for scale in (
        ImageScale(name="tiny", keyframes=4, image_width=512, image_height=256),
        ImageScale(name="small", keyframes=16, image_width=1024, image_height=512),
        ImageScale(name="full", keyframes=40, image_width=2048, image_height=1024),
    )
}


class CityscapesOptions(StrictModel):
    """What is generated; the same options always give the same bytes on one machine.

    Attributes:
        scenes: How many sequences.
        seed: Of everything.
        preset: How hard the worlds are.
        scale: How much is recorded of each.
        slope_m: Amplitude of the terrain, from which boxes have pitch and roll; up to about 6 degrees at 3 m.
    """

    scenes: int = Field(ge=1)
    seed: int = 7
    preset: Preset = PRESETS["standard"]
    scale: ImageScale = SCALES["tiny"]
    slope_m: float = Field(3.0, ge=0.0, le=6.0)


@dataclass(frozen=True)
class ClassCount:
    """What a split holds of a class.

    Attributes:
        split: train, val or test.
        label: Class of the 3D benchmark.
        boxes: Objects.
        depths: Bins of 5 m with objects in them.
    """

    split: str
    label: str
    boxes: int
    depths: int


@dataclass(frozen=True)
class Summary:
    """What was generated.

    Attributes:
        folder: The data set.
        images: By split.
        classes: By split and class.
    """

    folder: Path
    images: dict[str, int]
    classes: tuple[ClassCount, ...]

    def at_one_depth(self) -> list[str]:
        """Lists splits and classes with objects in one bin of 5 m only: the official scripts give them a
        Detection Score of 0 however good a prediction is. Classes without any do not count for them.
        """
        return [f"{count.split}: {count.label}" for count in self.classes if count.depths == 1]


def write_dataset(
    folder: Path, options: CityscapesOptions, progress: Progress | None = None, processes: int | None = None
) -> Summary:
    """Generates a data set, or what an interrupted run left of it.

    Args:
        folder: Empty, absent, or begun earlier with the same options.
        options: What to generate.
        progress: Called after each picture.
        processes: Rendering processes; None: one per core this process may use.

    Raises:
        ConfigurationError: The folder holds something else, or was begun with other options.
    """
    plan = make_plan(options.scenes)
    state = SceneFolder(folder)
    state.claim({"format": _FORMAT, "dataset": "cityscapes-3d", **options.model_dump(mode="json")})
    todo = [sequence for sequence in plan if not state.is_finished(sequence.name)]
    total = len(plan) * options.scale.keyframes
    done = total - len(todo) * options.scale.keyframes
    if progress is not None:
        progress(done, total)

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    render_all(functools.partial(render_sequence, folder, options), todo, processes, step)
    state.drop_unfinished()
    return _summary(folder, plan)


def render_sequence(
    folder: Path, options: CityscapesOptions, sequence: PlannedSequence, progress: Step | None = None
) -> None:
    """Renders one sequence and puts it into the data set when it is whole.

    Args:
        folder: The data set.
        options: Of the data set.
        sequence: Which.
        progress: Called after each picture.
    """
    state = SceneFolder(folder)
    workshop = state.workshop(sequence.name)
    world = make_world(
        options.preset,
        options.seed,
        sequence.index,
        time_of(options.scale.keyframes - 1),
        town_number=sequence.town_number,
        slope_m=options.slope_m,
    )
    record = SequenceWriter(workshop, sequence, world, options.scale).write(progress)
    state.finish(sequence.name, record, last="leftImg8bit")


def _summary(folder: Path, plan: tuple[PlannedSequence, ...]) -> Summary:
    state = SceneFolder(folder)
    images: Counter[str] = Counter()
    bins: dict[tuple[str, str], Counter[str]] = {}
    for sequence in plan:
        record = state.content(sequence.name)
        images[sequence.split] += len(record["images"])
        for label, counts in record["boxes"].items():
            bins.setdefault((sequence.split, label), Counter()).update(counts)
    there = [split for split in SPLITS if images[split]]
    classes = tuple(
        ClassCount(split, label, sum(found.values()), len(found))
        for split in there
        for label in CLASSES
        for found in (bins.get((split, label), Counter()),)
    )
    return Summary(folder, {split: images[split] for split in there}, classes)
