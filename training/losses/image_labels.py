"""Labels of whole images at a network's resolution."""

from __future__ import annotations

import torch


def at_pixels_of(label_bhw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Takes labels at the middle of each pixel of a smaller image.

    Args:
        label_bhw: Labels, rows and columns whole multiples of the size.
        size: Rows and columns wanted.

    Raises:
        ValueError: They are no multiples.
    """
    rows, columns = label_bhw.shape[-2:]
    if rows % size[0] or columns % size[1]:
        raise ValueError(f"labels of {rows} x {columns} pixels are no multiple of {size[0]} x {size[1]}")
    step_rows, step_columns = rows // size[0], columns // size[1]
    return label_bhw[..., step_rows // 2 :: step_rows, step_columns // 2 :: step_columns]
