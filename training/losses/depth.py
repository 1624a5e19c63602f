"""Supervision of lift-splat's depth distribution (as in BEVDepth, Li et al., 2022)."""

from __future__ import annotations

import torch

from training.losses.configuration import DepthLossConfig
from training.losses.task_loss import TaskLoss

TASK = "depth"


def lidar_depth(
    points_nc: torch.Tensor,
    batch_index_n: torch.Tensor,
    camera_valid_bv: torch.Tensor,
    intrinsics_bv33: torch.Tensor,
    camera_from_ego_bv44: torch.Tensor,
    feature_size: tuple[int, int],
    stride: int,
) -> torch.Tensor:
    """Projects points into the valid cameras; each feature pixel gets the nearest depth seen in it.

    Args:
        points_nc: x y z [m] in the ego frame and further channels.
        batch_index_n: int64, sample of each point.
        camera_valid_bv: bool.
        intrinsics_bv33: Pixels of the images; the centre of the top left pixel is (0, 0).
        camera_from_ego_bv44: Ego points to camera points.
        feature_size: Rows and columns of the feature.
        stride: Image pixels per feature pixel.

    Returns:
        (M, rows, columns) metres along the optical axis, 0 where no point falls; M valid cameras in the order
        of `camera_valid_bv.nonzero()`.
    """
    rows, columns = feature_size
    sample_m = camera_valid_bv.nonzero()[:, 0]
    cameras = len(sample_m)
    depth_l = points_nc.new_full((cameras * rows * columns,), float("inf"))
    homogeneous = torch.cat((points_nc[:, :3], torch.ones_like(points_nc[:, :1])), dim=1)
    intrinsics_m33 = intrinsics_bv33[camera_valid_bv]
    camera_from_ego_m44 = camera_from_ego_bv44[camera_valid_bv]
    for camera in range(cameras):
        own = homogeneous[batch_index_n == sample_m[camera]]
        seen = own @ camera_from_ego_m44[camera, :3].T
        pixel = seen @ intrinsics_m33[camera].T
        column = ((pixel[:, 0] / pixel[:, 2] + 0.5) / stride).floor()
        row = ((pixel[:, 1] / pixel[:, 2] + 0.5) / stride).floor()
        inside = (seen[:, 2] > 0.1) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        index = (camera * rows + row[inside].long()) * columns + column[inside].long()
        depth_l = depth_l.scatter_reduce(0, index, seen[inside, 2], reduce="amin", include_self=True)
    return torch.nan_to_num(depth_l, posinf=0.0).view(cameras, rows, columns)


def dense_depth(depth_mhw: torch.Tensor, valid_mhw: torch.Tensor, stride: int) -> torch.Tensor:
    """Reduces depth images to feature pixels: the nearest valid depth in each, 0 where there is none."""
    far = torch.where(valid_mhw, depth_mhw, torch.full_like(depth_mhw, float("inf")))
    nearest = -torch.nn.functional.max_pool2d(-far.unsqueeze(1), stride).squeeze(1)
    return torch.nan_to_num(nearest, posinf=0.0)


class DepthLoss:
    """Cross-entropy between the depth distribution and the bin of the measured depth.

    Args:
        config: Weight.
        depth_min, depth_max, depth_bins: The planes of the network, evenly spaced, both ends included.
    """

    def __init__(self, config: DepthLossConfig, depth_min: float, depth_max: float, depth_bins: int) -> None:
        self.config = config
        self.depth_min, self.depth_max, self.depth_bins = depth_min, depth_max, depth_bins

    def __call__(self, depth_mhwd: torch.Tensor, target_mhw: torch.Tensor) -> TaskLoss:
        """Returns the loss averaged over the pixels with a depth within the planes' range.

        Args:
            depth_mhwd: Distribution of each feature pixel; sums to 1 over D.
            target_mhw: Metres; 0 where not known.

        Raises:
            NonFiniteLossError: The loss is not finite.
        """
        step = (self.depth_max - self.depth_min) / (self.depth_bins - 1)
        bin_mhw = ((target_mhw - self.depth_min) / step).round().long()
        known = (target_mhw > 0) & (bin_mhw >= 0) & (bin_mhw < self.depth_bins)
        if not bool(known.any()):
            return TaskLoss.without_labels(depth_mhwd)
        probability = depth_mhwd.float()[known].gather(1, bin_mhw[known].unsqueeze(1))
        term = self.config.weight * -probability.clamp_min(1e-6).log().mean()
        samples = int(known.flatten(1).any(dim=1).sum())
        return TaskLoss.of_terms(TASK, {"cross_entropy": term}, samples)
