"""Moving a component to another device while the stack runs: who works on which frame, free of ROS, networks
and clocks.

Two nodes of one component exist for a while, the *old* and the *new* one, and both hear every frame. Each has
a `FrameGate` that says what to do with a frame. Ownership passes at a switch frame that the new node is
offered first and that the old node then gives up, or refuses because it has seen the frame already. The old
node's answer decides, so that however late or often messages come, every frame is worked on exactly
once. `MoveState` is the coordinator's side. See docs/replacement.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class Verdict(enum.Enum):
    """What a node does with a frame."""

    WORK = "work"
    LEAVE = "leave"  # the other node's
    HOLD = "hold"  # not decided yet: keep it, newest ones first, and ask again


@dataclass(frozen=True)
class FrameGate:
    """One node's knowledge of which frames are its own; every event gives a new gate.

    A frame's number is its trace id, which grows from frame to frame (on the vehicle it is a time in
    nanoseconds).

    Attributes:
        owned: Spans of frames it works on, (first, end), end None: open.
        offered_from: It may own the frames from here on; not decided.
        shadows_from: It has given these frames up but keeps hold of the newest of them, to take over if the
            other node fails.
        newest: Newest frame it was asked about.
    """

    owned: tuple[tuple[int, int | None], ...] = ()
    offered_from: int | None = None
    shadows_from: int | None = None
    newest: int = -1

    @classmethod
    def of_running_node(cls) -> FrameGate:
        """The gate of a component that nobody moves: every frame is its own."""
        return cls(owned=((0, None),))

    def verdict(self, frame: int) -> Verdict:
        """Says what to do with a frame. Tell the gate of it with `seen` before."""
        if any(first <= frame and (end is None or frame < end) for first, end in self.owned):
            return Verdict.WORK
        if self.offered_from is not None and frame >= self.offered_from:
            return Verdict.HOLD
        if self.shadows_from is not None and frame >= self.shadows_from:
            return Verdict.HOLD
        return Verdict.LEAVE

    def seen(self, frame: int) -> FrameGate:
        """A frame has arrived."""
        return replace(self, newest=max(self.newest, frame))

    def offer(self, switch_frame: int) -> tuple[FrameGate, bool]:
        """The frames from `switch_frame` on may become its own.

        Returns:
            The gate, and whether it can hold them all: not if it has let one of them go already.
        """
        if self.newest >= switch_frame:
            return self, self.offered_from == switch_frame
        return replace(self, offered_from=switch_frame), True

    def settle(self, switch_frame: int, accepted: bool) -> FrameGate:
        """The other node has answered; ask about held frames again. A second telling changes nothing."""
        if self.offered_from != switch_frame:
            return self
        owned = (*self.owned, (switch_frame, None)) if accepted else self.owned
        return replace(self, owned=owned, offered_from=None)

    def give_up(self, switch_frame: int) -> tuple[FrameGate, bool]:
        """The other node is to have the frames from `switch_frame` on.

        Returns:
            The gate, and whether it agrees: only if it has not seen that frame. Asked again, it answers the
            same.
        """
        if not self.owned:
            return self, False
        first, end = self.owned[-1]
        if end is not None:
            return self, end == switch_frame
        if self.newest >= switch_frame or switch_frame < first:
            return self, False
        owned = (*self.owned[:-1], (first, switch_frame))
        return replace(self, owned=owned, shadows_from=switch_frame), True

    def let_go(self) -> FrameGate:
        """The other node does its work: nothing given up is kept any longer."""
        return replace(self, shadows_from=None)

    def take_over(self, first_frame: int) -> FrameGate:
        """The other node is known to have ended: the frames from `first_frame` on are its own again."""
        if self.owned and self.owned[-1][1] is None:
            return self
        return replace(self, owned=(*self.owned, (first_frame, None)), shadows_from=None, offered_from=None)


class Step(enum.Enum):
    """Where a move stands."""

    IDLE = "idle"
    WARMING = "warming"  # the new node loads its network and runs an example frame
    OFFERING = "offering"  # the new node is told the switch frame and holds what comes from there on
    ASKING = "asking"  # the old node is asked to give the frames up; only its answer, or its end, decides
    SWITCHED = "switched"  # it has: the new node works on the frames from the switch frame on
    DRAINING = "draining"  # the new node has given an output; the old one ends what it has begun
    DONE = "done"
    ABORTED = "aborted"  # the old node works on


_ENDED = (Step.IDLE, Step.DONE, Step.ABORTED)


class Action(enum.Enum):
    """What the coordinator does next; every one may be done again without harm."""

    NONE = "none"
    START_NEW = "start the new node and warm it"
    OFFER = "offer the switch frame to the new node"
    ASK = "ask the old node to give up the frames from the switch frame on"
    SETTLE = "tell the new node the old node's answer"
    END_OLD = "end the old node"
    END_NEW = "end the new node"


@dataclass(frozen=True)
class MoveRequest:
    """What is asked for.

    Attributes:
        component: Component to move.
        source, target: Devices.
    """

    component: str
    source: str
    target: str


@dataclass(frozen=True)
class MoveLimits:
    """How long a move may take.

    Attributes:
        warm_s: For loading and warming the new node.
        offer_s: For the new node to confirm the offer.
        ask_s: For the old node's answer; after that it is ended, since it cannot be known whether it agreed.
        first_output_s: From the switch until the new node's first output; after that it is ended and the old
            one takes over.
        drain_s: For the old node to end what it has begun.
        lead: How far the switch frame's number lies ahead of the newest one known, nanoseconds: longer than
            it takes to tell both nodes. A lead too short costs another try, never a frame.
        tries: Switch frames tried before the move is given up.
    """

    warm_s: float = 30.0
    offer_s: float = 2.0
    ask_s: float = 1.0
    first_output_s: float = 3.0
    drain_s: float = 5.0
    lead: int = 400_000_000
    tries: int = 5


class MoveError(ValueError):
    """An event does not belong to the step the move is in."""


@dataclass(frozen=True)
class MoveState:
    """The coordinator's view of one move; every event gives a new state.

    Attributes:
        request: What is moved; None while nothing is.
        step: Where the move stands.
        since_s: When the step began.
        switch_frame: First frame of the new node.
        tries: Switch frames tried so far.
        action: What to do now.
        accepted: The old node's answer, for Action.SETTLE.
        reason: Why it was aborted.
    """

    request: MoveRequest | None = None
    step: Step = Step.IDLE
    since_s: float = 0.0
    switch_frame: int = -1
    tries: int = 0
    action: Action = Action.NONE
    accepted: bool = False
    reason: str = ""

    @property
    def busy(self) -> bool:
        """A move is under way; another one must wait."""
        return self.step not in _ENDED


def begin(state: MoveState, request: MoveRequest, now_s: float) -> MoveState:
    """A move is asked for.

    Raises:
        MoveError: Another move is under way, or the target is where the component is.
    """
    if state.busy and state.request is not None:
        raise MoveError(
            f"{request.component} cannot be moved now: {state.request.component} is being moved to "
            f"{state.request.target} ({state.step.value})"
        )
    if request.source == request.target:
        raise MoveError(f"{request.component} is on {request.target} already")
    return MoveState(request=request, step=Step.WARMING, since_s=now_s, action=Action.START_NEW)


def warmed(state: MoveState, newest_frame: int, limits: MoveLimits, now_s: float) -> MoveState:
    """The new node is warm and hears every frame: choose a switch frame.

    Args:
        state: In step WARMING.
        newest_frame: The newest frame known of.
        limits: Gives the lead.
        now_s: Now.
    """
    _expect(state, Step.WARMING)
    return _offer(state, newest_frame, limits, now_s)


def offered(
    state: MoveState, accepted: bool, newest_frame: int, limits: MoveLimits, now_s: float
) -> MoveState:
    """The new node holds the frames from the switch frame on, or has let one go and a later one is tried."""
    _expect(state, Step.OFFERING)
    if not accepted:
        return _try_again(state, newest_frame, limits, now_s)
    return replace(state, step=Step.ASKING, since_s=now_s, action=Action.ASK)


def answered(
    state: MoveState, accepted: bool, newest_frame: int, limits: MoveLimits, now_s: float
) -> MoveState:
    """The old node has answered. After a refusal, a later frame is tried."""
    _expect(state, Step.ASKING)
    if accepted:
        return replace(state, step=Step.SWITCHED, since_s=now_s, action=Action.SETTLE, accepted=True)
    return _try_again(state, newest_frame, limits, now_s)


def old_ended(state: MoveState, now_s: float) -> MoveState:
    """The old node is known to have ended, by itself or because it was told to."""
    if state.step is Step.ASKING:
        return replace(state, step=Step.SWITCHED, since_s=now_s, action=Action.SETTLE, accepted=True)
    if state.step in (Step.SWITCHED, Step.DRAINING):
        return replace(state, step=Step.DONE, since_s=now_s, action=Action.NONE)
    if state.busy:
        return _abort(state, "the old node ended before the switch; its process is started again", now_s)
    return state


def new_ended(state: MoveState, now_s: float) -> MoveState:
    """The new node is known to have ended. The old one works on; after the switch it takes over what the new
    one has not given an output for (`FrameGate.take_over`).
    """
    if state.step is Step.ASKING:
        # Whether the old node has agreed is not known; `take_over` is right either way.
        return _abort(state, "the new node ended during the switch", now_s)
    return _abort(state, "the new node ended", now_s) if state.busy else state


def first_output(state: MoveState, frame: int, now_s: float) -> MoveState:
    """The new node has given the output of a frame."""
    if state.step is not Step.SWITCHED or frame < state.switch_frame:
        return state
    return replace(state, step=Step.DRAINING, since_s=now_s, action=Action.END_OLD)


def cancel(state: MoveState, now_s: float) -> MoveState:
    """Somebody takes the request back.

    Raises:
        MoveError: It is too late: the old node was asked already. Move the component back afterwards.
    """
    if state.step not in (Step.WARMING, Step.OFFERING):
        raise MoveError(f"a move cannot be taken back any more ({state.step.value})")
    return _abort(state, "taken back", now_s)


def overdue(state: MoveState, limits: MoveLimits, now_s: float) -> MoveState:
    """Looks at the clock: what must not wait longer is decided."""
    waited_s = now_s - state.since_s
    if state.step is Step.WARMING and waited_s > limits.warm_s:
        return _abort(state, f"the new node was not ready within {limits.warm_s:g} s", now_s)
    if state.step is Step.OFFERING and waited_s > limits.offer_s:
        return _abort(state, f"the new node did not answer within {limits.offer_s:g} s", now_s)
    if state.step is Step.ASKING and waited_s > limits.ask_s:
        return replace(state, action=Action.END_OLD)
    if state.step is Step.SWITCHED and waited_s > limits.first_output_s:
        text = f"the new node gave no output within {limits.first_output_s:g} s"
        return replace(state, action=Action.END_NEW, reason=text)
    if state.step is Step.DRAINING and waited_s > limits.drain_s:
        return replace(state, step=Step.DONE, since_s=now_s, action=Action.END_OLD)
    return state


def _offer(state: MoveState, newest_frame: int, limits: MoveLimits, now_s: float) -> MoveState:
    return replace(
        state,
        step=Step.OFFERING,
        since_s=now_s,
        # Each further try leaves twice the time.
        switch_frame=newest_frame + limits.lead * 2**state.tries,
        tries=state.tries + 1,
        action=Action.OFFER,
        accepted=False,
    )


def _try_again(state: MoveState, newest_frame: int, limits: MoveLimits, now_s: float) -> MoveState:
    if state.tries >= limits.tries:
        return _abort(state, f"{state.tries} switch frames were over before the nodes had been told", now_s)
    return _offer(state, newest_frame, limits, now_s)


def _abort(state: MoveState, reason: str, now_s: float) -> MoveState:
    return replace(
        state,
        step=Step.ABORTED,
        since_s=now_s,
        action=Action.END_NEW,
        accepted=False,
        reason=state.reason or reason,
    )


def _expect(state: MoveState, step: Step) -> None:
    if state.step is not step:
        raise MoveError(f"expected the step {step.value}, the move is {state.step.value}")
