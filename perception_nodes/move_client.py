"""Asks a running stack to move a component, and follows the move to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class MoveRefusedError(RuntimeError):
    """The stack does not move the component, or there is no stack that could; the message says why."""


@dataclass(frozen=True)
class MoveOutcome:
    """How a move ended.

    Attributes:
        done: It was carried out; else the component is where it was.
        step: Its last step, in words.
        switch_frame: First frame of the new node, 0: it was not chosen.
        reason: Why it was taken back.
        elapsed_s: From the request to the end, the old node's release included.
    """

    done: bool
    step: str
    switch_frame: int
    reason: str
    elapsed_s: float


def move_component(
    component: str, device: str, timeout_s: float = 90.0, watch: Callable[[str], None] = lambda step: None
) -> MoveOutcome:
    """Moves a component of the stack that runs in this ROS domain.

    Args:
        component: Its name.
        device: Where to.
        timeout_s: For the stack to be found, and again for the move.
        watch: Told of every step.

    Raises:
        MoveRefusedError: The request was refused, or nobody answered.
    """
    import rclpy
    from mmmt_msgs.msg import MoveStatus
    from mmmt_msgs.srv import MoveComponent
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node

    from perception_nodes import topics

    context = Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    node = Node("mmmt_move", namespace=topics.NAMESPACE, context=context)
    executor.add_node(node)
    heard: list[Any] = []
    try:
        client: Any = node.create_client(MoveComponent, topics.MOVE_COMPONENT)
        # Not latched: the status of an earlier move means nothing here.
        statuses = node.create_subscription(MoveStatus, topics.MOVE_STATUS, heard.append, topics.reliable(20))
        deadline = time.monotonic() + timeout_s
        while statuses.get_publisher_count() == 0 and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        if not client.wait_for_service(max(0.0, deadline - time.monotonic())):
            raise MoveRefusedError(
                f"no stack that moves components was found within {timeout_s:g} s: does one run in this ROS "
                "domain, and does its deployment list movable components?"
            )
        began_s = time.monotonic()
        future = client.call_async(MoveComponent.Request(component=component, device=device))
        executor.spin_until_future_complete(future, timeout_s)
        if not future.done():
            raise MoveRefusedError(f"the stack did not answer within {timeout_s:g} s")
        response = future.result()
        if response is None or not response.accepted:
            raise MoveRefusedError("refused" if response is None else response.message)
        last_step = ""
        while time.monotonic() < began_s + timeout_s:
            executor.spin_once(timeout_sec=0.1)
            own = [status for status in heard if status.component == component]
            if not own:
                continue
            status = own[-1]
            if status.step != last_step:
                last_step = status.step
                watch(last_step)
            if not status.busy:
                elapsed_s = time.monotonic() - began_s
                return MoveOutcome(
                    status.step == "done", status.step, status.switch_frame, status.reason, elapsed_s
                )
        raise MoveRefusedError(
            f"the move did not end within {timeout_s:g} s; its last step: {last_step or 'none'}"
        )
    finally:
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
        rclpy.shutdown(context=context)
