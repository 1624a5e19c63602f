"""Carries out one move of a component after another: asks the processes, and follows the rules of
`replacement`. Free of ROS; blocking, so that it reads as what happens. See docs/replacement.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from perception_core.movable import ComponentMove, Home
from perception_core.platform.frame_watch import FrameWatch
from perception_core.platform.move_protocol import HostReply, HostRequest, Hosts, Operation, Phase
from perception_core.platform.replacement import (
    Action,
    MoveLimits,
    MoveRequest,
    MoveState,
    Step,
    answered,
    begin,
    cancel,
    first_output,
    new_ended,
    offered,
    old_ended,
    overdue,
    warmed,
)

_POLL_S = 0.05


class HomeRecord(Protocol):
    """Where processes that are started again find out which components are theirs now."""

    def write(self, component: str, home: Home) -> None:
        """Records a component's home.

        Raises:
            OSError: It cannot be written.
        """
        ...


class MoveRunner:
    """The coordinator's hands. One move at a time; `run` belongs to one thread."""

    def __init__(
        self,
        hosts: Hosts,
        frames: FrameWatch,
        record: HomeRecord,
        limits: MoveLimits | None = None,
        *,
        silent_s: float = 10.0,
        on_change: Callable[[MoveState], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepares.

        Args:
            hosts: The processes.
            frames: Told of all frames and outputs by somebody else.
            record: Told of a component's home before its old node is out of the game.
            limits: How long what may take.
            silent_s: A process that must be asked and has not answered for so long is ended.
            on_change: Told of every state.
            clock: Monotonic seconds.
            pause: Waits for some seconds.
        """
        self._hosts, self._frames, self._record = hosts, frames, record
        self._limits = limits or MoveLimits()
        self._silent_s = silent_s
        self._on_change = on_change
        self._clock, self._pause = clock, pause
        self._cancelled = False
        self.state = MoveState()

    def cancel(self) -> None:
        """Takes the request back.

        Raises:
            MoveError: It is too late.
        """
        cancel(self.state, self._clock())
        self._cancelled = True

    def run(self, move: ComponentMove) -> MoveState:
        """Moves a component; returns how it ended: DONE or ABORTED, nothing between.

        Raises:
            MoveError: Another move is under way.
            OSError: The record cannot be written; nothing has begun.
        """
        request = MoveRequest(move.component, move.source.device, move.target.device)
        self._cancelled = False
        state = begin(self.state, request, self._clock())
        self._record.write(move.component, move.source)  # what cannot be written is found out now
        self._enter(state)
        steps = {
            Step.WARMING: self._warm,
            Step.OFFERING: self._offer,
            Step.ASKING: self._ask,
            Step.SWITCHED: self._settle,
            Step.DRAINING: self._drain,
        }
        while self.state.busy:
            before = self.state
            steps[before.step](move)
            if self._cancelled and self.state.step in (Step.WARMING, Step.OFFERING):
                self._enter(cancel(self.state, self._clock()))
            if self.state.step is before.step:
                self._pause(_POLL_S)
        if self.state.step is Step.ABORTED:
            self._undo(move)
        return self.state

    def recover(self, component: str, owner: Home, other: Home) -> None:
        """Ends a move that another coordinator has begun and not ended.

        Args:
            component: Which has two nodes.
            owner: Its home as recorded: there is where it stays.
            other: Where its other node is.
        """
        self._hosts.ask(owner.process, HostRequest(Operation.SETTLE, component, owner.device, accepted=True))
        last_output = self._end_node(component, other, self._limits.drain_s)
        self._give_back(component, owner, last_output + 1)

    # -- steps

    def _warm(self, move: ComponentMove) -> None:
        new = self._ask_node(move.target, Operation.START, move)
        old = self._ask_node(move.source, Operation.STATUS, move)
        now_s = self._clock()
        if new is not None and new.phase is Phase.FAILED:
            self._enter(new_ended(replace(self.state, reason=new.message), now_s))
        elif old is not None and old.phase is not Phase.ACTIVE:
            self._enter(old_ended(self.state, now_s))
        elif (
            new is not None
            and old is not None
            and new.phase is Phase.ACTIVE
            and new.hears
            # Who hears the old node's outputs must hear the new one's first output.
            and new.subscribers >= old.subscribers
        ):
            self._enter(warmed(self.state, self._frames.newest_possible(), self._limits, now_s))
        else:
            self._enter(overdue(self.state, self._limits, now_s))

    def _offer(self, move: ComponentMove) -> None:
        new = self._ask_node(move.target, Operation.OFFER, move)
        if new is None:
            self._enter(overdue(self.state, self._limits, self._clock()))
        elif new.phase is not Phase.ACTIVE:
            self._enter(new_ended(self.state, self._clock()))
        else:
            newest = self._frames.newest_possible()
            self._enter(offered(self.state, new.accepted, newest, self._limits, self._clock()))

    def _ask(self, move: ComponentMove) -> None:
        old = self._ask_node(move.source, Operation.GIVE_UP, move)
        now_s = self._clock()
        if old is not None and old.phase is Phase.ACTIVE:
            newest = self._frames.newest_possible()
            self._switch(move, answered(self.state, old.accepted, newest, self._limits, now_s))
        elif old is not None and old.phase in (Phase.ABSENT, Phase.FAILED):
            self._switch(move, old_ended(self.state, now_s))
        elif now_s - self.state.since_s > self._silent_s:
            self._switch(move, old_ended(self.state, now_s))
            self._hosts.end_process(move.source.process)

    def _switch(self, move: ComponentMove, state: MoveState) -> None:
        """Enters a state; where that is the switch, a process started again from now on finds it recorded."""
        if state.step is Step.SWITCHED:
            try:
                self._record.write(move.component, move.target)
            except OSError as error:
                reason = f"the new home could not be recorded: {error}"
                state = new_ended(replace(state, reason=reason), self._clock())
        self._enter(state)

    def _settle(self, move: ComponentMove) -> None:
        new = self._ask_node(move.target, Operation.SETTLE, move)
        state, now_s = self.state, self._clock()
        given = self._frames.newest_output(move.component, move.target.device)
        if new is not None and new.phase in (Phase.ABSENT, Phase.FAILED):
            self._enter(new_ended(state, now_s))
        elif max(given, -1 if new is None else new.last_output) >= state.switch_frame:
            self._enter(first_output(state, max(given, state.switch_frame), now_s))
        elif self._frames.newest() < state.switch_frame:
            self._enter(replace(state, since_s=now_s))  # no frame has come that it could work on
        else:
            self._enter(overdue(state, self._limits, now_s))
            if self.state.action is Action.END_NEW:
                self._enter(new_ended(self.state, now_s))

    def _drain(self, move: ComponentMove) -> None:
        old = self._ask_node(move.source, Operation.END, move)
        now_s = self._clock()
        if old is not None and old.phase in (Phase.ABSENT, Phase.FAILED):
            self._enter(old_ended(self.state, now_s))
        elif old is not None and old.phase is Phase.ENDING:
            # It has heard, and ends by itself; what it takes longer than the limit nobody waits for.
            self._enter(overdue(self.state, self._limits, now_s - self._limits.drain_s))
        elif now_s - self.state.since_s > self._silent_s + self._limits.drain_s:
            self._hosts.end_process(move.source.process)
            self._enter(old_ended(self.state, now_s))

    def _undo(self, move: ComponentMove) -> None:
        """Ends the new node, then lets the old one work on from the first frame without an output."""
        last_output = self._end_node(move.component, move.target, 0.0, undone=move)
        self._record_undone(move)
        self._give_back(move.component, move.source, max(self.state.switch_frame, last_output + 1, 0))
        self._on_change(self.state)

    def _record_undone(self, move: ComponentMove) -> None:
        try:
            self._record.write(move.component, move.source)
        except OSError as error:  # the old node must take over all the same
            reason = f"{self.state.reason}; the record still names {move.target.device}: {error}"
            self.state = replace(self.state, reason=reason)

    # -- asking

    def _ask_node(self, home: Home, operation: Operation, move: ComponentMove) -> HostReply | None:
        state = self.state
        request = HostRequest(
            operation,
            move.component,
            home.device,
            max(0, state.switch_frame),
            accepted=state.accepted,
            drain_s=self._limits.drain_s if state.step is Step.DRAINING else 0.0,
        )
        return self._hosts.ask(home.process, request)

    def _end_node(
        self, component: str, home: Home, drain_s: float, undone: ComponentMove | None = None
    ) -> int:
        """Ends a node for certain.

        Args:
            component: Whose node.
            home: Where the node is.
            drain_s: For what it has begun.
            undone: Recorded as undone before the node's process is ended, should it have to be.

        Returns:
            The newest frame whose output it gave, -1: none known.
        """
        last_output = -1
        request = HostRequest(Operation.END, component, home.device, drain_s=drain_s)
        heard_s = self._clock()
        deadline_s = heard_s + self._limits.warm_s + drain_s + self._silent_s
        while True:
            reply = self._hosts.ask(home.process, request)
            if reply is not None:
                heard_s = self._clock()
                last_output = max(last_output, reply.last_output)
                if reply.phase in (Phase.ABSENT, Phase.FAILED):
                    break
            # One that hangs while it loads answers, but never ends.
            if self._clock() > min(heard_s + self._silent_s, deadline_s):
                if undone is not None:
                    self._record_undone(undone)
                self._hosts.end_process(home.process)
                break
            self._pause(_POLL_S)
        return max(last_output, self._frames.newest_output(component, home.device))

    def _give_back(self, component: str, home: Home, first_frame: int) -> None:
        """Lets a node work on all frames from one on; makes it where its process has lost it."""
        request = HostRequest(Operation.TAKE_OVER, component, home.device, first_frame)
        deadline_s = self._clock() + self._silent_s + self._limits.warm_s
        while self._clock() < deadline_s:
            reply = self._hosts.ask(home.process, request)
            if reply is not None and reply.phase is Phase.ACTIVE:
                return
            if reply is not None and reply.phase in (Phase.ABSENT, Phase.FAILED):
                self._hosts.ask(home.process, HostRequest(Operation.START, component, home.device))
            self._pause(_POLL_S)

    def _enter(self, state: MoveState) -> None:
        changed = (state.step, state.switch_frame) != (self.state.step, self.state.switch_frame)
        self.state = state
        if changed:
            self._on_change(state)
