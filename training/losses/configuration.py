"""Everything about the losses that can be chosen."""

from __future__ import annotations

import pydantic

from perception_core.configuration import StrictModel


class DetectionLossConfig(StrictModel):
    """Loss of the BEV detection heads; defaults are TransFusion's, which FULLER's head follows.

    Attributes:
        heatmap_weight, class_weight, box_weight: Factors of the three terms.
        code_weights: Factor of each number of the box code, see `perception_core.ops.box_codec`.
        class_cost, position_cost, overlap_cost: Factors in the assignment of objects to queries.
        focal_alpha, focal_gamma: Of the classification's focal loss.
        heatmap_overlap: A box moved by the radius of its heat-map peak still has this IoU with itself.
        heatmap_radius_cells: No peak has a smaller radius.
    """

    heatmap_weight: float = pydantic.Field(default=1.0, ge=0)
    class_weight: float = pydantic.Field(default=1.0, ge=0)
    box_weight: float = pydantic.Field(default=0.25, ge=0)
    code_weights: tuple[float, ...] = (1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2)
    class_cost: float = pydantic.Field(default=0.15, ge=0)
    position_cost: float = pydantic.Field(default=0.25, ge=0)
    overlap_cost: float = pydantic.Field(default=0.25, ge=0)
    focal_alpha: float = pydantic.Field(default=0.25, ge=0, le=1)
    focal_gamma: float = pydantic.Field(default=2.0, ge=0)
    heatmap_overlap: float = pydantic.Field(default=0.1, gt=0, lt=1)
    heatmap_radius_cells: float = pydantic.Field(default=2.0, ge=0)

    @pydantic.model_validator(mode="after")
    def _one_weight_a_number(self) -> DetectionLossConfig:
        from perception_core.ops.box_codec import CODE_SIZE

        if len(self.code_weights) != CODE_SIZE:
            raise ValueError(f"code_weights: expected {CODE_SIZE} numbers, got {len(self.code_weights)}")
        return self


class MaskLossConfig(StrictModel):
    """Loss of binary BEV masks: focal loss on every cell and dice on every mask.

    Attributes:
        focal_weight, dice_weight: Factors of the two terms. The mean focal loss of a cell is small once most
            are right, hence the larger factor (as in MaskFormer).
        focal_alpha: Weight of cells inside a mask, 1 - alpha outside; None: equal.
        focal_gamma: Of the focal loss.
    """

    focal_weight: float = pydantic.Field(default=20.0, ge=0)
    dice_weight: float = pydantic.Field(default=1.0, ge=0)
    focal_alpha: float | None = pydantic.Field(default=None, ge=0, le=1)
    focal_gamma: float = pydantic.Field(default=2.0, ge=0)


class ControlLossConfig(StrictModel):
    """Loss of control: smooth L1 of each value in units in which errors are of the order of 1.

    Attributes:
        steering_weight, speed_weight, waypoint_weight: Factors of the control values c of MMMT's Eq. 1.
        steering_unit_rad, speed_unit_mps, waypoint_unit_m: An error of this size counts as 1.
    """

    steering_weight: float = pydantic.Field(default=1.0, ge=0)
    speed_weight: float = pydantic.Field(default=1.0, ge=0)
    waypoint_weight: float = pydantic.Field(default=1.0, ge=0)
    steering_unit_rad: float = pydantic.Field(default=0.1, gt=0)
    speed_unit_mps: float = pydantic.Field(default=2.0, gt=0)
    waypoint_unit_m: float = pydantic.Field(default=2.0, gt=0)


class DepthLossConfig(StrictModel):
    """Supervision of lift-splat's depth distribution.

    Attributes:
        weight: Factor; 0 switches it off.
    """

    weight: float = pydantic.Field(default=1.0, ge=0)
