"""Announces tensors: at once to consumers of the same process, over ROS to all others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmmt_msgs.msg import TensorAnnouncement
from rclpy.node import Node

from perception_nodes import topics
from perception_nodes.transport.identity import process_token

if TYPE_CHECKING:
    from perception_nodes.runtime.stack_node import ProcessContext

#: Called on the producer's thread: must neither block nor raise.
Listener = Callable[[TensorAnnouncement], None]

# Consumers of this process by run and producer. Tuples are exchanged, never changed: an announcement under
# way sees the consumers there were when it began.
_listeners: dict[tuple[str, str], tuple[Listener, ...]] = {}
_lock = threading.Lock()


class Announcer:
    """A producer's side."""

    def __init__(self, node: Node, context: ProcessContext, producer: str) -> None:
        """Creates the ROS publisher.

        Args:
            node: Node that hosts the producer.
            context: Its process.
            producer: `sensor_fusion` or a component's name.
        """
        self._node = node
        self._key = (context.run_id, producer)
        self._publisher = node.create_publisher(
            TensorAnnouncement, topics.tensors_of(producer), topics.reliable()
        )

    def publish(self, announcement: TensorAnnouncement) -> None:
        """Announces; consumers of this process have it when this returns."""
        for listener in _listeners.get(self._key, ()):
            try:
                listener(announcement)
            except Exception as error:  # one consumer's mistake must cost neither the producer nor the others
                self._node.get_logger().error(
                    f"a consumer of {self._key[1]} in this process failed: {type(error).__name__}: {error}"
                )
        self._publisher.publish(announcement)

    def get_subscription_count(self) -> int:
        """Consumers there are: those of this process and subscriptions of others."""
        return len(_listeners.get(self._key, ())) + int(self._publisher.get_subscription_count())


class Listening:
    """A consumer's side: hears one producer until it is closed."""

    def __init__(self, node: Node, context: ProcessContext, producer: str, callback: Listener) -> None:
        """Begins to listen.

        Args:
            node: Node that hosts the consumer.
            context: Its process; tells whether the producer lives in it too.
            producer: Whose announcements.
            callback: Takes them; on the producer's thread where that is in this process, else on the
                executor's.
        """
        self._node = node
        self._key = (context.run_id, producer)
        self._callback = callback
        self._subscription: Any = None
        # One that may be moved is heard both ways: it can come into this process or leave it at any frame.
        moves = producer in context.homes
        self._is_local = moves or context.process_of(producer) == context.process
        if self._is_local:
            with _lock:
                _listeners[self._key] = (*_listeners.get(self._key, ()), callback)
        if moves or not self._is_local:
            self._subscription = node.create_subscription(
                TensorAnnouncement,
                topics.tensors_of(producer),
                self._from_another_process if moves else callback,
                topics.reliable(),
            )

    def _from_another_process(self, announcement: TensorAnnouncement) -> None:
        """Leaves out what was announced in this process: that was heard at once."""
        token = process_token()
        if not any(
            handle.transport == "by_reference" and handle.handle.partition("/")[0] == token
            for handle in announcement.tensors
        ):
            self._callback(announcement)

    def close(self) -> None:
        """Hears no more; an announcement already under way may still come."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        if not self._is_local:
            return
        with _lock:
            rest = tuple(one for one in _listeners.get(self._key, ()) if one is not self._callback)
            if rest:
                _listeners[self._key] = rest
            else:
                _listeners.pop(self._key, None)
