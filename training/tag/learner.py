"""A monocular network as a `Learner`: batches in, losses and judged outputs out."""

from __future__ import annotations

from typing import Any

import torch

from perception_core.configuration import ConfigurationError
from perception_core.models.tag.model import MonoModel
from perception_core.models.tag.reading import read_objects
from training.datasets.batch import Batch, CameraBatch, DenseBatch
from training.gradient_calibration import CalibrationPoints
from training.losses import TaskLoss
from training.losses.dense_depth import DenseDepthLoss
from training.losses.mono_configuration import MonoLossConfig
from training.losses.mono_detection import MonoDetectionLoss
from training.losses.semantic_segmentation import SegmentationLoss
from training.tag.evaluator import MonoEvaluator, VehicleTruth
from training.trainer.learner import StepLosses


class MonoLearner:
    """Trains a monocular network on one view of each sample.

    Args:
        network: The network.
        losses: Of its heads.
        model_name: Its name in the registry of models.
        truth: Where Cityscapes' scripts find the truth of evaluated samples; None: boxes are not judged.
        view: Index of the camera among a sample's views.
    """

    def __init__(
        self,
        network: MonoModel,
        losses: MonoLossConfig,
        model_name: str,
        truth: VehicleTruth | None = None,
        view: int = 0,
    ) -> None:
        self.network = network
        self.model_name = model_name
        self.truth, self.view = truth, view
        config = network.config
        self._detection = MonoDetectionLoss(losses.mono_detection3d, config.mono_detection3d, network.codec)
        self._segmentation = SegmentationLoss(losses.semantic_segmentation)
        self._depth = DenseDepthLoss(losses.depth)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks the network has a head for."""
        return self.network.config.tasks

    def losses(self, batch: Batch) -> StepLosses:
        """Runs the network and takes the loss of every head.

        Raises:
            NonFiniteLossError: A term is not finite.
            ConfigurationError: The batch has no images, or its labels have other classes than the network.
        """
        cameras = self._cameras(batch)
        feature = self.network.shared_feature(cameras.images_bvhwc[:, self.view])
        return StepLosses(
            {task: self._loss(task, self.network.heads[task](*feature), batch) for task in self.tasks}
        )

    def _loss(self, task: str, output: Any, batch: Batch) -> TaskLoss:
        cameras = self._cameras(batch)
        present_b = batch.present[task] & cameras.camera_valid_bv[:, self.view]
        if task == "mono_detection3d":
            self._check_classes("box", batch.box_classes, self.network.config.mono_detection3d.classes)
            return self._detection(
                output,
                batch.boxes,
                cameras.intrinsics_bv33[:, self.view],
                cameras.camera_from_ego_bv44[:, self.view],
                present_b,
            )
        label = batch.dense.get(task)
        if label is None:
            return TaskLoss.without_labels(output)
        value_bhw, valid_bhw = self._image_label(label)
        if task == "depth":
            return self._depth(self._metres(output, cameras), value_bhw, valid_bhw, present_b)
        self._check_classes(
            "segmentation", batch.semantic_classes, self.network.config.semantic_segmentation.classes
        )
        return self._segmentation(output, value_bhw, valid_bhw, present_b)

    def _cameras(self, batch: Batch) -> CameraBatch:
        cameras = batch.cameras
        if cameras is None or cameras.images_bvhwc.shape[1] <= self.view:
            raise ConfigurationError(
                f"the samples have no camera number {self.view}; a monocular network learns from images"
            )
        return cameras

    def _image_label(self, label: DenseBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return label.value[:, self.view], label.valid_bvhw[:, self.view]

    def _metres(self, depth_bhw: torch.Tensor, cameras: CameraBatch) -> torch.Tensor:
        """Turns the head's depth, which is for the reference lens, into metres."""
        scale_b = self.network.codec.depth_scale(cameras.intrinsics_bv33[:, self.view])
        return depth_bhw * scale_b.view(-1, 1, 1).to(depth_bhw.dtype)

    def _check_classes(self, what: str, labels: tuple[str, ...], network: tuple[str, ...]) -> None:
        if labels and labels != network:
            raise ConfigurationError(
                f"{what} labels have the classes {', '.join(labels)}, network '{self.model_name}' has "
                f"{', '.join(network)}"
            )

    def calibration_points(self) -> CalibrationPoints:
        """The last layers that all heads share; a network with one sensor has no branches."""
        shared = f"mono_backbone.dense_net.backbone.{self.network.mono_backbone.last_layer}"
        return CalibrationPoints(shared_layer=shared, fusion_layer=shared, branches=())

    def evaluator(self) -> MonoEvaluator:
        """Returns an empty evaluator of every head."""
        return MonoEvaluator(self.network.config, self.truth)

    def evaluate(self, batch: Batch, evaluator: MonoEvaluator) -> None:
        """Runs the network and adds each head's output."""
        cameras = self._cameras(batch)
        feature = self.network.shared_feature(cameras.images_bvhwc[:, self.view])
        for task, head in self.network.heads.items():
            output = head(*feature)
            valid_b = cameras.camera_valid_bv[:, self.view]
            if task == "mono_detection3d":
                found = read_objects(
                    output,
                    self.network.config.mono_detection3d,
                    self.network.codec,
                    cameras.intrinsics_bv33[:, self.view],
                    cameras.camera_from_ego_bv44[:, self.view],
                    valid_b,
                )
                evaluator.add_boxes(*found, batch)
            elif task in batch.dense:
                value_bhw, valid_bhw = self._image_label(batch.dense[task])
                said = self._metres(output, cameras) if task == "depth" else output
                evaluator.add_dense(task, said, value_bhw, valid_bhw, batch.present[task] & valid_b)

    def describe(self) -> dict[str, Any]:
        """Name and arguments that build this very network through the registry."""
        return {"name": self.model_name, "arguments": self.network.configuration()}
