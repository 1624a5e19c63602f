"""Settings of an AutoMTL search."""

from __future__ import annotations

import pydantic

from perception_core.configuration import StrictModel
from training.search.automtl.policy import TemperatureSchedule


class SearchConfig(StrictModel):
    """Settings of the three stages.

    Attributes:
        pretrain_steps: Steps with the average of the three options.
        policy_steps: Steps of the policy-train stage, each of weights or of policies.
        posttrain_steps: Steps of the sampled network, from scratch.
        weight_turn, policy_turn: In the policy-train stage, so many steps of weights and then so many of
            policies, in turns.
        learning_rate: Adam's, of weights.
        policy_learning_rate: Adam's, of policies.
        weight_decay: Of weights.
        regularization: λ_reg of Eq. 3. The paper compares 0.01, 0.001, 0.0005 and 0.0001 (Tab. 6).
        task_weights: λ_i of Eq. 3; 1 where none is given.
        temperature: τ of Eq. 1.
        head_channels: Hidden channels of the ASPP heads.
        head_rates: Dilations of the ASPP heads.
        clip_gradient: Largest norm of the weights' gradient.
        checkpoint_every: Steps between checkpoints.
        seed: Of everything.
    """

    pretrain_steps: int = pydantic.Field(default=500, ge=0)
    policy_steps: int = pydantic.Field(default=1000, ge=0)
    posttrain_steps: int = pydantic.Field(default=1000, ge=0)
    weight_turn: int = pydantic.Field(default=1, ge=1)
    policy_turn: int = pydantic.Field(default=1, ge=1)
    learning_rate: float = pydantic.Field(default=1e-3, gt=0)
    policy_learning_rate: float = pydantic.Field(default=1e-2, gt=0)
    weight_decay: float = pydantic.Field(default=1e-4, ge=0)
    regularization: float = pydantic.Field(default=5e-4, ge=0)
    task_weights: dict[str, float] = {}
    temperature: TemperatureSchedule = TemperatureSchedule()
    head_channels: int = pydantic.Field(default=128, gt=0)
    head_rates: tuple[int, ...] = (6, 12, 18, 24)
    clip_gradient: float = pydantic.Field(default=10.0, gt=0)
    checkpoint_every: int = pydantic.Field(default=100, ge=1)
    seed: int = pydantic.Field(default=0, ge=0)
