"""Everything about the losses of monocular networks that can be chosen."""

from __future__ import annotations

from typing import Literal

import pydantic

from perception_core.configuration import StrictModel


class MonoDetectionLossConfig(StrictModel):
    """Loss of monocular 3D detection after MonoDLE; pitch and roll after FCOS3D.

    Attributes:
        weight: Of the task (lambda_det of TAG's Eq. 5).
        heatmap_weight, offset_2d_weight, size_2d_weight, offset_3d_weight, size_3d_weight, depth_weight,
            heading_weight, tilt_weight: Factors of the terms; MonoDLE adds all of its own as they are.
        direction_weight: Of the direction within the tilt's loss (FCOS3D).
        tilt_beta: Where the tilt's smooth L1 turns linear (FCOS3D).
        heatmap_overlap: IoU a 2D box keeps with itself when moved by the radius of its peak (CenterNet).
    """

    weight: float = pydantic.Field(default=1.0, ge=0)
    heatmap_weight: float = pydantic.Field(default=1.0, ge=0)
    offset_2d_weight: float = pydantic.Field(default=1.0, ge=0)
    size_2d_weight: float = pydantic.Field(default=1.0, ge=0)
    offset_3d_weight: float = pydantic.Field(default=1.0, ge=0)
    size_3d_weight: float = pydantic.Field(default=1.0, ge=0)
    depth_weight: float = pydantic.Field(default=1.0, ge=0)
    heading_weight: float = pydantic.Field(default=1.0, ge=0)
    tilt_weight: float = pydantic.Field(default=1.0, ge=0)
    direction_weight: float = pydantic.Field(default=0.2, ge=0)
    tilt_beta: float = pydantic.Field(default=1 / 9, gt=0)
    heatmap_overlap: float = pydantic.Field(default=0.7, gt=0, lt=1)


class SegmentationLossConfig(StrictModel):
    """Cross-entropy of semantic segmentation.

    Attributes:
        weight: Of the task (lambda_seg of TAG's Eq. 5).
        full_resolution: Scores are raised to the labels' size; else labels are taken at the middle of each of
            the scores' pixels, which costs a fraction.
    """

    weight: float = pydantic.Field(default=100.0, ge=0)
    full_resolution: bool = True


class DenseDepthLossConfig(StrictModel):
    """Loss of dense depth.

    Attributes:
        weight: Of the task (lambda_dep of TAG's Eq. 5).
        kind: `smooth_l1` as TAG has it, or `l1`.
        beta_m: Where smooth L1 turns linear.
        relative_weight: lambda of JAReD (EDNAS, Eq. 8): adds the mean relative error; 0: without.
        farthest_m: Larger depths do not count.
        full_resolution: As of `SegmentationLossConfig`.
    """

    weight: float = pydantic.Field(default=1.0, ge=0)
    kind: Literal["smooth_l1", "l1"] = "smooth_l1"
    beta_m: float = pydantic.Field(default=1.0, gt=0)
    relative_weight: float = pydantic.Field(default=0.0, ge=0)
    farthest_m: float = pydantic.Field(default=300.0, gt=0)
    full_resolution: bool = True


class MonoLossConfig(StrictModel):
    """Losses of a monocular network; the weights of the tasks are TAG's 1, 100 and 1.

    Attributes:
        mono_detection3d, semantic_segmentation, depth: Of the heads.
    """

    mono_detection3d: MonoDetectionLossConfig = MonoDetectionLossConfig()
    semantic_segmentation: SegmentationLossConfig = SegmentationLossConfig()
    depth: DenseDepthLossConfig = DenseDepthLossConfig()
