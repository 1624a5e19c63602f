"""Which way each tensor takes from its producer to each consumer: a fact of the deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception_core.bundle import SENSOR_FUSION, SENSOR_TENSORS
from perception_core.configuration import ConfigurationError
from perception_core.deployment import LOCAL_HOST
from perception_nodes.transport.interface import Route

if TYPE_CHECKING:
    from perception_nodes.runtime.stack_node import ProcessContext


@dataclass(frozen=True)
class Edge:
    """One consumer of a producer.

    Attributes:
        consumer: Its name.
        tensors: What it takes.
        route: The way they take.
        required: The producer must emit all of them; a recorder takes what comes.
    """

    consumer: str
    tensors: frozenset[str]
    route: Route
    required: bool = True


def host_of_process(context: ProcessContext, process: str) -> str:
    """Returns the host a process runs on: that of the devices its components are placed on, else `local`.

    Raises:
        ConfigurationError: Its components are placed on devices of several hosts.
    """
    deployment = context.deployment
    hosts = {
        deployment.devices[deployment.placement[node]].host
        for node in context.processes.get(process, ())
        if node in deployment.placement
    }
    if len(hosts) > 1:
        raise ConfigurationError(
            f"deployment '{deployment.name}': process '{process}' has components on the hosts "
            f"{', '.join(sorted(hosts))}; give each host a process of its own"
        )
    return hosts.pop() if hosts else LOCAL_HOST


def route_between(context: ProcessContext, producer_process: str, consumer_process: str) -> Route:
    """Returns the route between two processes."""
    if producer_process == consumer_process:
        return "by_reference"
    if host_of_process(context, producer_process) == host_of_process(context, consumer_process):
        return "shared_memory"
    return "serialized"


def outputs_of(context: ProcessContext, producer: str) -> tuple[str, ...]:
    """Returns every tensor a producer may emit."""
    if producer == SENSOR_FUSION:
        return tuple(SENSOR_TENSORS)
    return context.bundle.spec.components[producer].outputs


def edges_of(
    context: ProcessContext, producer: str, extra_consumers: Mapping[str, str] | None = None
) -> tuple[Edge, ...]:
    """Returns the edges from `producer` to the bundle's and the extra consumers (name to process).

    A consumer that may be moved has an edge for each route to a process it may come to be in; a producer
    that may be moved is in the process that asks.
    """
    home = context.process if producer in context.homes else context.process_of(producer)
    edges = [
        Edge(consumer, frozenset(tensors), route)
        for consumer, tensors in context.bundle.consumers_of(producer).items()
        for route in dict.fromkeys(
            route_between(context, home, process) for process in context.processes_of(consumer)
        )
    ]
    everything = frozenset(outputs_of(context, producer))
    edges += [
        Edge(consumer, everything, route_between(context, home, process), required=False)
        for consumer, process in (extra_consumers or {}).items()
    ]
    return tuple(edges)
