"""A FULLER network as a `Learner`: batches in, losses and judged outputs out."""

from __future__ import annotations

from typing import Any

import torch

from perception_core.models.fuller import FullerModel
from perception_core.models.fuller.camera_net import FEATURE_STRIDE
from training.datasets.batch import Batch
from training.fuller.evaluator import BoxTruth, FullerEvaluator
from training.fuller.losses import FullerLossConfig, FullerLosses
from training.gradient_calibration import CalibrationPoints
from training.gradient_calibration.fuller_points import fuller_points
from training.trainer.learner import StepLosses


class FullerLearner:
    """Trains a FULLER network.

    Attributes:
        network: The network.
        model_name: Its name in the registry of models.
        truth: Where the devkit finds the truth of evaluated samples; None: boxes are not judged.
    """

    def __init__(
        self,
        network: FullerModel,
        losses: FullerLossConfig,
        model_name: str,
        truth: BoxTruth | None = None,
    ) -> None:
        self.network = network
        self.model_name = model_name
        self.truth = truth
        self._losses = FullerLosses(losses, network.config)
        self._supervises_depth = losses.depth.weight > 0 and "camera" in network.config.modalities

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks the network has a head for."""
        return self.network.config.tasks

    def losses(self, batch: Batch) -> StepLosses:
        """Runs the network and takes the loss of every head, and of the depth distribution where asked for.

        Raises:
            NonFiniteLossError: A term is not finite.
            ConfigurationError: Labels have other classes or another grid than the network.
        """
        fused, depth_mhwd = self.fused_feature(batch)
        tasks = {
            task: self._losses.task(task, self._head_output(task, fused, batch), batch) for task in self.tasks
        }
        if not self._supervises_depth or depth_mhwd is None:
            return StepLosses(tasks)
        return StepLosses(tasks, {"depth": self._losses.depth(depth_mhwd, batch, FEATURE_STRIDE)})

    def fused_feature(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the feature all heads read (B, C, H, W), and the depth distribution of the valid cameras.

        A sensor that no sample of the batch has contributes zeros, as on the vehicle.
        """
        config, features, depth_mhwd = self.network.config, [], None
        if "lidar" in config.modalities:
            features.append(self.network.lidar_net(batch.points_nc, batch.batch_index_n, len(batch)))
        if "camera" in config.modalities:
            cameras = batch.cameras
            if cameras is None:
                shape = (len(batch), config.camera.bev_channels, config.grid.rows, config.grid.columns)
                features.append(batch.points_nc.new_zeros(shape))
            else:
                feature, depth_mhwd = self.network.camera_net.lift(
                    cameras.images_bvhwc,
                    cameras.camera_valid_bv,
                    cameras.intrinsics_bv33,
                    cameras.camera_from_ego_bv44,
                )
                features.append(feature)
        fused: torch.Tensor = self.network.bev_fuser(*features)
        return fused, depth_mhwd

    def _head_output(self, task: str, fused: torch.Tensor, batch: Batch) -> Any:
        head = self.network.heads[task]
        return head(fused, batch.ego_motion_bc) if task == "control" else head(fused)

    def calibration_points(self) -> CalibrationPoints:
        """The fusion block's first and last layer."""
        return fuller_points(self.network)

    def evaluator(self) -> FullerEvaluator:
        """Returns an empty evaluator of every head."""
        return FullerEvaluator(self.network.config, self.truth)

    def evaluate(self, batch: Batch, evaluator: FullerEvaluator) -> None:
        """Runs the network and adds each head's output."""
        fused, _ = self.fused_feature(batch)
        for task, head in self.network.heads.items():
            if task not in evaluator.parts:
                continue
            output = self._head_output(task, fused, batch)
            if task == "detection3d":
                decode: Any = head.decode
                boxes_bq9, scores_bq, labels_bq = decode(output)
                evaluator.add_boxes(boxes_bq9, scores_bq, labels_bq, batch)
            elif task == "control":
                evaluator.add_control(output, batch)
            else:
                masks = batch.map_masks if task == "map_segmentation" else batch.foreground_masks
                if masks is not None:
                    self._losses.check_masks(task, masks, batch)
                    evaluator.add_masks(task, output, masks, batch)

    def describe(self) -> dict[str, Any]:
        """Name and arguments that build this very network through the registry."""
        return {"name": self.model_name, "arguments": self.network.configuration()}
