"""GPU tensors between processes: a GPU ring opened by CUDA IPC handle, else pinned host memory.

The ring is of this project, not torch's reference-counted sharing: that one frees a tensor only when every
consumer has opened it, so a slow or dead reader would make GPU memory grow. Here the writer overwrites its
oldest slot whatever readers do. A slot begins with its sequence number, zeroed before and written after the
tensor; a reader copies the tensor out and then looks whether the number is still the announced one, so what
it returns is never half of one frame and half of another.

Nothing here is run on machines without a GPU; there every tensor is on the host and passes through untouched.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from perception_nodes.transport.frame_layout import TensorEntry
from perception_nodes.transport.identity import process_token
from perception_nodes.transport.interface import TensorError, TensorExpiredError
from perception_nodes.transport.tensor_types import dtype_name, dtype_of

_SLOT_HEADER = 256  # bytes before the tensor: the sequence number, and alignment for vectorized kernels
_IPC_HANDLE_BYTES = 64
_LAZY_PEER_ACCESS = 1


class _IpcHandle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * _IPC_HANDLE_BYTES)]


class _Runtime:
    """The CUDA runtime library that torch has loaded, called for what torch does not expose."""

    def __init__(self) -> None:
        torch.cuda.init()
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        paths = {line.split()[-1] for line in maps.splitlines() if "libcudart" in line}
        if not paths:
            raise TensorError(
                "torch's CUDA runtime library is not loaded; GPU tensors go through host memory"
            )
        self._library = ctypes.CDLL(sorted(paths)[0])
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self._library.cudaIpcOpenMemHandle.argtypes = [
            ctypes.POINTER(ctypes.c_void_p),
            _IpcHandle,
            ctypes.c_uint,
        ]

    def call(self, function: str, *arguments: Any) -> None:
        """Calls a runtime function.

        Raises:
            TensorError: It returned an error.
        """
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            raise TensorError(f"{function} failed: {self._library.cudaGetErrorString(code).decode()}")

    def allocate(self, nbytes: int) -> int:
        """Returns new GPU memory outside torch's cache: an IPC handle names a whole allocation."""
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(nbytes))
        assert pointer.value is not None
        return pointer.value

    def export(self, pointer: int) -> bytes:
        """Returns the IPC handle of an allocation."""
        handle = _IpcHandle()
        self.call("cudaIpcGetMemHandle", ctypes.byref(handle), ctypes.c_void_p(pointer))
        return bytes(handle)

    def open(self, handle: bytes) -> int:
        """Maps another process' allocation."""
        pointer = ctypes.c_void_p()
        self.call(
            "cudaIpcOpenMemHandle",
            ctypes.byref(pointer),
            _IpcHandle.from_buffer_copy(handle),
            _LAZY_PEER_ACCESS,
        )
        assert pointer.value is not None
        return pointer.value


class _DeviceBytes:
    """Lets torch see raw GPU memory as a uint8 tensor."""

    def __init__(self, pointer: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (pointer, False), "version": 3
        }  # fmt: skip


def _wrap(pointer: int, nbytes: int, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(_DeviceBytes(pointer, nbytes), device=device)


def has_ipc(device: torch.device) -> bool:
    """Tells whether the platform can share this GPU's memory: integrated GPUs (Orin) cannot."""
    return not torch.cuda.get_device_properties(device).is_integrated


class _Slot:
    def __init__(self, runtime: _Runtime, nbytes: int, device: torch.device) -> None:
        self.nbytes = nbytes
        self.pointer = runtime.allocate(nbytes + _SLOT_HEADER)
        self.handle = runtime.export(self.pointer).hex()
        self.memory = _wrap(self.pointer, nbytes + _SLOT_HEADER, device)
        self.sequence = self.memory[:8].view(torch.int64)


class Exporter:
    """Writer's side: brings the GPU tensors of a frame where other processes reach them."""

    def __init__(self, ring_size: int) -> None:
        """Creates an exporter; takes GPU memory only once it meets a GPU tensor.

        Args:
            ring_size: Frames kept in GPU memory.
        """
        self._ring_size = ring_size
        self._runtime: _Runtime | None = None
        self._slots: dict[str, list[_Slot]] = {}
        self._sequence = 0
        self._pinned: dict[str, torch.Tensor] = {}

    def export(
        self, tensors: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, dict[str, Any]], Mapping[str, torch.Tensor]]:
        """Returns the addresses of those tensors that stay on a GPU, and host versions of all others."""
        if not any(tensor.is_cuda for tensor in tensors.values()):
            return {}, tensors
        self._sequence += 1
        remote: dict[str, dict[str, Any]] = {}
        on_host: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            if not tensor.is_cuda:
                on_host[name] = tensor
            elif has_ipc(tensor.device):
                remote[name] = self._to_ring(name, tensor)
            else:
                on_host[name] = self._to_pinned(name, tensor)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(
                device
            ).synchronize()  # readers are other processes: no stream order reaches them
        return remote, on_host

    def close(self) -> None:
        """Frees the GPU memory; readers that are copying out find the sequence number gone."""
        for slots in self._slots.values():
            for slot in slots:
                slot.sequence.zero_()
                torch.cuda.synchronize(slot.memory.device)
                assert self._runtime is not None
                self._runtime.call("cudaFree", ctypes.c_void_p(slot.pointer))
        self._slots.clear()
        self._pinned.clear()

    def _to_ring(self, name: str, tensor: torch.Tensor) -> dict[str, Any]:
        nbytes = tensor.numel() * tensor.element_size()
        with torch.cuda.device(tensor.device):
            if self._runtime is None:
                self._runtime = _Runtime()
            slots = self._slots.setdefault(name, [])
            index = self._sequence % self._ring_size
            while len(slots) <= index:
                slots.append(_Slot(self._runtime, nbytes, tensor.device))
            if slots[index].nbytes < nbytes:
                old = slots[index]
                old.sequence.zero_()
                torch.cuda.synchronize(tensor.device)
                slots[index] = _Slot(self._runtime, nbytes, tensor.device)
                self._runtime.call("cudaFree", ctypes.c_void_p(old.pointer))
            slot = slots[index]
            slot.sequence.zero_()
            target = slot.memory[_SLOT_HEADER : _SLOT_HEADER + nbytes]
            if nbytes:
                target.copy_(tensor.detach().contiguous().view(-1).view(torch.uint8))
            slot.sequence.fill_(self._sequence)
        uuid = str(torch.cuda.get_device_properties(tensor.device).uuid)
        return {
            "handle": slot.handle,
            "nbytes": slot.nbytes,
            "sequence": self._sequence,
            "uuid": uuid,
            "process": process_token(),
        }

    def _to_pinned(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        key = f"{name}:{dtype_name(tensor.dtype)}"
        staging = self._pinned.get(key)
        if staging is None or staging.numel() < tensor.numel():
            staging = self._pinned[key] = torch.empty(tensor.numel(), dtype=tensor.dtype, pin_memory=True)
        target = staging[: tensor.numel()].view(tensor.shape)
        target.copy_(tensor.detach(), non_blocking=True)
        return target


class Importer:
    """Reader's side: copies tensors out of other processes' GPU rings."""

    def __init__(self) -> None:
        """Creates an importer; touches CUDA only once it meets a GPU tensor."""
        self._runtime: _Runtime | None = None
        self._opened: dict[str, torch.Tensor] = {}

    def fetch(self, entry: TensorEntry) -> torch.Tensor:
        """Returns a copy of a remote tensor on the GPU it lies on.

        Raises:
            TensorExpiredError: The writer has overwritten or freed it.
            TensorError: This process does not see that GPU.
        """
        assert entry.remote is not None
        device = self._device(str(entry.remote["uuid"]), entry.name)
        with torch.cuda.device(device):
            memory = self._open(entry.remote, device)
            nbytes = math.prod(entry.shape) * dtype_of(entry.dtype).itemsize
            copy = memory[_SLOT_HEADER : _SLOT_HEADER + nbytes].clone()
            found = int(memory[:8].view(torch.int64).item())  # ordered behind the copy on this stream
        if found != entry.remote["sequence"]:
            raise TensorExpiredError(f"tensor '{entry.name}' left the writer's GPU ring before it was read")
        return copy.view(dtype_of(entry.dtype)).view(entry.shape)

    def close(self) -> None:
        """Unmaps everything."""
        for memory in self._opened.values():
            assert self._runtime is not None
            torch.cuda.synchronize(memory.device)
            self._runtime.call("cudaIpcCloseMemHandle", ctypes.c_void_p(memory.data_ptr()))
        self._opened.clear()

    def _open(self, remote: Mapping[str, Any], device: torch.device) -> torch.Tensor:
        key = f"{remote['process']}:{remote['handle']}"
        if key not in self._opened:
            if self._runtime is None:
                self._runtime = _Runtime()
            try:
                pointer = self._runtime.open(bytes.fromhex(remote["handle"]))
            except TensorError as error:
                raise TensorExpiredError(
                    f"the writer's GPU memory cannot be opened (any more): {error}"
                ) from error
            self._opened[key] = _wrap(pointer, int(remote["nbytes"]) + _SLOT_HEADER, device)
        return self._opened[key]

    @staticmethod
    def _device(uuid: str, name: str) -> torch.device:
        for index in range(torch.cuda.device_count()):
            if str(torch.cuda.get_device_properties(index).uuid) == uuid:
                return torch.device("cuda", index)
        raise TensorError(f"tensor '{name}' lies on GPU {uuid}, which this process does not see")
