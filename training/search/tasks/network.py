"""A backbone for several tasks with a head a task, its losses and its evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from training.evaluation.result import Result
from training.search.tasks.batches import SearchBatch
from training.search.tasks.task import DenseTask


class MultiTaskNetwork(nn.Module):
    """A backbone that gives every task its feature, and the tasks' heads.

    Args:
        backbone: Maps images (B, 3, H, W) to features by task: a supermodel or a compact model. A backbone
            that gives one feature serves all tasks with it (the *Multi-Task* baseline).
        heads: By task; each maps a feature and the images' size to (B, channels, H, W).
    """

    def __init__(self, backbone: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)

    def forward(self, image_bchw: torch.Tensor, **choice: Any) -> dict[str, torch.Tensor]:
        """Returns predictions at the images' size by task.

        Args:
            image_bchw: Normalized images.
            choice: Goes to the backbone, e.g. a supermodel's `policy` or `weights_tl3`.
        """
        features = self.backbone(image_bchw, **choice)
        size = (image_bchw.shape[2], image_bchw.shape[3])
        return {
            task: head(features[task] if isinstance(features, dict) else features, size)
            for task, head in self.heads.items()
        }


def task_losses(
    predictions: Mapping[str, torch.Tensor], batch: SearchBatch, tasks: Sequence[DenseTask]
) -> dict[str, torch.Tensor]:
    """Returns the loss L_i of each task."""
    return {task.name: task.loss(predictions[task.name], batch.targets[task.name]) for task in tasks}


def total_loss(losses: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> torch.Tensor:
    """Returns Σ λ_i L_i, the first part of AutoMTL's Eq. 3; λ_i is 1 where none is given.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    for task, loss in losses.items():
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(
                f"loss of task '{task}' is {float(loss.detach())}; a lower learning rate may help"
            )
    return torch.stack([weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()


def evaluate(
    network: nn.Module, batches: Iterable[SearchBatch], tasks: Sequence[DenseTask], **choice: Any
) -> dict[str, Result]:
    """Evaluates a network over batches.

    Args:
        network: Maps images to predictions by task; put into evaluation mode and back.
        batches: Everything to judge by.
        tasks: Tasks.
        choice: See `MultiTaskNetwork.forward`.

    Returns:
        Results by task.

    Raises:
        FloatingPointError: A prediction is not finite.
    """
    evaluators = {task.name: task.evaluator() for task in tasks}
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        for batch in batches:
            batch = batch.to(device)
            predictions = network(batch.image_bchw, **choice)
            for task in tasks:
                if not bool(torch.isfinite(predictions[task.name]).all()):
                    raise FloatingPointError(f"a prediction of task '{task.name}' is not finite")
                task.judge(evaluators[task.name], predictions[task.name], batch.targets[task.name])
    network.train(was_training)
    return {name: evaluator.compute() for name, evaluator in evaluators.items()}


def parameter_count(module: nn.Module) -> int:
    """Returns the number of parameters, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())
