"""Sparse 3D convolution in plain torch: gather, matrix product, index_add, offset by offset.

The reference that any other implementation is checked against, and what runs wherever there is no CUDA. On
CUDA devices with the package spconv installed, `SparseConvolution` hands over to it
(`perception_core.ops.spconv_adapter`). spconv's own CPU code is never used: its backward pass fails and with
more than one thread its results are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from perception_core.ops import spconv_adapter
from perception_core.ops.sparse_tensor import (
    NeighbourPairs,
    Size3,
    SparseTensor,
    strided_pairs,
    submanifold_pairs,
)


class _ConvolvePairs(torch.autograd.Function):
    """Sum over offsets of W_k x[inputs_k], added up at outputs_k.

    A function of its own because autograd would keep the gathered rows of all offsets for the backward pass,
    27 times the input; here they are gathered again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features_nc: torch.Tensor,
        weight_kio: torch.Tensor,
        outputs: int,
        input_indices: Sequence[torch.Tensor],
        output_indices: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        ctx.save_for_backward(features_nc, weight_kio)
        ctx.indices = input_indices, output_indices
        result = features_nc.new_zeros((outputs, weight_kio.shape[2]))
        # Products in the features' own type, whatever autocast would like: they are added up in it.
        with torch.autocast(features_nc.device.type, enabled=False):
            for offset, (inputs, targets) in enumerate(zip(input_indices, output_indices, strict=True)):
                if len(inputs):
                    rows = features_nc.index_select(0, inputs)
                    result.index_add_(0, targets, rows @ weight_kio[offset])
        return result

    @staticmethod
    def backward(ctx: Any, gradient_mo: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        features_nc, weight_kio = ctx.saved_tensors
        input_gradient = torch.zeros_like(features_nc)
        weight_gradient = torch.zeros_like(weight_kio)
        for offset, (inputs, targets) in enumerate(zip(*ctx.indices, strict=True)):
            if len(inputs):
                rows = gradient_mo.index_select(0, targets)
                weight_gradient[offset] = features_nc.index_select(0, inputs).T @ rows
                input_gradient.index_add_(0, inputs, rows @ weight_kio[offset].T)
        return input_gradient, weight_gradient, None, None, None


def convolve_pairs(features_nc: torch.Tensor, weight: torch.Tensor, pairs: NeighbourPairs) -> torch.Tensor:
    """Applies a kernel along given pairs; differentiable in features and weight.

    Args:
        features_nc: Input cells.
        weight: (out, kz, ky, kx, in).
        pairs: From `submanifold_pairs` or `strided_pairs`.

    Returns:
        (M, out), one row for each of `pairs.output_cells`.
    """
    weight_kio = weight.permute(1, 2, 3, 4, 0).flatten(0, 2).to(features_nc.dtype)
    result: torch.Tensor = _ConvolvePairs.apply(
        features_nc, weight_kio, len(pairs.output_cells), pairs.inputs, pairs.outputs
    )
    return result


class SparseConvolution(nn.Module):
    """Convolution without bias on a `SparseTensor`.

    Its weight has the layout of spconv 2, (out, kz, ky, kx, in).

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel: Kernel sides z, y, x.
        stride: Strides z, y, x; only without `submanifold`.
        padding: Padding z, y, x; only without `submanifold`.
        submanifold: Outputs are the input's cells and no others.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size3 = (3, 3, 3),
        stride: Size3 = (1, 1, 1),
        padding: Size3 = (0, 0, 0),
        submanifold: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.submanifold = submanifold
        self.weight = nn.Parameter(torch.empty(out_channels, *kernel, in_channels))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (in_channels * math.prod(kernel))))

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Convolves; convolutions of one kind on the same cells share one rule book."""
        if spconv_adapter.usable(tensor.features_nc):
            return spconv_adapter.convolve(
                tensor, self.weight, self.kernel, self.stride, self.padding, self.submanifold
            )
        return self.reference(tensor)

    def reference(self, tensor: SparseTensor) -> SparseTensor:
        """Convolves in plain torch on any device."""
        key = (self.kernel, "submanifold") if self.submanifold else (self.kernel, self.stride, self.padding)
        pairs = tensor.pairs.get(key)
        if pairs is None:
            if self.submanifold:
                pairs = submanifold_pairs(tensor, self.kernel)
            else:
                pairs = strided_pairs(tensor, self.kernel, self.stride, self.padding)
            tensor.pairs[key] = pairs
        features = convolve_pairs(tensor.features_nc, self.weight, pairs)
        if self.submanifold:
            return tensor.with_features(features)
        return SparseTensor(features, pairs.output_cells, pairs.output_shape, tensor.batch_size)


class SparseConvNormAct(nn.Module):
    """Sparse convolution, batch normalization over the occupied cells, ReLU."""

    def __init__(self, convolution: SparseConvolution, activation: bool = True) -> None:
        super().__init__()
        self.convolution = convolution
        self.normalization = nn.BatchNorm1d(convolution.weight.shape[0], eps=1e-3, momentum=0.01)
        self.activation: nn.Module = nn.ReLU(inplace=True) if activation else nn.Identity()

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Returns the convolved tensor."""
        tensor = self.convolution(tensor)
        features = tensor.features_nc
        if self.training and len(features) < 2:
            # No statistics of one cell: the running ones are used, and left as they are.
            norm = self.normalization
            features = nn.functional.batch_norm(
                features, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
            )
        else:
            features = self.normalization(features)
        return tensor.with_features(self.activation(features))


class SparseResidualBlock(nn.Module):
    """Two submanifold convolutions with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = SparseConvNormAct(SparseConvolution(channels, channels, submanifold=True))
        self.second = SparseConvNormAct(
            SparseConvolution(channels, channels, submanifold=True), activation=False
        )

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Keeps cells and channels."""
        refined = self.second(self.first(tensor))
        return refined.with_features(torch.relu(refined.features_nc + tensor.features_nc))
