"""What evaluators have in common: they take batch after batch, and parts made by several processes merge."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch

from training.evaluation.result import EvaluationError, Result

ResultT_co = TypeVar("ResultT_co", bound=Result, covariant=True)


class Mergeable(Protocol):
    """Has seen a part of the data and takes in what others have seen; picklable, to travel between
    processes.
    """

    def merge(self, other: Any) -> None:
        """Adds what another one of the same kind and options has seen.

        Raises:
            EvaluationError: The other one has other options.
        """
        ...


class Evaluator(Mergeable, Protocol[ResultT_co]):
    """Counts and sums over everything it was given.

    `update` differs between tasks and is documented there. The order of updates does not matter, and merging
    evaluators of parts gives what one evaluator of the whole gives (sums of floats to rounding).
    """

    def compute(self) -> ResultT_co:
        """Returns the result over everything seen so far."""
        ...


EvaluatorT = TypeVar("EvaluatorT", bound=Mergeable)


def merged(parts: Sequence[EvaluatorT]) -> EvaluatorT:
    """Returns a new evaluator that has seen what all of these have.

    Raises:
        EvaluationError: There are none, or their options differ.
    """
    if not parts:
        raise EvaluationError("nothing to merge")
    whole = copy.deepcopy(parts[0])
    for part in parts[1:]:
        whole.merge(part)
    return whole


def gather(evaluator: EvaluatorT) -> EvaluatorT:
    """Returns the evaluator of all processes of a distributed run, in every one of them.

    Outside of a distributed run that is the evaluator itself.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return evaluator
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, evaluator)
    return merged(parts)


def same_options(what: str, mine: object, others: object) -> None:
    """Refuses to merge evaluators with different options.

    Raises:
        EvaluationError: They differ.
    """
    if mine != others:
        raise EvaluationError(f"{what} with different options cannot be merged: {mine} and {others}")


def pair(
    what: str, predicted: Any, truth: Any, valid: Any | None = None, trailing: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Brings a prediction, its truth and the mask of pixels that count into one form.

    Args:
        what: For messages.
        predicted: Tensor or array.
        truth: Of the same shape.
        valid: bool; broadcasts to the shape without the trailing axes. None: everything counts.
        trailing: Number of last axes that belong to one pixel.

    Returns:
        The three as tensors on the prediction's device; valid has the shape without the trailing axes.

    Raises:
        EvaluationError: Shapes do not fit.
    """
    predicted_tensor = torch.as_tensor(predicted)
    truth_tensor = torch.as_tensor(truth).to(predicted_tensor.device)
    if predicted_tensor.shape != truth_tensor.shape:
        raise EvaluationError(
            f"{what}: the prediction has shape {tuple(predicted_tensor.shape)}, the truth "
            f"{tuple(truth_tensor.shape)}; resize one to the other before evaluating"
        )
    pixels = predicted_tensor.shape[: predicted_tensor.ndim - trailing]
    if valid is None:
        valid_tensor = torch.ones(pixels, dtype=torch.bool, device=predicted_tensor.device)
    else:
        given = torch.as_tensor(valid).to(predicted_tensor.device).bool()
        try:
            valid_tensor = given.expand(pixels)
        except RuntimeError:
            raise EvaluationError(
                f"{what}: a mask of shape {tuple(given.shape)} does not fit pixels of shape {tuple(pixels)}"
            ) from None
    return predicted_tensor, truth_tensor, valid_tensor


def refuse_not_finite(what: str, predicted: torch.Tensor) -> None:
    """Refuses predictions that are no numbers: leaving them out would flatter the network.

    Raises:
        EvaluationError: Some are NaN or infinite.
    """
    bad = int((~torch.isfinite(predicted)).sum())
    if bad:
        raise EvaluationError(
            f"{what}: {bad} of {predicted.numel()} predicted values that count are NaN or infinite; "
            "mend the network or its output before evaluating"
        )
