"""Compares a bundle's exported graphs with the network they came from, component by component."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from perception_core.backends.example_inputs import example_frame
from perception_core.backends.exported_graph import graph_of
from perception_core.backends.onnxruntime_backend import OnnxRuntimeGraph
from perception_core.bundle import Bundle
from perception_core.configuration import StrictModel
from perception_core.deployment import Device
from perception_core.host import available_cores
from training.export.dense_calls import DensePartRecorder

#: Largest difference of single precision that is no error, absolute or of the largest value.
TOLERANCE = 1e-3

_BACKEND = "onnxruntime"


class Agreement(StrictModel):
    """How far one component's exported graph lies from the network.

    Attributes:
        component: Name.
        backend: What ran the graph.
        exported: False: the component runs in torch on every device, there is nothing to compare.
        values: Numbers compared.
        max_abs_error: Largest absolute difference.
        max_rel_error: That difference as a share of the largest absolute value of the same output.
    """

    component: str
    backend: str = _BACKEND
    exported: bool = True
    values: int = 0
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0

    @property
    def within_tolerance(self) -> bool:
        """Whether either error is below TOLERANCE."""
        return min(self.max_abs_error, self.max_rel_error) <= TOLERANCE


def compare_graphs(bundle: Bundle, cameras: int = 6, points: int = 30_000) -> list[Agreement]:
    """Runs every component eagerly on an example frame, and its graph on what reached its dense part.

    The dense part is compared and not the component: behind it stand choices of peaks and orders of scores
    that a difference in the last digit may turn around without anything being wrong.

    Args:
        bundle: With graphs.
        cameras: Cameras of the frame.
        points: Points of the frame.

    Raises:
        ConfigurationError: A graph is missing or cannot be loaded.
    """
    calls = DensePartRecorder(bundle).run(example_frame(bundle.spec.input, cameras, points))
    device = Device.model_validate({"kind": "cpu", "cores": available_cores(), "backend": _BACKEND})
    agreements = []
    for name in bundle.spec.components:
        path = graph_of(bundle, name, _BACKEND)
        if path is None:
            agreements.append(Agreement(component=name, exported=False))
            continue
        call = calls[name]
        found = OnnxRuntimeGraph(path, device)(*call.arguments)
        agreements.append(_compared(name, call.outputs, found if isinstance(found, tuple) else (found,)))
    return agreements


def _compared(name: str, eager: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> Agreement:
    absolute = relative = 0.0
    values = 0
    for expected, exported in zip(eager, found, strict=True):
        difference = float((expected.double() - exported.double()).abs().max())
        largest = float(expected.double().abs().max())
        absolute = max(absolute, difference)
        relative = max(relative, difference / largest if largest > 0 else difference)
        values += expected.numel()
    return Agreement(component=name, values=values, max_abs_error=absolute, max_rel_error=relative)
