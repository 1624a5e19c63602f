"""Loss of semantic segmentation of images."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.losses.image_labels import at_pixels_of
from training.losses.mono_configuration import SegmentationLossConfig
from training.losses.task_loss import TaskLoss, present_index

TASK = "semantic_segmentation"


class SegmentationLoss:
    """Cross-entropy averaged over the labelled pixels of the batch.

    Args:
        config: Weight and resolution.
    """

    def __init__(self, config: SegmentationLossConfig) -> None:
        self.config = config

    def __call__(
        self,
        logits_bkhw: torch.Tensor,
        label_bhw: torch.Tensor,
        valid_bhw: torch.Tensor,
        present_b: torch.Tensor,
    ) -> TaskLoss:
        """Returns the loss of a head's logits.

        Args:
            logits_bkhw: At any resolution the labels' is a multiple of.
            label_bhw: Integer classes.
            valid_bhw: bool, pixels with a label.
            present_b: bool (B), samples that have labels.

        Raises:
            NonFiniteLossError: The loss is not finite.
            ValueError: A label is no class of the head, or sizes do not fit.
        """
        present = present_index(present_b, len(logits_bkhw), TASK)
        logits, label, valid = logits_bkhw[present].float(), label_bhw[present].long(), valid_bhw[present]
        if self.config.full_resolution and logits.shape[-2:] != label.shape[-2:] and len(present):
            logits = functional.interpolate(
                logits, size=label.shape[-2:], mode="bilinear", align_corners=False
            )
        elif len(present):
            size = (logits.shape[-2], logits.shape[-1])
            label, valid = at_pixels_of(label, size), at_pixels_of(valid, size)
        if not bool(valid.any()):
            return TaskLoss.without_labels(logits_bkhw)
        classes = logits.shape[1]
        if int(label[valid].max()) >= classes:
            raise ValueError(
                f"loss of task '{TASK}': a label is class {int(label[valid].max())}, the head has {classes}"
            )
        target = torch.where(valid, label, torch.full_like(label, -100))
        term = functional.cross_entropy(logits, target, ignore_index=-100)
        samples = int(valid.flatten(1).any(dim=1).sum())
        return TaskLoss.of_terms(TASK, {"cross_entropy": self.config.weight * term}, samples)
