"""Losses of a FULLER network on a batch, and what labels must be like for them."""

from __future__ import annotations

from typing import Any

import torch

from perception_core.configuration import ConfigurationError, StrictModel
from perception_core.models.fuller.configuration import FullerConfig
from perception_core.models.fuller.dense_heads import DenseDetectionOutput
from training.datasets.batch import Batch, BevMaskBatch
from training.losses import (
    BevMaskLoss,
    ControlLoss,
    ControlLossConfig,
    DepthLoss,
    DepthLossConfig,
    DetectionLoss,
    DetectionLossConfig,
    MaskLossConfig,
    TaskLoss,
)
from training.losses.depth import lidar_depth


class FullerLossConfig(StrictModel):
    """Losses of a FULLER network.

    Attributes:
        detection: Of `detection3d`.
        map_segmentation: Of `map_segmentation`.
        foreground_segmentation: Of `foreground_segmentation`.
        control: Of `control`.
        depth: Supervision of lift-splat's depth by the LiDAR, which FULLER (and LSS) do without.
    """

    detection: DetectionLossConfig = DetectionLossConfig()
    map_segmentation: MaskLossConfig = MaskLossConfig()
    foreground_segmentation: MaskLossConfig = MaskLossConfig()
    control: ControlLossConfig = ControlLossConfig()
    depth: DepthLossConfig = DepthLossConfig(weight=0.0)


class FullerLosses:
    """Loss of each head, and of the depth distribution."""

    def __init__(self, config: FullerLossConfig, network: FullerConfig) -> None:
        self.config, self.network = config, network
        self._detection = DetectionLoss(config.detection, len(network.detection.classes), network.grid)
        self._masks = {
            "map_segmentation": BevMaskLoss("map_segmentation", config.map_segmentation),
            "foreground_segmentation": BevMaskLoss("foreground_segmentation", config.foreground_segmentation),
        }
        self._control = ControlLoss(config.control)
        camera = network.camera
        self._depth = DepthLoss(config.depth, camera.depth_min, camera.depth_max, camera.depth_bins)

    def task(self, task: str, output: Any, batch: Batch) -> TaskLoss:
        """Returns the loss of a head's output.

        Raises:
            ConfigurationError: Labels have other classes or another grid than the head.
            NonFiniteLossError: A term is not finite.
        """
        present_b = batch.present[task]
        if task == "detection3d":
            _check_classes(task, batch.box_classes, self.network.detection.classes, batch)
            if isinstance(output, DenseDetectionOutput):
                return self._detection.dense(output, batch.boxes, present_b)
            return self._detection(output, batch.boxes, present_b)
        if task == "control":
            return self._control_loss(output, batch, present_b)
        masks = batch.map_masks if task == "map_segmentation" else batch.foreground_masks
        if masks is None or not bool(present_b.any()):
            return TaskLoss.without_labels(output)
        self.check_masks(task, masks, batch)
        return self._masks[task](output, masks.masks_bkhw, present_b)

    def check_masks(self, task: str, masks: BevMaskBatch, batch: Batch) -> None:
        """Refuses masks that are not those of the head.

        Raises:
            ConfigurationError: Classes or grid differ.
        """
        head = getattr(self.network, task)
        _check_classes(task, masks.class_names, head.classes, batch)
        grid = self.network.grid.refined(head.cell_subdivision)
        if masks.grid != grid:
            raise ConfigurationError(
                f"{task}: masks of {_name(batch)} lie on {masks.grid}, the head's on {grid}; open the data "
                "with the network's grid"
            )

    def _control_loss(
        self,
        output: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        batch: Batch,
        present_b: torch.Tensor,
    ) -> TaskLoss:
        labels = batch.control
        if labels is None or not bool(present_b.any()):
            return TaskLoss.without_labels(*output)
        steering, speed, waypoints = output
        # A vehicle that stands does not show its steering angle: such a sample asks nothing of it.
        target = torch.where(labels.steering_valid_b1, labels.steering_b1, steering.detach().float())
        return self._control(
            steering,
            speed,
            waypoints,
            target,
            labels.speed_b1,
            labels.waypoints_bk2,
            labels.waypoint_valid_bk,
            present_b,
        )

    def depth(self, depth_mhwd: torch.Tensor, batch: Batch, stride: int) -> TaskLoss:
        """Returns the loss of the depth distribution against the frame's own sweep."""
        cameras = batch.cameras
        assert cameras is not None
        own = batch.points_nc[:, 4] == 0  # earlier sweeps show moving objects where they are no more
        with torch.no_grad():
            target_mhw = lidar_depth(
                batch.points_nc[own],
                batch.batch_index_n[own],
                cameras.camera_valid_bv,
                cameras.intrinsics_bv33,
                cameras.camera_from_ego_bv44,
                (depth_mhwd.shape[1], depth_mhwd.shape[2]),
                stride,
            )
        return self._depth(depth_mhwd, target_mhw)


def _check_classes(task: str, found: tuple[str, ...], wanted: tuple[str, ...], batch: Batch) -> None:
    if found and found != wanted:
        raise ConfigurationError(
            f"{task}: labels of {_name(batch)} have the classes {', '.join(found)}; the head has "
            f"{', '.join(wanted)}"
        )


def _name(batch: Batch) -> str:
    return f"{batch.provenance[0].dataset} {batch.provenance[0].token}"
