"""Writers and readers as the deployment wants them: all that a node needs of this package.

A writer offers exactly the routes its consumers need; a reader takes the nearest one of those announced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from mmmt_msgs.msg import TensorHandle

from perception_nodes.transport import by_reference, serialized, shared_memory
from perception_nodes.transport.interface import (
    Route,
    TensorError,
    TensorExpiredError,
    TensorMismatchError,
    TensorReader,
    TensorWriter,
)
from perception_nodes.transport.routes import Edge, edges_of, outputs_of, route_between
from perception_nodes.transport.tensor_types import FrameTypes, dtype_name

if TYPE_CHECKING:
    from perception_nodes.runtime.stack_node import ProcessContext

#: Nearest first.
ROUTES: tuple[Route, ...] = ("by_reference", "shared_memory", "serialized")
_REACHABLE = {
    "by_reference": by_reference.is_reachable,
    "shared_memory": shared_memory.is_reachable,
    "serialized": serialized.is_reachable,
}


def make_writer(
    context: ProcessContext, producer: str, extra_consumers: Mapping[str, str] | None = None
) -> RoutedWriter:
    """Returns the writer of a producer in this process.

    Args:
        context: The process' context.
        producer: `sensor_fusion` or a component's name.
        extra_consumers: Readers that the bundle does not know (a recorder), name to process; they get
            every tensor.

    Raises:
        ConfigurationError: A process spans hosts.
        TensorError: Shared memory cannot be opened.
    """
    return RoutedWriter(context, producer, edges_of(context, producer, extra_consumers))


def make_reader(
    context: ProcessContext, consumer: str, producer: str, tensors: Iterable[str] | None = None
) -> RoutedReader:
    """Returns the reader through which a consumer of this process takes a producer's tensors.

    Args:
        context: The process' context.
        consumer: A component's name, or any name given to the writer as an extra consumer.
        producer: `sensor_fusion` or a component's name.
        tensors: What to take; None: what the bundle says the consumer takes, for an extra consumer all
            that is announced.

    Raises:
        ConfigurationError: A process spans hosts.
        TensorError: Shared memory cannot be opened.
    """
    taken = context.bundle.consumers_of(producer).get(consumer)
    wanted = tuple(tensors) if tensors is not None else taken
    return RoutedReader(context, consumer, producer, wanted)


def _shared_memory_options(context: ProcessContext, producer: str) -> shared_memory.SharedMemoryOptions:
    return shared_memory.SharedMemoryOptions(
        run_id=context.run_id,
        producer=producer,
        ring_size=context.deployment.transport.ring_size,
        readers=len(context.bundle.consumers_of(producer)),
    )


class RoutedWriter(TensorWriter):
    """Sends each tensor by the routes its consumers need."""

    def __init__(self, context: ProcessContext, producer: str, edges: Sequence[Edge]) -> None:
        """Opens the routes; use `make_writer`."""
        self._spec_of = context.bundle.tensor_spec
        self._producer = producer
        self._required = frozenset[str]().union(*(edge.tensors for edge in edges if edge.required))
        self._names: dict[Route, frozenset[str]] = {
            route: frozenset[str]().union(*(edge.tensors for edge in edges if edge.route == route))
            for route in ROUTES
            if any(edge.route == route for edge in edges)
        }
        self._writers: dict[Route, TensorWriter] = {}
        for route in self._names:
            self._writers[route] = self._open(context, route)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes this writer offers, nearest first."""
        return tuple(self._writers)

    def loan(self, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, torch.Tensor]:
        """See TensorWriter.loan."""
        lent: dict[str, torch.Tensor] = {}
        shared = self._writers.get("shared_memory")
        if isinstance(shared, shared_memory.SharedMemoryWriter):
            offered = {name: tensors[name] for name in tensors if name in self._names["shared_memory"]}
            elsewhere = frozenset[str]().union(
                *(n for route, n in self._names.items() if route != "shared_memory")
            )
            if offered.keys() - elsewhere:
                # A tensor that also goes by reference must outlive the sample, so it gets memory of its own.
                lent = {
                    name: tensor for name, tensor in shared.loan(offered).items() if name not in elsewhere
                }
        for name, (dtype, shape) in tensors.items():
            if name not in lent:
                lent[name] = torch.empty(tuple(shape), dtype=dtype)
        return lent

    def put(self, trace_id: int, tensors: Mapping[str, torch.Tensor]) -> list[TensorHandle]:
        """See TensorWriter.put.

        Raises:
            TensorMismatchError: A tensor does not fit the bundle, or one that a consumer needs is missing.
            TensorError: Shared memory is exhausted.
        """
        missing = self._required - tensors.keys()
        if missing:
            raise TensorMismatchError(
                f"frame {trace_id} of {self._producer}: expected the tensors "
                f"{', '.join(sorted(self._required))}, got none called {', '.join(sorted(missing))}"
            )
        types = FrameTypes(self._spec_of, self._producer)
        for name, tensor in tensors.items():
            types.check_tensor(name, tensor)
        handles: list[TensorHandle] = []
        for route, writer in self._writers.items():
            names = self._names[route]
            handles += writer.put(
                trace_id, {name: tensor for name, tensor in tensors.items() if name in names}
            )
        return handles

    def close(self) -> None:
        """See TensorWriter.close."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _open(self, context: ProcessContext, route: Route) -> TensorWriter:
        if route == "by_reference":
            return by_reference.ByReferenceWriter(self._producer, context.deployment.transport.ring_size)
        if route == "shared_memory":
            return shared_memory.SharedMemoryWriter(_shared_memory_options(context, self._producer))
        return serialized.SerializedWriter()


class RoutedReader(TensorReader):
    """Takes each tensor by the nearest route offered."""

    def __init__(
        self, context: ProcessContext, consumer: str, producer: str, wanted: tuple[str, ...] | None
    ) -> None:
        """Opens the routes this edge can take; use `make_reader`."""
        self._spec_of = context.bundle.tensor_spec
        self._consumer = consumer
        self._producer = producer
        self._wanted = wanted
        self._known = frozenset(outputs_of(context, producer))
        self._device = _device_of(context, consumer)
        self.route = route_between(context, context.process_of(producer), context.process)
        routes = {route_between(context, home, context.process) for home in context.processes_of(producer)}
        self._readers: dict[Route, TensorReader] = {
            "by_reference": by_reference.ByReferenceReader(),
            "serialized": serialized.SerializedReader(),
        }
        if "shared_memory" in routes:
            self._readers["shared_memory"] = shared_memory.SharedMemoryReader(
                _shared_memory_options(context, producer)
            )

    def take(self, trace_id: int, handles: Iterable[TensorHandle]) -> dict[str, torch.Tensor]:
        """See TensorReader.take.

        Raises:
            TensorExpiredError: The frame is no longer there.
            TensorMismatchError: A handle does not fit the bundle, or a wanted tensor was not announced.
            TensorError: No offered route reaches this process.
        """
        offered: dict[str, dict[str, TensorHandle]] = {}
        for handle in handles:
            if self._wanted is None or handle.name in self._wanted:
                offered.setdefault(handle.name, {})[handle.transport] = handle
        names = (
            tuple(name for name in offered if name in self._known) if self._wanted is None else self._wanted
        )
        types = FrameTypes(self._spec_of, self._producer)
        for name in names:
            if name not in offered:
                raise TensorMismatchError(
                    f"tensor '{name}' of {self._producer}: expected by {self._consumer}, but frame "
                    f"{trace_id} announces only {', '.join(sorted(offered)) or 'others'}"
                )
            for handle in offered[name].values():
                types.check(name, handle.dtype, handle.shape)
        found = self._collect(trace_id, {name: offered[name] for name in names})
        for name, tensor in found.items():
            handle = next(iter(offered[name].values()))
            if dtype_name(tensor.dtype) != handle.dtype or tuple(tensor.shape) != tuple(handle.shape):
                raise TensorMismatchError(
                    f"tensor '{name}' of {self._producer}: expected {handle.dtype}{list(handle.shape)} as "
                    f"announced, got {dtype_name(tensor.dtype)}{list(tensor.shape)}"
                )
        if self._device is None:
            return found
        return {name: tensor.to(self._device) for name, tensor in found.items()}

    def close(self) -> None:
        """See TensorReader.close."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _collect(
        self, trace_id: int, offered: Mapping[str, Mapping[str, TensorHandle]]
    ) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        expired: TensorExpiredError | None = None
        for route in ROUTES:
            reader = self._readers.get(route)
            handles = [
                transports[route]
                for name, transports in offered.items()
                if name not in found and route in transports and _REACHABLE[route](transports[route])
            ]
            if reader is None or not handles:
                continue
            try:
                found.update(reader.take(trace_id, handles))
            except TensorExpiredError as error:
                expired = error  # another route may still have it
        missing = [name for name in offered if name not in found]
        if not missing:
            return {name: found[name] for name in offered}
        if expired is not None:
            raise expired
        transports = sorted({transport for name in missing for transport in offered[name]})
        raise TensorError(
            f"tensor '{missing[0]}' of {self._producer} is offered only by {', '.join(transports)} from "
            f"another process or host, which does not reach {self._consumer}; do all processes run the same "
            "deployment and run id?"
        )


def _device_of(context: ProcessContext, consumer: str) -> torch.device | None:
    """Returns the torch device a component takes its inputs on; None: wherever they are."""
    placed = context.deployment.placement.get(consumer)
    if placed is None:
        return None
    device = context.deployment.devices[placed]
    return torch.device("cuda", device.index) if device.kind == "gpu" else torch.device("cpu")
