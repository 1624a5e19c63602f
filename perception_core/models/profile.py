"""Size and cost of a model and of each of its components."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

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


def profile_model(
    model: PerceptionModel, cameras: int = 6, points: int = 30_000
) -> dict[str, ComponentProfile]:
    """Counts each component's weights and its multiply-adds on an example frame.

    Args:
        model: The model; stays as it is.
        cameras: Cameras of the frame.
        points: Points of the frame.
    """
    # A copy without gradients: the counter's hooks want a gradient function of whatever requires gradients.
    model = copy.deepcopy(model).eval().requires_grad_(False)
    tensors = example_frame(model.bundle_input(), cameras, points)
    specs = model.component_specs()
    profiles = {}
    with torch.no_grad():
        for name, component in model.components.items():
            with FlopCounterMode(display=False) as counter:
                outputs = component(*(tensors[tensor] for tensor in specs[name].inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            tensors.update(zip(specs[name].outputs, outputs, strict=True))
            profiles[name] = ComponentProfile(
                parameters=sum(parameter.numel() for parameter in component.parameters()),
                multiply_adds=counter.get_total_flops() // 2,
            )
    return profiles
