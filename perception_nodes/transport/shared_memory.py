"""Hands tensors over between processes of one host through iceoryx2: one service per run and producer.

The writer copies a frame once, into a loaned sample (or not at all where the producer wrote into tensors of
`loan`). Readers get tensors that view the sample; the sample returns to the writer when the last of them is
gone. Safe overflow is on: when a reader is slow, stuck or dead its oldest sample gives way and the writer
goes on.

GPU tensors take the CUDA path of `cuda_memory`: by IPC handle where the platform has it, else through pinned
host memory. That path needs a GPU and is not run on machines without one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import iceoryx2 as iox2
import torch
from mmmt_msgs.msg import TensorHandle

from perception_nodes.transport import cuda_memory
from perception_nodes.transport.frame_layout import (
    FrameLayout,
    TensorEntry,
    is_channels_last,
    read_header,
    read_table,
    tensor_area,
    view,
)
from perception_nodes.transport.identity import SHARED_MEMORY_FOLDER, host_token, process_token
from perception_nodes.transport.interface import TensorError, TensorExpiredError
from perception_nodes.transport.shared_memory_run import SharedMemoryRun

TRANSPORT = "shared_memory"

#: A writer that was killed counts until it is cleaned up; a respawned one must find room beside it.
MAX_WRITERS = 4
#: Readers a service has room for beyond the deployment's: respawned ones beside dead ones, recorders, tools.
SPARE_READERS = 8
MAX_PROCESSES = 64
#: The sample is sent before its announcement; this covers what the scheduler may put between the two.
RETRY_S = 0.005
#: First memory of a writer is this much larger than its first frame: sweeps differ in their points.
HEADROOM = 1.25
SERVICE_OPEN_TIMEOUT_S = 3.0


def is_reachable(handle: TensorHandle) -> bool:
    """Tells whether a handle's memory can be mapped from this process."""
    return handle.transport == TRANSPORT and handle.handle.partition("/")[0] == host_token()


@dataclass(frozen=True)
class SharedMemoryOptions:
    """Sizes of a service; every process of a run must give the same.

    Attributes:
        run_id: The run.
        producer: The producer.
        ring_size: Frames a reader's queue holds and a reader keeps.
        readers: Readers the deployment gives this producer.
    """

    run_id: str
    producer: str
    ring_size: int
    readers: int

    @property
    def borrowed(self) -> int:
        """Samples a reader may hold: those of its ring and as many in the hands of its network."""
        return 2 * self.ring_size + 2


def _open_service(run: SharedMemoryRun, options: SharedMemoryOptions) -> Any:
    """Opens or creates the service; waits out a creator that died halfway."""
    deadline = time.monotonic() + SERVICE_OPEN_TIMEOUT_S
    while True:
        try:
            return (
                run.node.service_builder(iox2.ServiceName.new(f"tensors/{options.producer}"))
                .publish_subscribe(iox2.Slice[ctypes.c_uint64])
                .enable_safe_overflow(True)
                .history_size(0)
                .subscriber_max_buffer_size(options.ring_size)
                .subscriber_max_borrowed_samples(options.borrowed)
                .max_publishers(MAX_WRITERS)
                .max_subscribers(options.readers + SPARE_READERS)
                .max_nodes(MAX_PROCESSES)
                .open_or_create()
            )
        except iox2.PublishSubscribeOpenOrCreateError as error:
            if time.monotonic() > deadline:
                raise TensorError(
                    f"shared memory of '{options.producer}' in run '{options.run_id}' does not open: {error}"
                ) from error
            run.clean_up_dead()
            time.sleep(0.02)


def _retry_port(run: SharedMemoryRun, create: Any, failure: type[Exception], what: str) -> Any:
    """Creates a port; when all places are taken, cleans up after the dead and tries again."""
    deadline = time.monotonic() + SERVICE_OPEN_TIMEOUT_S
    while True:
        try:
            return create()
        except failure as error:
            if time.monotonic() > deadline:
                raise TensorError(f"{what} cannot be created: {error}") from error
            run.clean_up_dead()
            time.sleep(0.02)


def _map(sample: Any, nbytes: int) -> Any:
    """Returns a ctypes array over a sample's payload that keeps the sample alive."""
    memory = (ctypes.c_uint8 * nbytes).from_address(sample.payload_ptr)
    memory.sample = sample  # type: ignore[attr-defined]
    return memory


def _copy(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copies a tensor into memory of the same shape, unless it lies there already."""
    if source.stride() != target.stride():
        target.copy_(source)
    elif source.data_ptr() != target.data_ptr():
        # torch shares a copy out among threads; waking another core takes longer than copying
        ctypes.memmove(target.data_ptr(), source.data_ptr(), target.nbytes)


@dataclass
class _Loan:
    """A sample in the writer's hands."""

    sample: Any
    memory: Any
    layout: FrameLayout
    tensors: dict[str, torch.Tensor]


class SharedMemoryWriter:
    """Sends the frames of one producer; never waits for a reader."""

    def __init__(self, options: SharedMemoryOptions) -> None:
        """Opens the service; memory is reserved with the first frame.

        Raises:
            TensorError: The service cannot be opened.
        """
        self._options = options
        self._lock = threading.Lock()
        self._run = SharedMemoryRun.enter(options.run_id)
        self._service: Any = None
        self._publisher: Any = None
        self._capacity = 0
        self._sequence = 0
        self._token = f"{process_token()}.{id(self):x}"
        self._loan: _Loan | None = None
        self._cuda = cuda_memory.Exporter(options.ring_size)
        try:
            self._service = _open_service(self._run, options)
        except BaseException:
            self._run.leave()
            raise

    def loan(self, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, torch.Tensor]:
        """Returns tensors in shared memory to write into; the next `put` of them copies nothing.

        Args:
            tensors: dtype and shape of each.

        Raises:
            TensorError: Shared memory is exhausted.
        """
        with self._lock:
            self._loan = None
            self._loan = self._lend(FrameLayout.plan(tensors))
            return dict(self._loan.tensors)

    def put(self, trace_id: int, tensors: Mapping[str, torch.Tensor]) -> list[TensorHandle]:
        """See TensorWriter.put.

        Raises:
            TensorError: Shared memory is exhausted.
        """
        with self._lock:
            if self._service is None:
                raise TensorError(f"shared-memory writer of '{self._options.producer}' is closed")
            remote, on_host = self._cuda.export(tensors)
            plan = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
            turned = {name for name, tensor in on_host.items() if is_channels_last(tensor)}
            layout = FrameLayout.plan(plan, remote, turned)
            loan, self._loan = self._loan, None
            if loan is None or loan.layout != layout:
                del loan
                loan = self._lend(layout)
            for name, target in loan.tensors.items():
                _copy(on_host[name].detach(), target)
            self._sequence += 1
            loan.layout.write_header(memoryview(loan.memory).cast("B"), trace_id, self._sequence)
            devices = {name: str(tensor.device) for name, tensor in tensors.items()}
            sample, loan.memory.sample = loan.sample, None
            sample.assume_init().send()
        address = f"{host_token()}/{self._token}/{self._sequence}"
        return [
            TensorHandle(
                name=entry.name,
                transport=TRANSPORT,
                handle=address,
                shape=list(entry.shape),
                dtype=entry.dtype,
                device=devices[entry.name],
            )
            for entry in loan.layout.entries
        ]

    def close(self) -> None:
        """Leaves the run; frames that readers hold stay valid for them."""
        with self._lock:
            if self._service is None:
                return
            self._loan = self._publisher = self._service = None
            self._cuda.close()
        self._run.leave()

    def _lend(self, layout: FrameLayout) -> _Loan:
        self._reserve(layout.nbytes)
        words = -(-layout.nbytes // 8)
        try:
            sample = self._publisher.loan_slice_uninit(words)
        except iox2.LoanError as error:
            raise TensorError(
                f"no shared memory left for {layout.nbytes} bytes of '{self._options.producer}': {error}"
            ) from error
        memory = _map(sample, words * 8)
        begin = layout.tensor_area(ctypes.addressof(memory))
        tensors = {e.name: view(memory, begin + e.offset, e) for e in layout.entries if e.remote is None}
        return _Loan(sample, memory, layout, tensors)

    def _reserve(self, nbytes: int) -> None:
        """Creates the publisher for the first frame; checks that there is room before memory grows."""
        if nbytes <= self._capacity:
            return
        first = self._publisher is None
        capacity = -(-int(nbytes * HEADROOM) // 8) * 8 if first else 1 << (nbytes - 1).bit_length()
        # The segment is sparse: writing beyond what the file system has would kill the process with SIGBUS.
        status = os.statvfs(SHARED_MEMORY_FOLDER)
        needed = capacity * (self._options.ring_size + 2)
        if status.f_bavail * status.f_frsize < needed:
            raise TensorError(
                f"{SHARED_MEMORY_FOLDER} has {status.f_bavail * status.f_frsize >> 20} MiB left, frames of "
                f"'{self._options.producer}' need {needed >> 20} MiB; enlarge it (containers: --shm-size) or "
                "lower transport.ring_size"
            )
        if first:
            self._publisher = _retry_port(
                self._run,
                lambda: (
                    self._service.publisher_builder()
                    .initial_max_slice_len(capacity // 8)
                    .max_loaned_samples(2)
                    .allocation_strategy(iox2.AllocationStrategy.PowerOfTwo)
                    .backpressure_strategy(iox2.BackpressureStrategy.DiscardData)
                    .create()
                ),
                iox2.PublisherCreateError,
                f"shared-memory writer of '{self._options.producer}'",
            )
        self._capacity = capacity


@dataclass
class _Frame:
    """A received sample; its memory keeps the sample alive."""

    memory: Any
    begin: int
    entries: dict[str, TensorEntry]


class SharedMemoryReader:
    """Receives the frames of one producer and keeps the last of them by trace id."""

    def __init__(self, options: SharedMemoryOptions) -> None:
        """Subscribes; frames sent from now on can be taken.

        Raises:
            TensorError: The service cannot be opened.
        """
        self._options = options
        self._lock = threading.Lock()
        self._frames: OrderedDict[int, _Frame] = OrderedDict()
        self._run = SharedMemoryRun.enter(options.run_id)
        self._importer = cuda_memory.Importer()
        self._subscriber: Any = None
        try:
            service = _open_service(self._run, options)
            self._subscriber = _retry_port(
                self._run,
                lambda: service.subscriber_builder().buffer_size(options.ring_size).create(),
                iox2.SubscriberCreateError,
                f"shared-memory reader of '{options.producer}'",
            )
        except BaseException:
            self._run.leave()
            raise

    def take(self, trace_id: int, handles: Iterable[TensorHandle]) -> dict[str, torch.Tensor]:
        """See TensorReader.take; the tensors view shared memory and stay valid for as long as they are held.

        Raises:
            TensorError: The consumer holds so many frames that none can be received.
        """
        names = [handle.name for handle in handles]
        with self._lock:
            if self._subscriber is None:
                raise TensorError(f"shared-memory reader of '{self._options.producer}' is closed")
            frame = self._find(trace_id)
            if frame is None:
                raise TensorExpiredError(
                    f"frame {trace_id} of '{self._options.producer}' is not in shared memory (any more): "
                    f"this reader is more than {self._options.ring_size} frames late, or the writer died"
                )
            tensors = {}
            for name in names:
                entry = frame.entries.get(name)
                if entry is None:
                    raise TensorExpiredError(
                        f"tensor '{name}' is not part of frame {trace_id} in shared memory"
                    )
                if entry.remote is not None:
                    tensors[name] = self._importer.fetch(entry)
                else:
                    tensors[name] = view(frame.memory, frame.begin + entry.offset, entry)
            return tensors

    def close(self) -> None:
        """Unsubscribes; tensors already taken stay valid."""
        with self._lock:
            if self._subscriber is None:
                return
            self._subscriber = None
            self._frames.clear()
            self._importer.close()
        self._run.leave()

    def _find(self, trace_id: int) -> _Frame | None:
        deadline = None
        while True:
            self._drain()
            frame = self._frames.get(trace_id)
            if frame is not None:
                return frame
            now = time.monotonic()
            if deadline is None:
                deadline = now + RETRY_S
            elif now > deadline:
                return None
            time.sleep(0.0005)

    def _drain(self) -> None:
        """Moves everything received into the ring; what is damaged is dropped."""
        while True:
            sample = self._receive()
            if sample is None:
                return
            memory = _map(sample, sample.payload().len() * 8)
            octets = memoryview(memory).cast("B")
            address = ctypes.addressof(memory)
            with contextlib.suppress(TensorError):  # not a frame of ours: as if it had not come
                header = read_header(octets)
                entries = read_table(octets, header, address)
                self._frames[header.trace_id] = _Frame(
                    memory, tensor_area(address, header.table_length), entries
                )
                self._frames.move_to_end(header.trace_id)
            while len(self._frames) > self._options.ring_size:
                self._frames.popitem(last=False)

    def _receive(self) -> Any:
        while True:
            try:
                return self._subscriber.receive()
            except iox2.ReceiveError as error:
                if "ExceedsMaxBorrows" not in str(error):
                    self._run.clean_up_dead()  # a writer died while its segment was being mapped
                    raise TensorExpiredError(
                        f"frames of '{self._options.producer}' cannot be received: {error}"
                    ) from error
                if not self._frames:
                    raise TensorError(
                        f"the consumer holds tensors of {self._options.borrowed} frames of "
                        f"'{self._options.producer}'; it must drop or copy them"
                    ) from error
                self._frames.popitem(last=False)
