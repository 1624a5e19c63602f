"""Where components may come to be while the stack runs: follows from the deployment, which lists them as
`movable`.

A moved component lives in a process that serves its new device already, so the processes a component can
ever be in are known before anything starts. Transport and announcements are laid out for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perception_core.configuration import nearest
from perception_core.deployment import LOCAL_HOST, Deployment
from perception_core.platform.replacement import MoveError


@dataclass(frozen=True)
class Home:
    """Where a component is.

    Attributes:
        process: Process of the stack.
        device: Device of the deployment.
    """

    process: str
    device: str


@dataclass(frozen=True)
class ComponentMove:
    """A component, where it is and where it is to be."""

    component: str
    source: Home
    target: Home


def serving_processes(deployment: Deployment, processes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Returns the process that serves each device: the first that has a component placed there.

    Args:
        deployment: Placement complete.
        processes: Process to nodes, as the deployment starts them.
    """
    serving: dict[str, str] = {}
    for process, nodes in processes.items():
        for node in nodes:
            if node in deployment.placement:
                serving.setdefault(deployment.placement[node], process)
    return serving


def first_homes(deployment: Deployment, processes: Mapping[str, Sequence[str]]) -> dict[str, Home]:
    """Returns where each movable component is when the stack starts."""
    return {
        node: Home(process, deployment.placement[node])
        for process, nodes in processes.items()
        for node in nodes
        if node in deployment.movable
    }


def possible_homes(
    deployment: Deployment, processes: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Home, ...]]:
    """Returns every home each movable component can have, its first one first; nothing where none is movable.

    Args:
        deployment: Placement complete.
        processes: Process to nodes, as the deployment starts them.
    """
    if not deployment.movable:
        return {}
    serving = serving_processes(deployment, processes)
    found: dict[str, tuple[Home, ...]] = {}
    for component, first in first_homes(deployment, processes).items():
        host = deployment.devices[first.device].host
        others = (
            Home(process, device)
            for device, process in serving.items()
            if device != first.device and deployment.devices[device].host == host == LOCAL_HOST
        )
        found[component] = (first, *others)
    return found


def plan_move(
    deployment: Deployment,
    homes: Mapping[str, Sequence[Home]],
    now: Mapping[str, Home],
    memory_mb: Mapping[str, float],
    component: str,
    device: str,
) -> ComponentMove:
    """Turns a request into a move, or says why there can be none.

    Args:
        deployment: Placement as the stack was started.
        homes: See `possible_homes`.
        now: Where the movable components are now.
        memory_mb: What each component holds on its device (see `ComponentWork.memory_mb`).
        component: What is to be moved.
        device: Where to.

    Raises:
        MoveError: The component is not movable, the device does not exist, is not served or lacks the memory,
            or the component is there already.
    """
    if component not in homes:
        raise MoveError(
            f"'{component}' cannot be moved: it is not among the deployment's movable components"
            + nearest(component, homes)
        )
    if device not in deployment.devices:
        raise MoveError(f"no device '{device}'" + nearest(device, deployment.devices))
    source = now[component]
    if source.device == device:
        raise MoveError(f"{component} is on {device} already")
    target = next((home for home in homes[component] if home.device == device), None)
    if target is None:
        raise MoveError(
            f"no process of the running stack serves '{device}' for {component}; it can go to: "
            f"{', '.join(home.device for home in homes[component])}. A device is served where the deployment "
            "places a component on it, on this host"
        )
    placement = dict(deployment.placement) | {name: home.device for name, home in now.items()}
    missing_mb = memory_missing_mb(deployment, placement, memory_mb, component, device)
    if missing_mb > 0:
        raise MoveError(
            f"{component} does not fit on {device}: with it, its components would hold {missing_mb:.1f} MB "
            f"more than its {deployment.devices[device].memory_mb:g} MB; move another one away first"
        )
    return ComponentMove(component, source, target)


def memory_missing_mb(
    deployment: Deployment,
    placement: Mapping[str, str],
    memory_mb: Mapping[str, float],
    component: str,
    device: str,
) -> float:
    """Returns by how many megabytes a device would be too small with one more component on it, 0 where it
    is not.

    The old node keeps what it holds until the move is over, but on another device.
    """
    limit_mb = deployment.devices[device].memory_mb
    if limit_mb is None:
        return 0.0
    there = [name for name, placed in placement.items() if placed == device and name != component]
    return max(0.0, sum(memory_mb.get(name, 0.0) for name in (*there, component)) - limit_mb)
