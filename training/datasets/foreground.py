"""Foreground segmentation in the bird's-eye view: the footprints of boxes by class (FULLER, Tab. 6)."""

from __future__ import annotations

import numpy as np

from perception_core.geometry import box_corners
from perception_core.ops.bev_grid import BevGrid
from training.datasets.sample import BevMasks, BoxLabels


def footprint_masks(boxes: BoxLabels, grid: BevGrid) -> BevMasks:
    """Marks the cells whose centre lies in a box of each class, seen from above.

    Boxes smaller than a cell mark at least the cell their centre lies in, so that cones and pedestrians do
    not vanish by chance.
    """
    masks = np.zeros((len(boxes.class_names), grid.rows, grid.columns), dtype=bool)
    footprints = box_corners(boxes.boxes_b9)[:, :4, :2]
    for box, label, corners in zip(boxes.boxes_b9, boxes.labels_b, footprints, strict=True):
        low = np.floor((corners.min(axis=0) - [grid.x_min, grid.y_min]) / grid.cell_size).astype(int)
        high = np.floor((corners.max(axis=0) - [grid.x_min, grid.y_min]) / grid.cell_size).astype(int) + 1
        low, high = np.maximum(low, 0), np.minimum(high, [grid.columns, grid.rows])
        if (high <= low).any():
            continue
        x = grid.x_min + (np.arange(low[0], high[0]) + 0.5) * grid.cell_size - box[0]
        y = (grid.y_min + (np.arange(low[1], high[1]) + 0.5) * grid.cell_size - box[1])[:, None]
        cosine, sine = np.cos(box[6]), np.sin(box[6])
        inside = (np.abs(x * cosine + y * sine) <= box[3] / 2) & (np.abs(y * cosine - x * sine) <= box[4] / 2)
        masks[label, low[1] : high[1], low[0] : high[0]] |= inside
        column, row = np.floor((box[:2] - [grid.x_min, grid.y_min]) / grid.cell_size).astype(int)
        if 0 <= column < grid.columns and 0 <= row < grid.rows:
            masks[label, row, column] = True
    return BevMasks(masks, boxes.class_names, grid)
