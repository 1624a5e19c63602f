"""JAReD: the joint absolute-relative depth loss (EDNAS, Eq. 8)."""

from __future__ import annotations

import torch

#: Depths below this (in the data set's unit) would let single pixels rule the relative error.
_LEAST_DEPTH = 1e-3


def relative_error_loss(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Returns mean |(y - ŷ) / y|, the second term of Eq. 8.

    Args:
        prediction: ŷ of the pixels that count, any shape.
        truth: y of the same shape, positive.
    """
    return ((truth - prediction).abs() / truth.abs().clamp_min(_LEAST_DEPTH)).mean()


def jared_loss(prediction: torch.Tensor, truth: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """Returns mean |y - ŷ| + λ mean |(y - ŷ) / y|.

    Args:
        prediction: ŷ of the pixels that count, any shape.
        truth: y of the same shape, positive.
        weight: λ. The paper does not give its value; at 1 both errors of depths around 1 weigh the same.
    """
    return (truth - prediction).abs().mean() + weight * relative_error_loss(prediction, truth)
