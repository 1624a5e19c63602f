"""Everything about gradient calibration that can be chosen."""

from __future__ import annotations

from typing import Literal

import pydantic

from perception_core.configuration import StrictModel

#: Methods that weigh tasks.
Method = Literal["plain", "imtl_g", "gradnorm", "dwa", "uncertainty", "pcgrad", "mgda"]


class TaskWeightingConfig(StrictModel):
    """How the losses of several tasks are weighed (FULLER's inter-gradient calibration and its rivals).

    Attributes:
        method: `imtl_g` is FULLER's choice; `plain` leaves every weight at 1.
        minimum_share: `imtl_g`: no task's projection onto its own gradient falls below this share of the
            mean, see `imtl_g_weights`.
        maximum_ratio: `imtl_g`: a gradient shorter than the longest one by more than this factor is weighed
            as if it were only by this factor: a task with next to nothing to learn would take all weight.
        gradnorm_asymmetry: `gradnorm`: strength that pulls slow tasks up, α of its paper.
        gradnorm_learning_rate: `gradnorm`: step of its weights.
        dwa_temperature: `dwa`: softness of its softmax, T of its paper.
        uncertainty_learning_rate: `uncertainty`: step of its log variances.
        seed: `pcgrad`: of the random order of its projections.
    """

    method: Method = "imtl_g"
    minimum_share: float = pydantic.Field(default=0.1, ge=0, le=1)
    maximum_ratio: float = pydantic.Field(default=1e4, ge=1)
    gradnorm_asymmetry: float = pydantic.Field(default=1.5, ge=0)
    gradnorm_learning_rate: float = pydantic.Field(default=0.025, gt=0)
    dwa_temperature: float = pydantic.Field(default=2.0, gt=0)
    uncertainty_learning_rate: float = pydantic.Field(default=0.01, gt=0)
    seed: int = 0


class BranchGatingConfig(StrictModel):
    """FULLER's intra-gradient calibration, its Eq. 4 to 8.

    Attributes:
        enabled: Gate the branches; norms are measured and logged in any case.
        alpha: α of Eq. 6.
        momentum: m of Eq. 7.
        apply_to: `gradient` as in the paper, or `learning_rate`. Optimizers that divide by a running norm of
            the gradient (Adam, AdamW) undo a gate that stays the same for longer than that norm remembers;
            scaling the branch's learning rate instead is not undone.
    """

    enabled: bool = True
    alpha: float = pydantic.Field(default=0.1, gt=0)
    momentum: float = pydantic.Field(default=0.2, ge=0, lt=1)
    apply_to: Literal["gradient", "learning_rate"] = "gradient"


class PrimaryTaskConfig(StrictModel):
    """MMMT's hybrid loss (its Eq. 1): one primary task and λ for all the rest.

    Attributes:
        task: Name of the primary task.
        auxiliary_weight: λ.
        measured_in: `loss`: λ multiplies the auxiliary losses, as in the paper. `gradient`: the auxiliary
            losses are scaled so that their gradient at the shared layer is λ times as long as the primary
            one's, whatever the units of the losses are.
    """

    task: str = "control"
    auxiliary_weight: float = pydantic.Field(default=1.0, gt=0)
    measured_in: Literal["loss", "gradient"] = "loss"


class GradientCalibrationConfig(StrictModel):
    """Gradient calibration of one training run.

    Attributes:
        initial_weights: Factors on the raw losses before anything else, default 1 (FULLER's Tab. 1).
        inter: Weighing of tasks.
        intra: Gating of modality branches.
        primary: Primary task that is left out of the weighing; None: all tasks are equals.
        measure_gradients: Measure the tasks' gradients at the shared layer even where the method does not
            need them, so that γ_task can be logged. Costs a backward pass through each head.
    """

    initial_weights: dict[str, float] = {}
    inter: TaskWeightingConfig = TaskWeightingConfig()
    intra: BranchGatingConfig = BranchGatingConfig()
    primary: PrimaryTaskConfig | None = None
    measure_gradients: bool = True
