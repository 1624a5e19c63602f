"""Learned control from the fused feature, the primary task of MMMT's hybrid loss.

It only proposes: the vehicle side judges the proposal inside its safety envelope.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct, FeedForward
from perception_core.models.fuller.configuration import ControlHeadConfig
from perception_core.models.interface import Component
from perception_core.ops.bev_grid import BevGrid

# Largest speed and yaw rate of road vehicles, to bring ego motion to the order of 1.
_MOTION_SCALE = (20.0, 1.0, 1.0)


class ControlHead(nn.Module):
    """Strided convolutions to a coarse map, flattened and joined with the vehicle's motion."""

    motion_scale: torch.Tensor

    def __init__(self, config: ControlHeadConfig, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        #: A BEV encoder of the head's own; nothing where all heads share one.
        self.encoder: nn.Module = nn.Identity()
        # Waypoints may lie anywhere in the grid.
        self.reach = max(abs(grid.x_max), abs(grid.y_max))
        self.encode = nn.Sequential(
            ConvNormAct(channels, config.channels, stride=2),
            ConvNormAct(config.channels, config.channels, stride=2),
            ConvNormAct(config.channels, config.channels, stride=2),
        )
        self.read_out = FeedForward(config.channels * 16 + 3, 2 * config.channels, 2 + 2 * config.waypoints)
        self.register_buffer("motion_scale", torch.tensor(_MOTION_SCALE), persistent=False)

    def forward(
        self, bev_feature_bchw: torch.Tensor, ego_motion_bc: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Proposes control.

        Args:
            bev_feature_bchw: Fused feature.
            ego_motion_bc: Speed [m/s], yaw rate [rad/s], 1 where odometry is fresh else 0 (then the rest
                counts as 0).

        Returns:
            Steering angle (B, 1) in radians, positive left; target speed (B, 1) in m/s, not negative;
            waypoints (B, K, 2) in metres, ego frame.
        """
        coarse = functional.adaptive_avg_pool2d(self.encode(self.encoder(bev_feature_bchw)), 4).flatten(1)
        motion = torch.nan_to_num(ego_motion_bc / self.motion_scale).clamp(-3.0, 3.0) * (
            ego_motion_bc[:, 2:3] > 0.5
        )
        output = self.read_out(torch.cat((coarse, motion), dim=1))
        steering = output[:, 0:1].tanh() * self.config.max_steering_angle_rad
        speed = functional.softplus(output[:, 1:2])
        waypoints = output[:, 2:].unflatten(1, (-1, 2)).tanh() * self.reach
        return steering, speed, waypoints


class ControlComponent(Component):
    """`control_head` for one frame."""

    dense_dynamic = ((), ())

    def forward(
        self, bev_feature_bchw: torch.Tensor, ego_motion_c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns control_steering (1), control_speed (1) and control_waypoints_k2."""
        steering, speed, waypoints = self.network(bev_feature_bchw, ego_motion_c.unsqueeze(0))
        return steering[0], speed[0], waypoints[0]
