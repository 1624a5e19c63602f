"""Soft sharing: one backbone a task, whose maps are mixed after every stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ConvNormAct
from perception_core.models.sharing.interface import SharingNetwork
from perception_core.models.sharing.stages import StagePlan


class _Columns(SharingNetwork):
    """One backbone a task; `mix` exchanges after each stage."""

    def __init__(self, plan: StagePlan, tasks: Sequence[str]) -> None:
        super().__init__(plan, tasks)
        self.columns = nn.ModuleList(plan.make_column() for _ in tasks)

    @abstractmethod
    def mix(self, maps: list[torch.Tensor], stage: int) -> list[torch.Tensor]:
        """Returns each task's map after the exchange."""

    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps an image to one feature a task."""
        return dict(zip(self.tasks, self.stage_outputs(image_bchw)[-1], strict=True))

    def stage_outputs(self, image_bchw: torch.Tensor) -> list[list[torch.Tensor]]:
        """Returns the mixed maps of every stage, one a task."""
        maps = [column.stem(image_bchw) for column in self.columns]  # type: ignore[operator]
        outputs = []
        for stage in range(self.plan.stages):
            maps = [
                column.stages[stage](x)  # type: ignore[index,operator]
                for column, x in zip(self.columns, maps, strict=True)
            ]
            maps = self.mix(maps, stage)
            outputs.append(maps)
        return outputs

    def taken(self, maps: list[torch.Tensor], target: int) -> list[torch.Tensor]:
        """Returns all maps as seen by one task, which takes the others' from their branches."""
        return [self.moved(x, self.tasks[source], self.tasks[target]) for source, x in enumerate(maps)]


class CrossStitch(_Columns):
    """Cross-stitch units (Misra et al., CVPR 2016): each channel of a task's map becomes a weighted sum of
    that channel of all tasks.

    Args:
        plan: The stages.
        tasks: Task names.
        own_weight: Initial weight of a task's own map; the others share the rest.
    """

    def __init__(self, plan: StagePlan, tasks: Sequence[str], own_weight: float = 0.9) -> None:
        super().__init__(plan, tasks)
        count = len(tasks)
        rest = (1 - own_weight) / max(count - 1, 1)
        start = torch.full((count, count), rest).fill_diagonal_(own_weight if count > 1 else 1.0)
        self.stitches = nn.ParameterList(
            nn.Parameter(start[:, :, None].repeat(1, 1, channels)) for channels in plan.channels
        )

    def mix(self, maps: list[torch.Tensor], stage: int) -> list[torch.Tensor]:
        """x_t becomes sum_u alpha_tu x_u, channel by channel."""
        alpha_ttc = self.stitches[stage]
        return [
            sum(
                (
                    alpha_ttc[target, source, :, None, None] * x
                    for source, x in enumerate(self.taken(maps, target))
                ),
                start=torch.zeros_like(maps[target]),
            )
            for target in range(len(maps))
        ]


class Sluice(_Columns):
    """Sluice network (Ruder et al., AAAI 2019): maps are divided into subspaces that are mixed across tasks,
    and each task's feature is a weighted sum over all of its stages.

    Args:
        plan: The stages; channels must be divisible by the subspaces.
        tasks: Task names.
        subspaces: Subspaces of each map.
        own_weight: Initial weight of a subspace's own map.
        orthogonality: Weight of the constraint that subspaces of one task be different.
    """

    def __init__(
        self,
        plan: StagePlan,
        tasks: Sequence[str],
        subspaces: int = 2,
        own_weight: float = 0.9,
        orthogonality: float = 1e-3,
    ) -> None:
        super().__init__(plan, tasks)
        for channels in plan.channels:
            if channels % subspaces:
                raise ValueError(f"{channels} channels cannot be divided into {subspaces} subspaces")
        self.subspaces, self.orthogonality = subspaces, orthogonality
        count = len(tasks) * subspaces
        rest = (1 - own_weight) / max(count - 1, 1)
        start = torch.full((count, count), rest).fill_diagonal_(own_weight if count > 1 else 1.0)
        self.alphas = nn.ParameterList(nn.Parameter(start.clone()) for _ in range(plan.stages))
        self.betas = nn.Parameter(torch.zeros(len(tasks), plan.stages))
        with torch.no_grad():
            self.betas[:, -1] = 1.0
        self.skips = nn.ModuleList(
            nn.ModuleList(
                ConvNormAct(channels, plan.out_channels, kernel_size=1, activation=False)
                for channels in plan.channels[:-1]
            )
            for _ in tasks
        )

    def mix(self, maps: list[torch.Tensor], stage: int) -> list[torch.Tensor]:
        """Every subspace becomes a weighted sum of all subspaces of all tasks."""
        results = []
        for target in range(len(maps)):
            taken = self.taken(maps, target)
            parts_sbchw = torch.stack([part for x in taken for part in x.chunk(self.subspaces, dim=1)])
            rows = slice(target * self.subspaces, (target + 1) * self.subspaces)
            mixed = torch.einsum("ts,sbchw->tbchw", self.alphas[stage][rows], parts_sbchw)
            results.append(torch.cat(list(mixed), dim=1))
        return results

    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps an image to one feature a task."""
        outputs = self.stage_outputs(image_bchw)
        features = {}
        for index, task in enumerate(self.tasks):
            last = outputs[-1][index]
            feature = self.betas[index, -1] * last
            for stage, skip in enumerate(self.skips[index]):  # type: ignore[arg-type,var-annotated]
                resized = functional.interpolate(
                    outputs[stage][index], size=last.shape[-2:], mode="bilinear", align_corners=False
                )
                feature = feature + self.betas[index, stage] * skip(resized)
            features[task] = feature
        return features

    def regularizer(self) -> torch.Tensor:
        """Squared Frobenius norm of the products of subspaces' filters, over tasks and stages."""
        total = next(self.parameters()).new_zeros(())
        for column in self.columns:
            for stage in column.stages:  # type: ignore[union-attr]
                filters = stage[-1].second.convolution.weight.flatten(1)
                parts = filters.chunk(self.subspaces, dim=0)
                for first in range(self.subspaces):
                    for second in range(first + 1, self.subspaces):
                        total = total + (parts[first] @ parts[second].T).square().sum()
        return self.orthogonality * total


class NddrCnn(_Columns):
    """NDDR-CNN (Gao et al., CVPR 2019): the maps of all tasks together go through a 1x1 convolution a task
    and stage, "neural discriminative dimensionality reduction".

    Args:
        plan: The stages.
        tasks: Task names.
        own_weight: Initial weight of a task's own channel; the others share the rest.
    """

    def __init__(self, plan: StagePlan, tasks: Sequence[str], own_weight: float = 0.9) -> None:
        super().__init__(plan, tasks)
        count = len(tasks)
        self.reductions = nn.ModuleList(
            nn.ModuleList(
                ConvNormAct(count * channels, channels, kernel_size=1, activation=True) for _ in tasks
            )
            for channels in plan.channels
        )
        rest = (1 - own_weight) / max(count - 1, 1)
        for channels, layers in zip(plan.channels, self.reductions, strict=True):
            for target, layer in enumerate(layers):  # type: ignore[arg-type,var-annotated]
                shares = [
                    (own_weight if count > 1 else 1.0) if source == target else rest
                    for source in range(count)
                ]
                identity = torch.eye(channels)
                with torch.no_grad():
                    layer.convolution.weight.copy_(
                        torch.cat([share * identity for share in shares], dim=1)[:, :, None, None]
                    )

    def mix(self, maps: list[torch.Tensor], stage: int) -> list[torch.Tensor]:
        """Concatenates and reduces."""
        layers: Any = self.reductions[stage]
        return [layer(torch.cat(self.taken(maps, target), dim=1)) for target, layer in enumerate(layers)]
