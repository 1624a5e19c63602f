"""Hands tensors over between hosts: the bytes travel inside the announcement, through DDS."""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import torch
from mmmt_msgs.msg import TensorHandle

from perception_nodes.transport.interface import TensorMismatchError
from perception_nodes.transport.tensor_types import dtype_name, dtype_of

TRANSPORT = "serialized"


def is_reachable(handle: TensorHandle) -> bool:
    """Tells whether a handle carries its own bytes; such a handle can be read everywhere."""
    return handle.transport == TRANSPORT


def _swap_on_big_endian(octets: torch.Tensor, itemsize: int) -> torch.Tensor:
    """Turns native bytes into little-endian ones and back."""
    if sys.byteorder == "little" or itemsize == 1:
        return octets
    return octets.view(-1, itemsize).flip(1).reshape(-1)


class SerializedWriter:
    """Puts the bytes of each tensor into its handle."""

    def loan(self, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, torch.Tensor]:
        """See TensorWriter.loan."""
        return {name: torch.empty(tuple(shape), dtype=dtype) for name, (dtype, shape) in tensors.items()}

    def put(self, trace_id: int, tensors: Mapping[str, torch.Tensor]) -> list[TensorHandle]:
        """See TensorWriter.put."""
        handles = []
        for name, tensor in tensors.items():
            host = tensor.detach().to("cpu").contiguous()
            octets = _swap_on_big_endian(host.reshape(-1).view(torch.uint8), host.element_size())
            data = array.array("B")  # a message takes an array as it is; bytes it would check one by one
            data.frombytes(memoryview(octets.numpy()))  # type: ignore[arg-type]
            handles.append(
                TensorHandle(
                    name=name,
                    transport=TRANSPORT,
                    handle=str(trace_id),
                    shape=list(tensor.shape),
                    dtype=dtype_name(tensor.dtype),
                    device="cpu",
                    data=data,
                )
            )
        return handles

    def close(self) -> None:
        """Nothing is held."""


class SerializedReader:
    """Views the bytes inside handles as tensors; nothing is copied."""

    def take(self, trace_id: int, handles: Iterable[TensorHandle]) -> dict[str, torch.Tensor]:
        """See TensorReader.take.

        Raises:
            TensorMismatchError: A handle's bytes do not fit its shape and dtype.
        """
        tensors = {}
        for handle in handles:
            dtype = dtype_of(handle.dtype)
            expected = math.prod(handle.shape) * dtype.itemsize
            if len(handle.data) != expected:
                raise TensorMismatchError(
                    f"tensor '{handle.name}' of frame {trace_id}: expected {expected} bytes for "
                    f"{handle.dtype}{list(handle.shape)}, got {len(handle.data)}"
                )
            if expected == 0:
                tensors[handle.name] = torch.empty(tuple(handle.shape), dtype=dtype)
                continue
            octets = _swap_on_big_endian(torch.frombuffer(handle.data, dtype=torch.uint8), dtype.itemsize)
            tensors[handle.name] = octets.view(dtype).reshape(tuple(handle.shape))
        return tensors

    def close(self) -> None:
        """Nothing is held."""
