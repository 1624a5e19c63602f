"""The one interface through which stages hand tensors to each other, whatever lies between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from mmmt_msgs.msg import TensorHandle

if TYPE_CHECKING:  # torch costs every process that imports it over a second and 200 MB
    import torch

Route = Literal["by_reference", "shared_memory", "serialized"]


class TensorError(RuntimeError):
    """A tensor cannot be had or does not fit; the message says which tensor and why."""


class TensorExpiredError(TensorError):
    """The frame left the ring before it was read, or its writer is gone."""


class TensorMismatchError(TensorError):
    """Shape, dtype or device of a handle is not what the reader expects."""


class TensorWriter(Protocol):
    """Sending end of one producer. Never blocks on a reader."""

    def loan(self, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, torch.Tensor]:
        """Returns uninitialized host tensors for the producer to fill and then `put`.

        Where they go through shared memory only, they already lie there and `put` copies nothing. Using it is
        an optimization, never an obligation.

        Args:
            tensors: dtype and shape by name.
        """
        ...

    def put(self, trace_id: int, tensors: Mapping[str, torch.Tensor]) -> list[TensorHandle]:
        """Makes the tensors of one frame available and returns the handles to announce.

        A tensor handed over by reference must not be written to afterwards by the producer.
        """
        ...

    def close(self) -> None:
        """Releases ring and shared memory."""
        ...


class TensorReader(Protocol):
    """Receiving end of one consumer for one producer."""

    def take(self, trace_id: int, handles: Iterable[TensorHandle]) -> dict[str, torch.Tensor]:
        """Returns the announced tensors this consumer asked for, on the consumer's device.

        The tensors are read-only by convention and stay valid until the reader's ring has moved on or they
        are dropped.

        Raises:
            TensorExpiredError: The frame is no longer there.
            TensorMismatchError: A handle does not fit the tensor's specification.
        """
        ...

    def close(self) -> None:
        """Releases everything held."""
        ...
