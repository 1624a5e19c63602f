"""Our data sets, batches and devices under names of mmengine's registries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perception_core.models.fuller import fuller_configuration
from training.datasets.batch import Batch, collate
from training.datasets.sample import Sample
from training.fuller.data import FullerData, FullerDataConfig, open_data
from training.mmdet3d_extension.requirements import import_mmdet3d

import_mmdet3d()

from mmdet3d.registry import DATASETS, MODELS  # noqa: E402
from mmengine.model import BaseDataPreprocessor  # noqa: E402
from mmengine.registry import FUNCTIONS  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

FUNCTIONS.register_module(name="fuller_collate", module=collate)


@DATASETS.register_module()
class FullerDrivingSet(Dataset[Sample]):
    """Training or validation samples of a data set in nuScenes' format, with the labels of a network.

    Args:
        root: Its folder.
        size, arguments: Of the network that is trained, as of FullerDetector3D.
        part: `training`, augmented, or `validation`.
        data: Settings of FullerDataConfig.
        seed: Of the augmentation.

    Raises:
        ConfigurationError, DataError: See `training.fuller.data.open_data`.
    """

    def __init__(
        self,
        root: str,
        size: str = "fuller_full",
        arguments: Mapping[str, Any] | None = None,
        part: str = "training",
        data: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        network = fuller_configuration(size, **dict(arguments or {}))
        opened: FullerData = open_data(
            Path(root), FullerDataConfig.model_validate(dict(data or {})), network, seed
        )
        self.samples = opened.training if part == "training" else opened.validation
        self.metainfo = {"classes": network.detection.classes}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


@MODELS.register_module()
class FullerDataPreprocessor(BaseDataPreprocessor):  # type: ignore[misc]
    """Moves a batch to the model's device. Normalization is the network's own part."""

    def forward(self, data: Batch, training: bool = False) -> dict[str, Any]:
        """Returns what FullerDetector3D's forward takes."""
        return {"inputs": data.to(self.device, non_blocking=self._non_blocking), "data_samples": None}
