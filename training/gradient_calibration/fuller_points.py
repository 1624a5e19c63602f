"""Where FULLER's networks are calibrated."""

from __future__ import annotations

from perception_core.models.fuller import FullerModel
from training.gradient_calibration.points import Branch, CalibrationPoints


def fuller_points(model: FullerModel) -> CalibrationPoints:
    """Returns the last layer all heads share and the first layer of the fusion block.

    Where the heads have BEV encoders of their own, the first layer of the fusion block is both.
    """
    lidar, camera = model.config.lidar.bev_channels, model.config.camera.bev_channels
    return CalibrationPoints(
        shared_layer=f"bev_fuser.{model.bev_fuser.last_layer}",
        fusion_layer="bev_fuser.first.convolution",
        branches=(
            Branch("lidar", "lidar_net", first_channel=0, channels=lidar),
            Branch("camera", "camera_net", first_channel=lidar, channels=camera),
        ),
    )
