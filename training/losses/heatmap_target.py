"""Targets of class heat maps: a Gaussian peak at each object."""

from __future__ import annotations

import torch

from perception_core.ops.bev_grid import BevGrid


def peak_radius(size_n2: torch.Tensor, minimum_overlap: float) -> torch.Tensor:
    """Returns how far a box's corners may move so that its IoU with itself stays at `minimum_overlap`.

    The smallest of three cases (CornerNet): both corners move the same way, both inwards, both outwards.

    Args:
        size_n2: Length and width (N, 2).
        minimum_overlap: IoU, 0..1.

    Returns:
        (N), in the unit of the sizes.
    """
    area, perimeter, t = size_n2.prod(dim=-1), size_n2.sum(dim=-1), minimum_overlap
    shifted = (perimeter - (perimeter**2 - 4 * area * (1 - t) / (1 + t)).clamp_min(0).sqrt()) / 2
    inwards = (perimeter - (perimeter**2 - 4 * area * (1 - t)).clamp_min(0).sqrt()) / 4
    outwards = (-t * perimeter + (t**2 * perimeter**2 + 4 * t * (1 - t) * area).sqrt()) / (4 * t)
    return torch.stack((shifted, inwards, outwards)).amin(dim=0)


def draw_heatmap(
    boxes_n9: torch.Tensor,
    labels_n: torch.Tensor,
    classes: int,
    grid: BevGrid,
    minimum_overlap: float,
    minimum_radius_cells: float,
) -> torch.Tensor:
    """Draws the heat map of one sample: 1 in the cell of each object, falling off as a Gaussian within its
    radius.

    Args:
        boxes_n9: x y z l w h yaw vx vy, centres inside the grid.
        labels_n: int64.
        classes: Number K of classes.
        grid: Grid.
        minimum_overlap: See `peak_radius`.
        minimum_radius_cells: Smallest radius.

    Returns:
        (K, rows, columns).
    """
    if len(boxes_n9) == 0:
        return boxes_n9.new_zeros((classes, grid.rows, grid.columns))
    radius_n = peak_radius(boxes_n9[:, 3:5] / grid.cell_size, minimum_overlap)
    radius_n = radius_n.clamp_min(minimum_radius_cells).floor()
    cell_n = grid.cell_index(boxes_n9[:, :2])
    row_n, column_n = torch.div(cell_n, grid.columns, rounding_mode="floor"), cell_n % grid.columns
    return draw_peaks(row_n, column_n, radius_n, labels_n, (classes, grid.rows, grid.columns))


def draw_peaks(
    row_n: torch.Tensor,
    column_n: torch.Tensor,
    radius_n: torch.Tensor,
    labels_n: torch.Tensor,
    shape: tuple[int, int, int],
) -> torch.Tensor:
    """Draws a Gaussian peak of 1 at each cell, cut off at its radius; where peaks meet the larger one holds.

    Args:
        row_n: int64.
        column_n: int64.
        radius_n: Cells; the standard deviation is (2 r + 1) / 6.
        labels_n: int64, the class whose map a peak belongs to.
        shape: Classes K, rows, columns.

    Returns:
        (K, rows, columns).
    """
    classes, rows, columns = shape
    heatmap_kl = radius_n.new_zeros((classes, rows * columns))
    if len(row_n) == 0:
        return heatmap_kl.view(shape)

    def profile(centre_n: torch.Tensor, count: int) -> torch.Tensor:
        distance = torch.arange(count, device=centre_n.device).unsqueeze(0) - centre_n.unsqueeze(1)
        deviation_n1 = ((2 * radius_n + 1) / 6).unsqueeze(1)
        inside = distance.abs() <= radius_n.unsqueeze(1)
        return torch.exp(-(distance**2) / (2 * deviation_n1**2)) * inside

    along_rows, along_columns = profile(row_n, rows), profile(column_n, columns)
    peak_nl = (along_rows.unsqueeze(2) * along_columns.unsqueeze(1)).flatten(1)
    heatmap_kl = heatmap_kl.scatter_reduce(
        0, labels_n.unsqueeze(1).expand_as(peak_nl), peak_nl, reduce="amax", include_self=True
    )
    return heatmap_kl.view(shape)
