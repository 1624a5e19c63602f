"""How the tensors of one frame lie in a piece of memory: header, table of tensors, then the tensors.

0   magic 8 bytes | version u32 | table length u32 | trace id u64 | sequence u64
32  table: JSON, UTF-8
…   tensors, each on a 64-byte boundary of the address space, native byte order, in C order or channels last:
    as they were put, because turning them from one order into the other takes several times as long as a copy
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from perception_nodes.transport.interface import TensorError
from perception_nodes.transport.tensor_types import dtype_name, dtype_of

MAGIC = b"MMMTFRAM"
VERSION = 2
ALIGNMENT = 64
_HEADER = struct.Struct("<8sIIQQ")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the table.

    Attributes:
        name: Graph name.
        dtype: torch name without its prefix.
        shape: Sizes.
        offset: Bytes from the start of the tensor area.
        remote: Where the bytes are when they are not in this memory (GPU), see cuda_memory; else None.
        channels_last: The second of its four dimensions varies fastest in memory.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    remote: dict[str, Any] | None = None
    channels_last: bool = False

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return math.prod(self.shape) * dtype_of(self.dtype).itemsize


@dataclass(frozen=True)
class FrameLayout:
    """The table of one frame and the memory it needs.

    Attributes:
        entries: The tensors.
        table: The encoded table.
        nbytes: Memory needed from an 8-byte boundary on.
    """

    entries: tuple[TensorEntry, ...]
    table: bytes
    nbytes: int

    @classmethod
    def plan(
        cls,
        tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]],
        remote: Mapping[str, dict[str, Any]] | None = None,
        channels_last: Collection[str] = (),
    ) -> FrameLayout:
        """Lays out tensors given by dtype and shape; those in `remote` take no room."""
        remote = remote or {}
        entries = []
        offset = 0
        for name, (dtype, shape) in tensors.items():
            sizes = tuple(int(size) for size in shape)
            entry = TensorEntry(
                name, dtype_name(dtype), sizes, offset, remote.get(name), name in channels_last
            )
            entries.append(entry)
            if entry.remote is None:
                offset += -(-entry.nbytes // ALIGNMENT) * ALIGNMENT
        table = json.dumps(
            [[e.name, e.dtype, e.shape, e.offset, e.remote, e.channels_last] for e in entries]
        ).encode()
        return cls(tuple(entries), table, _HEADER.size + len(table) + ALIGNMENT + offset)

    def write_header(self, memory: memoryview, trace_id: int, sequence: int) -> None:
        """Writes header and table at the start of `memory`."""
        _HEADER.pack_into(memory, 0, MAGIC, VERSION, len(self.table), trace_id, sequence)
        memory[_HEADER.size : _HEADER.size + len(self.table)] = self.table

    def tensor_area(self, address: int) -> int:
        """Returns the offset of the tensor area in a memory that begins at `address`."""
        return tensor_area(address, len(self.table))


@dataclass(frozen=True)
class FrameHeader:
    """A header that was read and found whole."""

    trace_id: int
    sequence: int
    table_length: int


def tensor_area(address: int, table_length: int) -> int:
    """Returns the offset of the tensor area: the first 64-byte boundary behind the table.

    Writer and reader map a segment at page boundaries, so both find the same offset.
    """
    end = address + _HEADER.size + table_length
    return -(-end // ALIGNMENT) * ALIGNMENT - address


def read_header(memory: memoryview) -> FrameHeader:
    """Reads and checks the fixed header.

    Raises:
        TensorError: The memory does not hold a frame of this layout.
    """
    if len(memory) < _HEADER.size:
        raise TensorError(f"shared memory holds {len(memory)} bytes, less than a frame's header")
    magic, version, table_length, trace_id, sequence = _HEADER.unpack_from(memory, 0)
    if magic != MAGIC or version != VERSION:
        raise TensorError(
            f"shared memory does not hold a frame of version {VERSION} (found {magic!r} version {version})"
        )
    if _HEADER.size + table_length > len(memory):
        raise TensorError(
            f"a frame's table of {table_length} bytes does not fit into its {len(memory)} bytes of memory"
        )
    return FrameHeader(trace_id, sequence, table_length)


def read_table(memory: memoryview, header: FrameHeader, address: int) -> dict[str, TensorEntry]:
    """Reads the table.

    Raises:
        TensorError: The table is damaged or points outside the memory.
    """
    try:
        rows = json.loads(bytes(memory[_HEADER.size : _HEADER.size + header.table_length]))
        entries = {row[0]: _entry(*row) for row in rows}
    except (ValueError, TypeError, LookupError) as error:
        raise TensorError(f"the table of frame {header.trace_id} is damaged: {error}") from error
    begin = tensor_area(address, header.table_length)
    for entry in entries.values():
        if entry.remote is None and not 0 <= begin + entry.offset <= len(memory) - entry.nbytes:
            raise TensorError(f"tensor '{entry.name}' of frame {header.trace_id} lies outside its memory")
    return entries


def _entry(name: Any, dtype: Any, shape: Any, offset: Any, remote: Any, channels_last: Any) -> TensorEntry:
    sizes = [int(size) for size in shape]
    if not isinstance(name, str) or not isinstance(dtype, str) or min([*sizes, int(offset)]) < 0:
        raise ValueError(f"not a tensor: {name!r} {dtype!r} {shape!r} at {offset!r}")
    if remote is not None and not isinstance(remote, dict):
        raise ValueError(f"not the address of a remote tensor: {remote!r}")
    if not isinstance(channels_last, bool) or (channels_last and len(sizes) != 4):
        raise ValueError(f"tensor {name!r} of {len(sizes)} dimensions: channels last is {channels_last!r}")
    return TensorEntry(name, dtype, tuple(sizes), int(offset), remote, channels_last)


def view(buffer: Any, offset: int, entry: TensorEntry) -> torch.Tensor:
    """Returns a tensor that views `buffer` and keeps it alive."""
    dtype = dtype_of(entry.dtype)
    if entry.nbytes == 0:
        return torch.empty(entry.shape, dtype=dtype)
    flat = torch.frombuffer(buffer, dtype=dtype, count=math.prod(entry.shape), offset=offset)
    if entry.channels_last:
        batch, channels, height, width = entry.shape
        return flat.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return flat.reshape(entry.shape)


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Says whether a tensor lies in memory channels last and not in C order."""
    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
