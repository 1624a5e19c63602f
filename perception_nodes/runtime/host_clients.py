"""The processes of the stack as the coordinator of moves reaches them: by service, and by signal where one
does not answer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmmt_msgs.srv import HostComponent
from rclpy.node import Node

from perception_core.platform.move_protocol import HostReply, HostRequest, Phase
from perception_nodes import topics

_ANSWER_S = 1.0
_KILL_LIMIT_S = 5.0


class HostClients:
    """One client a process. Call `ask` from a thread that spins nothing: the node's executor hears the
    answers.
    """

    def __init__(self, node: Node, processes: Iterable[str]) -> None:
        """Creates the clients.

        Args:
            node: Hosts them.
            processes: Processes that movable components may come to be in.
        """
        self._node = node
        self._clients: dict[str, Any] = {
            process: node.create_client(HostComponent, topics.hosting_of(process)) for process in processes
        }
        self._pids: dict[str, int] = {}

    def ask(self, process: str, request: HostRequest) -> HostReply | None:
        """See Hosts."""
        client = self._clients[process]
        if not client.service_is_ready():
            return None
        message = HostComponent.Request(
            operation=int(request.operation),
            component=request.component,
            device=request.device,
            frame=request.frame,
            accepted=request.accepted,
            drain_s=request.drain_s,
        )
        answered = threading.Event()
        future = client.call_async(message)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(_ANSWER_S):
            client.remove_pending_request(future)
            return None
        response = future.result()
        if response is None:
            return None
        self._pids[process] = response.pid
        return HostReply(
            Phase(response.phase),
            response.accepted,
            response.message,
            response.hears,
            response.subscribers,
            response.last_output,
        )

    def end_process(self, process: str) -> None:
        """Kills a process that does not answer. Only one that has answered before is known by its id."""
        pid = self._pids.pop(process, None)
        if pid is None:
            return
        self._node.get_logger().error(
            f"process '{process}' ({pid}) does not answer; it is killed, and started again by its launcher"
        )
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has ended already
        deadline = time.monotonic() + _KILL_LIMIT_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
