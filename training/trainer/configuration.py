"""Everything about a training run that is not the network, its losses or its data."""

from __future__ import annotations

from typing import Literal

import pydantic

from perception_core.configuration import StrictModel


class OptimizerConfig(StrictModel):
    """AdamW (Loshchilov and Hutter, 2019).

    Attributes:
        learning_rate: Largest of the schedule.
        weight_decay: Not applied to biases, normalizations and other weights of fewer than two axes where
            `decay_all` is off.
        decay_all: Apply weight decay to every parameter, as torch's default does.
        momentum: β1, FULLER's "momentum of 0.9".
        second_momentum: β2.
        learning_rate_factors: Factor of the learning rate by the network's component, e.g.
            `{"camera_net": 0.1}` for a pretrained one.
    """

    learning_rate: float = pydantic.Field(default=1e-3, gt=0)
    weight_decay: float = pydantic.Field(default=1e-2, ge=0)
    decay_all: bool = True
    momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    second_momentum: float = pydantic.Field(default=0.999, ge=0, lt=1)
    learning_rate_factors: dict[str, float] = {}


class ScheduleConfig(StrictModel):
    """Learning rate over the run.

    Attributes:
        kind: `constant`; `cosine`: falls along half a cosine to `final_ratio`; `polynomial`: as
            (1 - share of the run) to the `power`, to `final_ratio`.
        power: Of `polynomial`.
        warmup_steps: Steps of linear growth from `warmup_ratio` to 1; at most a fifth of the run.
        warmup_ratio: Where growth starts.
        final_ratio: Where the fall ends.
    """

    kind: Literal["constant", "cosine", "polynomial"] = "cosine"
    power: float = pydantic.Field(default=0.9, gt=0)
    warmup_steps: int = pydantic.Field(default=0, ge=0)
    warmup_ratio: float = pydantic.Field(default=1 / 3, gt=0, le=1)
    final_ratio: float = pydantic.Field(default=1e-3, ge=0, le=1)


class TrainingConfig(StrictModel):
    """How a learner is trained.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Samples a step, over all devices together.
        samples_a_pass: Samples a device takes through the network at once; fewer than its share of a batch:
            gradients are accumulated. None: its whole share.
        seed: Of initial weights, order, augmentation and dropout.
        workers: Processes that read samples, for each device.
        precision: `32-true`, or `bf16-mixed` for automatic mixed precision.
        gradient_clip: Largest norm of a step's gradient; None: not clipped.
        optimizer: Optimizer.
        schedule: Learning rate over the run.
        evaluate_every: Evaluate after every so many epochs and after the last; 0: only after the last.
        keep_checkpoints: Checkpoints of earlier epochs that are kept beside the last one.
        logger: `csv`, or `tensorboard` where that package is installed.
        log_every: Log every so many steps.
    """

    epochs: int = pydantic.Field(default=10, gt=0)
    batch_size: int = pydantic.Field(default=16, gt=0)
    samples_a_pass: int | None = pydantic.Field(default=None, gt=0)
    seed: int = pydantic.Field(default=0, ge=0)
    workers: int = pydantic.Field(default=0, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    gradient_clip: float | None = pydantic.Field(default=None, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluate_every: int = pydantic.Field(default=1, ge=0)
    keep_checkpoints: int = pydantic.Field(default=0, ge=0)
    logger: Literal["csv", "tensorboard"] = "csv"
    log_every: int = pydantic.Field(default=1, gt=0)
