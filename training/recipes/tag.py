"""Recipes of TAG's networks, and of its baselines in the same harness."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from perception_core.configuration import ConfigurationError
from perception_core.models.tag.configuration import MonoConfig
from perception_core.models.tag.defaults import mono_configuration
from perception_core.models.tag.model import MonoModel
from training.gradient_calibration import GradientCalibrationConfig
from training.losses.mono_configuration import (
    DenseDepthLossConfig,
    MonoLossConfig,
    SegmentationLossConfig,
)
from training.recipes.recipe import Recipe, TrainingSetup
from training.recipes.registry import register_recipe
from training.tag.data import MonoDataConfig, open_mono_data
from training.tag.learner import MonoLearner
from training.trainer.configuration import OptimizerConfig, ScheduleConfig, TrainingConfig

logger = logging.getLogger(__name__)


class MonoRecipe(Recipe):
    """Trains a monocular network on data in Cityscapes-3D's format.

    Attributes:
        model: Registered name of the network; the bundle names it.
        network: Its whole configuration.
        losses: Of its heads.
        data: What it is trained on.
        backbone_weights: File with weights of the backbone trained on images (.pth or .safetensors), named
            as in `mono_backbone.dense_net.backbone`.
    """

    model: str
    network: MonoConfig
    losses: MonoLossConfig = MonoLossConfig()
    data: MonoDataConfig = MonoDataConfig()
    calibration: GradientCalibrationConfig | None = None
    backbone_weights: Path | None = None

    def build(self, data: Path) -> TrainingSetup:
        """Builds network and data; initial weights are drawn from `training.seed`.

        Raises:
            ConfigurationError: Settings do not fit the data, or a file of weights is of another network.
            DataError: The data cannot be opened.
        """
        opened = open_mono_data(data, self.data, self.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            network = MonoModel(self.network)
        if self.backbone_weights is not None:
            load_backbone(network, self.backbone_weights)
        learner = MonoLearner(network, self.losses, self.model, opened.truth)
        return TrainingSetup(learner, opened.training, opened.validation, opened.record)


def load_backbone(network: MonoModel, path: Path) -> None:
    """Loads weights of a backbone.

    Raises:
        ConfigurationError: The file cannot be read, or its weights are not those of this backbone.
    """
    from training.recipes.fuller import read_weights

    try:
        network.mono_backbone.dense_net.backbone.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ConfigurationError(f"{path}: weights do not fit this backbone: {error}") from error


def mono_recipe(
    name: str,
    model: str,
    losses: MonoLossConfig,
    training: TrainingConfig,
    **network: dict[str, object],
) -> MonoRecipe:
    """Returns the recipe of any registered monocular network.

    Args:
        name: Of the recipe.
        model: Registered name of the network.
        losses: Of its heads.
        training: Optimizer, batches, epochs.
        network: Arguments of the network.

    Raises:
        ConfigurationError: The network or an argument is unknown.
    """
    configuration = mono_configuration(model, **network)
    return MonoRecipe(name=name, model=model, network=configuration, losses=losses, training=training)


#: Section IV-D: Adam with a learning rate of 2e-5, polynomial with power 0.9, batch 2, no augmentation. Adam
#: is AdamW without weight decay. The number of epochs is not given: 27 of Cityscapes' 2975
#: images are our choice, about 40 000 steps.
_PAPER = TrainingConfig(
    epochs=27,
    batch_size=2,
    workers=4,
    optimizer=OptimizerConfig(learning_rate=2e-5, weight_decay=0.0),
    schedule=ScheduleConfig(kind="polynomial", power=0.9, final_ratio=0.0),
    keep_checkpoints=2,
    log_every=10,
)

#: For two cores: labels at the features' resolution, and JAReD's relative term, which weighs what is near.
_SMALL_LOSSES = MonoLossConfig(
    semantic_segmentation=SegmentationLossConfig(full_resolution=False),
    depth=DenseDepthLossConfig(kind="l1", relative_weight=5.0, full_resolution=False, farthest_m=100.0),
)


@register_recipe
def tag_full() -> MonoRecipe:
    """TAG as in its paper: Cityscapes-3D at 1024 x 2048, batch 2, Adam at 2e-5 (section IV-D).

    The backbone starts from ImageNet in the paper (SGD, 100 epochs at 224 x 224): set `backbone_weights`.
    """
    return mono_recipe("tag_full", "tag_full", MonoLossConfig(), _PAPER)


@register_recipe
def tag_tiny() -> MonoRecipe:
    """The demo's monocular network, on generated data in Cityscapes-3D's format; hours on two CPU cores."""
    return mono_recipe(
        "tag_tiny",
        "tag_tiny",
        _SMALL_LOSSES,
        TrainingConfig(
            epochs=30,
            batch_size=8,
            workers=2,
            gradient_clip=35.0,
            optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
            schedule=ScheduleConfig(kind="polynomial", power=0.9, warmup_steps=100, final_ratio=0.0),
            evaluate_every=5,
            keep_checkpoints=1,
        ),
    )


@register_recipe
def tag_micro() -> MonoRecipe:
    """The network of the experiments: all three tasks at 128 x 256, minutes on two CPU cores.

    Other networks in the same harness: `model=mono_ddrnet23_slim` with a `network` of that kind, see
    `mono_recipe`.
    """
    return mono_recipe(
        "tag_micro",
        "tag_micro",
        _SMALL_LOSSES,
        TrainingConfig(
            epochs=6,
            batch_size=8,
            gradient_clip=35.0,
            optimizer=OptimizerConfig(learning_rate=2e-3, weight_decay=1e-4),
            schedule=ScheduleConfig(kind="polynomial", power=0.9, warmup_steps=20, final_ratio=0.0),
            evaluate_every=0,
        ),
    )
