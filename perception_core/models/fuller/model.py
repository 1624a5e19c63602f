"""The whole FULLER network and its registered variants."""

from __future__ import annotations

from typing import Any

from torch import nn

from perception_core.bundle import BundleInput, ComponentSpec, ImageInput, TensorSpec
from perception_core.models.fuller.camera_net import CameraComponent, CameraNet
from perception_core.models.fuller.configuration import FullerConfig, build_configuration
from perception_core.models.fuller.control_head import ControlComponent, ControlHead
from perception_core.models.fuller.detection_head import DetectionComponent, DetectionHead
from perception_core.models.fuller.fuser import BevFuser, FuserComponent
from perception_core.models.fuller.lidar_net import LidarComponent, LidarNet
from perception_core.models.fuller.map_head import MapComponent, MapHead
from perception_core.models.interface import Component, PerceptionModel
from perception_core.models.registry import register_model

_SHELLS: dict[str, type[Component]] = {
    "lidar_net": LidarComponent,
    "camera_net": CameraComponent,
    "bev_fuser": FuserComponent,
    "detection3d_head": DetectionComponent,
    "map_segmentation_head": MapComponent,
    "control_head": ControlComponent,
}


class FullerModel(PerceptionModel):
    """LiDAR and cameras to a common BEV feature, shared by query heads for detection and map segmentation.

    Structure of FULLER (Huang et al., ICCV 2023, section 3.1) on BEVFusion's scheme, with LSS for the cameras
    and TransFusion's query initialization for detection.
    """

    def __init__(self, config: FullerConfig) -> None:
        super().__init__()
        self.config = config
        grid, z_range, channels = config.grid, config.z_range, config.fuser.out_channels
        self.lidar_net = LidarNet(config.lidar, grid, z_range)
        self.camera_net = CameraNet(config.camera, grid, z_range)
        self.bev_fuser = BevFuser(config.fuser, config.lidar.bev_channels, config.camera.bev_channels)
        self.detection3d_head = DetectionHead(config.detection, channels, grid)
        self.map_segmentation_head = MapHead(config.map_segmentation, channels, grid)
        if config.control.enabled:
            self.control_head = ControlHead(config.control, channels, grid)

    @property
    def components(self) -> dict[str, Component]:
        """Shells around the networks, made anew at each call; parameters are shared with this model."""
        networks: dict[str, nn.Module] = dict(self.named_children())
        shells = {name: shell(networks[name]) for name, shell in _SHELLS.items() if name in networks}
        for shell in shells.values():
            shell.training = self.training
        return shells

    def component_specs(self) -> dict[str, ComponentSpec]:
        """Signature of each component."""
        config = self.config
        output_grid = self.map_segmentation_head.output_grid
        specs = {
            "lidar_net": ComponentSpec(inputs=("points_nc", "lidar_valid"), outputs=("lidar_bev_bchw",)),
            "camera_net": ComponentSpec(
                inputs=("images_vhwc", "camera_valid_v", "intrinsics_v33", "camera_from_ego_v44"),
                outputs=("camera_bev_bchw",),
            ),
            "bev_fuser": ComponentSpec(
                inputs=("lidar_bev_bchw", "camera_bev_bchw"), outputs=("bev_feature_bchw",)
            ),
            "detection3d_head": ComponentSpec(
                inputs=("bev_feature_bchw",),
                outputs=("detection_boxes_q9", "detection_scores_q", "detection_labels_q"),
                task="detection3d",
                decoder="boxes3d",
                decoder_options={
                    "score_threshold": config.detection.score_threshold,
                    "max_objects": config.detection.queries,
                },
            ),
            "map_segmentation_head": ComponentSpec(
                inputs=("bev_feature_bchw",),
                outputs=("map_probability_khw",),
                task="map_segmentation",
                decoder="map_layers",
                decoder_options={
                    "resolution_m": output_grid.cell_size,
                    "origin_xy": [output_grid.x_min, output_grid.y_min],
                },
            ),
        }
        if config.control.enabled:
            specs["control_head"] = ComponentSpec(
                inputs=("bev_feature_bchw", "ego_motion_c"),
                outputs=("control_steering", "control_speed", "control_waypoints_k2"),
                task="control",
                decoder="control_proposal",
            )
        return specs

    def tensor_specs(self) -> dict[str, TensorSpec]:
        """Types of the tensors that components output."""
        config = self.config
        rows, columns = config.grid.rows, config.grid.columns
        queries = config.detection.queries
        output_grid = self.map_segmentation_head.output_grid
        map_shape = (len(config.map_segmentation.classes), output_grid.rows, output_grid.columns)

        def bev(channels: int) -> TensorSpec:
            return TensorSpec(dtype="float32", shape=(1, channels, rows, columns))

        specs = {
            "lidar_bev_bchw": bev(config.lidar.bev_channels),
            "camera_bev_bchw": bev(config.camera.bev_channels),
            "bev_feature_bchw": bev(config.fuser.out_channels),
            "detection_boxes_q9": TensorSpec(dtype="float32", shape=(queries, 9)),
            "detection_scores_q": TensorSpec(dtype="float32", shape=(queries,)),
            "detection_labels_q": TensorSpec(dtype="int64", shape=(queries,)),
            "map_probability_khw": TensorSpec(dtype="float32", shape=map_shape),
        }
        if config.control.enabled:
            specs["control_steering"] = TensorSpec(dtype="float32", shape=(1,))
            specs["control_speed"] = TensorSpec(dtype="float32", shape=(1,))
            specs["control_waypoints_k2"] = TensorSpec(dtype="float32", shape=(config.control.waypoints, 2))
        return specs

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Class names by task."""
        return {
            "detection3d": self.config.detection.classes,
            "map_segmentation": self.config.map_segmentation.classes,
        }

    def bundle_input(self) -> BundleInput:
        """Any number of cameras, with or without LiDAR; each sensor may be masked."""
        camera = self.config.camera
        return BundleInput(
            image=ImageInput(height=camera.image_height, width=camera.image_width),
            max_points=self.config.lidar.max_points,
        )

    def configuration(self) -> dict[str, Any]:
        """The configuration, defaults written out, so that a bundle outlives a change of defaults."""
        values: dict[str, Any] = self.config.model_dump(mode="json")
        return values


@register_model
def fuller_tiny(**arguments: Any) -> FullerModel:
    """FULLER for two CPU cores: 0.8 m cells, 128 x 352 images, about 4.4 billion multiply-adds a frame."""
    return FullerModel(build_configuration("fuller_tiny", {}, arguments))
