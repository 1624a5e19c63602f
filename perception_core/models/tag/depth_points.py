"""Depth images as points."""

from __future__ import annotations

import torch

from perception_core.models.tag.decoding import unproject


def depth_points(
    depth_hw: torch.Tensor,
    stride: int,
    intrinsics_33: torch.Tensor,
    camera_from_ego_44: torch.Tensor,
) -> torch.Tensor:
    """Returns the points of a depth image in the ego frame, row by row, (h * w, 3) metres.

    Args:
        depth_hw: Metres along the optical axis.
        stride: Image pixels per pixel of the depth image; its pixels lie in the middle of theirs.
        intrinsics_33: Pixels of the image.
        camera_from_ego_44: Rigid.
    """
    rows, columns = depth_hw.shape
    u = (torch.arange(columns, device=depth_hw.device, dtype=depth_hw.dtype) + 0.5) * stride - 0.5
    v = (torch.arange(rows, device=depth_hw.device, dtype=depth_hw.dtype) + 0.5) * stride - 0.5
    pixel_n2 = torch.stack(
        (u.unsqueeze(0).expand(rows, columns), v.unsqueeze(1).expand(rows, columns)), dim=-1
    ).flatten(0, 1)
    points_n3 = unproject(pixel_n2, depth_hw.flatten(), intrinsics_33.to(depth_hw.dtype))
    rotation = camera_from_ego_44[:3, :3].to(depth_hw.dtype)
    return (points_n3 - camera_from_ego_44[:3, 3].to(depth_hw.dtype)) @ rotation
