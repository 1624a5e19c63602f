"""A process' side of moving components: makes and ends nodes while the process runs, and passes on what the
coordinator asks of them. Only in processes that a movable component may come to be in.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perception_core.movable import Home
from perception_core.platform.move_protocol import HostReply, HostRequest, Operation, Phase
from perception_nodes import topics
from perception_nodes.runtime.stack_node import ProcessContext

if TYPE_CHECKING:
    from perception_nodes.nodes.component import ComponentNode

#: Consumers may still be about to take a node's last tensors after it has announced them.
LINGER_S = 2.0
_POLL_S = 0.02
_END_LIMIT_S = 5.0

#: Makes a component's node, given its context, and whether it owns frames from the start.
NodeFactory = Callable[[ProcessContext, str, str, bool], "ComponentNode"]


def context_on(context: ProcessContext, component: str, device: str) -> ProcessContext:
    """Returns the context of a node that has been moved here: as if the deployment had placed it here."""
    deployment = context.deployment.model_copy(
        update={"placement": {**context.deployment.placement, component: device}}
    )
    others = {
        process: tuple(node for node in nodes if node != component)
        for process, nodes in context.processes.items()
    }
    here = (*others.get(context.process, ()), component)
    return replace(context, deployment=deployment, processes={**others, context.process: here})


def make_moved_node(context: ProcessContext, component: str, device: str, owns_frames: bool) -> ComponentNode:
    """Makes the node of a component that the deployment places elsewhere."""
    from perception_nodes.runtime.node_registry import component_class

    node: ComponentNode = component_class(component, context.bundle.spec)(
        context_on(context, component, device),
        component,
        node_name=f"{component}_on_{topics.name_of(device)}",
        owns_frames=owns_frames,
    )
    return node


def nodes_at_home(
    names: Sequence[str], placement: Mapping[str, str], recorded: Mapping[str, Home], process: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns the nodes of the deployment that a process still has, and the components moved here with their
    device.

    Args:
        names: The process' nodes by the deployment.
        placement: By the deployment.
        recorded: Homes of components that have been moved since.
        process: The process.
    """
    stayed = tuple(
        name
        for name in names
        if name not in recorded or recorded[name] == Home(process, placement.get(name, ""))
    )
    came = {
        name: home.device for name, home in recorded.items() if home.process == process and name not in stayed
    }
    return stayed, came


@dataclass
class _Hosted:
    """A movable component's node in this process."""

    phase: Phase
    node: ComponentNode | None = None
    message: str = ""
    thread: threading.Thread | None = None
    last_output: int = -1
    end_requested: bool = False


class ComponentHost:
    """Answers `HostRequest`s. No request blocks: what takes long runs on a thread, and is asked about."""

    def __init__(
        self,
        context: ProcessContext,
        executor: Any,
        nodes: list[Any],
        make_node: NodeFactory = make_moved_node,
        linger_s: float = LINGER_S,
    ) -> None:
        """Takes over the movable ones of the process' nodes.

        Args:
            context: The process' context.
            executor: Spins the nodes.
            nodes: All nodes of the process; kept up to date for its shutdown.
            make_node: Makes the node of a component that comes.
            linger_s: Between a node's last output and its release.
        """
        self._context, self._executor, self._nodes = context, executor, nodes
        self._make_node = make_node
        self._linger_s = linger_s
        self._lock = threading.Lock()
        self._closing = threading.Event()
        # By component and device: a process may serve two devices that a component is moved between.
        self._hosted: dict[tuple[str, str], _Hosted] = {
            (node.component, node.device_name): _Hosted(Phase.ACTIVE, node)
            for node in nodes
            if getattr(node, "component", None) in context.homes
        }

    def handle(self, request: HostRequest) -> HostReply:
        """Does what is asked and says how things stand."""
        with self._lock:
            if request.operation is Operation.START:
                self._start(request)
            elif request.operation is Operation.END:
                self._end(request)
            hosted = self._hosted.get((request.component, request.device))
            if hosted is None:
                return HostReply(Phase.ABSENT)
            node = hosted.node
            if hosted.phase is not Phase.ACTIVE or node is None or node.frames is None:
                return HostReply(hosted.phase, message=hosted.message, last_output=hosted.last_output)
        accepted = self._ask_node(node, request)
        return HostReply(
            Phase.ACTIVE,
            accepted=accepted,
            hears=node.frames.newest >= 0,
            subscribers=matched_subscriptions(node),
            last_output=node.frames.last_output,
        )

    def close(self) -> None:
        """Waits for what is under way; the process' shutdown releases the nodes that remain."""
        self._closing.set()
        with self._lock:
            threads = [hosted.thread for hosted in self._hosted.values() if hosted.thread is not None]
        for thread in threads:
            thread.join(_END_LIMIT_S)

    def _ask_node(self, node: ComponentNode, request: HostRequest) -> bool:
        frames = node.frames
        assert frames is not None
        if request.operation is Operation.OFFER:
            return frames.offer(request.frame)
        if request.operation is Operation.GIVE_UP:
            return frames.give_up(request.frame)
        if request.operation is Operation.SETTLE:
            node.work_on(frames.settle(request.frame or None, request.accepted))
        elif request.operation is Operation.TAKE_OVER:
            node.work_on(frames.take_over(request.frame))
        return False

    # -- coming

    def _start(self, request: HostRequest) -> None:
        there = self._hosted.get((request.component, request.device))
        if self._closing.is_set() or (there is not None and there.phase is not Phase.FAILED):
            return
        hosted = _Hosted(Phase.STARTING)
        hosted.thread = threading.Thread(
            target=self._bring_up, args=(hosted, request), name=f"start-{request.component}", daemon=True
        )
        self._hosted[request.component, request.device] = hosted
        hosted.thread.start()

    def _bring_up(self, hosted: _Hosted, request: HostRequest) -> None:
        node: ComponentNode | None = None
        try:
            node = self._make_node(self._context, request.component, request.device, False)
            for verb in ("configure", "activate"):
                if getattr(node, f"trigger_{verb}")().name != "SUCCESS":
                    raise RuntimeError(
                        f"{request.component} could not {verb} on {request.device}; the log of process "
                        f"'{self._context.process}' says why"
                    )
        except Exception as error:  # the process and its other nodes go on without it
            with self._lock:
                hosted.phase, hosted.message = Phase.FAILED, f"{type(error).__name__}: {error}"
            if node is not None:
                _discard(node)
            return
        if self._closing.is_set():
            _discard(node)
            return
        with self._lock:
            hosted.node = node
            self._nodes.append(node)
            self._executor.add_node(node)
            hosted.phase = Phase.ENDING if hosted.end_requested else Phase.ACTIVE
        if hosted.end_requested:
            self._take_down(hosted, request)

    # -- going

    def _end(self, request: HostRequest) -> None:
        hosted = self._hosted.get((request.component, request.device))
        if hosted is None or hosted.phase is Phase.ENDING:
            return
        if hosted.phase is Phase.FAILED:
            del self._hosted[request.component, request.device]
        elif hosted.phase is Phase.STARTING:
            hosted.end_requested = True
        elif not self._closing.is_set():
            hosted.phase = Phase.ENDING
            hosted.thread = threading.Thread(
                target=self._take_down,
                args=(hosted, request),
                name=f"end-{request.component}",
                daemon=True,
            )
            hosted.thread.start()

    def _take_down(self, hosted: _Hosted, request: HostRequest) -> None:
        node = hosted.node
        assert node is not None
        assert node.frames is not None
        node.frames.let_go()
        # A node that is ended because it was never to own a frame has nothing to drain.
        drain_s = request.drain_s if request.operation is Operation.END else 0.0
        if drain_s > 0:
            deadline = time.monotonic() + drain_s
            while not node.frames.drained() and time.monotonic() < deadline and not self._closing.is_set():
                time.sleep(_POLL_S)
        self._executor.remove_node(node)  # first: what is deactivated here must not be taken from there
        node.trigger_deactivate()
        # After this no output of it comes any more, and the answer stands.
        hosted.last_output = node.frames.last_output
        self._closing.wait(self._linger_s)
        if self._closing.is_set():
            return  # the process' shutdown releases it
        self._nodes.remove(node)
        _discard(node)
        with self._lock:
            self._hosted.pop((request.component, request.device), None)


def _discard(node: ComponentNode) -> None:
    """Releases a node through its lifecycle, whatever state it is in."""
    node.trigger_shutdown()
    node.destroy_node()


def matched_subscriptions(node: Any) -> int:
    """Counts the subscriptions that the publishers of a component's node have found.

    Topics that every node has for itself are left out, so that two nodes of a component can be compared.
    """
    own = f"{node.get_fully_qualified_name()}/"
    return sum(
        publisher.get_subscription_count()
        for publisher in list(node.publishers)
        if publisher.topic_name.startswith(f"{topics.NAMESPACE}/")
        and not publisher.topic_name.startswith(own)
    )


class HostService:
    """The service through which the coordinator reaches a `ComponentHost`."""

    def __init__(self, host: ComponentHost, process: str, executor: Any) -> None:
        """Offers the service on a node of its own."""
        from mmmt_msgs.srv import HostComponent
        from rclpy.node import Node

        self._host = host
        self.node = Node(f"host_{topics.name_of(process)}", namespace=topics.NAMESPACE)
        self.node.create_service(HostComponent, topics.hosting_of(process), self._on_request)
        executor.add_node(self.node)

    def _on_request(self, request: Any, response: Any) -> Any:
        reply = self._host.handle(
            HostRequest(
                Operation(request.operation),
                request.component,
                request.device,
                request.frame,
                request.accepted,
                request.drain_s,
            )
        )
        response.phase = int(reply.phase)
        response.accepted = reply.accepted
        response.message = reply.message
        response.hears = reply.hears
        response.subscribers = reply.subscribers
        response.last_output = reply.last_output
        response.pid = os.getpid()
        return response

    def close(self) -> None:
        """Ends the service and waits for what is under way."""
        self._host.close()
        self.node.destroy_node()
