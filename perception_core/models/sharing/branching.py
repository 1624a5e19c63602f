"""Learn-to-branch (Guo et al., ICML 2020): a tree whose branching points are learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.sharing.interface import SharingNetwork
from perception_core.models.sharing.stages import StagePlan


class LearnToBranch(SharingNetwork):
    """At every stage as many nodes as tasks; each node chooses its parent among those of the stage before.

    In training, the choice is drawn by Gumbel-softmax, straight through; in evaluation each node takes its
    likeliest parent and only nodes that lead to a task are run: a tree.

    Args:
        plan: The stages.
        tasks: Task names.
        temperature: Of the Gumbel-softmax.

    Attributes:
        choice_logits: For every stage but the first (nodes, parents), and for the tasks (tasks, nodes).
    """

    def __init__(self, plan: StagePlan, tasks: Sequence[str], temperature: float = 5.0) -> None:
        super().__init__(plan, tasks)
        count = len(tasks)
        self.temperature = temperature
        self.stem = plan.make_stem()
        self.nodes = nn.ModuleList(
            nn.ModuleList(plan.make_stage(stage) for _ in range(count)) for stage in range(plan.stages)
        )
        self.choice_logits = nn.ParameterList(
            nn.Parameter(torch.zeros(count, count)) for _ in range(plan.stages)
        )

    def parents(self) -> list[list[int]]:
        """Returns for each stage from the second on, and last for the tasks, every node's parent in
        evaluation. On the meta device everything descends from the first node: hard sharing.
        """
        if self.choice_logits[0].is_meta:
            return [[0] * len(self.tasks) for _ in self.choice_logits]
        return [logits.argmax(dim=1).tolist() for logits in self.choice_logits]

    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps an image to one feature a task."""
        return self._drawn(image_bchw) if self.training else self._decided(image_bchw)

    def _drawn(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        stem = self.stem(image_bchw)
        maps = [node(stem) for node in self.nodes[0]]  # type: ignore[attr-defined]
        for stage in range(1, self.plan.stages):
            inputs = self._chosen(self.choice_logits[stage - 1], maps)
            maps = [node(x) for node, x in zip(self.nodes[stage], inputs, strict=True)]  # type: ignore[call-overload]
        return dict(zip(self.tasks, self._chosen(self.choice_logits[-1], maps), strict=True))

    def _chosen(self, logits: torch.Tensor, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        choice_np = functional.gumbel_softmax(logits, tau=self.temperature, hard=True, dim=-1)
        mixed = torch.einsum("np,pbchw->nbchw", choice_np, torch.stack(maps))
        return list(mixed)

    def _needed(self) -> list[list[int]]:
        """Returns the nodes of each stage that lead to a task."""
        parents = self.parents()
        needed = [sorted(set(parents[-1]))]
        for choices in reversed(parents[:-1]):
            needed.insert(0, sorted({choices[node] for node in needed[0]}))
        return needed

    def _decided(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        parents, needed = self.parents(), self._needed()
        # A node lies in its parent's branch where it is the parent's only child, else in one of its own.
        branch = {node: "stem" if len(needed[0]) == 1 else f"0.{node}" for node in needed[0]}
        stem = self.stem(image_bchw)
        maps = {
            node: self.nodes[0][node](self.moved(stem, "stem", branch[node]))  # type: ignore[index]
            for node in needed[0]
        }
        for stage in range(1, self.plan.stages):
            choices = parents[stage - 1]
            children = [choices[node] for node in needed[stage]]
            following, following_branch = {}, {}
            for node in needed[stage]:
                parent = choices[node]
                alone = children.count(parent) == 1
                following_branch[node] = branch[parent] if alone else f"{stage}.{node}"
                taken = self.moved(maps[parent], branch[parent], following_branch[node])
                following[node] = self.nodes[stage][node](taken)  # type: ignore[index]
            maps, branch = following, following_branch
        features = {}
        for task, node in zip(self.tasks, parents[-1], strict=True):
            target = branch[node] if parents[-1].count(node) == 1 else task
            features[task] = self.moved(maps[node], branch[node], target)
        return features

    def used_parameters(self) -> list[nn.Parameter]:
        """Weights of the tree that evaluation runs."""
        used = list(self.stem.parameters())
        for stage, nodes in enumerate(self._needed()):
            for node in nodes:
                used += list(self.nodes[stage][node].parameters())  # type: ignore[index]
        return used
