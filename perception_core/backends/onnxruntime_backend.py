"""Runs the dense part of components with onnxruntime; what is scatter or pooling stays in torch."""

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


class OnnxRuntimeGraph(ExportedGraph):
    """An onnxruntime session."""

    def __init__(self, path: Path, device: Device) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(device.cores)
        options.inter_op_num_threads = 1
        # Waiting threads would otherwise spin on cores that other nodes of the stack need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base but RuntimeError and Exception
            raise ConfigurationError(f"{path}: onnxruntime cannot load this graph: {error}") from error
        self._inputs = [item.name for item in self._session.get_inputs()]

    def run_arrays(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the graph."""
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(self._inputs, arrays, strict=True)))
        return outputs


def load_with_onnxruntime(bundle: Bundle, name: str, device: Device) -> TorchRunner:
    """Loads a component with its exported graph.

    Raises:
        ConfigurationError: onnxruntime is missing, the device is no CPU, or the bundle has no such graph.
    """
    available, why = onnxruntime_available()
    if not available:
        raise ConfigurationError(f"backend 'onnxruntime' cannot be used: {why}")
    if device.kind != "cpu":
        raise ConfigurationError(
            f"backend 'onnxruntime' runs on cpu devices here, not on a {device.kind}; use backend torch"
        )
    component, spec = build_component(bundle, name)
    path = graph_of(bundle, name, "onnxruntime", device.precision)
    if path is None:
        return load_with_torch(bundle, name, device)
    module = replace_dense_part(component, OnnxRuntimeGraph(path, device))
    return TorchRunner(bundle, name, module, spec, device, torch.device("cpu"))


def onnxruntime_available() -> tuple[bool, str]:
    """Says whether onnxruntime is there, without loading it."""
    if importlib.util.find_spec("onnxruntime") is None:
        return False, "package onnxruntime is not installed; pip install onnxruntime"
    from importlib.metadata import version

    return True, f"onnxruntime {version('onnxruntime')}"
