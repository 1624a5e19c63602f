"""Loss of binary masks in the bird's-eye view: map segmentation and foreground segmentation."""

from __future__ import annotations

import torch

from training.losses.configuration import MaskLossConfig
from training.losses.focal import dice_loss, sigmoid_focal_loss
from training.losses.task_loss import TaskLoss, present_index


class BevMaskLoss:
    """Focal loss on every cell and dice on every mask, both averaged over samples and classes.

    Args:
        task: Name, for messages: `map_segmentation` or `foreground_segmentation`.
        config: Weights.
    """

    def __init__(self, task: str, config: MaskLossConfig) -> None:
        self.task = task
        self.config = config

    def __call__(
        self,
        logits_bkhw: torch.Tensor,
        masks_bkhw: torch.Tensor,
        present_b: torch.Tensor,
        valid_bhw: torch.Tensor | None = None,
    ) -> TaskLoss:
        """Returns the loss of a head's logits.

        Args:
            logits_bkhw: Of the head.
            masks_bkhw: bool; looked at only where present.
            present_b: bool (B), samples that have masks.
            valid_bhw: bool, cells that count; None: all.

        Raises:
            NonFiniteLossError: A term is not finite.
            ValueError: Logits and masks differ in shape.
        """
        if logits_bkhw.shape != masks_bkhw.shape:
            raise ValueError(
                f"loss of task '{self.task}': logits have shape {tuple(logits_bkhw.shape)}, masks "
                f"{tuple(masks_bkhw.shape)}; grid and classes of head and labels must be the same"
            )
        present = present_index(present_b, len(logits_bkhw), self.task)
        if len(present) == 0:
            return TaskLoss.without_labels(logits_bkhw)
        config = self.config
        logits = logits_bkhw[present].float().flatten(2)
        masks = masks_bkhw[present].float().flatten(2)
        weights = None
        if valid_bhw is not None:
            weights = valid_bhw[present].float().flatten(1).unsqueeze(1).expand_as(masks)
        focal = sigmoid_focal_loss(logits, masks, config.focal_alpha, config.focal_gamma)
        mean = focal.mean() if weights is None else (focal * weights).sum() / weights.sum().clamp_min(1)
        terms = {
            "focal": config.focal_weight * mean,
            "dice": config.dice_weight * dice_loss(logits, masks, weights).mean(),
        }
        return TaskLoss.of_terms(self.task, terms, len(present))
