"""Where FULLER's networks are calibrated."""

from __future__ import annotations

from perception_core.models.fuller import FullerModel
from perception_core.models.fuller.fuser import LateBevFuser
from training.gradient_calibration.points import Branch, CalibrationPoints


def fuller_points(model: FullerModel) -> CalibrationPoints:
    """Returns the last layer all heads share and the first layer of the fusion block.

    Where the heads have BEV encoders of their own, or the modalities are fused late, one layer is both.
    """
    config = model.config
    channels = {"lidar": config.lidar.bev_channels, "camera": config.camera.bev_channels}
    if isinstance(model.bev_fuser, LateBevFuser):
        channels = dict(zip(("lidar", "camera"), model.bev_fuser.branch_channels, strict=True))
    branches, first = [], 0
    for modality in ("lidar", "camera"):  # the order in which the fuser concatenates them
        if modality in config.modalities:
            branches.append(Branch(modality, f"{modality}_net", first, channels[modality]))
            first += channels[modality]
    return CalibrationPoints(
        shared_layer=f"bev_fuser.{model.bev_fuser.last_layer}",
        fusion_layer="bev_fuser.first.convolution",
        branches=tuple(branches),
    )
