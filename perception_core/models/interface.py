"""What every model is: named, separately placeable components that hand each other tensors by graph name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from perception_core.bundle import SENSOR_TENSORS, BundleInput, ComponentSpec, TensorSpec
from perception_core.models.blocks import ConvNormAct


class Component(nn.Module):
    """A component as the vehicle runs it: one frame, tensors in and out in the order of its ComponentSpec.

    It is a thin shell around `network`, whose own forward is batched and is what training calls.

    Attributes:
        network: The batched network, with the component's parameters.
        dense_name: Sub-module of `network` that has only dense operators and is exported to other runtimes;
            empty: the whole component.
        dense_dynamic: For each input of the dense part, the axes whose size differs between frames.
        exportable: The dense part can be exported; False: other runtimes leave the component to torch.
    """

    dense_name: str = ""
    exportable: bool = True
    dense_dynamic: tuple[tuple[int, ...], ...] = ()

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def dense_part(self) -> nn.Module:
        """The dense sub-module, or the component itself where all of it is dense."""
        return getattr(self.network, self.dense_name) if self.dense_name else self

    def fuse_normalization(self) -> None:
        """Folds normalization layers into their convolutions, for inference only."""
        for module in self.modules():
            if isinstance(module, ConvNormAct):
                module.fuse()


class PerceptionModel(nn.Module, ABC):
    """A model whose parameters all belong to one of its components.

    Its direct sub-modules are the components' batched networks, under the components' names.

    Attributes:
        runs_on_meta: No operator depends on values, so that torch's meta device can count the whole model.
    """

    runs_on_meta: bool = False

    @property
    @abstractmethod
    def components(self) -> dict[str, Component]:
        """Components by name in an order in which they can run."""

    @abstractmethod
    def component_specs(self) -> dict[str, ComponentSpec]:
        """Signature of each component."""

    @abstractmethod
    def tensor_specs(self) -> dict[str, TensorSpec]:
        """Types of the tensors that components output."""

    @abstractmethod
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Class names by task."""

    @abstractmethod
    def bundle_input(self) -> BundleInput:
        """What the model needs of a rig."""

    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """Arguments that build this very model again through the registry; plain values."""

    def forward(self, frame: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs one frame through all components.

        Args:
            frame: The tensors of SENSOR_TENSORS the components need.

        Returns:
            Every tensor any component output, by graph name.
        """
        tensors = dict(frame)
        specs = self.component_specs()
        for name, component in self.components.items():
            outputs = component(*(tensors[tensor] for tensor in specs[name].inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            tensors.update(zip(specs[name].outputs, outputs, strict=True))
        return {name: tensor for name, tensor in tensors.items() if name not in SENSOR_TENSORS}
