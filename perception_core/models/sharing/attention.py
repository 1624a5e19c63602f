"""MTAN (Liu et al., CVPR 2019): one shared backbone, of whose stages each task picks by attention masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct
from perception_core.models.sharing.interface import SHARED, SharingNetwork
from perception_core.models.sharing.stages import StagePlan


class _TaskAttention(nn.Module):
    """One task's module at one stage: a mask from the stage's first map and what the task has so far, applied
    to the stage's last map, and the map handed to the next stage's module.

    Args:
        first_channels: Of the stage's first map u.
        carried_channels: Of what the module before handed over; 0 at the first stage.
        channels: Of the stage's last map p.
        handed_channels: Of what is handed over.
    """

    def __init__(
        self, first_channels: int, carried_channels: int, channels: int, handed_channels: int
    ) -> None:
        super().__init__()
        self.hidden = ConvNormAct(first_channels + carried_channels, channels, kernel_size=1)
        self.mask = ConvNormAct(channels, channels, kernel_size=1, activation=False)
        self.hand_over = ConvNormAct(channels, handed_channels)

    def forward(
        self, first: torch.Tensor, last: torch.Tensor, carried: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the attended map, and what is handed over."""
        inputs = first
        if carried is not None:
            if carried.shape[-2:] != first.shape[-2:]:
                carried = functional.adaptive_max_pool2d(carried, first.shape[-2:])
            inputs = torch.cat((first, carried), dim=1)
        attended = self.mask(self.hidden(inputs)).sigmoid() * last
        return attended, self.hand_over(attended)


class Mtan(SharingNetwork):
    """Multi-task attention network."""

    def __init__(self, plan: StagePlan, tasks: Sequence[str]) -> None:
        super().__init__(plan, tasks)
        self.stem = plan.make_stem()
        self.stages = nn.ModuleList(plan.make_blocks(stage) for stage in range(plan.stages))
        self.attentions = nn.ModuleDict(
            {
                task: nn.ModuleList(
                    _TaskAttention(channels, plan.channels[stage - 1] if stage else 0, channels, channels)
                    for stage, channels in enumerate(plan.channels)
                )
                for task in tasks
            }
        )

    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps an image to one feature a task."""
        x = self.stem(image_bchw)
        carried: dict[str, torch.Tensor] = {}
        for stage, blocks in enumerate(self.stages):
            first = blocks[0](x)  # type: ignore[index]
            x = first
            for block in list(blocks)[1:]:  # type: ignore[call-overload]
                x = block(x)
            for task in self.tasks:
                layers = self.attentions[task]
                taken_first = self.moved(first, SHARED, task)
                taken_last = taken_first if x is first else self.moved(x, SHARED, task)
                _, carried[task] = layers[stage](  # type: ignore[index]
                    taken_first, taken_last, carried.get(task)
                )
        return carried
