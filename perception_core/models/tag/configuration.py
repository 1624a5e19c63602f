"""Everything about monocular multi-task networks that can be chosen: TAG's own and its baselines'."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel, nearest
from perception_core.labels import CITYSCAPES_3D_CLASSES, CITYSCAPES_SEGMENTATION_CLASSES
from perception_core.models.mono_baselines.configuration import (
    DdrNetConfig,
    DlaConfig,
    IcNetConfig,
    PidNetConfig,
    ResNetConfig,
)

#: The tasks a monocular network may have, in the order of their attention (t of the paper's Eq. 3).
MONO_TASKS: tuple[str, ...] = ("mono_detection3d", "semantic_segmentation", "depth")

#: Usual length, width and height in metres; the network predicts the difference. Passenger cars as in KITTI,
#: the others from typical European vehicles. A class that is not listed starts from `_OTHER_SIZE`.
_USUAL_SIZES: dict[str, tuple[float, float, float]] = {
    "car": (4.2, 1.8, 1.6),
    "truck": (8.0, 2.5, 3.2),
    "bus": (11.5, 2.6, 3.2),
    "train": (20.0, 2.7, 3.5),
    "trailer": (8.0, 2.5, 3.0),
    "construction_vehicle": (6.5, 2.6, 3.0),
    "motorcycle": (2.1, 0.8, 1.4),
    "bicycle": (1.8, 0.6, 1.5),
    "pedestrian": (0.7, 0.7, 1.75),
    "barrier": (0.5, 2.0, 1.0),
    "traffic_cone": (0.4, 0.4, 0.8),
}
_OTHER_SIZE = (2.0, 1.5, 1.5)


class MonoCameraConfig(StrictModel):
    """The one camera, and how its images come in.

    Attributes:
        name: Modality name of the rig.
        image_height: Rows, a multiple of 64.
        image_width: Columns, a multiple of 64.
        reference_focal: Focal length over image width that depths are learned for; another camera's are
            scaled by the ratio, so that one network serves lenses of different angles. None: depths are
            metres whatever the lens, as in the paper, which knows one camera.
    """

    name: str = "camera_front"
    image_height: int = pydantic.Field(default=1024, gt=0, multiple_of=64)
    image_width: int = pydantic.Field(default=2048, gt=0, multiple_of=64)
    reference_focal: float | None = pydantic.Field(default=None, gt=0)


class TagBackboneConfig(StrictModel):
    """The two-pathway backbone of the paper's Tab. I. Defaults are the reading docs/tag.md argues for.

    Attributes:
        kind: `tag`.
        stage_channels: Channels of stem and layer 1, and of layers 2 to 5.
        stage_blocks: Residual blocks of layers 1 to 4.
        detail_channels: Channels of the high-resolution branch.
        detail_blocks: Residual blocks of each of its two layers.
        layer5: `bottleneck`: blocks of 1x1, 3x3 and 1x1 convolutions with half of the channels inside, as in
            DDRNet; `basic`: blocks of two 3x3 convolutions, the table read literally.
        layer5_blocks: Blocks of layer 5.
        detail: The high-resolution branch (`br` of Tab. III).
        aggregation: `iterative`: Alg. 1; `pyramid_pooling`: PSPNet's module in its place (Tab. III).
        projection_kernel: Side of W^P1 of Eq. 1.
        node_kernel: Side of W^P2 of Eq. 1.
        fusion_kernel: Side of g of Eq. 2.
    """

    kind: Literal["tag"] = "tag"
    stage_channels: tuple[int, int, int, int, int] = (64, 128, 256, 512, 1024)
    stage_blocks: tuple[int, int, int, int] = (2, 2, 2, 2)
    detail_channels: int = pydantic.Field(default=128, gt=0)
    detail_blocks: int = pydantic.Field(default=2, ge=1)
    layer5: Literal["bottleneck", "basic"] = "bottleneck"
    layer5_blocks: int = pydantic.Field(default=3, ge=1)
    detail: bool = True
    aggregation: Literal["iterative", "pyramid_pooling"] = "iterative"
    projection_kernel: Literal[1, 3] = 3
    node_kernel: Literal[1, 3] = 1
    fusion_kernel: Literal[1, 3] = 1


class AttentionConfig(StrictModel):
    """The task-adaptive attention generator (Eq. 3 and 4).

    Attributes:
        channel: Per-task channel attention alpha_t from the semantic branch.
        spatial: Task-generic spatial attention beta from the detail branch.
        hidden_channels: Hidden units of alpha's two layers.
        dilation: Of beta's convolution.
    """

    channel: bool = True
    spatial: bool = True
    hidden_channels: int = pydantic.Field(default=256, gt=0)
    dilation: int = pydantic.Field(default=2, ge=1)


class MonoDetectionConfig(StrictModel):
    """3D detection after MonoDLE (Ma et al., CVPR 2021), with pitch and roll after FCOS3D (Wang et al.).

    Attributes:
        enabled: The network has the head.
        classes: Class names.
        hidden_channels: Of each of the nine sub-heads.
        heading_bins: Bins of the observation angle.
        objects: Objects read out, best first.
        peak_window: Side of the peak suppression's window, in cells.
        initial_probability: Score of every cell before training.
        score_threshold: Objects below it are not published.
        usual_sizes: Length, width and height in metres by class, over the built-in ones.
    """

    enabled: bool = True
    classes: tuple[str, ...] = CITYSCAPES_3D_CLASSES
    hidden_channels: int = pydantic.Field(default=64, gt=0)
    heading_bins: int = pydantic.Field(default=12, ge=2)
    objects: int = pydantic.Field(default=50, gt=0)
    peak_window: int = pydantic.Field(default=3, ge=1)
    initial_probability: float = pydantic.Field(default=0.1, gt=0, lt=1)
    score_threshold: float = pydantic.Field(default=0.2, ge=0, le=1)
    usual_sizes: dict[str, tuple[float, float, float]] = {}

    @pydantic.model_validator(mode="after")
    def _sizes_are_of_classes(self) -> MonoDetectionConfig:
        if self.peak_window % 2 == 0:
            raise ValueError(f"peak_window: must be odd, got {self.peak_window}")
        for name, size in self.usual_sizes.items():
            if name not in self.classes:
                raise ValueError(f"usual_sizes: '{name}' is not a class" + nearest(name, self.classes))
            if min(size) <= 0:
                raise ValueError(f"usual_sizes: '{name}' has the size {size}")
        return self

    def sizes(self) -> tuple[tuple[float, float, float], ...]:
        """Returns the usual size of each class, in the order of the classes."""
        known = {**_USUAL_SIZES, **self.usual_sizes}
        return tuple(known.get(name, _OTHER_SIZE) for name in self.classes)


class SegmentationConfig(StrictModel):
    """Semantic segmentation.

    Attributes:
        enabled: The network has the head.
        classes: Class names.
        hidden_channels: Of the head.
    """

    enabled: bool = True
    classes: tuple[str, ...] = CITYSCAPES_SEGMENTATION_CLASSES
    hidden_channels: int = pydantic.Field(default=256, gt=0)


class DenseDepthConfig(StrictModel):
    """Dense depth.

    Attributes:
        enabled: The network has the head.
        hidden_channels: Of the head.
        unit_m: The head gives softplus of its output times this: positive, and a few metres untrained.
    """

    enabled: bool = True
    hidden_channels: int = pydantic.Field(default=256, gt=0)
    unit_m: float = pydantic.Field(default=10.0, gt=0)


BackboneConfig = TagBackboneConfig | DlaConfig | ResNetConfig | IcNetConfig | DdrNetConfig | PidNetConfig


class MonoConfig(StrictModel):
    """A whole monocular network.

    Attributes:
        camera: The camera and its images.
        backbone: What makes the feature all tasks share.
        attention: What adapts it to each task; only the backbone of kind `tag` has it.
        mono_detection3d, semantic_segmentation, depth: The heads.
    """

    camera: MonoCameraConfig = MonoCameraConfig()
    backbone: BackboneConfig = pydantic.Field(default=TagBackboneConfig(), discriminator="kind")
    attention: AttentionConfig = AttentionConfig()
    mono_detection3d: MonoDetectionConfig = MonoDetectionConfig()
    semantic_segmentation: SegmentationConfig = SegmentationConfig()
    depth: DenseDepthConfig = DenseDepthConfig()

    @pydantic.model_validator(mode="after")
    def _has_tasks_and_their_attention(self) -> MonoConfig:
        if not self.tasks:
            raise ValueError("no head is enabled: enable " + ", ".join(MONO_TASKS))
        if self.backbone.kind != "tag" and (self.attention.channel or self.attention.spatial):
            raise ValueError(
                f"attention: backbone '{self.backbone.kind}' has no semantic and detail branch to take it "
                "from; set attention.channel and attention.spatial to false"
            )
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks the network has a head for, in the order of MONO_TASKS."""
        return tuple(task for task in MONO_TASKS if getattr(self, task).enabled)


_BACKBONES: dict[str, type[StrictModel]] = {
    "tag": TagBackboneConfig,
    "dla34": DlaConfig,
    "resnet50": ResNetConfig,
    "icnet": IcNetConfig,
    "ddrnet": DdrNetConfig,
    "pidnet": PidNetConfig,
}


def build_mono_configuration(model: str, defaults: dict[str, Any], arguments: dict[str, Any]) -> MonoConfig:
    """Lays arguments over a model's defaults, group by group.

    A backbone that is given another `kind` starts from that kind's own defaults.

    Raises:
        ConfigurationError: An argument is unknown or wrong.
    """
    merged: dict[str, Any] = MonoConfig().model_dump()
    for layer in (defaults, arguments):
        for key, value in layer.items():
            group = merged.get(key)
            if not (isinstance(value, dict) and isinstance(group, dict)):
                merged[key] = value
                continue
            kind = value.get("kind", group.get("kind"))
            if kind != group.get("kind"):
                if kind not in _BACKBONES:
                    raise ConfigurationError(
                        f"model '{model}': argument '{key}.kind': no kind '{kind}'"
                        + nearest(str(kind), _BACKBONES)
                    )
                group = _BACKBONES[kind]().model_dump()
            merged[key] = {**group, **value}
    try:
        return MonoConfig.model_validate(merged)
    except pydantic.ValidationError as error:
        lines = [_explained(model, list(item["loc"]), item["type"], item["msg"]) for item in error.errors()]
        raise ConfigurationError("\n".join(lines)) from error


def _explained(model: str, location: list[Any], kind: str, message: str) -> str:
    group: Any = MonoConfig
    if len(location) > 1 and location[0] == "backbone":
        group = _BACKBONES[location.pop(1)]  # pydantic names the kind there, the user has not
    elif len(location) > 1:
        group = MonoConfig.model_fields[location[0]].annotation
    where = ".".join(map(str, location))
    if kind == "extra_forbidden":
        known = nearest(str(location[-1]), group.model_fields)
        return f"model '{model}': unknown argument '{where}'{known}"
    return f"model '{model}': " + (f"argument '{where}': {message}" if where else message)
