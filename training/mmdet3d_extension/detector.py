"""FULLER as a detector of mmdet3d: trained by mmengine's Runner, with calibrated gradients on demand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from perception_core.bundle_writer import create_seeded_model
from perception_core.configuration import ConfigurationError, nearest
from perception_core.models.fuller import FullerModel
from training.datasets.batch import Batch
from training.fuller.learner import FullerLearner
from training.fuller.losses import FullerLossConfig
from training.gradient_calibration import (
    CalibrationRecord,
    GradientCalibrationConfig,
    GradientCalibrator,
)
from training.mmdet3d_extension.bevfusion_weights import WeightReport, load_bevfusion_backbones
from training.mmdet3d_extension.requirements import import_mmdet3d

import_mmdet3d()

from mmdet3d.models import Base3DDetector  # noqa: E402
from mmdet3d.registry import MODELS  # noqa: E402
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

logger = logging.getLogger(__name__)

#: Prefix of the losses in mmengine's log; its parser sums what has `loss` in its name.
_LOSS = "loss_"
_AUXILIARY = "loss_auxiliary_"


@MODELS.register_module()
class FullerDetector3D(Base3DDetector):
    """A registered FULLER network behind mmdet3d's interface.

    Args:
        size: Registered name, e.g. `fuller_full`.
        arguments: Of the network, group by group; see `bevfusion_configuration.fuller_arguments`.
        losses: Settings of FullerLossConfig.
        heads: By task, configs of mmdet3d's registry for heads that replace the network's own.
        seed: Of the initial weights.
        bevfusion_checkpoint: File whose backbones are loaded; None: none.
        data_preprocessor: Default: `FullerDataPreprocessor`.
        init_cfg: As of every model of mmengine.

    Attributes:
        network: The network; its parameters are the detector's.
        weighing: Calibrates gradients in training; None: losses are added.
        record: Of the last calibrated step.
        weight_report: What was loaded of the BEVFusion checkpoint.

    Raises:
        ConfigurationError: A name or setting is unknown or wrong, or the checkpoint does not fit.
    """

    def __init__(
        self,
        size: str = "fuller_full",
        arguments: Mapping[str, Any] | None = None,
        losses: Mapping[str, Any] | None = None,
        heads: Mapping[str, Any] | None = None,
        seed: int = 0,
        bevfusion_checkpoint: str | None = None,
        data_preprocessor: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(
            data_preprocessor=data_preprocessor or {"type": "FullerDataPreprocessor"}, init_cfg=init_cfg
        )
        network = create_seeded_model(size, seed, **dict(arguments or {}))
        if not isinstance(network, FullerModel):
            raise ConfigurationError(f"FullerDetector3D: '{size}' is no FULLER network")
        for task, head in (heads or {}).items():
            if task not in network.config.tasks:
                raise ConfigurationError(
                    f"FullerDetector3D: heads: the network has no task '{task}'"
                    + nearest(task, network.config.tasks)
                )
            setattr(network, f"{task}_head", MODELS.build(head))
        self.network = network
        self.weight_report: WeightReport | None = None
        if bevfusion_checkpoint is not None:
            self.weight_report = load_bevfusion_backbones(network, Path(bevfusion_checkpoint))
            logger.info("%s: %s", bevfusion_checkpoint, self.weight_report.summary())
        self.learner = FullerLearner(network, FullerLossConfig.model_validate(dict(losses or {})), size)
        self.weighing: GradientCalibrator | None = None
        self.record: CalibrationRecord | None = None

    # ------------------------------------------------------------------ mmdet3d's interface

    def forward(self, inputs: Batch, data_samples: Any = None, mode: str = "tensor", **kwargs: Any) -> Any:
        """Runs the network in one of mmengine's modes.

        Args:
            inputs: Of `FullerDataPreprocessor`.
            data_samples: Not used: a batch holds its labels.
            mode: `loss`: losses by name; `predict`: one Det3DDataSample a sample; `tensor`: the fused
                feature (B, C, H, W).
            kwargs: None.

        Raises:
            ConfigurationError: The mode is unknown.
        """
        modes = {"loss": self.loss, "predict": self.predict, "tensor": self._forward}
        if mode not in modes:
            raise ConfigurationError(f"FullerDetector3D: no mode '{mode}'" + nearest(mode, modes))
        return modes[mode](inputs, data_samples, **kwargs)

    def loss(
        self, batch_inputs: Batch, batch_data_samples: Any = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Returns `loss_TASK` of every head, and `loss_auxiliary_NAME`."""
        losses = self.learner.losses(batch_inputs)
        return {
            **{f"{_LOSS}{task}": loss.total for task, loss in losses.tasks.items()},
            **{f"{_AUXILIARY}{name}": loss.total for name, loss in losses.auxiliary.items()},
        }

    def predict(self, batch_inputs: Batch, batch_data_samples: Any = None, **kwargs: Any) -> list[Any]:
        """Returns a Det3DDataSample for each sample: boxes in the ego frame as `pred_instances_3d`, and
        `map_segmentation` and the like as probabilities (K, H, W) in its metainfo.
        """
        fused, _ = self.learner.fused_feature(batch_inputs)
        samples = [
            Det3DDataSample(metainfo={"token": origin.token, "dataset": origin.dataset})
            for origin in batch_inputs.provenance
        ]
        for task, head in self.network.heads.items():
            if task == "detection3d":
                decode: Any = head.decode
                for sample, boxes_q9, scores_q, labels_q in zip(samples, *decode(head(fused)), strict=True):
                    found = InstanceData()
                    found.bboxes_3d = LiDARInstance3DBoxes(boxes_q9, box_dim=9, origin=(0.5, 0.5, 0.5))
                    found.scores_3d, found.labels_3d = scores_q, labels_q
                    sample.pred_instances_3d = found
            elif task != "control":
                for sample, logits_khw in zip(samples, head(fused), strict=True):
                    sample.set_metainfo({task: logits_khw.sigmoid()})
        return samples

    def _forward(self, batch_inputs: Batch, batch_data_samples: Any = None, **kwargs: Any) -> torch.Tensor:
        return self.extract_feat(batch_inputs)

    def extract_feat(self, batch_inputs: Batch) -> torch.Tensor:
        """Returns the fused feature (B, C, H, W)."""
        return self.learner.fused_feature(batch_inputs)[0]

    # ------------------------------------------------------------------ calibration

    def calibrate(self, config: GradientCalibrationConfig) -> GradientCalibrator:
        """Calibrates gradients from the next step on."""
        points = self.learner.calibration_points()
        self.weighing = GradientCalibrator(self.network, points, self.learner.tasks, config)
        return self.weighing

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
        """Runs one step; where gradients are calibrated, weighed between the tasks and gated between the
        branches (FULLER's Alg. 1).
        """
        if self.weighing is None:
            plain: dict[str, torch.Tensor] = super().train_step(data, optim_wrapper)
            return plain
        with optim_wrapper.optim_context(self):
            prepared = self.data_preprocessor(data, True)
            losses = self._run_forward(prepared, mode="loss")
        auxiliary = [loss for name, loss in losses.items() if name.startswith(_AUXILIARY)]
        tasks = {
            name.removeprefix(_LOSS): loss for name, loss in losses.items() if not name.startswith(_AUXILIARY)
        }
        total, self.record = self.weighing.weigh(tasks)
        if auxiliary:
            total = total + torch.stack(auxiliary).sum()
        optim_wrapper.backward(optim_wrapper.scale_loss(total))
        if optim_wrapper.should_update():
            self.weighing.gate_branches(self.record)
            with self.weighing.gated_learning_rates(optim_wrapper.optimizer):
                optim_wrapper.step()
            optim_wrapper.zero_grad()
        return {"loss": total.detach(), **{name: loss.detach() for name, loss in losses.items()}}
