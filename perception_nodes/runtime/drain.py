"""Takes everything that waits on a subscription at once.

An rclpy executor takes one message of a subscription in each of its rounds, and a round costs milliseconds of
a busy machine. A listener that must keep up with all of the stack's timings would fall behind by its whole
queue: seconds.
"""

from __future__ import annotations

from typing import Any

#: Most messages taken at once, so that other callbacks get their turn.
MAX_DRAINED = 256


def drained(subscription: Any, first: Any) -> list[Any]:
    """Returns the message a callback was called with and all that wait behind it, oldest first.

    Must be called from the subscription's own callback: that is, on the thread that takes its messages.

    Args:
        subscription: The rclpy subscription.
        first: The message its callback got.
    """
    messages = [first]
    with subscription.handle:
        while len(messages) < MAX_DRAINED:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if taken is None:
                break
            messages.append(taken[0])
    return messages
