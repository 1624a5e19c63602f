"""What every way of sharing is, and what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from perception_core.models.profile import MultiplyAddCounter
from perception_core.models.sharing.stages import StagePlan

#: Branch of layers that several tasks use at once.
SHARED = "shared"


@dataclass(frozen=True)
class SharingCost:
    """What a topology costs for one image.

    Attributes:
        parameters: Number of weights that the forward pass of evaluation mode uses.
        multiply_adds: Of convolutions and matrix products.
        moved_bytes: Bytes of the maps that one branch takes from another: what crosses from device to device
            where each branch has one of its own. A map that two branches take counts twice.
    """

    parameters: int
    multiply_adds: int
    moved_bytes: int


class SharingNetwork(nn.Module, ABC):
    """A backbone for several tasks.

    Attributes:
        plan: The stages.
        tasks: Task names, at least one.
    """

    def __init__(self, plan: StagePlan, tasks: Sequence[str]) -> None:
        super().__init__()
        if not tasks or len(set(tasks)) < len(tasks):
            raise ValueError(f"tasks: each once and at least one, got {list(tasks)}")
        self.plan, self.tasks = plan, tuple(tasks)
        self._moved_bytes: int | None = None

    @abstractmethod
    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps an image to one feature a task, all with the channels and the size of the last stage."""

    def regularizer(self) -> torch.Tensor:
        """Returns what the topology adds to the loss; a scalar with a graph, zero for most."""
        return next(self.parameters()).new_zeros(())

    def used_parameters(self) -> list[nn.Parameter]:
        """Returns the weights that evaluation mode uses."""
        return list(self.parameters())

    def moved(self, x: torch.Tensor, source: str, target: str) -> torch.Tensor:
        """Says that a branch takes a map of another one; returns the map."""
        if source != target and self._moved_bytes is not None:
            self._moved_bytes += x.numel() * x.element_size()
        return x


def measure_sharing(network: SharingNetwork, image_size: tuple[int, int]) -> SharingCost:
    """Counts what a topology costs in evaluation mode, for one image.

    Counted on the device the network is on; on torch's meta device nothing is computed.

    Args:
        network: Left as it was.
        image_size: Rows and columns.
    """
    weight = next(network.parameters())
    image = torch.zeros((1, network.plan.in_channels, *image_size), device=weight.device, dtype=weight.dtype)
    was_training = network.training
    network.eval()
    network._moved_bytes = 0
    try:
        with torch.no_grad(), MultiplyAddCounter() as counter:
            network(image)
        moved = network._moved_bytes
    finally:
        network._moved_bytes = None
        network.train(was_training)
    parameters = {id(parameter): parameter.numel() for parameter in network.used_parameters()}
    return SharingCost(sum(parameters.values()), counter.total, moved)
