"""Sharing policies: which option each task takes at each operator, and how they are learned and drawn."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from perception_core.configuration import ConfigurationError, StrictModel


class Option(enum.IntEnum):
    """Value of a policy variable P (AutoMTL, section 3.2)."""

    SHARED = 0
    SPECIFIC = 1
    SKIP = 2


@dataclass(frozen=True)
class Policy:
    """A discrete sharing policy.

    Attributes:
        tasks: Names of the N tasks.
        operators: Names of the L virtual computation nodes, in the backbone's order.
        choices: [N][L] options.
    """

    tasks: tuple[str, ...]
    operators: tuple[str, ...]
    choices: tuple[tuple[Option, ...], ...]

    def __post_init__(self) -> None:
        """Refuses choices that do not fit tasks and operators.

        Raises:
            ConfigurationError: Their numbers differ.
        """
        if len(self.choices) != len(self.tasks) or any(len(c) != len(self.operators) for c in self.choices):
            raise ConfigurationError(
                f"a policy of {len(self.tasks)} tasks and {len(self.operators)} operators cannot have "
                f"choices of the form {[len(row) for row in self.choices]}"
            )

    @classmethod
    def uniform(cls, tasks: Sequence[str], operators: Sequence[str], option: Option) -> Policy:
        """Returns the policy that takes one option everywhere."""
        row = (option,) * len(operators)
        return cls(tuple(tasks), tuple(operators), (row,) * len(tasks))

    @classmethod
    def of_indices(cls, tasks: Sequence[str], operators: Sequence[str], index_tl: torch.Tensor) -> Policy:
        """Returns the policy of a tensor (N, L) of option numbers."""
        rows = tuple(tuple(Option(int(value)) for value in row) for row in index_tl.tolist())
        return cls(tuple(tasks), tuple(operators), rows)

    @classmethod
    def random(cls, tasks: Sequence[str], operators: Sequence[str], seed: int) -> Policy:
        """Draws every choice evenly, as the paper's *Random* group of Fig. 2."""
        generator = torch.Generator().manual_seed(seed)
        index_tl = torch.randint(0, len(Option), (len(tasks), len(operators)), generator=generator)
        return cls.of_indices(tasks, operators, index_tl)

    def of(self, task: str, operator: str) -> Option:
        """Returns a task's choice at an operator."""
        return self.choices[self.tasks.index(task)][self.operators.index(operator)]

    def by_task(self) -> dict[str, dict[str, Option]]:
        """Returns the choices by task and operator."""
        return {
            task: dict(zip(self.operators, row, strict=True))
            for task, row in zip(self.tasks, self.choices, strict=True)
        }

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "operators": list(self.operators),
            "choices": {
                task: [option.name.lower() for option in row]
                for task, row in zip(self.tasks, self.choices, strict=True)
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Policy:
        """Reads what `to_json` gave.

        Raises:
            ConfigurationError: The content is no policy.
        """
        try:
            choices = content["choices"]
            rows = tuple(tuple(Option[name.upper()] for name in row) for row in choices.values())
            return cls(tuple(choices), tuple(content["operators"]), rows)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"this is no sharing policy: {type(error).__name__}: {error}") from error


class TemperatureSchedule(StrictModel):
    """Temperature τ of the Gumbel-softmax: falls by a factor every so many policy steps, down to a floor.

    The paper gives no values; these follow AdaShare, whose settings its experiments take over: 5, falling
    slowly.
    """

    initial: float = 5.0
    factor: float = 0.965
    every_steps: int = 20
    final: float = 0.5

    def at(self, step: int) -> float:
        """Returns τ at a policy step."""
        return max(self.final, self.initial * self.factor ** (step // self.every_steps))


def soft_policy(
    logits_tl3: torch.Tensor, temperature: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draws a soft policy by the Gumbel-softmax (Eq. 1).

    Args:
        logits_tl3: log π up to a constant for each task and operator.
        temperature: τ.
        generator: On the CPU; draws the Gumbel noise.

    Returns:
        (N, L, 3), positive and summing to 1 over the options; with a graph to the logits.
    """
    # Of float32's numbers in [0, 1) 0 alone would give an infinite Gumbel value.
    uniform = torch.rand(logits_tl3.shape, generator=generator).clamp_min(torch.finfo(torch.float32).tiny)
    gumbel_tl3 = -torch.log(-torch.log(uniform)).to(logits_tl3)
    return functional.softmax((gumbel_tl3 + logits_tl3.log_softmax(dim=-1)) / temperature, dim=-1)


def policy_regularizer(weights_tl3: torch.Tensor, depths: Sequence[int]) -> torch.Tensor:
    """Returns L_reg (Eq. 2), which is smaller the more is shared, above all near the input.

    Args:
        weights_tl3: Soft policy.
        depths: Depth l of each operator, 1 at the input; the largest is L, whose weight (L - l) / L is 0.
    """
    depth_l = torch.tensor(depths, dtype=weights_tl3.dtype, device=weights_tl3.device)
    deepest = depth_l.max()
    shared, specific, skip = weights_tl3.unbind(dim=-1)
    gaps_tl = functional.softplus(specific - shared) + functional.softplus(skip - shared)
    return ((deepest - depth_l) / deepest * gaps_tl).sum()
