"""Loss_hw of Eq. 3 as a differentiable function of placement probabilities (Eq. 4 of the MMMT paper)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.schedule import UnreachableError, simulate

#: What a broken constraint costs, in units of the time scale and of the limit it breaks.
_PENALTY = 10.0


class RelaxedProblem:
    """A placement problem whose ω are probabilities m[nn, d] instead of zeros and ones.

    Durations and transfers become expectations, a stage waits for an earlier one on its device with the
    probability that they share it, every maximum becomes a softmax-weighted mean, and a device is active with
    the probability that any stage is on it.

    Attributes:
        problem: The problem.
        scale_us: Unit of time: the mean work of a whole frame.
        allowed_nd: Which devices each stage can be on.
    """

    def __init__(self, problem: PlacementProblem) -> None:
        self.problem = problem
        stages, devices = len(problem.stages), len(problem.devices)
        self.allowed_nd = torch.zeros(stages, devices, dtype=torch.bool)
        self.duration_nd = torch.zeros(stages, devices)
        for i, choices in enumerate(problem.choices):
            for d in choices:
                self.allowed_nd[i, d] = True
                self.duration_nd[i, d] = float(problem.duration_us[i][d] or 0)
        known_n = self.allowed_nd.sum(1).clamp(min=1)
        self.scale_us = max(1.0, float((self.duration_nd.sum(1) / known_n).sum()))
        self.duration_nd = self.duration_nd / self.scale_us
        self._transfers = [self._transfer(edge.transfer_us) for edge in problem.edges]
        self._serial_d = torch.tensor([0.0 if device.host else 1.0 for device in problem.devices])
        self._active_cost_d = torch.tensor(problem.active_cost_us, dtype=torch.float32) / self.scale_us
        self._work_cost_nd = torch.tensor(problem.work_cost_us, dtype=torch.float32) / self.scale_us

    def _transfer(self, transfer_us: tuple[tuple[int | None, ...], ...]) -> torch.Tensor:
        rows = [
            [_PENALTY if value is None else value / self.scale_us for value in row] for row in transfer_us
        ]
        return torch.tensor(rows)

    def order(self, placement: Sequence[int]) -> list[int]:
        """Returns the stages in the order in which a placement's schedule makes them ready."""
        try:
            slots = simulate(self.problem, placement)
        except UnreachableError:
            return list(range(len(self.problem.stages)))
        return [slot.stage for slot in sorted(slots, key=lambda slot: (slot.ready_us, slot.stage))]

    def latency(
        self,
        m_bnd: torch.Tensor,
        order: Sequence[int],
        temperature: float,
        duration_nd: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the relaxed longest path, (B,), and how far budgets are missed, (B,), in units of time.

        Args:
            m_bnd: Probabilities, (B, N, D), rows sum to 1.
            order: See `order`.
            temperature: Of the softmax that stands for the maximum, in units of time.
            duration_nd: Durations in units of time; None: the problem's.
        """
        duration_nd = self.duration_nd if duration_nd is None else duration_nd
        work_bn = (m_bnd * duration_nd).sum(-1)
        together_bnn = torch.einsum("bid,bjd,d->bij", m_bnd, m_bnd, self._serial_d)
        ends: dict[int, torch.Tensor] = {}
        for i in order:
            arrivals = [torch.zeros_like(work_bn[:, 0])]
            for k, edge in enumerate(self.problem.edges):
                if edge.consumer == i:
                    p = edge.producer
                    moved_b = torch.einsum("bd,be,de->b", m_bnd[:, p], m_bnd[:, i], self._transfers[k])
                    arrivals.append(ends[p] + moved_b)
            arrivals += [together_bnn[:, i, j] * end_b for j, end_b in ends.items()]
            ends[i] = relaxed_maximum(torch.stack(arrivals, -1), temperature) + work_bn[:, i]
        paths, missed = [], torch.zeros_like(work_bn[:, 0])
        for path in self.problem.paths:
            reached_b = ends[path.output] + path.offset_us / self.scale_us
            paths.append(reached_b)
            if path.budget_us is not None:
                missed = missed + torch.relu(reached_b - path.budget_us / self.scale_us)
        longest_b = relaxed_maximum(torch.stack(paths, -1), temperature) if paths else missed
        return longest_b, missed

    def loss(
        self,
        m_bnd: torch.Tensor,
        order: Sequence[int],
        temperature: float,
        duration_nd: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the relaxed Loss_hw with penalties for what is broken, (B,), in units of time."""
        durations = self.duration_nd if duration_nd is None else duration_nd
        longest_b, missed_b = self.latency(m_bnd, order, temperature, durations)
        active_bd = 1.0 - torch.prod(1.0 - m_bnd.clamp(max=1.0 - 1e-6), dim=1)
        cost_b = (active_bd * self._active_cost_d).sum(-1) + (m_bnd * self._work_cost_nd).sum((-1, -2))
        return longest_b + cost_b + _PENALTY * (missed_b + self._overfull(m_bnd, durations))

    def _overfull(self, m_bnd: torch.Tensor, duration_nd: torch.Tensor) -> torch.Tensor:
        problem = self.problem
        over_b = torch.zeros_like(m_bnd[:, 0, 0])
        memory_n = torch.tensor(problem.memory_kb, dtype=torch.float32)
        for d, limit_kb in enumerate(problem.memory_limit_kb):
            if limit_kb:
                over_b = over_b + torch.relu((m_bnd[:, :, d] * memory_n).sum(-1) / limit_kb - 1.0)
        for d, limit_us in enumerate(problem.work_limit_us):
            if limit_us:
                work_b = (m_bnd[:, :, d] * duration_nd[:, d]).sum(-1)
                over_b = over_b + torch.relu(work_b * self.scale_us / limit_us - 1.0)
        return over_b


def relaxed_maximum(values: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns the softmax-weighted mean over the last axis: the maximum as the temperature goes to 0."""
    return (torch.softmax(values / temperature, dim=-1) * values).sum(-1)


def gumbel_softmax(
    logits_nd: torch.Tensor,
    allowed_nd: torch.Tensor,
    samples: int,
    temperature: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draws relaxed placements by reparametrization: z ~ Gumbel, x = softmax((logits + z) / temperature).

    Returns:
        (samples, N, D); zero where a stage cannot be.
    """
    uniform = torch.rand((samples, *logits_nd.shape), generator=generator).clamp(1e-9, 1.0 - 1e-7)
    noise = -torch.log(-torch.log(uniform))
    masked = (logits_nd + noise).masked_fill(~allowed_nd, -torch.inf)
    return torch.softmax(masked / temperature, dim=-1)
