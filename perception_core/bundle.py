"""The bundle: a folder with everything the vehicle needs of a model. Schema of `bundle.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic

from perception_core.configuration import ConfigurationError, ConfigurationFile, StrictModel, nearest
from perception_core.precision import FULL_PRECISION, Precision

#: Tensors that sensor_fusion puts into every frame, by graph name; the one vocabulary of frame inputs.
#: V = the rig's cameras in rig order, N = points of this frame. All geometry is in the ego frame.
FRAME_TENSORS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "points_nc": ("float32", ("N", 5)),  # x y z [m], intensity 0..1, time relative to the frame's stamp [s]
    "lidar_valid": ("bool", (1,)),
    # RGB, resized to the bundle's image size, zeros where masked
    "images_vhwc": ("uint8", ("V", "H", "W", 3)),
    "camera_valid_v": ("bool", ("V",)),
    "intrinsics_v33": ("float32", ("V", 3, 3)),  # pixels of the resized images
    "camera_from_ego_v44": ("float32", ("V", 4, 4)),
    "ego_motion_c": ("float32", (3,)),  # speed [m/s], yaw rate [rad/s], 1 where odometry is fresh else 0
}

#: Further tensors of a frame where the bundle takes one camera's image by itself (`BundleInput.mono`).
MONO_TENSORS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "mono_image_hwc": ("uint8", ("H", "W", 3)),  # RGB, resized to the size of `mono`, zeros where masked
    "mono_valid": ("bool", (1,)),
    "mono_intrinsics_33": ("float32", (3, 3)),  # pixels of the resized image
    "mono_camera_from_ego_44": ("float32", (4, 4)),
}

#: Everything a frame may hold.
SENSOR_TENSORS: dict[str, tuple[str, tuple[int | str, ...]]] = {**FRAME_TENSORS, **MONO_TENSORS}

SENSOR_FUSION = "sensor_fusion"


class TensorSpec(StrictModel):
    """Type of one tensor of the graph; a dimension is a number or a letter standing for any size."""

    dtype: str
    shape: tuple[int | str, ...]


class ImageInput(StrictModel):
    """Size in pixels the camera images are resized to (aspect kept, cropped from the top), see
    perception_core.calibration.
    """

    height: int = pydantic.Field(gt=0)
    width: int = pydantic.Field(gt=0)


class MonoInput(ImageInput):
    """One camera whose image the bundle takes by itself, in a size of its own.

    Attributes:
        camera: Modality name in the rig.
    """

    camera: str = "camera_front"


class BundleInput(StrictModel):
    """What the bundle needs of a rig.

    Attributes:
        image: Size of the images of all cameras, None for a bundle that does not take them all.
        mono: The one camera of a monocular model, None without.
        max_points: Points kept of a sweep (a seeded-free stride keeps the sweep's shape), 0 for a bundle
            without LiDAR.
        needs_lidar: Refuse a rig without LiDAR instead of running with it masked.
        min_cameras: Refuse a rig with fewer cameras.
        max_cameras: Refuse a rig with more; None: any number.
    """

    image: ImageInput | None = None
    mono: MonoInput | None = None
    max_points: int = pydantic.Field(default=0, ge=0)
    needs_lidar: bool = False
    min_cameras: int = pydantic.Field(default=0, ge=0)
    max_cameras: int | None = None


class OutputError(StrictModel):
    """How far one output of a variant lies from that of the network in fp32.

    Attributes:
        max_abs_error: Largest absolute difference, in the output's own unit.
        max_rel_error: That difference as a share of the output's largest absolute value.
    """

    max_abs_error: float = pydantic.Field(ge=0)
    max_rel_error: float = pydantic.Field(ge=0)


class MetricChange(StrictModel):
    """A task's metric with a component in fp32 and with its variant, all other components in fp32."""

    fp32: float
    variant: float


class VariantSpec(StrictModel):
    """A component in another precision.

    Attributes:
        exported: Backend name to the graph of its dense part, relative to the bundle; the word `torch` says
            that the network itself runs in torch in this precision.
        calibration: What the ranges of its integers were measured on; empty for floating-point variants.
        errors: By backend and output of the dense part: the difference to the network in fp32, on frames the
            variant was not calibrated on.
        metrics: By `task/metric`: what the variant alone changes; empty where no data was given.
        metrics_data: Which data the metrics are of.
    """

    exported: dict[str, str]
    calibration: str = ""
    errors: dict[str, dict[str, OutputError]] = {}
    metrics: dict[str, MetricChange] = {}
    metrics_data: str = ""


class ComponentSpec(StrictModel):
    """One placeable part of the model.

    Attributes:
        inputs: Graph names of its inputs, in the order of its module's forward arguments.
        outputs: Graph names of its outputs, in the order its forward returns them.
        task: The task it outputs, for heads.
        decoder: Registered decoder that turns a head's outputs into messages.
        decoder_options: Options of the decoder.
        exported: Backend name to the exported graph of its dense part, relative to the bundle; the word
            `torch` instead of a file says that on a device with that backend the component runs in torch.
        variants: The component in other precisions than fp32, by precision.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    task: str | None = None
    decoder: str | None = None
    decoder_options: dict[str, Any] = {}
    exported: dict[str, str] = {}
    variants: dict[Precision, VariantSpec] = {}

    @pydantic.field_validator("variants")
    @classmethod
    def _full_precision_is_no_variant(
        cls, variants: dict[Precision, VariantSpec]
    ) -> dict[Precision, VariantSpec]:
        if FULL_PRECISION in variants:
            raise ValueError(f"{FULL_PRECISION} is the component itself, its graphs stand under 'exported'")
        return variants


def missing_variant(name: str, component: ComponentSpec, precision: str, backend: str) -> str | None:
    """Says that a component has no variant of a precision for a backend, None where it has one."""
    variant = next((spec for key, spec in component.variants.items() if key == precision), None)
    remedy = f"add it with `mmmt export --variant {precision}`, or choose another precision"
    if variant is None:
        has = f"variants {', '.join(sorted(component.variants))}" if component.variants else "no variants"
        return f"component '{name}' has no {precision} variant (it has {has}); {remedy}"
    if backend not in variant.exported:
        there = ", ".join(sorted(variant.exported)) or "no backend"
        return f"component '{name}' has its {precision} variant for {there}, not for '{backend}'; {remedy}"
    return None


class ModelReference(StrictModel):
    """Entry of perception_core.models' registry and its arguments."""

    name: str
    arguments: dict[str, Any] = {}


class TrainingRecord(StrictModel):
    """How the weights came about.

    Attributes:
        trained: False: seeded initial weights.
        recipe: Recipe of `mmmt train`.
        overrides: Settings of the recipe that were changed, `key=value`.
        seed: Of initial weights, order and augmentation.
        data: Which data, in words.
        data_seed: Seed of generated data.
        commit: Of the source tree that trained.
        metrics: Headline numbers on the validation split, `task/metric`.
        note: What else a reader should know.
    """

    trained: bool
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    seed: int
    data: str | None = None
    data_seed: int | None = None
    commit: str | None = None
    metrics: dict[str, float] = {}
    note: str = ""


class BundleSpec(StrictModel):
    """Contents of bundle.yaml."""

    format: Literal[1]
    name: str
    model: ModelReference
    input: BundleInput
    tensors: dict[str, TensorSpec]
    components: dict[str, ComponentSpec]
    labels: dict[str, tuple[str, ...]] = {}
    weights: str = "weights.safetensors"
    weights_sha256: str
    exported_sha256: dict[str, str] = {}  # by file name, of every exported graph
    training: TrainingRecord

    @pydantic.model_validator(mode="after")
    def _graph_is_whole(self) -> BundleSpec:
        producers: dict[str, str] = dict.fromkeys(SENSOR_TENSORS, SENSOR_FUSION)
        for name, component in self.components.items():
            for tensor in component.outputs:
                if tensor in producers:
                    raise ValueError(f"tensor '{tensor}' is produced by both {producers[tensor]} and {name}")
                producers[tensor] = name
        for name, component in self.components.items():
            for tensor in component.inputs:
                if tensor not in producers:
                    raise ValueError(
                        f"component '{name}' needs tensor '{tensor}' which nobody produces"
                        + nearest(tensor, producers)
                    )
            for tensor in (*component.inputs, *component.outputs):
                if tensor not in self.tensors and tensor not in SENSOR_TENSORS:
                    raise ValueError(f"tensor '{tensor}' of component '{name}' is not listed under 'tensors'")
                if tensor in MONO_TENSORS and self.input.mono is None:
                    raise ValueError(
                        f"component '{name}' takes '{tensor}', but 'input' has no 'mono' that names a camera"
                    )
        return self


class Bundle:
    """An opened bundle folder.

    Attributes:
        path: The folder.
        spec: Its validated bundle.yaml.
    """

    def __init__(self, path: Path, spec: BundleSpec) -> None:
        self.path = path
        self.spec = spec

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Opens a bundle folder without loading its weights.

        Raises:
            ConfigurationError: bundle.yaml or the weights file is missing or wrong.
        """
        path = Path(path)
        if not path.is_dir():
            raise ConfigurationError(f"{path}: no such bundle folder")
        spec = ConfigurationFile.read(path / "bundle.yaml").validate(BundleSpec)
        if not (path / spec.weights).is_file():
            raise ConfigurationError(f"{path / 'bundle.yaml'}: weights file '{spec.weights}' is missing")
        return cls(path, spec)

    def producer_of(self, tensor: str) -> str:
        """Returns the component (or sensor_fusion) that outputs `tensor`."""
        for name, component in self.spec.components.items():
            if tensor in component.outputs:
                return name
        if tensor in SENSOR_TENSORS:
            return SENSOR_FUSION
        raise KeyError(tensor)

    def consumers_of(self, producer: str) -> dict[str, tuple[str, ...]]:
        """Returns, for each component fed by `producer`, which of the producer's tensors it takes."""
        consumers: dict[str, tuple[str, ...]] = {}
        for name, component in self.spec.components.items():
            taken = tuple(tensor for tensor in component.inputs if self.producer_of(tensor) == producer)
            if taken:
                consumers[name] = taken
        return consumers

    def task_heads(self) -> dict[str, str]:
        """Returns task name to the component that outputs it."""
        return {c.task: name for name, c in self.spec.components.items() if c.task is not None}

    def tensor_spec(self, tensor: str) -> TensorSpec:
        """Returns the type of a tensor, frame tensors included."""
        if tensor in self.spec.tensors:
            return self.spec.tensors[tensor]
        dtype, shape = SENSOR_TENSORS[tensor]
        return TensorSpec(dtype=dtype, shape=shape)
