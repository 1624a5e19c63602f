"""Focal losses and dice, on logits."""

from __future__ import annotations

import torch
from torch.nn import functional


def sigmoid_focal_loss(
    logits: torch.Tensor, targets: torch.Tensor, alpha: float | None, gamma: float
) -> torch.Tensor:
    """Focal loss (Lin et al., 2017) of each element: -a_t (1 - p_t)^gamma log p_t.

    Args:
        logits: Any shape.
        targets: 0 or 1, same shape.
        alpha: Weight of positives, 1 - alpha of negatives; None: 1 for both.
        gamma: How fast the loss of an element that is nearly right fades.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = torch.where(targets > 0.5, (-logits).sigmoid(), logits.sigmoid())
    loss = cross_entropy * wrong**gamma
    return loss if alpha is None else loss * torch.where(targets > 0.5, alpha, 1 - alpha)


def gaussian_focal_loss(
    logits: torch.Tensor, heatmap: torch.Tensor, alpha: float = 2.0, beta: float = 4.0
) -> torch.Tensor:
    """Penalty-reduced focal loss of a heat map (CornerNet, CenterNet): cells near a peak count less as
    errors.

    Args:
        logits: Any shape.
        heatmap: 0..1; exactly 1 at the peaks, same shape.
        alpha: Focus.
        beta: How much less cells near a peak count.

    Returns:
        The loss of each element.
    """
    probability = logits.sigmoid()
    positive = (1 - probability) ** alpha * -functional.logsigmoid(logits)
    negative = (1 - heatmap) ** beta * probability**alpha * -functional.logsigmoid(-logits)
    return torch.where(heatmap >= 1, positive, negative)


def dice_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Dice loss of masks: 1 - (2 sum p t + 1) / (sum p + sum t + 1).

    Args:
        logits: (..., N) over the cells of a mask.
        targets: 0 or 1, same shape.
        weights: 0 for cells that do not count; same shape or None.

    Returns:
        (...), one value a mask.
    """
    probability = logits.sigmoid()
    if weights is not None:
        probability, targets = probability * weights, targets * weights
    overlap = (probability * targets).sum(dim=-1)
    return 1 - (2 * overlap + 1) / (probability.sum(dim=-1) + targets.sum(dim=-1) + 1)
