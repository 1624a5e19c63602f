"""Peaks of a class heat map: the non-maximum suppression of centre-based detectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def suppress_non_peaks(
    heatmap_bkhw: torch.Tensor, kernel_size: int, exempt: Sequence[int] = ()
) -> torch.Tensor:
    """Sets every cell to zero that is not the maximum of its window.

    Args:
        heatmap_bkhw: Scores >= 0.
        kernel_size: Odd side of the window, in cells.
        exempt: Channels left as they are: objects no larger than a cell may stand in neighbouring cells.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    maximum = functional.max_pool2d(heatmap_bkhw, kernel_size, stride=1, padding=kernel_size // 2)
    peak = heatmap_bkhw >= maximum
    if len(exempt):
        peak[:, list(exempt)] = True
    return heatmap_bkhw * peak


def top_peaks(heatmap_bkhw: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Finds the best cells over all classes.

    Args:
        heatmap_bkhw: Scores, after `suppress_non_peaks`.
        count: Number Q of peaks, at most K * H * W.

    Returns:
        score_bq descending, class_bq (int64), cell_bq = row * W + column (int64).
    """
    cells = heatmap_bkhw.shape[2] * heatmap_bkhw.shape[3]
    score_bq, index_bq = heatmap_bkhw.flatten(1).topk(count, dim=1)
    return score_bq, torch.div(index_bq, cells, rounding_mode="floor"), index_bq % cells
