"""Runs a dense part in 16-bit floats with torch; what needs the range of 32 bits keeps it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from perception_core.precision import Precision

#: torch's type of each floating-point precision.
TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class ReducedPrecision(nn.Module):
    """Stands where a module stood: its convolutions and products run in 16 bits, its outputs are fp32.

    torch's autocast decides operator by operator: softmax, normalizations and sums stay in fp32. The weights
    of convolutions and linear layers are converted once, here, and not at each call.

    Args:
        module: In evaluation mode; its weights are changed in place.
        dtype: bfloat16 or float16.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype
        for part in module.modules():
            if isinstance(part, (_ConvNd, nn.Linear)):
                part.to(dtype)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Runs the module; tensors that are not of its 16-bit type are returned as they are."""
        with torch.autocast(tensors[0].device.type, dtype=self.dtype):
            outputs = self.module(*tensors)
        if isinstance(outputs, (tuple, list)):
            return tuple(self._widened(output) for output in outputs)
        return self._widened(outputs)

    def _widened(self, output: torch.Tensor) -> torch.Tensor:
        return output.float() if output.dtype == self.dtype else output
