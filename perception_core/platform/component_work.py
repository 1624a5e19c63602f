"""How much work each component is, whatever the device: arithmetic, weights and the tensors it moves."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from perception_core.bundle import FRAME_TENSORS, SENSOR_FUSION, Bundle, BundleSpec, TensorSpec
from perception_core.configuration import ConfigurationError
from perception_core.rig import Rig

_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "float16": 2, "bfloat16": 2, "int16": 2, "int32": 4, "float32": 4,
    "int64": 8, "float64": 8,
}  # fmt: skip
_HEADER_LENGTH = struct.Struct("<Q")
_BYTES_PER_MB = 1e6


@dataclass(frozen=True)
class ComponentWork:
    """One component's work for one frame.

    Attributes:
        multiply_adds: Of one frame; None: not counted, so that only a measurement can tell its latency.
        weight_bytes: Its weights.
        input_bytes, output_bytes: Tensors it takes and gives.
    """

    multiply_adds: float | None = None
    weight_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0

    @property
    def memory_mb(self) -> float:
        """Megabytes it holds on its device: weights, inputs and outputs; intermediate tensors come on top."""
        return (self.weight_bytes + self.input_bytes + self.output_bytes) / _BYTES_PER_MB

    @property
    def moved_bytes(self) -> int:
        """Bytes that pass between the device and its memory at least."""
        return self.weight_bytes + self.input_bytes + self.output_bytes


def tensor_bytes(name: str, spec: BundleSpec, cameras: int) -> int:
    """Returns the size of a graph tensor of one frame.

    Args:
        name: A tensor of the bundle or of FRAME_TENSORS.
        spec: The bundle; gives image size and number of points.
        cameras: Cameras of the rig.

    Raises:
        ConfigurationError: The tensor's type or a dimension is not known.
    """
    if name in FRAME_TENSORS:
        dtype, shape = FRAME_TENSORS[name]
        tensor = TensorSpec(dtype=dtype, shape=shape)
    else:
        tensor = spec.tensors[name]
    image = spec.input.image
    sizes = {
        "V": cameras,
        "N": spec.input.max_points,
        "H": image.height if image else 0,
        "W": image.width if image else 0,
    }
    if tensor.dtype not in _BYTES:
        raise ConfigurationError(
            f"bundle '{spec.name}': tensor '{name}' has the unknown type '{tensor.dtype}'"
        )
    elements = []
    for dimension in tensor.shape:
        if isinstance(dimension, str) and dimension not in sizes:
            raise ConfigurationError(
                f"bundle '{spec.name}': tensor '{name}': size '{dimension}' is not known before it runs; "
                f"known are {', '.join(sizes)}"
            )
        elements.append(sizes[dimension] if isinstance(dimension, str) else dimension)
    return prod(elements) * _BYTES[tensor.dtype]


def work_of_bundle(
    bundle: Bundle, rig: Rig, multiply_adds: Mapping[str, float] | None = None
) -> dict[str, ComponentWork]:
    """Returns each component's work; reads weights' sizes from the file's header, imports no torch.

    Args:
        bundle: The opened bundle.
        rig: Gives the number of cameras.
        multiply_adds: By component, see `perception_core.models.profile`; None: not counted.
    """
    weights = weight_bytes(bundle)
    cameras = len(rig.cameras)
    return {
        name: ComponentWork(
            multiply_adds=None if multiply_adds is None else multiply_adds.get(name),
            weight_bytes=weights.get(name, 0),
            input_bytes=sum(tensor_bytes(tensor, bundle.spec, cameras) for tensor in component.inputs),
            output_bytes=sum(tensor_bytes(tensor, bundle.spec, cameras) for tensor in component.outputs),
        )
        for name, component in bundle.spec.components.items()
    }


def weight_bytes(bundle: Bundle) -> dict[str, int]:
    """Returns the bytes of each component's weights; none for an empty weights file.

    Raises:
        ConfigurationError: The file is damaged.
    """
    path: Path = bundle.path / bundle.spec.weights
    try:
        with path.open("rb") as file:
            first = file.read(_HEADER_LENGTH.size)
            if not first:
                return {}
            header = json.loads(file.read(_HEADER_LENGTH.unpack(first)[0]))
    except (OSError, ValueError, struct.error) as error:
        raise ConfigurationError(
            f"{path}: weights cannot be read: {error}; export the bundle anew"
        ) from error
    sizes: dict[str, int] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            component = name.split(".", 1)[0]
            sizes[component] = sizes.get(component, 0) + end - begin
    return sizes


def frame_bytes(spec: BundleSpec, cameras: int, consumer: str) -> int:
    """Returns the bytes sensor fusion hands to a component, 0 where it hands it nothing."""
    tensors = [name for name in spec.components[consumer].inputs if name in FRAME_TENSORS]
    return sum(tensor_bytes(name, spec, cameras) for name in tensors)


def edge_bytes(spec: BundleSpec, cameras: int, producer: str, consumer: str) -> int:
    """Returns the bytes a producer hands to a consumer in one frame."""
    if producer == SENSOR_FUSION:
        return frame_bytes(spec, cameras, consumer)
    taken = set(spec.components[consumer].inputs) & set(spec.components[producer].outputs)
    return sum(tensor_bytes(name, spec, cameras) for name in taken)
