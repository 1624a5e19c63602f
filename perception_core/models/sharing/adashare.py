"""AdaShare (Sun et al., NeurIPS 2020): one backbone, each task decides which of its blocks it runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from perception_core.models.blocks import ResidualBlock
from perception_core.models.sharing.interface import SHARED, SharingNetwork
from perception_core.models.sharing.stages import StagePlan


class AdaShare(SharingNetwork):
    """A policy of select or skip for each task and block; a skipped block leaves its shortcut.

    In training, decisions are drawn by Gumbel-softmax, straight through; in evaluation the likelier one is
    taken, and tasks that have decided alike so far compute together.

    Args:
        plan: The stages.
        tasks: Task names.
        temperature: Of the Gumbel-softmax.
        sparsity: Weight of the policy's loss for selecting (the paper's L_sparsity).
        sharing: Weight of the policy's loss for deciding unlike other tasks, more at the bottom (L_sharing).

    Attributes:
        policy_logits: (T, blocks, 2), select first.
    """

    def __init__(
        self,
        plan: StagePlan,
        tasks: Sequence[str],
        temperature: float = 5.0,
        sparsity: float = 0.05,
        sharing: float = 0.05,
    ) -> None:
        super().__init__(plan, tasks)
        self.stem = plan.make_stem()
        self.blocks = nn.ModuleList(
            block for stage in range(plan.stages) for block in plan.make_blocks(stage)
        )
        self.temperature, self.sparsity, self.sharing = temperature, sparsity, sharing
        # Selecting is likelier at first: training starts from hard sharing.
        start = torch.tensor([1.0, 0.0]).repeat(len(tasks), len(self.blocks), 1)
        self.policy_logits = nn.Parameter(start)

    def decisions(self) -> list[list[bool]]:
        """Returns for each task which blocks it runs in evaluation; on the meta device all of them."""
        if self.policy_logits.is_meta:
            return [[True] * len(self.blocks) for _ in self.tasks]
        chosen: list[list[bool]] = (self.policy_logits[..., 0] >= self.policy_logits[..., 1]).tolist()
        return chosen

    def forward(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps an image to one feature a task."""
        return self._drawn(image_bchw) if self.training else self._decided(image_bchw)

    def _drawn(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        gates = functional.gumbel_softmax(self.policy_logits, tau=self.temperature, hard=True, dim=-1)
        stem = self.stem(image_bchw)
        features = {}
        for index, task in enumerate(self.tasks):
            x = stem
            for number, block in enumerate(self.blocks):
                assert isinstance(block, ResidualBlock)
                inner = block.second(block.first(x))
                x = functional.relu(gates[index, number, 0] * inner + block.shortcut(x))
            features[task] = x
        return features

    def _decided(self, image_bchw: torch.Tensor) -> dict[str, torch.Tensor]:
        # Tasks with the same history share their map; it lies in the branch of the first of them that is
        # alone, or in the shared one while there are several.
        groups: list[tuple[list[int], torch.Tensor, str]] = [
            (list(range(len(self.tasks))), self.stem(image_bchw), SHARED)
        ]
        decisions = self.decisions()
        for number, block in enumerate(self.blocks):
            assert isinstance(block, ResidualBlock)
            following: list[tuple[list[int], torch.Tensor, str]] = []
            for members, x, branch in groups:
                for selects in (True, False):
                    part = [index for index in members if decisions[index][number] is selects]
                    if not part:
                        continue
                    target = branch if len(part) == len(members) else self._branch_of(part)
                    taken = self.moved(x, branch, target)
                    result = block(taken) if selects else functional.relu(block.shortcut(taken))
                    following.append((part, result, target))
            groups = following
        return {
            self.tasks[index]: self.moved(x, branch, self.tasks[index])
            for members, x, branch in groups
            for index in members
        }

    def _branch_of(self, members: list[int]) -> str:
        return self.tasks[members[0]] if len(members) == 1 else "+".join(self.tasks[i] for i in members)

    def regularizer(self) -> torch.Tensor:
        """L_sparsity and L_sharing of the paper (Eq. 2 and 3), weighted."""
        selects_tb = self.policy_logits.softmax(dim=-1)[..., 0]
        count = selects_tb.shape[1]
        sparsity = torch.log(selects_tb.clamp_min(1e-6)).mean()
        weight_b = torch.arange(count, 0, -1, device=selects_tb.device, dtype=selects_tb.dtype) / count
        difference = (selects_tb[:, None] - selects_tb[None]).abs()
        pairs = max(len(self.tasks) * (len(self.tasks) - 1), 1)
        return self.sparsity * sparsity + self.sharing * (difference * weight_b).sum() / pairs / count

    def used_parameters(self) -> list[nn.Parameter]:
        """Weights of what any task runs, and no policy."""
        used = list(self.stem.parameters())
        for number, block in enumerate(self.blocks):
            assert isinstance(block, ResidualBlock)
            runs = any(decision[number] for decision in self.decisions())
            used += list((block if runs else block.shortcut).parameters())
        return used
