"""Points to voxels, any number of points a voxel (dynamic voxelization): the mean of each voxel's points."""

from __future__ import annotations

import torch

from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.sparse_tensor import SparseTensor


def voxelize_mean(
    points_nc: torch.Tensor,
    batch_index_n: torch.Tensor,
    batch_size: int,
    grid: BevGrid,
    z_range: tuple[float, float],
    voxel_height: float,
    layers: int,
) -> SparseTensor:
    """Averages the points of each occupied voxel.

    Args:
        points_nc: x y z and further channels; points outside grid or height range or not finite in x, y or z
            are dropped.
        batch_index_n: int64, sample each point belongs to.
        batch_size: Number of samples.
        grid: Grid whose cells are as wide as a voxel.
        z_range: Lowest and highest z kept, in metres.
        voxel_height: Metres.
        layers: Z of the volume; at least as many as the height range has voxels.

    Returns:
        One row of C channel means a voxel.
    """
    height = points_nc[:, 2]
    inside = grid.contains(points_nc[:, :2]) & (height >= z_range[0]) & (height < z_range[1])
    kept = inside.nonzero().squeeze(1)
    points_pc = points_nc.index_select(0, kept)
    layer_p = ((points_pc[:, 2] - z_range[0]) / voxel_height).floor().long().clamp_(0, layers - 1)
    sample_p = batch_index_n.index_select(0, kept)
    cell_p = (sample_p * layers + layer_p) * grid.cells + grid.cell_index(points_pc[:, :2])
    cell_v, voxel_p, count_v = torch.unique(cell_p, return_inverse=True, return_counts=True)
    total = points_pc.new_zeros((len(cell_v), points_pc.shape[1])).index_add_(0, voxel_p, points_pc)
    shape = (layers, grid.rows, grid.columns)
    return SparseTensor(total / count_v.unsqueeze(1).to(total.dtype), cell_v, shape, batch_size)
