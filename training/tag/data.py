"""Training and evaluation data of monocular networks: data in Cityscapes-3D's format."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_core.bundle import ImageInput
from perception_core.configuration import ConfigurationError, StrictModel
from perception_core.models.tag.configuration import MonoConfig
from training.datasets.cityscapes import LABEL_PLACES, Cityscapes
from training.datasets.dataset import SampleDataset
from training.datasets.frame_input import FrameInput
from training.datasets.skipping import SkipUnreadable
from training.tag.evaluator import VehicleTruth


class MonoDataConfig(StrictModel):
    """What a monocular network is trained on.

    Attributes:
        train_split, validation_split: Folders below leftImg8bit/.
        skip_unreadable: Take the next sample where a file cannot be read, instead of stopping.
    """

    train_split: str = "train"
    validation_split: str = "val"
    skip_unreadable: bool = False


@dataclass(frozen=True)
class MonoData:
    """Opened data.

    Attributes:
        training: Without augmentation, as in TAG (section IV-D).
        validation: None: the data set has no such split.
        truth: Of the validation samples' boxes; None where they have none.
        record: Plain values that say which data this is.
    """

    training: SampleDataset
    validation: Cityscapes | None
    truth: VehicleTruth | None
    record: dict[str, Any]


def open_mono_data(root: Path, config: MonoDataConfig, network: MonoConfig) -> MonoData:
    """Opens data for a network: the labels of its tasks that the data set has.

    Args:
        root: Folder in Cityscapes' layout.
        config: What of it.
        network: Gives image size, classes and tasks.

    Raises:
        ConfigurationError: The data set has labels of none of the tasks.
        DataError: It cannot be opened.
    """
    camera = network.camera
    frame_input = FrameInput(
        image=ImageInput(height=camera.image_height, width=camera.image_width), max_points=None
    )

    def opened(split: str) -> Cityscapes:
        tasks = tuple(task for task in network.tasks if (root / LABEL_PLACES[task][0] / split).is_dir())
        if not tasks:
            raise ConfigurationError(
                f"{root}: split '{split}' has labels of none of the tasks {', '.join(network.tasks)}"
            )
        return Cityscapes(root, split, tasks, frame_input, network.mono_detection3d.classes)

    training = opened(config.train_split)
    has_validation = (
        bool(config.validation_split) and (root / "leftImg8bit" / config.validation_split).is_dir()
    )
    validation = opened(config.validation_split) if has_validation else None
    boxes = root / LABEL_PLACES["mono_detection3d"][0] / config.validation_split
    record = {
        "data": root.name,
        "train_split": config.train_split,
        "validation_split": config.validation_split if validation is not None else "",
        "train_samples": len(training),
        "validation_samples": 0 if validation is None else len(validation),
        "digest": _digest(training, validation),
    }
    return MonoData(
        SkipUnreadable(training) if config.skip_unreadable else training,
        validation,
        VehicleTruth(boxes) if validation is not None and boxes.is_dir() else None,
        record,
    )


def _digest(*datasets: Cityscapes | None) -> str:
    """Returns a number of the samples' names: the same data in the same order has the same."""
    digest = hashlib.sha256()
    for dataset in datasets:
        for index in range(0 if dataset is None else len(dataset)):
            assert dataset is not None
            digest.update(dataset.token(index).encode())
        digest.update(b"|")
    return digest.hexdigest()[:16]
