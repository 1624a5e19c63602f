"""Everything about a FULLER network that can be chosen."""

from __future__ import annotations

from typing import Any

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel, nearest
from perception_core.labels import NUSCENES_DETECTION_CLASSES, NUSCENES_MAP_CLASSES
from perception_core.ops.bev_grid import BevGrid


class CameraNetConfig(StrictModel):
    """Camera net: image encoder and lift-splat.

    Attributes:
        image_height, image_width: Size the images are resized to; multiples of 16.
        stem_channels: Channels at stride 2.
        stage_channels: Channels at strides 4, 8 and 16.
        stage_blocks: Residual blocks of each stage.
        neck_channels: Channels of the feature pyramid at stride 8.
        bev_channels: Channels of the camera BEV feature.
        depth_min, depth_max, depth_bins: Planes of the depth distribution: camera z in metres, evenly spaced.
    """

    image_height: int = pydantic.Field(default=128, gt=0, multiple_of=16)
    image_width: int = pydantic.Field(default=352, gt=0, multiple_of=16)
    stem_channels: int = 16
    stage_channels: tuple[int, int, int] = (32, 56, 96)
    stage_blocks: tuple[int, int, int] = (1, 1, 1)
    neck_channels: int = 56
    bev_channels: int = 40
    depth_min: float = pydantic.Field(default=1.0, gt=0)
    depth_max: float = 60.0
    depth_bins: int = pydantic.Field(default=60, gt=1)


class LidarNetConfig(StrictModel):
    """LiDAR net: pillars and a BEV backbone of two scales.

    Attributes:
        pillars_per_cell: Pillars along one side of a BEV cell; the backbone's first stage strides by it.
        pillar_channels: Channels of a pillar's feature.
        stage_channels: Channels at BEV resolution and at half of it.
        stage_blocks: Residual blocks of each stage.
        bev_channels: Channels of the LiDAR BEV feature.
        max_points: Points sensor fusion keeps of a sweep.
    """

    pillars_per_cell: int = pydantic.Field(default=2, ge=1, le=2)
    pillar_channels: int = 32
    stage_channels: tuple[int, int] = (40, 80)
    stage_blocks: tuple[int, int] = (1, 1)
    bev_channels: int = 48
    max_points: int = pydantic.Field(default=60_000, gt=0)


class FuserConfig(StrictModel):
    """Fusion block: concatenation and a feature pyramid of two layers.

    Attributes:
        layer_channels: Channels of the layer at BEV resolution and of the one at half of it.
        out_channels: Channels of the fused feature.
    """

    layer_channels: tuple[int, int] = (48, 96)
    out_channels: int = 64


class DetectionHeadConfig(StrictModel):
    """Fuller-det: queries from a heat map, one decoder layer.

    Attributes:
        classes: Class names.
        point_like_classes: Classes so small that neighbouring cells may hold two: no peak suppression.
        heatmap_channels: Hidden channels of the heat-map branch.
        queries: Queries, at most one a cell and class.
        peak_window: Side of the peak suppression's window, in cells.
        heads: Attention heads.
        hidden_channels: Hidden channels of the decoder's feed-forward layer.
        initial_probability: Score of every cell before training; 0.1 makes the bias -2.19 (CenterNet).
        score_threshold: Objects below it are not published.
    """

    classes: tuple[str, ...] = NUSCENES_DETECTION_CLASSES
    point_like_classes: tuple[str, ...] = ("pedestrian", "traffic_cone")
    heatmap_channels: int = 32
    queries: int = pydantic.Field(default=128, gt=0)
    peak_window: int = 3
    heads: int = 4
    hidden_channels: int = 128
    initial_probability: float = pydantic.Field(default=0.1, gt=0, lt=1)
    score_threshold: float = pydantic.Field(default=0.1, ge=0, le=1)

    @pydantic.model_validator(mode="after")
    def _point_like_are_classes(self) -> DetectionHeadConfig:
        for name in self.point_like_classes:
            if name not in self.classes:
                raise ValueError(f"point_like_classes: '{name}' is not a class" + nearest(name, self.classes))
        return self


class MapHeadConfig(StrictModel):
    """Fuller-seg: one query a class, one decoder layer, masks as dot products.

    Attributes:
        classes: Layer names.
        mask_channels: Channels of the mask feature.
        cell_subdivision: Output cells along one side of a BEV cell.
        token_stride: BEV cells along one side of a token of the cross-attention.
        heads: Attention heads.
        hidden_channels: Hidden channels of the decoder's feed-forward layer.
    """

    classes: tuple[str, ...] = NUSCENES_MAP_CLASSES
    mask_channels: int = 32
    cell_subdivision: int = pydantic.Field(default=1, ge=1)
    token_stride: int = pydantic.Field(default=4, ge=1)
    heads: int = 4
    hidden_channels: int = 64


class ControlHeadConfig(StrictModel):
    """Learned control: steering, target speed and waypoints from the fused feature and the vehicle's motion.

    Attributes:
        enabled: The model has the head.
        channels: Hidden channels.
        waypoints: Number of waypoints.
        max_steering_angle_rad: Largest steering angle proposed.
    """

    enabled: bool = False
    channels: int = 32
    waypoints: int = pydantic.Field(default=8, gt=0)
    max_steering_angle_rad: float = pydantic.Field(default=0.55, gt=0)


class FullerConfig(StrictModel):
    """A whole FULLER network.

    Attributes:
        grid: BEV grid of the fused feature.
        z_range: Heights in metres that points and image rays count in.
    """

    grid: BevGrid = BevGrid(x_min=-51.2, x_max=51.2, y_min=-51.2, y_max=51.2, cell_size=0.8)
    z_range: tuple[float, float] = (-3.0, 5.0)
    camera: CameraNetConfig = CameraNetConfig()
    lidar: LidarNetConfig = LidarNetConfig()
    fuser: FuserConfig = FuserConfig()
    detection: DetectionHeadConfig = DetectionHeadConfig()
    map_segmentation: MapHeadConfig = MapHeadConfig()
    control: ControlHeadConfig = ControlHeadConfig()

    @pydantic.model_validator(mode="after")
    def _grid_can_be_halved(self) -> FullerConfig:
        for divisor in (2, self.map_segmentation.token_stride):
            if self.grid.rows % divisor or self.grid.columns % divisor:
                raise ValueError(
                    f"grid of {self.grid.rows} x {self.grid.columns} cells cannot be divided by {divisor}"
                )
        return self


def build_configuration(model: str, defaults: dict[str, Any], arguments: dict[str, Any]) -> FullerConfig:
    """Lays arguments over a model's defaults, group by group.

    Raises:
        ConfigurationError: An argument is unknown or wrong.
    """
    merged = FullerConfig().model_dump()
    for layer in (defaults, arguments):
        for key, value in layer.items():
            merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
    try:
        return FullerConfig.model_validate(merged)
    except pydantic.ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                group: Any = FullerConfig
                for part in item["loc"][:-1]:
                    group = group.model_fields[str(part)].annotation
                lines.append(
                    f"model '{model}': unknown argument '{where}'"
                    + nearest(str(item["loc"][-1]), group.model_fields)
                )
            else:
                lines.append(f"model '{model}': argument '{where}': {item['msg']}")
        raise ConfigurationError("\n".join(lines)) from error
