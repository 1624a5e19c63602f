"""Everything about a FULLER network that can be chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel, nearest
from perception_core.labels import NUSCENES_DETECTION_CLASSES, NUSCENES_MAP_CLASSES
from perception_core.ops.bev_grid import BevGrid


class CameraNetConfig(StrictModel):
    """Camera net of few channels: residual image encoder and lift-splat.

    Attributes:
        kind: `residual`.
        image_height, image_width: Size the images are resized to; multiples of 16.
        stem_channels: Channels at stride 2.
        stage_channels: Channels at strides 4, 8 and 16.
        stage_blocks: Residual blocks of each stage.
        neck_channels: Channels of the feature pyramid at stride 8.
        bev_channels: Channels of the camera BEV feature.
        depth_min, depth_max, depth_bins: Planes of the depth distribution: camera z in metres, evenly spaced.
    """

    kind: Literal["residual"] = "residual"
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


class SwinCameraNetConfig(StrictModel):
    """Camera net of the paper: Swin-T (Liu et al., 2021) with a feature pyramid, and lift-splat.

    Attributes:
        kind: `swin`.
        image_height, image_width: Size the images are resized to; multiples of 32.
        drop_path: Probability of skipping a block in training, growing from 0 to this with depth.
        neck_channels: Channels of the feature pyramid.
        depth_layers: 3 x 3 convolutions before depth and context are read out.
        bev_channels: Channels of the camera BEV feature.
        pool_subdivision: Rays are summed on cells so many times smaller than the grid's, then convolved to
            the grid's.
        depth_min, depth_max, depth_bins: Planes of the depth distribution: camera z in metres, evenly spaced.
    """

    kind: Literal["swin"] = "swin"
    image_height: int = pydantic.Field(default=256, gt=0, multiple_of=32)
    image_width: int = pydantic.Field(default=704, gt=0, multiple_of=32)
    drop_path: float = pydantic.Field(default=0.2, ge=0, lt=1)
    neck_channels: int = 256
    depth_layers: int = pydantic.Field(default=2, ge=0)
    bev_channels: int = 80
    pool_subdivision: Literal[1, 2] = 2
    depth_min: float = pydantic.Field(default=1.0, gt=0)
    depth_max: float = 59.5
    depth_bins: int = pydantic.Field(default=118, gt=1)


class LidarNetConfig(StrictModel):
    """LiDAR net of few channels: pillars and a BEV backbone of two scales.

    Attributes:
        kind: `pillars`.
        pillars_per_cell: Pillars along one side of a BEV cell; the backbone's first stage strides by it.
        pillar_channels: Channels of a pillar's feature.
        stage_channels: Channels at BEV resolution and at half of it.
        stage_blocks: Residual blocks of each stage.
        bev_channels: Channels of the LiDAR BEV feature.
        max_points: Points sensor fusion keeps of a sweep.
    """

    kind: Literal["pillars"] = "pillars"
    pillars_per_cell: int = pydantic.Field(default=2, ge=1, le=2)
    pillar_channels: int = 32
    stage_channels: tuple[int, int] = (40, 80)
    stage_blocks: tuple[int, int] = (1, 1)
    bev_channels: int = 48
    max_points: int = pydantic.Field(default=60_000, gt=0)


class VoxelLidarNetConfig(StrictModel):
    """LiDAR net of the paper: voxels and a sparse 3D backbone (VoxelNet in the form of SECOND).

    Attributes:
        kind: `voxels`.
        voxels_per_cell: Voxels along one side of a BEV cell; the backbone halves three times.
        voxel_height: Metres.
        stage_channels: Channels at the resolutions 1, 1/2, 1/4 and 1/8.
        stage_blocks: Residual blocks of each stage.
        bev_channels: Channels of the LiDAR BEV feature, all layers left of the height together.
        point_scale: Factors on the means of x, y, z, intensity and time.
        max_points: Points sensor fusion keeps of a sweep, or of several.
    """

    kind: Literal["voxels"] = "voxels"
    voxels_per_cell: Literal[8] = 8
    voxel_height: float = pydantic.Field(default=0.2, gt=0)
    stage_channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    stage_blocks: int = pydantic.Field(default=2, ge=1)
    bev_channels: int = 256
    point_scale: tuple[float, float, float, float, float] = (0.02, 0.02, 0.2, 1.0, 2.0)
    max_points: int = pydantic.Field(default=300_000, gt=0)


class FuserConfig(StrictModel):
    """Fusion block of few channels: concatenation and a feature pyramid of two layers.

    Attributes:
        kind: `merge`.
        layer_channels: Channels of the layer at BEV resolution and of the one at half of it.
        out_channels: Channels of the fused feature.
    """

    kind: Literal["merge"] = "merge"
    layer_channels: tuple[int, int] = (48, 96)
    out_channels: int = 64


class SecondFuserConfig(StrictModel):
    """Fusion block of the paper: a convolution, and a BEV encoder of two layers (SECOND with its FPN).

    Attributes:
        kind: `second`.
        fused_channels: Channels after the first convolution.
        layer_channels: Channels of the layer at BEV resolution and of the one at half of it.
        layer_blocks: Convolutions of each layer after its first.
        out_channels: Channels of the fused feature; half of them from each layer.
    """

    kind: Literal["second"] = "second"
    fused_channels: int = 256
    layer_channels: tuple[int, int] = (128, 256)
    layer_blocks: tuple[int, int] = (5, 5)
    out_channels: int = pydantic.Field(default=512, multiple_of=2)


class DetectionHeadConfig(StrictModel):
    """Fuller-det: queries from a heat map, one decoder layer.

    Attributes:
        kind: `query`.
        enabled: The model has the head.
        channels: Channels the head works in; None: those of the fused feature.
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

    kind: Literal["query"] = "query"
    enabled: bool = True
    channels: int | None = None
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
        _refuse_unknown("point_like_classes", self.point_like_classes, self.classes)
        return self


class DenseDetectionHeadConfig(StrictModel):
    """CenterPoint's head, which BEVFusion has: heat maps and boxes of every cell, a branch a group of
    classes.

    Attributes:
        kind: `dense`.
        enabled: The model has the head.
        classes: Class names.
        groups: Classes that share one box branch; every class in exactly one.
        point_like_classes: Classes so small that neighbouring cells may hold two: no peak suppression.
        channels: Hidden channels.
        queries: Objects read out, best first.
        peak_window: Side of the peak suppression's window, in cells.
        initial_probability: Score of every cell before training.
        score_threshold: Objects below it are not published.
    """

    kind: Literal["dense"] = "dense"
    enabled: bool = True
    classes: tuple[str, ...] = NUSCENES_DETECTION_CLASSES
    groups: tuple[tuple[str, ...], ...] = (
        ("car",),
        ("truck", "construction_vehicle"),
        ("bus", "trailer"),
        ("barrier",),
        ("motorcycle", "bicycle"),
        ("pedestrian", "traffic_cone"),
    )
    point_like_classes: tuple[str, ...] = ("pedestrian", "traffic_cone")
    channels: int = 64
    queries: int = pydantic.Field(default=200, gt=0)
    peak_window: int = 3
    initial_probability: float = pydantic.Field(default=0.1, gt=0, lt=1)
    score_threshold: float = pydantic.Field(default=0.1, ge=0, le=1)

    @pydantic.model_validator(mode="after")
    def _groups_divide_the_classes(self) -> DenseDetectionHeadConfig:
        _refuse_unknown("point_like_classes", self.point_like_classes, self.classes)
        grouped = [name for group in self.groups for name in group]
        _refuse_unknown("groups", grouped, self.classes)
        for name in self.classes:
            if grouped.count(name) != 1:
                raise ValueError(f"groups: class '{name}' is in {grouped.count(name)} groups, not in one")
        return self


class MapHeadConfig(StrictModel):
    """Fuller-seg: one query a class, one decoder layer, masks as dot products.

    Attributes:
        kind: `query`.
        enabled: The model has the head.
        classes: Layer names.
        mask_channels: Channels of the mask feature.
        cell_subdivision: Output cells along one side of a BEV cell.
        token_stride: BEV cells along one side of a token of the cross-attention.
        heads: Attention heads.
        hidden_channels: Hidden channels of the decoder's feed-forward layer.
    """

    kind: Literal["query"] = "query"
    enabled: bool = True
    classes: tuple[str, ...] = NUSCENES_MAP_CLASSES
    mask_channels: int = 32
    cell_subdivision: int = pydantic.Field(default=1, ge=1)
    token_stride: int = pydantic.Field(default=4, ge=1)
    heads: int = 4
    hidden_channels: int = 64


class DenseMapHeadConfig(StrictModel):
    """BEVFusion's map head: two convolutions and a classification of every cell.

    Attributes:
        kind: `dense`.
        enabled: The model has the head.
        classes: Layer names.
        channels: Hidden channels; None: those of the fused feature.
        cell_subdivision: Output cells along one side of a BEV cell.
    """

    kind: Literal["dense"] = "dense"
    enabled: bool = True
    classes: tuple[str, ...] = NUSCENES_MAP_CLASSES
    channels: int | None = None
    cell_subdivision: int = pydantic.Field(default=1, ge=1)


class ForegroundHeadConfig(MapHeadConfig):
    """Foreground segmentation (FULLER's third task, Tab. 6): Fuller-seg on the classes of detection."""

    enabled: bool = False
    classes: tuple[str, ...] = NUSCENES_DETECTION_CLASSES


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


def _refuse_unknown(field: str, names: Iterable[str], classes: tuple[str, ...]) -> None:
    for name in names:
        if name not in classes:
            raise ValueError(f"{field}: '{name}' is not a class" + nearest(name, classes))


#: Configurations of a part that comes in several kinds, by the value of their key `kind`.
_KINDS: dict[str, tuple[type[StrictModel], ...]] = {
    "camera": (CameraNetConfig, SwinCameraNetConfig),
    "lidar": (LidarNetConfig, VoxelLidarNetConfig),
    "fuser": (FuserConfig, SecondFuserConfig),
    "detection": (DetectionHeadConfig, DenseDetectionHeadConfig),
    "map_segmentation": (MapHeadConfig, DenseMapHeadConfig),
}


def _by_kind(default: StrictModel) -> Any:
    return pydantic.Field(default=default, discriminator="kind")


class FullerConfig(StrictModel):
    """A whole FULLER network.

    Attributes:
        grid: BEV grid of the fused feature.
        z_range: Heights in metres that points and image rays count in.
        modalities: Sensors the network is built for.
        fusion: `early`: the modalities' features are concatenated before the fusion block (Eq. 1); `late`:
            each modality has a fusion block of its own, and what comes out of them is joined by one
            convolution just before the heads.
        bev_encoder: `shared`: all heads read one fused feature; `separate`: each head encodes the output of
            the fusion block's first layer itself (FULLER's Tab. 3).
    """

    grid: BevGrid = BevGrid(x_min=-51.2, x_max=51.2, y_min=-51.2, y_max=51.2, cell_size=0.8)
    z_range: tuple[float, float] = (-3.0, 5.0)
    modalities: tuple[Literal["lidar", "camera"], ...] = ("lidar", "camera")
    fusion: Literal["early", "late"] = "early"
    bev_encoder: Literal["shared", "separate"] = "shared"
    camera: CameraNetConfig | SwinCameraNetConfig = _by_kind(CameraNetConfig())
    lidar: LidarNetConfig | VoxelLidarNetConfig = _by_kind(LidarNetConfig())
    fuser: FuserConfig | SecondFuserConfig = _by_kind(FuserConfig())
    detection: DetectionHeadConfig | DenseDetectionHeadConfig = _by_kind(DetectionHeadConfig())
    map_segmentation: MapHeadConfig | DenseMapHeadConfig = _by_kind(MapHeadConfig())
    foreground_segmentation: ForegroundHeadConfig = ForegroundHeadConfig()
    control: ControlHeadConfig = ControlHeadConfig()

    @pydantic.model_validator(mode="after")
    def _grid_can_be_halved(self) -> FullerConfig:
        strides = [
            head.token_stride
            for head in (self.map_segmentation, self.foreground_segmentation)
            if head.enabled and isinstance(head, MapHeadConfig)
        ]
        for divisor in (2, *strides):
            if self.grid.rows % divisor or self.grid.columns % divisor:
                raise ValueError(
                    f"grid of {self.grid.rows} x {self.grid.columns} cells cannot be divided by {divisor}"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _has_sensors_and_tasks(self) -> FullerConfig:
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities: each of lidar and camera at most once, got {self.modalities}")
        if not self.tasks:
            raise ValueError("no head is enabled: enable detection, map_segmentation, … or control")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks the network has a head for."""
        enabled = {
            "detection3d": self.detection.enabled,
            "map_segmentation": self.map_segmentation.enabled,
            "foreground_segmentation": self.foreground_segmentation.enabled,
            "control": self.control.enabled,
        }
        return tuple(task for task, present in enabled.items() if present)


def build_configuration(model: str, defaults: dict[str, Any], arguments: dict[str, Any]) -> FullerConfig:
    """Lays arguments over a model's defaults, group by group.

    A group that is given another `kind` starts from that kind's own defaults.

    Raises:
        ConfigurationError: An argument is unknown or wrong.
    """
    merged = FullerConfig().model_dump()
    for layer in (defaults, arguments):
        for key, value in layer.items():
            if isinstance(value, dict) and key in merged:
                group = merged[key]
                if value.get("kind", group.get("kind")) != group.get("kind"):
                    group = _defaults_of_kind(model, key, value["kind"])
                merged[key] = {**group, **value}
            else:
                merged[key] = value
    try:
        return FullerConfig.model_validate(merged)
    except pydantic.ValidationError as error:
        lines = []
        for item in error.errors():
            location = [str(part) for part in item["loc"]]
            group_type: Any = FullerConfig
            if len(location) > 1 and location[0] in _KINDS:
                # After the group pydantic names the kind, which the user has not written there.
                group_type = _kind_type(location[0], location.pop(1))
            elif len(location) > 1:
                group_type = FullerConfig.model_fields[location[0]].annotation
            where = ".".join(location)
            if item["type"] == "extra_forbidden":
                lines.append(
                    f"model '{model}': unknown argument '{where}'"
                    + nearest(location[-1], group_type.model_fields)
                )
            else:
                lines.append(f"model '{model}': argument '{where}': {item['msg']}")
        raise ConfigurationError("\n".join(lines)) from error


def _kind_of(config: type[StrictModel]) -> str:
    return str(config.model_fields["kind"].default)


def _kind_type(group: str, kind: str) -> type[StrictModel]:
    return next(config for config in _KINDS[group] if _kind_of(config) == kind)


def _defaults_of_kind(model: str, group: str, kind: Any) -> dict[str, Any]:
    kinds = [_kind_of(config) for config in _KINDS.get(group, ())]
    if kind not in kinds:
        raise ConfigurationError(
            f"model '{model}': argument '{group}.kind': no kind '{kind}'" + nearest(str(kind), kinds)
        )
    return _kind_type(group, kind)().model_dump()
