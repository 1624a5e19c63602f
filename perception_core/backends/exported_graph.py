"""What backends of exported graphs share: finding a graph, and putting it in the dense part's place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import nn

from perception_core.bundle import Bundle, missing_variant
from perception_core.configuration import ConfigurationError
from perception_core.models import Component
from perception_core.precision import FULL_PRECISION, Precision
from perception_core.weights import sha256_of

#: Value of `exported` that says: on a device with this backend, this component runs in torch.
RUN_IN_TORCH = "torch"


class ExportedGraph(nn.Module, ABC):
    """Stands where a component's dense part stood and calls another runtime."""

    @abstractmethod
    def run_arrays(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the graph."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Runs the graph on CPU tensors."""
        outputs = self.run_arrays([tensor.contiguous().numpy() for tensor in tensors])
        results = tuple(torch.from_numpy(output) for output in outputs)
        return results if len(results) > 1 else results[0]


def graph_of(
    bundle: Bundle, component: str, backend: str, precision: Precision = FULL_PRECISION
) -> Path | None:
    """Returns the graph a bundle has of a component for a backend, or None where it says to run in torch.

    Args:
        bundle: The bundle.
        component: Name of the component.
        backend: Name of the backend.
        precision: The component itself or one of its variants.

    Raises:
        ConfigurationError: The bundle has neither, or the file is missing or not the one bundle.yaml was
            written for.
    """
    where = bundle.path / "bundle.yaml"
    spec = bundle.spec.components[component]
    exported = spec.exported
    if precision != FULL_PRECISION:
        problem = missing_variant(component, spec, precision, backend)
        if problem is not None:
            raise ConfigurationError(f"{where}: {problem}")
        exported = spec.variants[precision].exported
    entry = exported.get(backend)
    if entry is None:
        has = f"graphs for {', '.join(sorted(exported))}" if exported else "no exported graph at all"
        raise ConfigurationError(
            f"{where}: component '{component}' has no graph for backend '{backend}' (it has {has}); export "
            f"the bundle with --graphs, write '{backend}: torch' under its 'exported' to run it in torch on "
            "such a device, or place it on a device with backend torch"
        )
    if entry == RUN_IN_TORCH:
        return None
    path = bundle.path / entry
    if not path.is_file():
        raise ConfigurationError(
            f"{where}: graph '{entry}' of component '{component}' is missing from the bundle"
        )
    expected = bundle.spec.exported_sha256.get(entry)
    if expected is None or sha256_of(path) != expected:
        raise ConfigurationError(
            f"{path}: this is not the graph {where} was written for (SHA-256 differs or is not listed); "
            "export the bundle anew"
        )
    return path


def replace_dense_part(component: Component, graph: nn.Module) -> nn.Module:
    """Returns the component with `graph` in the place of its dense part."""
    if not component.dense_name:
        return graph
    setattr(component.network, component.dense_name, graph)
    return component
