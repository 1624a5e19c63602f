"""Splits of nuScenes-format data: which samples are evaluated, and whether they can be evaluated at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from perception_core.configuration import nearest
from training.datasets.files import DataError, read_json
from training.evaluation.result import EvaluationError

if TYPE_CHECKING:
    from nuscenes import NuScenes

#: Names this split: every scene there is.
ALL_SCENES = "all"


def open_nuscenes(root: Path, version: str | None = None) -> NuScenes:
    """Opens the devkit's tables.

    Args:
        root: Folder with samples/ and the tables' folder.
        version: Name of the tables' folder; None: the only v1.0-* folder.

    Raises:
        EvaluationError: There is no such folder or several, or a table is missing or damaged.
    """
    from nuscenes import NuScenes

    found = sorted(folder.name for folder in root.glob("v1.0-*") if (folder / "scene.json").is_file())
    if version is None:
        if len(found) != 1:
            raise EvaluationError(
                f"{root}: "
                + (f"several versions, name one: {', '.join(found)}" if found else "no v1.0-*/scene.json")
            )
        version = found[0]
    if version not in found:
        raise EvaluationError(f"{root}: no version '{version}'" + nearest(version, found))
    try:
        return NuScenes(version=version, dataroot=str(root), verbose=False)
    except (AssertionError, OSError, KeyError, json.JSONDecodeError) as error:
        raise EvaluationError(f"{root / version}: {type(error).__name__}: {error}") from error


def split_scenes(nuscenes: NuScenes, split: str) -> list[str]:
    """Returns the names of a split's scenes that are in the data.

    Args:
        nuscenes: The devkit's tables.
        split: A name of `splits.json` beside the tables, else one of nuScenes' own splits, or `all`.

    Raises:
        EvaluationError: There is no such split, or no scene of it is there.
    """
    from nuscenes.utils.splits import create_splits_scenes

    there = [row["name"] for row in nuscenes.scene]
    if split == ALL_SCENES:
        return there
    custom = _custom_splits(nuscenes)
    known = {**create_splits_scenes(), **custom}
    if split not in known:
        raise EvaluationError(
            f"{nuscenes.dataroot}: no split '{split}'"
            + nearest(split, [*custom, *create_splits_scenes(), ALL_SCENES])
        )
    wanted = set(known[split])
    scenes = [name for name in there if name in wanted]
    if not scenes:
        raise EvaluationError(
            f"{nuscenes.dataroot}: none of the {len(wanted)} scenes of split '{split}' is in "
            f"{nuscenes.version}, which holds {', '.join(there[:3])}{' …' if len(there) > 3 else ''}; "
            f"use {', '.join([*custom, ALL_SCENES])}"
        )
    return scenes


def _custom_splits(nuscenes: NuScenes) -> dict[str, list[str]]:
    path = Path(nuscenes.dataroot) / nuscenes.version / "splits.json"
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except DataError as error:
        raise EvaluationError(str(error)) from error
    if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
        raise EvaluationError(f"{path}: must map names of splits to lists of scene names")
    return content


def split_samples(nuscenes: NuScenes, split: str) -> list[str]:
    """Returns the sample tokens of a split, in the order of the tables.

    Raises:
        EvaluationError: See `split_scenes`.
    """
    scenes = set(split_scenes(nuscenes, split))
    tokens = {row["token"] for row in nuscenes.scene if row["name"] in scenes}
    return [row["token"] for row in nuscenes.sample if row["scene_token"] in tokens]
