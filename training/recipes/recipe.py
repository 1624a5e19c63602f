"""What every recipe is: a typed configuration that can build what it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_core.configuration import StrictModel
from training.datasets.dataset import SampleDataset
from training.gradient_calibration import GradientCalibrationConfig
from training.trainer.configuration import TrainingConfig
from training.trainer.learner import Learner


@dataclass(frozen=True)
class TrainingSetup:
    """All that a run needs beside the recipe's `training` and `calibration`.

    Attributes:
        learner: With initial weights, drawn from the recipe's seed.
        training: Training data, augmented.
        validation: None: nothing to judge by.
        data_record: Plain values that say which data this is.
    """

    learner: Learner
    training: SampleDataset
    validation: SampleDataset | None
    data_record: dict[str, Any] = field(default_factory=dict)


class Recipe(StrictModel, ABC):
    """A whole training run but for where its data lies.

    Attributes:
        name: Of the recipe.
        training: Optimizer, batches, epochs, seed.
        calibration: Of gradients; None: losses are added as they are.
    """

    name: str
    training: TrainingConfig = TrainingConfig()
    calibration: GradientCalibrationConfig | None = GradientCalibrationConfig()

    @abstractmethod
    def build(self, data: Path) -> TrainingSetup:
        """Builds the learner and opens its data.

        Raises:
            ConfigurationError: Settings contradict each other, or do not fit the data.
            DataError: The data cannot be opened.
        """
