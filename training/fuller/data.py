"""Training and evaluation data of FULLER: a data set in nuScenes' format, seen as a network needs it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel, nearest
from perception_core.models.fuller.configuration import FullerConfig
from perception_core.ops.bev_grid import BevGrid
from training.augmentation.bev import BevAugmentation, BevAugmentationConfig
from training.augmentation.image import ImageAugmentation, ImageAugmentationConfig
from training.augmentation.pipeline import Augmentation, AugmentedDataset
from training.datasets.annotation_schemes import PartlyAnnotated, fuller_scheme
from training.datasets.dataset import SampleDataset
from training.datasets.ego_track import ControlTargetsConfig
from training.datasets.files import read_json
from training.datasets.frame_input import FrameInput
from training.datasets.nuscenes import NuScenesConfig, NuScenesDataset
from training.datasets.skipping import SkipUnreadable
from training.fuller.evaluator import BoxTruth


class FullerDataConfig(StrictModel):
    """What a FULLER network is trained on.

    Attributes:
        train_split, validation_split: Splits of the devkit or of the data set's own splits.json; empty: the
            data set's own pair, see `choose_splits`.
        version: Name of the tables' folder; empty: the only one.
        sweeps: LiDAR sweeps a frame. The vehicle gives one; nuScenes' networks usually take ten.
        min_box_points: Boxes with fewer points inside are no labels.
        annotation: FULLER's annotation schemes (Tab. 2): which labels of a training sample are used.
        skip_unreadable: Take the next sample where a file cannot be read, instead of stopping.
        bev: Augmentation of the ego frame; masks are cut from larger ones where it turns or shrinks.
        image: Augmentation of the images.
    """

    train_split: str = ""
    validation_split: str = ""
    version: str = ""
    sweeps: int = pydantic.Field(default=1, ge=1)
    min_box_points: int = pydantic.Field(default=1, ge=0)
    annotation: Literal["full", "disjoint-normal", "disjoint-balance"] = "full"
    skip_unreadable: bool = False
    bev: BevAugmentationConfig = BevAugmentationConfig()
    image: ImageAugmentationConfig = ImageAugmentationConfig()

    @pydantic.model_validator(mode="after")
    def _grid_is_the_networks(self) -> FullerDataConfig:
        if self.bev.grid is not None:
            raise ValueError("bev.grid: the masks' grid is the network's; leave it out")
        if self.image.size is not None:
            raise ValueError("image.size: the images' size is the network's; leave it out")
        return self


@dataclass(frozen=True)
class FullerData:
    """Opened data.

    Attributes:
        training: With augmentation.
        validation: As the vehicle would see it.
        truth: Of the validation samples.
        record: Plain values that say which data this is.
    """

    training: SampleDataset
    validation: NuScenesDataset
    truth: BoxTruth
    record: dict[str, Any]


def choose_splits(root: Path, version: str, config: FullerDataConfig) -> tuple[str, str]:
    """Returns the names of the splits for training and validation.

    Where the configuration names none: those two of the data set's own splits.json that end in `train` and
    `val`, else nuScenes' own of its version.

    Raises:
        ConfigurationError: The data set does not say, or says it twice.
    """
    defaults = {"v1.0-trainval": ("train", "val"), "v1.0-mini": ("mini_train", "mini_val")}
    own = root / version / "splits.json"
    if not own.is_file():
        train, validation = defaults.get(version, ("", ""))
    else:
        names = list(read_json(own))
        train, validation = (_ending(own, names, ending) for ending in ("train", "val"))
    train, validation = config.train_split or train, config.validation_split or validation
    for name, option in ((train, "train_split"), (validation, "validation_split")):
        if not name:
            raise ConfigurationError(
                f"{root / version}: no split is named and the data set does not say which; set data.{option}"
            )
    return train, validation


def _ending(path: Path, names: list[str], ending: str) -> str:
    found = [name for name in names if name.endswith(ending)]
    if len(found) > 1 and ending in found:
        return ending
    return found[0] if len(found) == 1 else ""


def open_data(root: Path, config: FullerDataConfig, network: FullerConfig, seed: int) -> FullerData:
    """Opens training and validation data for a network.

    Args:
        root: Folder of a data set in nuScenes' format.
        config: What of it.
        network: Gives image size, points, classes and grids.
        seed: Of augmentation and annotation scheme.

    Raises:
        ConfigurationError: It has another format, or the network's heads cannot share labels.
        DataError: It cannot be opened.
    """
    version = _version(root, config.version)
    train_split, validation_split = choose_splits(root, version, config)
    frame_input = _frame_input(network, config.sweeps)
    grid = mask_grid(network)
    options = {
        "tasks": network.tasks,
        "detection_classes": _box_classes(network),
        "map_classes": network.map_segmentation.classes,
        "control": ControlTargetsConfig(waypoints=network.control.waypoints),
        "min_box_points": config.min_box_points,
    }
    opened = NuScenesDataset(
        root,
        version,
        NuScenesConfig.model_validate({**options, "split": train_split, "grid": _wider(grid, config.bev)}),
        frame_input,
    )
    training: SampleDataset = opened
    if config.skip_unreadable:
        training = SkipUnreadable(training)
    if config.annotation != "full":
        training = PartlyAnnotated(training, fuller_scheme(config.annotation), seed)
    augmentations: list[Augmentation] = []
    if config.image != ImageAugmentationConfig():
        augmentations.append(ImageAugmentation(config.image))
    if config.bev != BevAugmentationConfig():
        augmentations.append(BevAugmentation(config.bev.model_copy(update={"grid": grid})))
    training = AugmentedDataset(training, augmentations, seed=seed)
    validation = NuScenesDataset(
        root,
        version,
        NuScenesConfig.model_validate({**options, "split": validation_split, "grid": grid}),
        frame_input,
    )
    record = {
        "data": root.name,
        "version": version,
        "train_split": train_split,
        "validation_split": validation_split,
        "train_samples": len(opened),
        "validation_samples": len(validation),
        "digest": _digest(opened, validation),
    }
    return FullerData(training, validation, BoxTruth(root, version, validation_split), record)


def _version(root: Path, version: str) -> str:
    found = sorted(folder.name for folder in root.glob("v1.0-*") if (folder / "scene.json").is_file())
    if not found:
        raise ConfigurationError(
            f"{root}: FULLER trains on data in nuScenes' format, and there is no v1.0-*/scene.json here; "
            "`mmmt data synth` generates such a data set"
        )
    if not version and len(found) == 1:
        return found[0]
    if version not in found:
        chosen = f"no version '{version}'" if version else "several versions; set data.version"
        raise ConfigurationError(f"{root}: {chosen}" + nearest(version, found))
    return version


def _frame_input(network: FullerConfig, sweeps: int) -> FrameInput:
    cameras = "camera" in network.modalities
    return FrameInput.model_validate(
        {
            "image": {"height": network.camera.image_height, "width": network.camera.image_width}
            if cameras
            else None,
            "cameras": cameras,
            # A network without LiDAR still learns depth from its points.
            "max_points": network.lidar.max_points,
            "sweeps": sweeps,
        }
    )


def mask_grid(network: FullerConfig) -> BevGrid:
    """Returns the grid of a network's mask heads.

    Raises:
        ConfigurationError: They have different ones.
    """
    factors = {
        task: getattr(network, task).cell_subdivision
        for task in ("map_segmentation", "foreground_segmentation")
        if task in network.tasks
    }
    if len(set(factors.values())) > 1:
        raise ConfigurationError(
            f"heads of {' and '.join(factors)} have cell_subdivision {tuple(factors.values())}; labels are "
            "drawn on one grid, so give both the same"
        )
    return network.grid.refined(next(iter(factors.values()), 1))


def _box_classes(network: FullerConfig) -> tuple[str, ...]:
    tasks = network.tasks
    if {"detection3d", "foreground_segmentation"} <= set(tasks):
        if network.detection.classes != network.foreground_segmentation.classes:
            raise ConfigurationError(
                "detection.classes and foreground_segmentation.classes differ; both come from the same boxes"
            )
    head = network.foreground_segmentation if "detection3d" not in tasks else network.detection
    return head.classes


def _wider(grid: BevGrid, bev: BevAugmentationConfig) -> BevGrid:
    """Returns the grid from which every turned and scaled one can be cut."""
    angle = math.radians(min(bev.rotate_deg, 45.0))
    factor = (math.cos(angle) + math.sin(angle)) / min(bev.scale[0], 1.0)
    reach = max(abs(grid.x_min), abs(grid.x_max), abs(grid.y_min), abs(grid.y_max)) * factor
    if factor == 1.0:
        return grid

    cell = grid.cell_size

    def low(border: float) -> float:
        return border - math.ceil((reach + border) / cell) * cell

    def high(border: float) -> float:
        return border + math.ceil((reach - border) / cell) * cell

    return BevGrid(
        x_min=low(grid.x_min),
        x_max=high(grid.x_max),
        y_min=low(grid.y_min),
        y_max=high(grid.y_max),
        cell_size=cell,
    )


def _digest(*datasets: SampleDataset) -> str:
    """Returns a fingerprint of which samples are in which split."""
    digest = hashlib.sha256()
    for dataset in datasets:
        for index in range(len(dataset)):
            digest.update(dataset.token(index).encode())
        digest.update(b"/")
    return digest.hexdigest()[:16]
