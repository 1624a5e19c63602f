"""Optimizer and learning rate schedule of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from perception_core.configuration import ConfigurationError, nearest
from training.gradient_calibration import GradientCalibrator
from training.trainer.configuration import OptimizerConfig, ScheduleConfig
from training.trainer.weighing import PlainSum

#: Warming up takes at most this share of a run: a short trial run shall learn something too.
_LARGEST_WARMUP = 0.2


def create_optimizer(
    network: nn.Module, config: OptimizerConfig, weighing: GradientCalibrator | PlainSum
) -> torch.optim.AdamW:
    """Builds AdamW over all trainable parameters.

    Modality branches have groups of their own, so that their learning rates can be gated.

    Raises:
        ConfigurationError: A learning rate factor names no component.
    """
    components = [name for name, _ in network.named_children()]
    for name in config.learning_rate_factors:
        if name not in components:
            raise ConfigurationError(
                f"optimizer.learning_rate_factors: the network has no component '{name}'"
                + nearest(name, components)
            )
    factor_of = {
        id(parameter): config.learning_rate_factors.get(name, 1.0)
        for name, component in network.named_children()
        for parameter in component.parameters()
    }
    groups: list[dict[str, Any]] = []
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for branch in weighing.parameter_groups(trainable):
        divided: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in branch["params"]:
            decays = config.decay_all or parameter.ndim >= 2
            divided.setdefault((factor_of.get(id(parameter), 1.0), decays), []).append(parameter)
        for (factor, decays), parameters in divided.items():
            groups.append(
                {
                    "params": parameters,
                    "lr": config.learning_rate * factor,
                    "weight_decay": config.weight_decay if decays else 0.0,
                }
            )
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, config.second_momentum))


def learning_rate_ratio(config: ScheduleConfig, total_steps: int) -> Callable[[int], float]:
    """Returns the factor on the learning rate by number of steps done."""
    warmup = min(config.warmup_steps, int(_LARGEST_WARMUP * total_steps))

    def ratio(step: int) -> float:
        if step < warmup:
            return config.warmup_ratio + (1 - config.warmup_ratio) * step / warmup
        if config.kind == "constant":
            return 1.0
        share = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
        if config.kind == "polynomial":
            return config.final_ratio + (1 - config.final_ratio) * (1 - share) ** config.power
        return config.final_ratio + (1 - config.final_ratio) * 0.5 * (1 + math.cos(math.pi * share))

    return ratio
