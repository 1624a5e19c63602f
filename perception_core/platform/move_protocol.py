"""What the coordinator of a move asks the processes of the stack, and what they answer; free of ROS.

The values are those of mmmt_msgs/srv/HostComponent. Every request may be made again without harm.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol


class Operation(enum.IntEnum):
    """What is asked for."""

    STATUS = 0
    START = 1  # make the node, load its network, subscribe; it owns no frame yet
    OFFER = 2
    GIVE_UP = 3
    SETTLE = 4
    TAKE_OVER = 5
    END = 6  # through its lifecycle: deactivate, release


class Phase(enum.IntEnum):
    """How far a process is with its node of a component."""

    ABSENT = 0
    STARTING = 1
    ACTIVE = 2
    ENDING = 3
    FAILED = 4


@dataclass(frozen=True)
class HostRequest:
    """A request to a process.

    Attributes:
        operation: What to do.
        component: With the node of which component.
        device: Device the node is on, or is to be on.
        frame: Switch frame of OFFER, GIVE_UP and SETTLE, first frame of TAKE_OVER; 0 with SETTLE: whichever
            was offered.
        accepted: The old node's answer, for SETTLE.
        drain_s: For END: end what has begun, for so long at most; 0: at once.
    """

    operation: Operation
    component: str
    device: str
    frame: int = 0
    accepted: bool = False
    drain_s: float = 0.0


@dataclass(frozen=True)
class HostReply:
    """What a process answers.

    Attributes:
        phase: Of its node.
        accepted: Answer to OFFER and GIVE_UP.
        message: Why it failed.
        hears: Complete frames have reached the node.
        subscribers: Subscriptions of others that the node's publishers have found.
        last_output: Newest frame whose output it gave, -1: none.
    """

    phase: Phase
    accepted: bool = False
    message: str = ""
    hears: bool = False
    subscribers: int = 0
    last_output: int = -1


class Hosts(Protocol):
    """The processes of the stack as the coordinator reaches them."""

    def ask(self, process: str, request: HostRequest) -> HostReply | None:
        """Asks a process; None: it did not answer within a second or so."""
        ...

    def end_process(self, process: str) -> None:
        """Ends a process that does not answer; returns when it is gone. Its supervisor starts it again."""
        ...
