"""Sparse 3D feature volumes, and which of their cells a convolution joins."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class NeighbourPairs:
    """The rule book of one convolution: for each kernel offset, which input cell adds to which output cell.

    Attributes:
        inputs: One int64 index tensor a kernel offset, offsets in the order z, y, x.
        outputs: Likewise, equally long each.
        output_cells: Flat cell of each output, ascending.
        output_shape: z, y, x of the output volume.
    """

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    output_cells: torch.Tensor
    output_shape: Size3


@dataclass(frozen=True)
class SparseTensor:
    """Features in the occupied cells of a batch of volumes; all other cells are zero.

    Attributes:
        features_nc: One row a cell.
        cell_n: Flat index ((sample * Z + z) * Y + y) * X + x, int64, ascending and unique.
        shape: Z, Y, X.
        batch_size: Samples.
        pairs: Rule books of the convolutions on these very cells, shared by all tensors that have them; other
            implementations keep theirs here too.
    """

    features_nc: torch.Tensor
    cell_n: torch.Tensor
    shape: Size3
    batch_size: int
    pairs: dict[Any, Any] = field(default_factory=dict)

    def with_features(self, features_nc: torch.Tensor) -> SparseTensor:
        """Returns other features on the same cells."""
        return SparseTensor(features_nc, self.cell_n, self.shape, self.batch_size, self.pairs)

    @property
    def coordinates_n4(self) -> torch.Tensor:
        """Sample, z, y, x of each cell, int64."""
        depth, rows, columns = self.shape
        rest, x = self.cell_n // columns, self.cell_n % columns
        rest, y = rest // rows, rest % rows
        return torch.stack((rest // depth, rest % depth, y, x), dim=1)

    def dense(self) -> torch.Tensor:
        """Returns (B, C, Z, Y, X)."""
        channels = self.features_nc.shape[1]
        depth, rows, columns = self.shape
        volume = self.features_nc.new_zeros((self.batch_size * depth * rows * columns, channels))
        volume = volume.index_copy(0, self.cell_n, self.features_nc)
        return volume.view(self.batch_size, depth, rows, columns, channels).permute(0, 4, 1, 2, 3)


def kernel_offsets(kernel: Size3) -> list[Size3]:
    """Returns the positions inside a kernel, z slowest."""
    return [(z, y, x) for z, y, x in product(*(range(size) for size in kernel))]


def submanifold_pairs(tensor: SparseTensor, kernel: Size3) -> NeighbourPairs:
    """Pairs of a convolution whose outputs are the cells of its input (Graham and van der Maaten, 2017).

    Cells are found by binary search in the sorted cell numbers. An offset and its mirror image have the same
    pairs the other way round, so half of the offsets are looked up.

    Raises:
        ValueError: A side of the kernel is even.
    """
    if any(size % 2 == 0 for size in kernel):
        raise ValueError(f"a submanifold convolution needs odd kernel sides, got {kernel}")
    offsets = kernel_offsets(kernel)
    centre = tuple(size // 2 for size in kernel)
    cell_n, shape = tensor.cell_n, tensor.shape
    position_n3 = tensor.coordinates_n4[:, 1:]
    count = len(cell_n)
    everything = torch.arange(count, device=cell_n.device)
    inputs: list[torch.Tensor] = [everything] * len(offsets)
    outputs: list[torch.Tensor] = [everything] * len(offsets)
    for index in range(len(offsets) // 2):
        step = tuple(o - c for o, c in zip(offsets[index], centre, strict=True))
        distance = (step[0] * shape[1] + step[1]) * shape[2] + step[2]
        inside = torch.ones_like(cell_n, dtype=torch.bool)
        for axis, move in enumerate(step):
            if move < 0:
                inside &= position_n3[:, axis] >= -move
            elif move > 0:
                inside &= position_n3[:, axis] < shape[axis] - move
        output = inside.nonzero().squeeze(1)
        wanted = cell_n[output] + distance
        found = torch.searchsorted(cell_n, wanted).clamp_(max=max(count - 1, 0))
        hit = cell_n[found] == wanted
        inputs[index], outputs[index] = found[hit], output[hit]
        mirrored = len(offsets) - 1 - index
        inputs[mirrored], outputs[mirrored] = outputs[index], inputs[index]
    return NeighbourPairs(tuple(inputs), tuple(outputs), cell_n, shape)


def strided_pairs(tensor: SparseTensor, kernel: Size3, stride: Size3, padding: Size3) -> NeighbourPairs:
    """Pairs of an ordinary convolution: every output cell that sees at least one input cell.

    Raises:
        ValueError: The kernel does not fit into the padded volume.
    """
    depth, rows, columns = output_shape = convolved_shape(tensor.shape, kernel, stride, padding)
    coordinates_n4 = tensor.coordinates_n4
    inputs, cells = [], []
    for offset in kernel_offsets(kernel):
        inside = torch.ones_like(tensor.cell_n, dtype=torch.bool)
        position = []
        for axis in range(3):
            shifted = coordinates_n4[:, axis + 1] + padding[axis] - offset[axis]
            output = torch.div(shifted, stride[axis], rounding_mode="floor")
            inside &= (shifted >= 0) & (shifted % stride[axis] == 0) & (output < output_shape[axis])
            position.append(output)
        z, y, x = position
        cell = ((coordinates_n4[:, 0] * depth + z) * rows + y) * columns + x
        inputs.append(inside.nonzero().squeeze(1))
        cells.append(cell[inside])
    output_cells, output_of_pair = torch.unique(torch.cat(cells), return_inverse=True)
    outputs = output_of_pair.split([len(cell) for cell in cells])
    return NeighbourPairs(tuple(inputs), tuple(outputs), output_cells, output_shape)


def convolved_shape(shape: Size3, kernel: Size3, stride: Size3, padding: Size3) -> Size3:
    """Returns the size of a convolution's output.

    Raises:
        ValueError: The kernel does not fit into the padded volume.
    """
    sizes = tuple(
        (size + 2 * pad - side) // step + 1
        for size, side, step, pad in zip(shape, kernel, stride, padding, strict=True)
    )
    if min(sizes) < 1:
        raise ValueError(f"a kernel of {kernel} does not fit into a volume of {shape} padded by {padding}")
    return sizes[0], sizes[1], sizes[2]
