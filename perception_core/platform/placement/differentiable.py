"""Differentiable placement: ω sampled by Gumbel-softmax and trained by gradient descent (Eq. 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception_core.configuration import ConfigurationError
from perception_core.platform.placement.local_search import descend
from perception_core.platform.placement.objective import PlacementObjective
from perception_core.platform.placement.solver import PlacementSolver

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DifferentiableSettings:
    """How ω is trained.

    Attributes:
        steps: Steps of Adam.
        samples: Placements drawn a step; their mean is the expectation of Eq. 4.
        learning_rate: Of the logits.
        temperature: Of the Gumbel-softmax, first and last, falling geometrically.
        maximum_temperature: Of the softmax that stands for the maximum, in units of a frame's work.
    """

    steps: int = 100
    samples: int = 8
    learning_rate: float = 0.15
    temperature: tuple[float, float] = (2.0, 0.2)
    maximum_temperature: float = 0.03


class DifferentiableSolver(PlacementSolver):
    """Trains logits of m[nn, d]; what is drawn on the way is scored exactly, and the best few placements are
    rounded off by single moves.
    """

    name = "differentiable"

    def __init__(self, settings: DifferentiableSettings | None = None) -> None:
        self.settings = settings or DifferentiableSettings()

    def _search(
        self, objective: PlacementObjective, seed: int, start: tuple[int, ...] | None
    ) -> tuple[tuple[int, ...], int | None, bool]:
        try:
            import torch
        except ImportError as error:
            raise ConfigurationError(
                "the differentiable placement solver needs torch; choose another: exact, evolution, greedy"
            ) from error
        from perception_core.platform.placement.relaxed import RelaxedProblem, gumbel_softmax

        settings, relaxed = self.settings, RelaxedProblem(objective.problem)
        generator = torch.Generator().manual_seed(seed)
        logits = torch.zeros(relaxed.allowed_nd.shape)
        if start is not None:
            for i, d in enumerate(start):
                logits[i, d] = 1.0
        logits.requires_grad_(True)
        optimizer = torch.optim.Adam([logits], lr=settings.learning_rate)
        first, last = settings.temperature
        found: dict[tuple[int, ...], None] = {}
        best = self._likeliest(logits, relaxed.allowed_nd)
        for step in range(settings.steps):
            temperature = first * (last / first) ** (step / max(1, settings.steps - 1))
            m_bnd = gumbel_softmax(logits, relaxed.allowed_nd, settings.samples, temperature, generator)
            loss = relaxed.loss(m_bnd, relaxed.order(best), settings.maximum_temperature).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for drawn in (*m_bnd.detach().argmax(-1).tolist(), self._likeliest(logits, relaxed.allowed_nd)):
                found[tuple(drawn)] = None
            best = min((best, *list(found)[-settings.samples - 1 :]), key=objective.score)
        beginnings = sorted(found, key=objective.score)[:3]
        return min((descend(objective, one) for one in beginnings), key=objective.score), None, False

    @staticmethod
    def _likeliest(logits: torch.Tensor, allowed_nd: torch.Tensor) -> tuple[int, ...]:
        return tuple(logits.detach().masked_fill(~allowed_nd, -math.inf).argmax(-1).tolist())
