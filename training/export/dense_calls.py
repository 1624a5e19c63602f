"""What reaches the dense parts of a bundle's components, and what they make of it, eagerly and in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from perception_core.backends.torch_backend import build_component
from perception_core.bundle import Bundle


@dataclass(frozen=True)
class DenseCall:
    """One call of a component's dense part: what another runtime takes and must give.

    Attributes:
        arguments: In the order of its graph's inputs, contiguous.
        outputs: In the order of its graph's outputs.
    """

    arguments: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]


class DensePartRecorder:
    """Runs a bundle's network frame by frame and keeps the calls of the dense parts.

    Raises:
        ConfigurationError: A component cannot be built.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._built = {name: build_component(bundle, name) for name in bundle.spec.components}
        self._calls: dict[str, DenseCall] = {}
        for name, (component, _) in self._built.items():
            component.dense_part.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def remember(_: Any, arguments: tuple[torch.Tensor, ...], output: Any) -> None:
            outputs = tuple(output) if isinstance(output, (tuple, list)) else (output,)
            self._calls[name] = DenseCall(tuple(item.contiguous() for item in arguments), outputs)

        return remember

    def run(self, frame: Mapping[str, torch.Tensor]) -> dict[str, DenseCall]:
        """Runs one frame.

        Args:
            frame: The sensor tensors the bundle needs.

        Returns:
            The last call of each dense part by component; a part that this frame does not reach (an image
            encoder where all cameras are masked) is left out.
        """
        self._calls = {}
        tensors = dict(frame)
        with torch.no_grad():
            for component, spec in self._built.values():
                outputs = component(*(tensors[tensor] for tensor in spec.inputs))
                outputs = outputs if isinstance(outputs, tuple) else (outputs,)
                tensors.update(zip(spec.outputs, outputs, strict=True))
        return dict(self._calls)


def output_names(bundle: Bundle, component: str, dense_name: str, count: int) -> tuple[str, ...]:
    """Returns names of a dense part's outputs: the component's own where all of it is dense.

    Args:
        bundle: The bundle.
        component: Name of the component.
        dense_name: `Component.dense_name` of it.
        count: Number of outputs.
    """
    own = bundle.spec.components[component].outputs
    if not dense_name and len(own) == count:
        return own
    return tuple(f"{dense_name or component}.{index}" for index in range(count))
