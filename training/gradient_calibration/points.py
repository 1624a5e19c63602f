"""Where in a network gradients are looked at and changed: names of layers and branches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from perception_core.configuration import ConfigurationError, nearest


@dataclass(frozen=True)
class Branch:
    """One modality's part of a network.

    Attributes:
        name: Modality, e.g. `lidar`.
        module: Dotted name of the sub-module whose parameters are the branch's, θ^H of FULLER.
        first_channel: First input channel of the fusion layer that comes from this branch.
        channels: Number of those channels; their weights are θ^F of FULLER.
    """

    name: str
    module: str
    first_channel: int
    channels: int


@dataclass(frozen=True)
class CalibrationPoints:
    """The places in a network that calibration needs.

    Attributes:
        shared_layer: Dotted name of the last sub-module all tasks share; its weights (not biases and
            normalizations, whose gradients have other units) are what task gradients are compared on.
        fusion_layer: Dotted name of the convolution or linear layer that first sees all modalities,
            concatenated along its input channels.
        branches: The modalities' branches.
    """

    shared_layer: str
    fusion_layer: str
    branches: tuple[Branch, ...]

    def shared_weights(self, model: nn.Module) -> list[nn.Parameter]:
        """Returns the shared layer's weights.

        Raises:
            ConfigurationError: There is no such layer, or it has no trainable weights.
        """
        layer = find_module(model, self.shared_layer)
        weights = [
            parameter for parameter in layer.parameters() if parameter.ndim >= 2 and parameter.requires_grad
        ]
        if not weights:
            raise ConfigurationError(f"shared layer '{self.shared_layer}' has no trainable weights")
        return weights

    def fusion_weight(self, model: nn.Module) -> nn.Parameter:
        """Returns the fusion layer's weight (out, in, …).

        Raises:
            ConfigurationError: There is no such layer, or its channels are not those of the branches.
        """
        weight = getattr(find_module(model, self.fusion_layer), "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
            raise ConfigurationError(f"fusion layer '{self.fusion_layer}' has no weight of two or more axes")
        last = max((branch.first_channel + branch.channels for branch in self.branches), default=0)
        if last > weight.shape[1]:
            raise ConfigurationError(
                f"fusion layer '{self.fusion_layer}' has {weight.shape[1]} input channels, the branches name "
                f"{last}"
            )
        return weight

    def branch_parameters(self, model: nn.Module) -> dict[str, list[nn.Parameter]]:
        """Returns the trainable parameters of each branch.

        Raises:
            ConfigurationError: A branch's module does not exist.
        """
        return {
            branch.name: [p for p in find_module(model, branch.module).parameters() if p.requires_grad]
            for branch in self.branches
        }


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Returns a sub-module by its dotted name.

    Raises:
        ConfigurationError: There is none; names the nearest.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        raise ConfigurationError(
            f"{type(model).__name__} has no sub-module '{name}'"
            + nearest(name, [key for key in modules if key])
        )
    return modules[name]
