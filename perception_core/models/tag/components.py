"""The heads of a monocular network as the vehicle runs them: one frame each."""

from __future__ import annotations

import torch
from torch import nn

from perception_core.models.interface import Component
from perception_core.models.tag.decoding import MonoBoxCodec
from perception_core.models.tag.depth_points import depth_points
from perception_core.models.tag.heads import MonoDetectionHead
from perception_core.models.tag.reading import read_objects


class MonoDetectionComponent(Component):
    """`mono_detection3d_head` for one frame."""

    dense_name = "dense_net"

    def __init__(self, network: nn.Module, codec: MonoBoxCodec) -> None:
        super().__init__(network)
        self.codec = codec

    def forward(
        self,
        mono_valid: torch.Tensor,
        mono_intrinsics_33: torch.Tensor,
        mono_camera_from_ego_44: torch.Tensor,
        *feature: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns boxes (Q, 9) with velocity 0, scores, labels, and pitch and roll (Q, 2), ego frame.

        A frame without the camera, or with an unusable calibration of it, has scores of 0 only.
        """
        head = self.network
        assert isinstance(head, MonoDetectionHead)
        boxes, scores, labels, tilts = read_objects(
            head(*feature),
            head.config,
            self.codec,
            mono_intrinsics_33.unsqueeze(0),
            mono_camera_from_ego_44.unsqueeze(0),
            mono_valid.all().unsqueeze(0),
        )
        return boxes[0], scores[0], labels[0], tilts[0]


class SegmentationComponent(Component):
    """`semantic_segmentation_head` for one frame."""

    dense_name = "dense_net"

    def forward(self, mono_valid: torch.Tensor, *feature: torch.Tensor) -> torch.Tensor:
        """Returns logits (1, K, h, w) at the feature's resolution; all zero without the camera."""
        logits_bkhw: torch.Tensor = self.network(*feature)
        return logits_bkhw * mono_valid.all()


class DepthComponent(Component):
    """`depth_head` for one frame."""

    dense_name = "dense_net"

    def __init__(self, network: nn.Module, codec: MonoBoxCodec) -> None:
        super().__init__(network)
        self.codec = codec

    def forward(
        self,
        mono_valid: torch.Tensor,
        mono_intrinsics_33: torch.Tensor,
        mono_camera_from_ego_44: torch.Tensor,
        *feature: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns depth (1, h, w) in metres along the optical axis at the feature's resolution, and the same
        as points (h * w, 3) in the ego frame.

        Without the camera, or with an unusable calibration, depths are 0 and points lie at the origin.
        """
        scale = self.codec.depth_scale(mono_intrinsics_33)
        depth_bhw = self.network(*feature) * scale
        usable = mono_valid.all() & torch.isfinite(scale) & (mono_intrinsics_33[0, 0] > 0)
        depth_bhw = torch.where(usable, depth_bhw, torch.zeros_like(depth_bhw))
        points_nc = depth_points(depth_bhw[0], self.codec.stride, mono_intrinsics_33, mono_camera_from_ego_44)
        finite = torch.isfinite(points_nc).all(dim=1, keepdim=True) & usable
        return depth_bhw, torch.where(finite, points_nc, torch.zeros_like(points_nc))
