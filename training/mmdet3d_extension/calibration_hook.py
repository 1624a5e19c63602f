"""The hook that turns FULLER's gradient calibration on in mmengine's Runner, logs it and keeps its memory."""

from __future__ import annotations

from typing import Any

import pydantic

from perception_core.configuration import ConfigurationError
from training.gradient_calibration import GradientCalibrationConfig, GradientCalibrator
from training.mmdet3d_extension.requirements import import_mmdet3d

import_mmdet3d()

from mmdet3d.registry import HOOKS  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.model import is_model_wrapper  # noqa: E402

#: Where a checkpoint of mmengine holds the memory of the calibration.
CHECKPOINT_KEY = "gradient_calibration"


@HOOKS.register_module()
class GradientCalibrationHook(Hook):  # type: ignore[misc]
    """Calibrates the gradients of a `FullerDetector3D`.

    Args:
        settings: Of GradientCalibrationConfig, e.g. `inter=dict(method="imtl_g")`.

    Raises:
        ConfigurationError: A setting is unknown or wrong.
    """

    def __init__(self, **settings: Any) -> None:
        try:
            self.config = GradientCalibrationConfig.model_validate(settings)
        except pydantic.ValidationError as error:
            raise ConfigurationError(f"GradientCalibrationHook: {error}") from error
        self._calibrator: GradientCalibrator | None = None

    def before_run(self, runner: Any) -> None:
        """Attaches the calibration, before a checkpoint is loaded.

        Raises:
            ConfigurationError: The model cannot be calibrated.
        """
        model = runner.model
        if is_model_wrapper(model):
            # mmengine's wrappers run the step themselves and pass the model's own by.
            raise ConfigurationError(
                "GradientCalibrationHook: the model is wrapped for several processes; use one device, or "
                "with `mmmt train --devices`, which calibrates over all"
            )
        if not hasattr(model, "calibrate"):
            raise ConfigurationError(
                f"GradientCalibrationHook: {type(model).__name__} cannot be calibrated; use FullerDetector3D"
            )
        self._calibrator = model.calibrate(self.config)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Logs γ_task, γ_modal, weights and gates of the step."""
        record = runner.model.record
        if record is not None:
            runner.message_hub.update_scalars(
                {f"train/calibration/{name}": value for name, value in record.scalars().items()}
            )

    def after_train_epoch(self, runner: Any) -> None:
        """Tells methods that look at epochs."""
        if self._calibrator is not None:
            self._calibrator.end_epoch()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the calibration's memory."""
        if self._calibrator is not None:
            checkpoint[CHECKPOINT_KEY] = self._calibrator.state_dict()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Restores it where a run is resumed.

        Raises:
            ConfigurationError: It is of another method or of other tasks.
        """
        if self._calibrator is None or CHECKPOINT_KEY not in checkpoint or not runner._resume:
            return
        try:
            self._calibrator.load_state_dict(checkpoint[CHECKPOINT_KEY])
        except ValueError as error:
            raise ConfigurationError(f"the run cannot be resumed: {error}") from error
