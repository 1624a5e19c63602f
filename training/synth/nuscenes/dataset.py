"""Generates a whole nuScenes-format data set: scenes in parallel, resumable, never half-written.

How scenes come to count is in `training.synth.resumable`; a scene's record are its rows of the tables. The
thirteen tables and the maps are made out of those at the end.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from perception_core.configuration import StrictModel
from perception_core.labels import NUSCENES_DETECTION_CLASSES
from training.synth.nuscenes.maps import write_map
from training.synth.nuscenes.plan import Plan, PlannedScene, make_plan
from training.synth.nuscenes.scene import SceneWriter, seconds_of
from training.synth.nuscenes.vocabulary import LOCATIONS, Record, fixed_tables, token
from training.synth.resumable import Progress, SceneFolder, Step, render_all
from training.synth.world.presets import PRESETS, SCALES, Preset, Scale
from training.synth.world.world import make_world, town_of

_FORMAT = 1
_SCENE_TABLES = (
    *("log", "scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "instance"),
    "sample_annotation",
)


class DatasetOptions(StrictModel):
    """What is generated; the same options always give the same bytes on one machine.

    Attributes:
        scenes: How many.
        seed: Of everything.
        preset: How hard the worlds are.
        scale: How much is recorded of each.
        camera_frames: Pictures of each camera between two keyframes: 0, 1, 4 or 9.
    """

    scenes: int = Field(ge=1)
    seed: int = 7
    preset: Preset = PRESETS["standard"]
    scale: Scale = SCALES["tiny"]
    camera_frames: int = 0


@dataclass(frozen=True)
class ClassCount:
    """What a split holds of a class.

    Attributes:
        split: train or val.
        label: Detection class.
        boxes: Annotations within the devkit's class range with LiDAR points on them.
    """

    split: str
    label: str
    boxes: int


@dataclass(frozen=True)
class Summary:
    """What was generated.

    Attributes:
        folder: The data set; `dataroot` of the devkit.
        version: `version` of the devkit.
        keyframes: In all scenes.
        classes: By split and class.
    """

    folder: Path
    version: str
    keyframes: int
    classes: tuple[ClassCount, ...]

    def missing(self) -> list[str]:
        """Lists splits and classes without any box within class range; the devkit gives them an AP of 0."""
        return [f"{count.split}: {count.label}" for count in self.classes if count.boxes == 0]


def write_dataset(
    folder: Path, options: DatasetOptions, progress: Progress | None = None, processes: int | None = None
) -> Summary:
    """Generates a data set, or what an interrupted run left of it.

    Args:
        folder: Empty, absent, or begun earlier with the same options.
        options: What to generate.
        progress: Called after each keyframe.
        processes: Rendering processes; None: one per core this process may use.

    Raises:
        ConfigurationError: The folder holds something else, or was begun with other options.
    """
    plan = make_plan(options.scenes)
    state = SceneFolder(folder)
    state.claim({"format": _FORMAT, **options.model_dump(mode="json")})
    todo = [scene for scene in plan.scenes if not state.is_finished(scene.name)]
    total = options.scenes * options.scale.keyframes
    done = total - len(todo) * options.scale.keyframes
    if progress is not None:
        progress(done, total)

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    render_all(functools.partial(render_scene, folder, options), todo, processes, step)
    tables = _gather(folder, plan)
    if todo or not (folder / plan.version).is_dir():
        _publish(folder, options, plan, tables)
    return Summary(folder, plan.version, len(tables["sample"]), _count_classes(plan, tables))


# -- scenes --------------------------------------------------------------------------------------------------


def render_scene(
    folder: Path, options: DatasetOptions, scene: PlannedScene, progress: Step | None = None
) -> None:
    """Renders one scene and puts it into the data set when it is whole.

    Args:
        folder: The data set.
        options: Of the data set.
        scene: Which.
        progress: Called after each keyframe.
    """
    state = SceneFolder(folder)
    workshop = state.workshop(scene.name)
    world = make_world(
        options.preset,
        options.seed,
        scene.index,
        seconds_of(options.scale),
        town_number=scene.town_number,
        slope_m=0.0,  # nuScenes' maps and poses are flat
    )
    writer = SceneWriter(workshop, scene, world, options.scale, options.seed, options.camera_frames)
    tables = writer.write(progress)
    state.finish(scene.name, tables)


# -- tables and maps -----------------------------------------------------------------------------------------


def _gather(folder: Path, plan: Plan) -> dict[str, list[Record]]:
    """Joins the rows of all scenes; the table of maps is still missing."""
    tables: dict[str, list[Record]] = {**fixed_tables(), **{name: [] for name in _SCENE_TABLES}}
    for scene in plan.scenes:
        rows = SceneFolder(folder).content(scene.name)
        for name in _SCENE_TABLES:
            tables[name] += rows[name]
    return tables


def _publish(folder: Path, options: DatasetOptions, plan: Plan, tables: dict[str, list[Record]]) -> None:
    """Writes the maps and the thirteen tables; these appear together, when all are written."""
    tables["map"] = _write_maps(folder, options, plan, tables["log"])
    state = SceneFolder(folder)
    unfinished = state.workshop(plan.version)
    for name, rows in tables.items():
        (unfinished / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    (unfinished / "splits.json").write_text(json.dumps(plan.splits()), encoding="utf-8")
    target = folder / plan.version
    shutil.rmtree(target, ignore_errors=True)
    unfinished.replace(target)
    state.drop_unfinished()


def _write_maps(folder: Path, options: DatasetOptions, plan: Plan, logs: list[Record]) -> list[Record]:
    """Writes the four maps; those without scenes get a town that nobody drives in: no map may be empty."""
    records = []
    for number, location in enumerate(LOCATIONS):
        placed = {scene.town_number: scene.origin for scene in plan.scenes if scene.location == location} or {
            number: (0.0, 0.0)
        }
        towns = [
            (f"town{town}", town_of(options.preset, options.seed, town, 0.0), origin)
            for town, origin in sorted(placed.items())
        ]
        filename = write_map(folder, location, towns, plan.map_size(location))
        records.append(
            {
                "token": token("mask", location),
                "log_tokens": [log["token"] for log in logs if log["location"] == location],
                "category": "semantic_prior",
                "filename": filename,
            }
        )
    return records


def _count_classes(plan: Plan, tables: dict[str, list[Record]]) -> tuple[ClassCount, ...]:
    """Counts, by split, the boxes that the detection benchmark would use."""
    # the devkit takes seconds to import, and the rendering processes do without it
    from nuscenes.eval.detection.config import config_factory
    from nuscenes.eval.detection.utils import category_to_detection_name

    ranges = config_factory("detection_cvpr_2019").class_range
    split_of_scene = {scene.name: scene.split for scene in plan.scenes}
    scene_name = {scene["token"]: scene["name"] for scene in tables["scene"]}
    split_of_sample = {
        sample["token"]: split_of_scene[scene_name[sample["scene_token"]]] for sample in tables["sample"]
    }
    category = {record["token"]: record["name"] for record in tables["category"]}
    label = {
        record["token"]: category_to_detection_name(category[record["category_token"]])
        for record in tables["instance"]
    }
    pose = {record["token"]: record["translation"] for record in tables["ego_pose"]}
    centre = {
        record["sample_token"]: pose[record["ego_pose_token"]]
        for record in tables["sample_data"]
        if record["is_key_frame"] and record["fileformat"] == "pcd"
    }
    counted: Counter[tuple[str, str]] = Counter()
    for box in tables["sample_annotation"]:
        name = label[box["instance_token"]]
        if name is None or box["num_lidar_pts"] == 0:
            continue
        ego, at = centre[box["sample_token"]], box["translation"]
        if (ego[0] - at[0]) ** 2 + (ego[1] - at[1]) ** 2 < ranges[name] ** 2:
            counted[split_of_sample[box["sample_token"]], name] += 1
    return tuple(
        ClassCount(split, name, counted[split, name])
        for split in sorted(set(split_of_scene.values()))
        for name in NUSCENES_DETECTION_CLASSES
    )
