"""Runs the dense part of components with OpenVINO on a CPU; what is scatter or pooling stays in torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from perception_core.backends.exported_graph import ExportedGraph, graph_of, replace_dense_part
from perception_core.backends.torch_backend import TorchRunner, build_component, load_with_torch
from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationError
from perception_core.deployment import Device
from perception_core.precision import Precision

#: What OpenVINO is told to compute in, and the capability a processor must have for it. Graphs in integers
#: carry their own types; what is left of them in floats stays in 32 bits.
_COMPUTES_IN: dict[Precision, tuple[str, str | None]] = {
    "fp32": ("f32", None),
    "bf16": ("bf16", "BF16"),
    "fp16": ("f16", "FP16"),
    "int8": ("f32", "INT8"),
}


class OpenVinoGraph(ExportedGraph):
    """A compiled OpenVINO model with one inference request.

    Raises:
        ConfigurationError: OpenVINO cannot load the graph, or this processor lacks the instructions of the
            precision.
    """

    def __init__(self, path: Path, device: Device) -> None:
        super().__init__()
        import openvino

        core = openvino.Core()
        hint, capability = _COMPUTES_IN[device.precision]
        has = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # Without them OpenVINO would silently compute in 32 bits.
        if capability is not None and capability not in has:
            raise ConfigurationError(
                f"{path}: this processor cannot compute in {device.precision} with OpenVINO (it has "
                f"{', '.join(sorted(has))}); choose another precision or device"
            )
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Said also for f32: left alone, OpenVINO chooses bf16 on some CPUs, which changes the results.
            "INFERENCE_PRECISION_HINT": hint,
            # The deployment pins threads; OpenVINO's own pinning would move them to cores of its choice.
            "ENABLE_CPU_PINNING": False,
        }
        if device.cores:
            properties["INFERENCE_NUM_THREADS"] = len(device.cores)
        try:
            compiled = core.compile_model(str(path), "CPU", properties)
        except RuntimeError as error:
            raise ConfigurationError(f"{path}: OpenVINO cannot load this graph: {error}") from error
        self._outputs = len(compiled.outputs)
        self._request = compiled.create_infer_request()

    def run_arrays(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the graph; outputs are copies, since the request reuses its own buffers."""
        results = self._request.infer(arrays, share_inputs=True)
        return [results[index].copy() for index in range(self._outputs)]


def load_with_openvino(bundle: Bundle, name: str, device: Device) -> TorchRunner:
    """Loads a component with its exported graph.

    Raises:
        ConfigurationError: OpenVINO is missing, the device is no CPU, or the bundle has no such graph.
    """
    available, why = openvino_available()
    if not available:
        raise ConfigurationError(f"backend 'openvino' cannot be used: {why}")
    if device.kind != "cpu":
        raise ConfigurationError(
            f"backend 'openvino' runs on cpu devices here, not on a {device.kind}; use backend torch"
        )
    component, spec = build_component(bundle, name)
    path = graph_of(bundle, name, "openvino", device.precision)
    if path is None:
        return load_with_torch(bundle, name, device)
    module = replace_dense_part(component, OpenVinoGraph(path, device))
    return TorchRunner(bundle, name, module, spec, device, torch.device("cpu"))


def openvino_available() -> tuple[bool, str]:
    """Says whether OpenVINO is there, without loading it."""
    if importlib.util.find_spec("openvino") is None:
        return False, "package openvino is not installed; pip install openvino"
    from importlib.metadata import version

    return True, f"openvino {version('openvino')}"
