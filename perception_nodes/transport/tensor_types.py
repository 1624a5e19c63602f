"""Checks of tensors against the types a bundle gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from perception_core.bundle import TensorSpec
from perception_nodes.transport.interface import TensorMismatchError


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name used in handles and bundles, e.g. `float32`."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """Returns the torch dtype called `name`.

    Raises:
        TensorMismatchError: torch has no such dtype.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise TensorMismatchError(f"unknown dtype '{name}'")
    return dtype


class FrameTypes:
    """Checks the tensors of one frame; a letter stands for one size throughout the frame."""

    def __init__(self, spec_of: Callable[[str], TensorSpec], producer: str) -> None:
        """Begins a frame.

        Args:
            spec_of: Type of a tensor by graph name (Bundle.tensor_spec); KeyError for an unknown one.
            producer: Named in errors.
        """
        self._spec_of = spec_of
        self._producer = producer
        self._sizes: dict[str, tuple[int, str]] = {}

    def check(self, name: str, dtype: str, shape: Sequence[int]) -> None:
        """Checks one tensor.

        Raises:
            TensorMismatchError: Names the tensor, what was expected and what came.
        """
        try:
            spec = self._spec_of(name)
        except KeyError:
            raise TensorMismatchError(
                f"tensor '{name}' of {self._producer} is not known to the bundle"
            ) from None
        got = f"{dtype}{list(shape)}"
        expected = f"{spec.dtype}[{', '.join(str(dimension) for dimension in spec.shape)}]"
        if dtype != spec.dtype or len(shape) != len(spec.shape):
            raise TensorMismatchError(f"tensor '{name}' of {self._producer}: expected {expected}, got {got}")
        if any(size < 0 for size in shape):
            raise TensorMismatchError(
                f"tensor '{name}' of {self._producer}: expected {expected}, got negative {got}"
            )
        for size, dimension in zip(shape, spec.shape, strict=True):
            if isinstance(dimension, int):
                if size != dimension:
                    raise TensorMismatchError(
                        f"tensor '{name}' of {self._producer}: expected {expected}, got {got}"
                    )
                continue
            known, where = self._sizes.setdefault(dimension, (size, name))
            if size != known:
                raise TensorMismatchError(
                    f"tensor '{name}' of {self._producer}: expected {expected} with {dimension}={known} as "
                    f"in '{where}' of the same frame, got {got}"
                )

    def check_tensor(self, name: str, tensor: torch.Tensor) -> None:
        """Checks an actual tensor, its layout included.

        Raises:
            TensorMismatchError: See `check`; also for sparse or quantized tensors, which no route carries.
        """
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise TensorMismatchError(
                f"tensor '{name}' of {self._producer}: expected a dense tensor, got layout {tensor.layout}"
            )
        self.check(name, dtype_name(tensor.dtype), tuple(tensor.shape))
