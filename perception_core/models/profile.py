"""Size and cost of a model and of each of its components."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perception_core.backends.example_inputs import example_frame
from perception_core.models.interface import PerceptionModel


@dataclass(frozen=True)
class ComponentProfile:
    """Size and cost of one component.

    Attributes:
        parameters: Number of weights.
        multiply_adds: Of one frame's convolutions, matrix products and attention; the rest has few.
    """

    parameters: int
    multiply_adds: int


class MultiplyAddCounter(TorchDispatchMode):
    """Counts the multiply-adds of all operators that run inside it.

    torch's own FlopCounterMode gives the same figures, but imports half of torch's distributed package for
    it.

    Attributes:
        total: Multiply-adds so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operator and adds what it costs."""
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            weight = args[1]
            transposed = args[6]
            # Every output, or of a transposed convolution every input, meets one filter.
            self.total += (args[0] if transposed else output).numel() * weight[0].numel()
        elif name in ("mm", "bmm"):
            self.total += output.numel() * args[0].shape[-1]
        elif name in ("addmm", "baddbmm"):
            self.total += output.numel() * args[1].shape[-1]
        elif name.startswith("_scaled_dot_product"):
            query, key, value = args[:3]
            self.total += query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return output


def profile_model(
    model: PerceptionModel, cameras: int = 6, points: int = 30_000
) -> dict[str, ComponentProfile]:
    """Counts each component's weights and its multiply-adds on an example frame.

    Args:
        model: The model, in evaluation mode.
        cameras: Cameras of the frame.
        points: Points of the frame.
    """
    tensors = example_frame(model.bundle_input(), cameras, points)
    if model.runs_on_meta and not next(model.parameters()).is_meta:
        # Counts without computing: what takes seconds at full size is a matter of shapes alone.
        model = copy.deepcopy(model).to("meta")
    if model.runs_on_meta:
        tensors = {name: tensor.to("meta") for name, tensor in tensors.items()}
    specs = model.component_specs()
    profiles = {}
    with torch.no_grad():
        for name, component in model.components.items():
            with MultiplyAddCounter() as counter:
                outputs = component(*(tensors[tensor] for tensor in specs[name].inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            tensors.update(zip(specs[name].outputs, outputs, strict=True))
            profiles[name] = ComponentProfile(
                parameters=sum(parameter.numel() for parameter in component.parameters()),
                multiply_adds=counter.total,
            )
    return profiles
