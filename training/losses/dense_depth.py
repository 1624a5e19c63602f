"""Loss of dense depth of images: (smooth) L1, and JAReD's relative error (EDNAS, Eq. 8)."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.losses.image_labels import at_pixels_of
from training.losses.jared import relative_error_loss
from training.losses.mono_configuration import DenseDepthLossConfig
from training.losses.task_loss import TaskLoss, present_index

TASK = "depth"


class DenseDepthLoss:
    """Errors averaged over the pixels of the batch whose depth is known.

    Args:
        config: Kind, weights, resolution.
    """

    def __init__(self, config: DenseDepthLossConfig) -> None:
        self.config = config

    def __call__(
        self,
        depth_bhw: torch.Tensor,
        target_bhw: torch.Tensor,
        valid_bhw: torch.Tensor,
        present_b: torch.Tensor,
    ) -> TaskLoss:
        """Returns the loss of a head's depth.

        Args:
            depth_bhw: Metres, at any resolution the labels' is a multiple of.
            target_bhw: Metres.
            valid_bhw: bool, pixels whose depth is known.
            present_b: bool (B), samples that have labels.

        Raises:
            NonFiniteLossError: A term is not finite.
            ValueError: Sizes do not fit.
        """
        config = self.config
        present = present_index(present_b, len(depth_bhw), TASK)
        depth, target, valid = depth_bhw[present].float(), target_bhw[present].float(), valid_bhw[present]
        if config.full_resolution and depth.shape[-2:] != target.shape[-2:] and len(present):
            depth = functional.interpolate(
                depth.unsqueeze(1), size=target.shape[-2:], mode="bilinear", align_corners=False
            ).squeeze(1)
        elif len(present):
            size = (depth.shape[-2], depth.shape[-1])
            target, valid = at_pixels_of(target, size), at_pixels_of(valid, size)
        valid = valid & (target > 0) & (target <= config.farthest_m)
        if not bool(valid.any()):
            return TaskLoss.without_labels(depth_bhw)
        found_n, true_n = depth[valid], target[valid]
        if config.kind == "smooth_l1":
            absolute = functional.smooth_l1_loss(found_n, true_n, beta=config.beta_m)
        else:
            absolute = functional.l1_loss(found_n, true_n)
        terms: dict[str, torch.Tensor] = {config.kind: config.weight * absolute}
        if config.relative_weight > 0:
            relative = relative_error_loss(found_n, true_n)
            terms["relative"] = config.weight * config.relative_weight * relative
        samples = int(valid.flatten(1).any(dim=1).sum())
        return TaskLoss.of_terms(TASK, terms, samples)
