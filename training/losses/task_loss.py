"""What every loss returns, and what it returns where there are no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


class NonFiniteLossError(FloatingPointError):
    """A loss is NaN or infinite; the message names the task and the term."""


@dataclass(frozen=True)
class TaskLoss:
    """Loss of one task.

    Attributes:
        total: Scalar with graph, weighted sum of the terms.
        terms: The weighted terms by name, without graph; for the log.
        samples: Samples of the batch that had labels.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor] = field(default_factory=dict)
    samples: int = 0

    @classmethod
    def of_terms(cls, task: str, terms: Mapping[str, torch.Tensor], samples: int) -> TaskLoss:
        """Sums weighted terms.

        Args:
            task: Name, for the message.
            terms: Scalars with graph.
            samples: Samples that had labels.

        Raises:
            NonFiniteLossError: A term is not finite.
        """
        for name, term in terms.items():
            if not bool(torch.isfinite(term)):
                raise NonFiniteLossError(f"loss of task '{task}': term '{name}' is {float(term.detach())}")
        total = torch.stack(list(terms.values())).sum()
        return cls(total, {name: term.detach() for name, term in terms.items()}, samples)

    @classmethod
    def without_labels(cls, *outputs: torch.Tensor) -> TaskLoss:
        """Returns 0 with a graph to the outputs, so that every process of a distributed run back-propagates.

        The sums are empty: an output that is not finite does not make them NaN.
        """
        return cls(torch.stack([output.reshape(-1)[:0].sum() for output in outputs]).sum())


def present_index(present_b: torch.Tensor, batch_size: int, task: str) -> torch.Tensor:
    """Returns the indices of samples with labels.

    Raises:
        ValueError: The mask is not bool (B).
    """
    if present_b.dtype != torch.bool or present_b.shape != (batch_size,):
        raise ValueError(
            f"loss of task '{task}': present_b must be bool of shape ({batch_size},), got {present_b.dtype} "
            f"of shape {tuple(present_b.shape)}"
        )
    return present_b.nonzero().squeeze(1)
