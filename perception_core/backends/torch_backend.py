"""Runs components with torch, eagerly or with their dense part compiled, on CPU or CUDA."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import torch
from torch import nn

from perception_core.backends.example_inputs import example_inputs
from perception_core.backends.exported_graph import RUN_IN_TORCH, graph_of, replace_dense_part
from perception_core.backends.reduced_precision import TORCH_DTYPES, ReducedPrecision
from perception_core.bundle import Bundle, ComponentSpec
from perception_core.configuration import ConfigurationError, nearest
from perception_core.deployment import Device
from perception_core.models import Component, create_model
from perception_core.precision import FULL_PRECISION
from perception_core.weights import load_component_weights


def torch_device_of(device: Device) -> torch.device:
    """Returns the torch device of a deployment's device.

    Raises:
        ConfigurationError: torch cannot use such a device here.
    """
    if device.kind == "cpu":
        return torch.device("cpu")
    if device.kind != "gpu":
        raise ConfigurationError(
            f"torch cannot run on a device of kind '{device.kind}'; place the component on a cpu or gpu"
        )
    if not torch.cuda.is_available():
        raise ConfigurationError(
            f"the deployment places a component on GPU {device.index}, but torch {torch.__version__} "
            "sees no CUDA device; install a CUDA build of torch and the driver (see README), or place the "
            "component on a cpu device"
        )
    if device.index >= torch.cuda.device_count():
        raise ConfigurationError(
            f"the deployment names GPU {device.index}, but there are "
            f"{torch.cuda.device_count()}, counted from 0"
        )
    return torch.device("cuda", device.index)


def build_component(bundle: Bundle, name: str) -> tuple[Component, ComponentSpec]:
    """Builds one component of a bundle with its weights, on the CPU, in evaluation mode.

    Raises:
        ConfigurationError: The bundle has no such component, or its model or weights do not fit this version.
    """
    where = bundle.path / "bundle.yaml"
    if name not in bundle.spec.components:
        raise ConfigurationError(f"{where}: no component '{name}'" + nearest(name, bundle.spec.components))
    spec = bundle.spec.components[name]
    model = create_model(bundle.spec.model.name, **bundle.spec.model.arguments)
    components = model.components
    if name not in components:
        raise ConfigurationError(
            f"{where}: model '{bundle.spec.model.name}' has no component '{name}'" + nearest(name, components)
        )
    signature = model.component_specs()[name]
    if (signature.inputs, signature.outputs) != (spec.inputs, spec.outputs):
        raise ConfigurationError(
            f"{where}: component '{name}' is listed as {list(spec.inputs)} -> {list(spec.outputs)}, but "
            f"the model of this version has {list(signature.inputs)} -> {list(signature.outputs)}; "
            "export the bundle anew"
        )
    component = components[name].eval().requires_grad_(False)
    load_component_weights(bundle, name, component.network)
    return component, spec


class TorchRunner:
    """A component in torch; its dense part may have been replaced by another runtime's."""

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        component: nn.Module,
        spec: ComponentSpec,
        device: Device,
        target: torch.device,
    ) -> None:
        self.component = name
        self.torch_device = target
        self._spec = spec
        self._threads = len(device.cores) if device.kind == "cpu" else 0
        # What convolutions on CPUs and tensor cores prefer. (torch's stubs lack the keyword.)
        self._module = component.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._warm_up(bundle)

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs one frame; see ComponentRunner."""
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # holds for the calling thread
        with torch.inference_mode():
            outputs = self._module(
                *(inputs[name].to(self.torch_device, non_blocking=True) for name in self._spec.inputs)
            )
        if self.torch_device.type == "cuda":
            torch.cuda.current_stream(self.torch_device).synchronize()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip(self._spec.outputs, outputs, strict=True))

    def _warm_up(self, bundle: Bundle) -> None:
        """Lets every allocation, kernel choice and compilation happen before the first real frame."""
        inputs = example_inputs(bundle.spec.input, bundle.spec.tensors, self._spec)
        for _ in range(2):
            self.run(inputs)


def load_with_torch(bundle: Bundle, name: str, device: Device) -> TorchRunner:
    """Loads a component eagerly."""
    target = torch_device_of(device)
    component, spec = build_component(bundle, name)
    component.fuse_normalization()
    module = _in_precision(bundle, name, component, device)
    return TorchRunner(bundle, name, module, spec, device, target)


def _in_precision(bundle: Bundle, name: str, component: Component, device: Device) -> nn.Module:
    """Returns the component in its device's precision.

    Raises:
        ConfigurationError: The bundle has no such variant of it for this backend.
    """
    if device.precision == FULL_PRECISION:
        return component
    graph = graph_of(bundle, name, device.backend, device.precision)
    if graph is not None or device.precision not in TORCH_DTYPES:
        raise ConfigurationError(
            f"{bundle.path / 'bundle.yaml'}: the {device.precision} variant of component '{name}' for "
            f"backend '{device.backend}' is no network in 16-bit floats, and torch runs no other; write "
            f"the word '{RUN_IN_TORCH}' there, or place the component on a device with another backend"
        )
    reduced = ReducedPrecision(component.dense_part, TORCH_DTYPES[device.precision])
    return replace_dense_part(component, reduced)


def load_with_torch_compile(bundle: Bundle, name: str, device: Device) -> TorchRunner:
    """Loads a component and compiles its dense part.

    Raises:
        ConfigurationError: There is no C++ compiler.
    """
    available, why = torch_compile_available()
    if not available:
        raise ConfigurationError(f"backend 'torch_compile' cannot be used: {why}")
    target = torch_device_of(device)
    component, spec = build_component(bundle, name)
    component.fuse_normalization()
    if component.exportable:  # sparse operators would only break the graph into pieces
        component.dense_part.compile(dynamic=any(component.dense_dynamic))
    module = _in_precision(bundle, name, component, device)
    return TorchRunner(bundle, name, module, spec, device, target)


def torch_compile_available() -> tuple[bool, str]:
    """Says whether torch.compile can generate CPU code here, and why not."""
    for compiler in ("g++", "clang++"):
        if shutil.which(compiler):
            return True, f"torch {torch.__version__} with {compiler}"
    return False, "no C++ compiler (g++ or clang++) on PATH; install one, e.g. apt install g++"
