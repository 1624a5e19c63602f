"""Points to pillars and on to a grid, any number of points a pillar (dynamic voxelization), no loops."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from perception_core.ops.bev_grid import BevGrid


@dataclass(frozen=True)
class PillarAssignment:
    """Which pillar each kept point belongs to. P points are kept, L pillars are occupied.

    Attributes:
        point_index_p: Index of each kept point in the input.
        pillar_p: Pillar 0..L-1 of each kept point.
        cell_l: batch * grid.cells + cell of each pillar, ascending.
        count_l: Points in each pillar.
    """

    point_index_p: torch.Tensor
    pillar_p: torch.Tensor
    cell_l: torch.Tensor
    count_l: torch.Tensor

    @property
    def pillars(self) -> int:
        """Number of occupied pillars."""
        return int(self.cell_l.shape[0])


def assign_pillars(
    points_nc: torch.Tensor,
    batch_index_n: torch.Tensor,
    batch_size: int,
    grid: BevGrid,
    z_range: tuple[float, float],
) -> PillarAssignment:
    """Groups points by grid cell.

    Occupied cells are numbered by a running count over the dense grid, which for grids of this size is an
    order of magnitude cheaper on a CPU than sorting the points.

    Args:
        points_nc: x y z and further channels; points outside grid or height range or not finite are dropped.
        batch_index_n: int64, sample each point belongs to.
        batch_size: Number of samples.
        grid: Pillar grid.
        z_range: Lowest and highest z kept, in metres.
    """
    height = points_nc[:, 2]
    inside = grid.contains(points_nc[:, :2]) & (height >= z_range[0]) & (height < z_range[1])
    point_index_p = inside.nonzero().squeeze(1)
    xy_p2 = points_nc[:, :2].index_select(0, point_index_p)
    cell_p = batch_index_n.index_select(0, point_index_p) * grid.cells + grid.cell_index(xy_p2)
    count = torch.bincount(cell_p, minlength=batch_size * grid.cells)
    cell_l = count.nonzero().squeeze(1)
    pillar_of_cell = (count > 0).cumsum(0) - 1
    return PillarAssignment(point_index_p, pillar_of_cell.index_select(0, cell_p), cell_l, count[cell_l])


def pillar_mean(values_pc: torch.Tensor, assignment: PillarAssignment) -> torch.Tensor:
    """Averages point values (P, C) over each pillar. Returns (L, C)."""
    total_lc = values_pc.new_zeros((assignment.pillars, values_pc.shape[1]))
    total_lc.index_add_(0, assignment.pillar_p, values_pc)
    return total_lc / assignment.count_l.unsqueeze(1).to(values_pc.dtype)


def pillar_max(values_pc: torch.Tensor, assignment: PillarAssignment) -> torch.Tensor:
    """Maximum of point values (P, C) over each pillar. Returns (L, C)."""
    result_lc = values_pc.new_empty((assignment.pillars, values_pc.shape[1]))
    index_pc = assignment.pillar_p.unsqueeze(1).expand_as(values_pc)
    return result_lc.scatter_reduce(0, index_pc, values_pc, reduce="amax", include_self=False)


def scatter_to_grid(
    features_lc: torch.Tensor, assignment: PillarAssignment, batch_size: int, grid: BevGrid
) -> torch.Tensor:
    """Writes pillar features (L, C) into an otherwise zero grid.

    Returns:
        (B, C, rows, columns), channels last in memory.
    """
    channels = features_lc.shape[1]
    dense = features_lc.new_zeros((batch_size * grid.cells, channels))
    dense.index_copy_(0, assignment.cell_l, features_lc)
    return dense.view(batch_size, grid.rows, grid.columns, channels).permute(0, 3, 1, 2)
