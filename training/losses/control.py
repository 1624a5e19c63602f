"""Loss of control: the primary task of MMMT's hybrid loss."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.losses.configuration import ControlLossConfig
from training.losses.task_loss import TaskLoss, present_index

TASK = "control"


class ControlLoss:
    """Smooth L1 of steering, target speed and waypoints, each in its own unit, averaged over samples."""

    def __init__(self, config: ControlLossConfig) -> None:
        self.config = config

    def __call__(
        self,
        steering_b1: torch.Tensor,
        speed_b1: torch.Tensor,
        waypoints_bk2: torch.Tensor,
        target_steering_b1: torch.Tensor,
        target_speed_b1: torch.Tensor,
        target_waypoints_bk2: torch.Tensor,
        waypoint_valid_bk: torch.Tensor,
        present_b: torch.Tensor,
    ) -> TaskLoss:
        """Returns the loss of a control head.

        Args:
            steering_b1: Radians, positive left.
            speed_b1: Metres a second.
            waypoints_bk2: Metres, ego frame.
            target_steering_b1: What the driver did.
            target_speed_b1: Likewise.
            target_waypoints_bk2: Likewise.
            waypoint_valid_bk: bool, waypoints that are known.
            present_b: bool (B), samples that have control labels.

        Raises:
            NonFiniteLossError: A term is not finite.
        """
        present = present_index(present_b, len(steering_b1), TASK)
        if len(present) == 0:
            return TaskLoss.without_labels(steering_b1, speed_b1, waypoints_bk2)
        config = self.config

        def error(value: torch.Tensor, target: torch.Tensor, unit: float) -> torch.Tensor:
            return functional.smooth_l1_loss(
                value[present].float() / unit, target[present].float() / unit, reduction="none"
            )

        known = waypoint_valid_bk[present].unsqueeze(-1)
        waypoints = error(waypoints_bk2, target_waypoints_bk2, config.waypoint_unit_m) * known
        steering = error(steering_b1, target_steering_b1, config.steering_unit_rad)
        terms = {
            "steering": config.steering_weight * steering.mean(),
            "speed": config.speed_weight * error(speed_b1, target_speed_b1, config.speed_unit_mps).mean(),
            "waypoints": config.waypoint_weight * waypoints.sum() / (2 * known.sum()).clamp_min(1),
        }
        return TaskLoss.of_terms(TASK, terms, len(present))
