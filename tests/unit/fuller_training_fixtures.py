"""The smallest FULLER network that has everything, and settings that make recipes train it in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from nuscenes_tree_fixtures import VERSION, NuScenesTree

#: 16 x 16 cells, images of 16 x 32 pixels, a few channels.
SMALL: tuple[str, ...] = (
    "network.grid.x_min=-25.6",
    "network.grid.x_max=25.6",
    "network.grid.y_min=-25.6",
    "network.grid.y_max=25.6",
    "network.grid.cell_size=3.2",
    "network.camera.image_height=16",
    "network.camera.image_width=32",
    "network.camera.stage_channels=[8,8,12]",
    "network.camera.stem_channels=8",
    "network.camera.neck_channels=8",
    "network.camera.bev_channels=8",
    "network.camera.depth_bins=12",
    "network.lidar.stage_channels=[8,12]",
    "network.lidar.bev_channels=8",
    "network.lidar.max_points=2000",
    "network.detection.queries=16",
    "training.batch_size=2",
    "training.workers=0",
)


def small(*overrides: str) -> tuple[str, ...]:
    """Returns SMALL with some settings changed; no setting may be given twice."""
    keys = {override.partition("=")[0] for override in overrides}
    return (*(item for item in SMALL if item.partition("=")[0] not in keys), *overrides)


def write_driving_set(folder: Path, keyframes: int = 4) -> Path:
    """Writes a data set in nuScenes' format whose one scene is for training and validation alike."""
    root = NuScenesTree(folder, keyframes=keyframes, sweeps_per_keyframe=1).write()
    splits = {"own_train": ["scene-0001"], "own_val": ["scene-0001"]}
    (root / VERSION / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    return root
