"""Recipes of FULLER's networks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from perception_core.configuration import ConfigurationError
from perception_core.models.fuller import FullerModel, fuller_configuration
from perception_core.models.fuller.configuration import FullerConfig
from training.augmentation.bev import BevAugmentationConfig
from training.augmentation.image import ImageAugmentationConfig
from training.fuller.data import FullerDataConfig, open_data
from training.fuller.learner import FullerLearner
from training.fuller.losses import FullerLossConfig
from training.gradient_calibration import (
    BranchGatingConfig,
    GradientCalibrationConfig,
    PrimaryTaskConfig,
    TaskWeightingConfig,
)
from training.losses import DepthLossConfig
from training.recipes.recipe import Recipe, TrainingSetup
from training.recipes.registry import register_recipe
from training.trainer.configuration import OptimizerConfig, ScheduleConfig, TrainingConfig

logger = logging.getLogger(__name__)


class FullerRecipe(Recipe):
    """Trains a FULLER network on data in nuScenes' format.

    Attributes:
        model: Registered name of the network; the bundle names it.
        network: Its whole configuration.
        losses: Of its heads.
        data: What it is trained on.
        image_weights: File with weights of torchvision's `swin_t` trained on images (.pth or .safetensors).
    """

    model: str
    network: FullerConfig
    losses: FullerLossConfig = FullerLossConfig()
    data: FullerDataConfig = FullerDataConfig()
    image_weights: Path | None = None

    def build(self, data: Path) -> TrainingSetup:
        """Builds network and data; initial weights are drawn from `training.seed`.

        Raises:
            ConfigurationError: Settings contradict each other, do not fit the data, or a file of weights is
                of another network.
            DataError: The data cannot be opened.
        """
        opened = open_data(data, self.data, self.network, self.training.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            network = FullerModel(self.network)
        self._load_image_weights(network)
        learner = FullerLearner(network, self.losses, self.model, opened.truth)
        return TrainingSetup(learner, opened.training, opened.validation, opened.record)

    def _load_image_weights(self, network: FullerModel) -> None:
        is_swin = "camera" in self.network.modalities and self.network.camera.kind == "swin"
        if self.image_weights is None:
            if is_swin:
                logger.warning(
                    "the image backbone starts from random weights; FULLER's starts from ImageNet's: set "
                    "image_weights to a file with torchvision's swin_t"
                )
            return
        if not is_swin:
            raise ConfigurationError(
                "image_weights are weights of swin_t, and this network has no Swin-T; leave them out or set "
                "network.camera.kind=swin"
            )
        encoder: Any = network.camera_net.image_encoder
        encoder.load_backbone(read_weights(self.image_weights), str(self.image_weights))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads a state dict from a .pth or .safetensors file; only tensors, no code.

    Raises:
        ConfigurationError: The file is missing, damaged or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return dict(safetensors.torch.load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors share no base class of errors
        raise ConfigurationError(f"{path}: weights cannot be read: {error}") from error
    for key in ("state_dict", "model"):  # what training programs wrap theirs in
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigurationError(f"{path}: holds no state dict of tensors")
    return state


#: FULLER's calibration: IMTL-G between tasks, gates of α = 0.1 and m = 0.2 between modalities (section 4.1).
FULLER_CALIBRATION = GradientCalibrationConfig(
    inter=TaskWeightingConfig(method="imtl_g"), intra=BranchGatingConfig(alpha=0.1, momentum=0.2)
)


@register_recipe
def fuller_full() -> FullerRecipe:
    """FULLER as in its paper: nuScenes, 10 epochs, batch 16 over 8 GPUs (section 4.1).

    AdamW with weight decay 1e-2, momentum 0.9 and learning rate 1e-3, α = 0.1, m = 0.2 are the paper's. What
    it leaves open is BEVFusion's, which it is built on: ten sweeps, augmentation, warm-up and cosine,
    clipping at norm 35.
    """
    return FullerRecipe(
        name="fuller_full",
        model="fuller_full",
        network=fuller_configuration("fuller_full"),
        losses=FullerLossConfig(depth=DepthLossConfig(weight=0.0)),
        data=FullerDataConfig(
            sweeps=10,
            bev=BevAugmentationConfig(
                rotate_deg=22.5, scale=(0.9, 1.1), flip_x_probability=0.5, flip_y_probability=0.5
            ),
            image=ImageAugmentationConfig(
                scale=(0.87, 1.25), flip_probability=0.5, rotate_deg=5.4, crop="bottom"
            ),
        ),
        calibration=FULLER_CALIBRATION,
        training=TrainingConfig(
            epochs=10,
            batch_size=16,
            workers=4,
            gradient_clip=35.0,
            optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-2, momentum=0.9),
            schedule=ScheduleConfig(kind="cosine", warmup_steps=500),
            keep_checkpoints=2,
            log_every=10,
        ),
    )


@register_recipe
def fuller_tiny() -> FullerRecipe:
    """The demo's network with learned control, on a generated or real data set; hours on two CPU cores.

    Control is the primary task (MMMT's Eq. 1 with λ = 1), detection and map are calibrated among each other.
    Depth is supervised by the LiDAR: so small a camera net does not find it alone.
    """
    return FullerRecipe(
        name="fuller_tiny",
        model="fuller_tiny",
        network=fuller_configuration("fuller_tiny", control={"enabled": True}),
        losses=FullerLossConfig(depth=DepthLossConfig(weight=0.5)),
        data=FullerDataConfig(
            bev=BevAugmentationConfig(rotate_deg=15.0, scale=(0.95, 1.05), flip_y_probability=0.5),
            image=ImageAugmentationConfig(scale=(0.95, 1.1), flip_probability=0.5, rotate_deg=2.0),
        ),
        calibration=FULLER_CALIBRATION.model_copy(
            update={"primary": PrimaryTaskConfig(task="control", auxiliary_weight=1.0)}
        ),
        training=TrainingConfig(
            epochs=20,
            batch_size=8,
            workers=2,
            gradient_clip=35.0,
            optimizer=OptimizerConfig(learning_rate=2e-3, weight_decay=1e-2),
            schedule=ScheduleConfig(kind="cosine", warmup_steps=100),
            evaluate_every=2,
            keep_checkpoints=1,
        ),
    )


@register_recipe
def fuller_micro() -> FullerRecipe:
    """The network of the experiments: detection and map on 64 x 64 cells, minutes on two CPU cores.

    Without augmentation, so that runs differ in their seed and in what is compared and in nothing else.
    """
    return FullerRecipe(
        name="fuller_micro",
        model="fuller_micro",
        network=fuller_configuration("fuller_micro"),
        losses=FullerLossConfig(depth=DepthLossConfig(weight=0.5)),
        calibration=FULLER_CALIBRATION,
        training=TrainingConfig(
            epochs=6,
            batch_size=8,
            gradient_clip=35.0,
            optimizer=OptimizerConfig(learning_rate=2e-3, weight_decay=1e-2),
            schedule=ScheduleConfig(kind="cosine", warmup_steps=20),
            evaluate_every=0,
        ),
    )
