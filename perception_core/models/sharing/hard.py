"""Hard parameter sharing: one backbone, all tasks read its output."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from perception_core.models.sharing.interface import SHARED, SharingNetwork
from perception_core.models.sharing.stages import StagePlan


class HardSharing(SharingNetwork):
    """Shared bottom (Caruana, 1997)."""

    def __init__(self, plan: StagePlan, tasks: Sequence[str]) -> None:
        super().__init__(plan, tasks)
        self.column = plan.make_column()

    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps an image to one feature a task; it is the same one."""
        x = self.column.stem(image_bchw)
        for stage in self.column.stages:
            x = stage(x)
        return {task: self.moved(x, SHARED, task) for task in self.tasks}


class Independent(SharingNetwork):
    """Nothing shared: one backbone a task. What the others are measured against."""

    def __init__(self, plan: StagePlan, tasks: Sequence[str]) -> None:
        super().__init__(plan, tasks)
        self.columns = torch.nn.ModuleDict({task: plan.make_column() for task in tasks})

    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps an image to one feature a task."""
        features = {}
        for task in self.tasks:
            column = self.columns[task]
            x = column.stem(image_bchw)  # type: ignore[operator]
            for stage in column.stages:  # type: ignore[union-attr]
                x = stage(x)
            features[task] = x
        return features
