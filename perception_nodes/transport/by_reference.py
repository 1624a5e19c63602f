"""Hands tensors over inside one process: the reader gets the very tensor the writer put."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import torch
from mmmt_msgs.msg import TensorHandle

from perception_nodes.transport.identity import process_token
from perception_nodes.transport.interface import TensorError, TensorExpiredError
from perception_nodes.transport.tensor_types import dtype_name

TRANSPORT = "by_reference"


class _Ring:
    """Last frames of one writer."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.frames: OrderedDict[int, tuple[dict[str, torch.Tensor], torch.cuda.Event | None]] = OrderedDict()


class _Store:
    """Rings of all writers of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rings: dict[str, _Ring] = {}
        self._count = itertools.count()

    def open(self, producer: str, size: int) -> str:
        with self._lock:
            key = f"{producer}.{next(self._count)}"
            self._rings[key] = _Ring(size)
            return key

    def close(self, key: str) -> None:
        with self._lock:
            self._rings.pop(key, None)

    def put(
        self, key: str, trace_id: int, tensors: dict[str, torch.Tensor], ready: torch.cuda.Event | None
    ) -> None:
        with self._lock:
            ring = self._rings.get(key)
            if ring is None:
                raise TensorError(f"writer '{key}' is closed")
            ring.frames[trace_id] = (tensors, ready)
            ring.frames.move_to_end(trace_id)
            while len(ring.frames) > ring.size:
                ring.frames.popitem(last=False)

    def get(self, key: str, trace_id: int) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
        with self._lock:
            ring = self._rings.get(key)
            if ring is None:
                raise TensorExpiredError(f"frame {trace_id}: writer '{key}' is gone")
            frame = ring.frames.get(trace_id)
            if frame is None:
                raise TensorExpiredError(
                    f"frame {trace_id} of writer '{key}' left its ring of {ring.size} frames unread"
                )
            return frame


_store = _Store()


def is_reachable(handle: TensorHandle) -> bool:
    """Tells whether a handle was made in this process."""
    return handle.transport == TRANSPORT and handle.handle.partition("/")[0] == process_token()


class ByReferenceWriter:
    """Puts tensors into a bounded ring of this process; the oldest frame goes when it is full."""

    def __init__(self, producer: str, ring_size: int) -> None:
        """Opens the ring.

        Args:
            producer: Name of the producer.
            ring_size: Frames kept.
        """
        self._key = _store.open(producer, ring_size)

    def loan(self, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, torch.Tensor]:
        """See TensorWriter.loan."""
        return {name: torch.empty(tuple(shape), dtype=dtype) for name, (dtype, shape) in tensors.items()}

    def put(self, trace_id: int, tensors: Mapping[str, torch.Tensor]) -> list[TensorHandle]:
        """See TensorWriter.put."""
        kept = {name: tensor.detach() for name, tensor in tensors.items()}
        on_gpu = [tensor for tensor in kept.values() if tensor.is_cuda]
        ready = None
        if on_gpu:  # a reader on another stream must wait for the kernels that fill the tensor
            with torch.cuda.device(on_gpu[0].device):
                ready = torch.cuda.Event()
                ready.record()
        _store.put(self._key, trace_id, kept, ready)
        address = f"{process_token()}/{self._key}"
        return [
            TensorHandle(
                name=name,
                transport=TRANSPORT,
                handle=address,
                shape=list(tensor.shape),
                dtype=dtype_name(tensor.dtype),
                device=str(tensor.device),
            )
            for name, tensor in kept.items()
        ]

    def close(self) -> None:
        """Drops every frame; readers that hold tensors keep them."""
        _store.close(self._key)


class ByReferenceReader:
    """Fetches tensors that were put in this process."""

    def take(self, trace_id: int, handles: Iterable[TensorHandle]) -> dict[str, torch.Tensor]:
        """See TensorReader.take; the tensors stay valid for as long as they are held.

        Raises:
            TensorError: A handle was made in another process.
        """
        found: dict[str, torch.Tensor] = {}
        for handle in handles:
            if not is_reachable(handle):
                raise TensorError(
                    f"tensor '{handle.name}': its handle '{handle.handle}' was made in another process than "
                    f"this one ({process_token()}); it cannot be had by reference"
                )
            tensors, ready = _store.get(handle.handle.partition("/")[2], trace_id)
            if handle.name not in tensors:
                raise TensorExpiredError(
                    f"tensor '{handle.name}' is not part of frame {trace_id} in the ring"
                )
            tensor = tensors[handle.name]
            if ready is not None and tensor.is_cuda:
                ready.wait(torch.cuda.current_stream(tensor.device))
            found[handle.name] = tensor
        return found

    def close(self) -> None:
        """Nothing is held."""
