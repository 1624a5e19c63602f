"""BEV pooling of lift-splat: camera features, spread along rays by a depth distribution, summed per cell.

Lift-Splat-Shoot (Philion and Fidler, 2020) forms the outer product of depth and context and sums it per cell.
As in BEVPoolv2 (Huang and Huang, 2022) the product is never formed here: which (pixel, depth bin) falls into
which cell depends on calibration alone and is put down once, sorted by cell, in a `LiftPlan`; a frame then is
one weighted `embedding_bag`, differentiable in both depth and context.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch.nn import functional

from perception_core.ops.bev_grid import BevGrid


@dataclass(frozen=True)
class LiftPlan:
    """Where every (pixel, depth bin) of a set of cameras lands, sorted by cell.

    Attributes:
        pixel_s: Row of the flattened context (M * h * w, C) for each of S samples on the rays.
        weight_s: Index into the flattened depth distribution (M * h * w * D).
        offset_g: First sample of each of the B * cells cells, and S at the end.
        batch_size: Samples in the batch.
        grid: The grid.
    """

    pixel_s: torch.Tensor
    weight_s: torch.Tensor
    offset_g: torch.Tensor
    batch_size: int
    grid: BevGrid


def frustum_points(
    intrinsics_m33: torch.Tensor,
    camera_from_ego_m44: torch.Tensor,
    feature_size: tuple[int, int],
    stride: int,
    depths_d: torch.Tensor,
) -> torch.Tensor:
    """Places every feature pixel at every depth into the ego frame.

    Args:
        intrinsics_m33: Pixels of the network's images; the centre of the top left pixel is (0, 0).
        camera_from_ego_m44: Ego points to camera points (x right, y down, z forward).
        feature_size: Rows and columns of the feature map.
        stride: Image pixels per feature pixel.
        depths_d: z of the planes in the camera frame, in metres.

    Returns:
        (M, rows, columns, D, 3) in metres; not finite where a calibration matrix has no inverse.
    """
    rows, columns = feature_size
    device = intrinsics_m33.device
    v = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) * stride - 0.5
    u = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) * stride - 0.5
    pixels = torch.stack((u.expand(rows, columns), v.unsqueeze(1).expand(rows, columns)), dim=-1)
    pixels = torch.cat((pixels, torch.ones_like(pixels[..., :1])), dim=-1)
    inverse_m33, singular_intrinsics = torch.linalg.inv_ex(intrinsics_m33.float())
    ego_from_camera_m44, singular_extrinsics = torch.linalg.inv_ex(camera_from_ego_m44.float())
    rays = torch.einsum("mij,hwj->mhwi", inverse_m33, pixels)
    camera_points = rays.unsqueeze(3) * depths_d.to(device, torch.float32).view(1, 1, 1, -1, 1)
    points = torch.einsum("mij,mhwdj->mhwdi", ego_from_camera_m44[:, :3, :3], camera_points)
    points = points + ego_from_camera_m44[:, None, None, None, :3, 3]
    singular = (singular_intrinsics != 0) | (singular_extrinsics != 0)
    return points.masked_fill(singular.view(-1, 1, 1, 1, 1), float("nan"))


def plan_lift(
    points_mhwd3: torch.Tensor,
    batch_index_m: torch.Tensor,
    batch_size: int,
    grid: BevGrid,
    z_range: tuple[float, float],
) -> LiftPlan:
    """Sorts the samples of all rays by grid cell; those outside grid or height range are left out.

    Args:
        points_mhwd3: From `frustum_points`.
        batch_index_m: int64, sample of the batch each camera belongs to.
        batch_size: Number of samples.
        grid: Grid.
        z_range: Lowest and highest z kept, in metres.
    """
    depth_bins = points_mhwd3.shape[3]
    height = points_mhwd3[..., 2]
    inside = grid.contains(points_mhwd3[..., :2]) & (height >= z_range[0]) & (height < z_range[1])
    weight_s = inside.flatten().nonzero().squeeze(1)
    camera, *_ = inside.nonzero(as_tuple=True)
    cell_s = batch_index_m[camera] * grid.cells + grid.cell_index(points_mhwd3[inside][:, :2])
    cell_s, order = torch.sort(cell_s, stable=True)
    weight_s = weight_s[order]
    count = torch.bincount(cell_s, minlength=batch_size * grid.cells)
    offset_g = torch.cat((count.new_zeros(1), count.cumsum(0)))
    pixel_s = torch.div(weight_s, depth_bins, rounding_mode="floor")
    return LiftPlan(pixel_s, weight_s, offset_g, batch_size, grid)


def bev_pool(depth_mhwd: torch.Tensor, context_mhwc: torch.Tensor, plan: LiftPlan) -> torch.Tensor:
    """Sums depth x context over the samples of each cell.

    Args:
        depth_mhwd: Depth distribution of each feature pixel.
        context_mhwc: Feature of each feature pixel.
        plan: From `plan_lift`, for the same cameras.

    Returns:
        (B, C, rows, columns), channels last in memory; zero where no ray passes.
    """
    channels = context_mhwc.shape[-1]
    pooled = functional.embedding_bag(
        plan.pixel_s,
        context_mhwc.reshape(-1, channels),
        plan.offset_g,
        mode="sum",
        per_sample_weights=depth_mhwd.reshape(-1).index_select(0, plan.weight_s),
        include_last_offset=True,
    )
    return pooled.view(plan.batch_size, plan.grid.rows, plan.grid.columns, channels).permute(0, 3, 1, 2)


class LiftPlanCache:
    """Keeps the plans of the last few calibrations, so that a frame with known cameras costs no geometry."""

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = capacity
        self._plans: OrderedDict[bytes, LiftPlan] = OrderedDict()

    @staticmethod
    def key(*tensors: torch.Tensor) -> bytes:
        """Returns a key equal only for equal tensors on equal devices."""
        parts = [
            f"{t.device} {t.dtype} {tuple(t.shape)}".encode() + t.detach().cpu().numpy().tobytes()
            for t in tensors
        ]
        return b"|".join(parts)

    def get(self, key: bytes) -> LiftPlan | None:
        """Returns the plan of a key, or None."""
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
        return plan

    def put(self, key: bytes, plan: LiftPlan) -> None:
        """Keeps a plan and forgets the one used longest ago where there are too many."""
        self._plans[key] = plan
        self._plans.move_to_end(key)
        while len(self._plans) > self._capacity:
            self._plans.popitem(last=False)
