"""Hands sparse convolutions to the package spconv, on CUDA devices only."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch

from perception_core.ops.sparse_tensor import Size3, SparseTensor, convolved_shape

#: Where a SparseTensor keeps spconv's own rule books.
_KEY = "spconv"


@cache
def _installed() -> bool:
    return importlib.util.find_spec("spconv") is not None


def usable(features_nc: torch.Tensor) -> bool:
    """Whether spconv shall convolve these features: on CUDA, where it is installed, and not without cells."""
    return features_nc.is_cuda and len(features_nc) > 0 and _installed()


def convolve(
    tensor: SparseTensor,
    weight: torch.nn.Parameter,
    kernel: Size3,
    stride: Size3,
    padding: Size3,
    submanifold: bool,
) -> SparseTensor:
    """Convolves with spconv 2.

    Rule books are shared through spconv's own index keys, within one set of cells. Cells of the result are
    brought into ascending order, as the rest of the code expects them.
    """
    import spconv.pytorch as spconv

    source = _spconv_tensor(tensor)
    out_channels, in_channels = weight.shape[0], weight.shape[4]
    kind = spconv.SubMConv3d if submanifold else spconv.SparseConv3d
    options: dict[str, Any] = {"kernel_size": list(kernel), "bias": False}
    options["indice_key"] = f"{'submanifold' if submanifold else 'strided'}-{kernel}-{stride}-{padding}"
    if not submanifold:
        options |= {"stride": list(stride), "padding": list(padding)}
    # A module without weights of its own: ours is put in their place.
    with torch.device("meta"):
        module = kind(in_channels, out_channels, **options)
    module.weight = weight
    module.train(torch.is_grad_enabled())
    result = module(source)
    if submanifold:
        return tensor.with_features(result.features)
    shape = convolved_shape(tensor.shape, kernel, stride, padding)
    depth, rows, columns = shape
    sample, z, y, x = result.indices.long().unbind(dim=1)
    cell_n, order = torch.sort(((sample * depth + z) * rows + y) * columns + x)
    return SparseTensor(result.features[order], cell_n, shape, tensor.batch_size)


def _spconv_tensor(tensor: SparseTensor) -> Any:
    """Returns spconv's tensor of the same features; its rule books outlive one convolution."""
    import spconv.pytorch as spconv

    books = tensor.pairs.get(_KEY)
    source = spconv.SparseConvTensor(
        tensor.features_nc, tensor.coordinates_n4.int(), list(tensor.shape), tensor.batch_size
    )
    if books is None:
        tensor.pairs[_KEY] = source.indice_dict
    else:
        source.indice_dict = books
    return source
