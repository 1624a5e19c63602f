"""The whole FULLER network, built from its configuration."""

from __future__ import annotations

from typing import Any

from torch import nn

from perception_core.bundle import BundleInput, ComponentSpec, ImageInput, TensorSpec
from perception_core.models.fuller.camera_net import CameraComponent, CameraNet
from perception_core.models.fuller.configuration import FullerConfig
from perception_core.models.fuller.control_head import ControlComponent, ControlHead
from perception_core.models.fuller.dense_heads import (
    DenseDetectionComponent,
    DenseDetectionHead,
    DenseMapHead,
)
from perception_core.models.fuller.detection_head import DetectionComponent, DetectionHead
from perception_core.models.fuller.fuser import (
    FuserComponent,
    LateBevFuser,
    SingleModalityFuserComponent,
    build_encoder,
    build_fuser,
)
from perception_core.models.fuller.lidar_net import LidarComponent, LidarNet
from perception_core.models.fuller.map_head import ForegroundComponent, MapComponent, MapHead
from perception_core.models.fuller.voxel_net import VoxelLidarComponent, VoxelLidarNet
from perception_core.models.interface import Component, PerceptionModel
from perception_core.ops.bev_grid import BevGrid

# Networks by the kind of their configuration.
_LIDAR_NETS: dict[str, Any] = {"pillars": LidarNet, "voxels": VoxelLidarNet}
_DETECTION_HEADS: dict[str, Any] = {"query": DetectionHead, "dense": DenseDetectionHead}
_MAP_HEADS: dict[str, Any] = {"query": MapHead, "dense": DenseMapHead}


class FullerModel(PerceptionModel):
    """LiDAR and cameras to a common BEV feature, shared by query heads for detection and map segmentation.

    Structure of FULLER (Huang et al., ICCV 2023, section 3.1) on BEVFusion's scheme, with LSS for the cameras
    and TransFusion's query initialization for detection.
    """

    def __init__(self, config: FullerConfig) -> None:
        super().__init__()
        self.config = config
        grid, z_range = config.grid, config.z_range
        channels_of: list[int] = []
        if "lidar" in config.modalities:
            self.lidar_net = _LIDAR_NETS[config.lidar.kind](config.lidar, grid, z_range)
            channels_of.append(config.lidar.bev_channels)
        if "camera" in config.modalities:
            self.camera_net = CameraNet(config.camera, grid, z_range)
            channels_of.append(config.camera.bev_channels)
        encode = config.bev_encoder == "shared"
        if config.fusion == "late" and len(channels_of) > 1:
            self.bev_fuser: Any = LateBevFuser(config.fuser, tuple(channels_of), encode)
        else:
            self.bev_fuser = build_fuser(config.fuser, sum(channels_of), encode)
        channels = config.fuser.out_channels
        if config.detection.enabled:
            self.detection3d_head = _DETECTION_HEADS[config.detection.kind](config.detection, channels, grid)
        if config.map_segmentation.enabled:
            self.map_segmentation_head = _MAP_HEADS[config.map_segmentation.kind](
                config.map_segmentation, channels, grid
            )
        if config.foreground_segmentation.enabled:
            self.foreground_segmentation_head = MapHead(config.foreground_segmentation, channels, grid)
        if config.control.enabled:
            self.control_head = ControlHead(config.control, channels, grid)
        if config.bev_encoder == "separate":
            for head in self.heads.values():
                head.encoder = build_encoder(config.fuser)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The heads' batched networks by task."""
        networks = dict(self.named_children())
        return {task: networks[f"{task}_head"] for task in self.config.tasks}

    @property
    def components(self) -> dict[str, Component]:
        """Shells around the networks, made anew at each call; parameters are shared with this model."""
        shells = {name: self._shell_type(name)(network) for name, network in self.named_children()}
        for shell in shells.values():
            shell.training = self.training
        return shells

    def _shell_type(self, component: str) -> type[Component]:
        config = self.config
        kinds: dict[str, type[Component]] = {
            "lidar_net": VoxelLidarComponent if config.lidar.kind == "voxels" else LidarComponent,
            "camera_net": CameraComponent,
            "bev_fuser": FuserComponent if len(config.modalities) > 1 else SingleModalityFuserComponent,
            "detection3d_head": (
                DenseDetectionComponent if config.detection.kind == "dense" else DetectionComponent
            ),
            "map_segmentation_head": MapComponent,
            "foreground_segmentation_head": ForegroundComponent,
            "control_head": ControlComponent,
        }
        return kinds[component]

    def component_specs(self) -> dict[str, ComponentSpec]:
        """Signature of each component."""
        config = self.config
        all_specs = {
            "lidar_net": ComponentSpec(inputs=("points_nc", "lidar_valid"), outputs=("lidar_bev_bchw",)),
            "camera_net": ComponentSpec(
                inputs=("images_vhwc", "camera_valid_v", "intrinsics_v33", "camera_from_ego_v44"),
                outputs=("camera_bev_bchw",),
            ),
            "bev_fuser": ComponentSpec(
                inputs=tuple(
                    f"{modality}_bev_bchw"
                    for modality in ("lidar", "camera")
                    if modality in config.modalities
                ),
                outputs=("bev_feature_bchw",),
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
            "map_segmentation_head": self._mask_spec("map", "map_segmentation"),
            "foreground_segmentation_head": self._mask_spec("foreground", "foreground_segmentation"),
            "control_head": ComponentSpec(
                inputs=("bev_feature_bchw", "ego_motion_c"),
                outputs=("control_steering", "control_speed", "control_waypoints_k2"),
                task="control",
                decoder="control_proposal",
            ),
        }
        return {name: all_specs[name] for name, _ in self.named_children()}

    def _mask_spec(self, prefix: str, task: str) -> ComponentSpec:
        grid = self._mask_grid(task)
        return ComponentSpec(
            inputs=("bev_feature_bchw",),
            outputs=(f"{prefix}_probability_khw",),
            task=task,
            decoder="map_layers",
            decoder_options={"resolution_m": grid.cell_size, "origin_xy": [grid.x_min, grid.y_min]},
        )

    def _mask_grid(self, task: str) -> BevGrid:
        """Returns the grid of a mask head's output."""
        return self.config.grid.refined(getattr(self.config, task).cell_subdivision)

    def tensor_specs(self) -> dict[str, TensorSpec]:
        """Types of the tensors that components output."""
        config = self.config
        rows, columns = config.grid.rows, config.grid.columns
        queries = config.detection.queries

        def bev(channels: int) -> TensorSpec:
            return TensorSpec(dtype="float32", shape=(1, channels, rows, columns))

        def masks(task: str) -> TensorSpec:
            grid = self._mask_grid(task)
            shape = (len(getattr(config, task).classes), grid.rows, grid.columns)
            return TensorSpec(dtype="float32", shape=shape)

        all_specs = {
            "lidar_bev_bchw": bev(config.lidar.bev_channels),
            "camera_bev_bchw": bev(config.camera.bev_channels),
            "bev_feature_bchw": bev(self.bev_fuser.out_channels),
            "detection_boxes_q9": TensorSpec(dtype="float32", shape=(queries, 9)),
            "detection_scores_q": TensorSpec(dtype="float32", shape=(queries,)),
            "detection_labels_q": TensorSpec(dtype="int64", shape=(queries,)),
            "map_probability_khw": masks("map_segmentation"),
            "foreground_probability_khw": masks("foreground_segmentation"),
            "control_steering": TensorSpec(dtype="float32", shape=(1,)),
            "control_speed": TensorSpec(dtype="float32", shape=(1,)),
            "control_waypoints_k2": TensorSpec(dtype="float32", shape=(config.control.waypoints, 2)),
        }
        return {name: all_specs[name] for spec in self.component_specs().values() for name in spec.outputs}

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Class names by task."""
        classes = {
            "detection3d": self.config.detection.classes,
            "map_segmentation": self.config.map_segmentation.classes,
            "foreground_segmentation": self.config.foreground_segmentation.classes,
        }
        return {task: classes[task] for task in self.config.tasks if task in classes}

    def bundle_input(self) -> BundleInput:
        """Any number of cameras, with or without LiDAR; each sensor may be masked."""
        camera, modalities = self.config.camera, self.config.modalities
        image = ImageInput(height=camera.image_height, width=camera.image_width)
        return BundleInput(
            image=image if "camera" in modalities else None,
            max_points=self.config.lidar.max_points if "lidar" in modalities else 0,
        )

    def configuration(self) -> dict[str, Any]:
        """The configuration, defaults written out, so that a bundle outlives a change of defaults."""
        values: dict[str, Any] = self.config.model_dump(mode="json")
        return values
