"""A component is moved while frames come: each is worked on exactly once, whatever messages do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.platform.replacement import (
    Action,
    FrameGate,
    MoveError,
    MoveLimits,
    MoveRequest,
    MoveState,
    Step,
    Verdict,
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
from perception_core.platform.replacement_policy import PathHealth, PolicySettings, ReplacementPolicy

LIMITS = MoveLimits(lead=3, tries=4)
MOVE = MoveRequest("camera_net", "cpu0", "cpu1")


@dataclass
class Node:
    """One node as the stack would have it: a gate, and frames it holds."""

    gate: FrameGate
    worked: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def hear(self, frame: int) -> None:
        self.gate = self.gate.seen(frame)
        self.held.append(frame)
        self.look_again()

    def look_again(self) -> None:
        for frame in list(self.held):
            verdict = self.gate.verdict(frame)
            if verdict is not Verdict.HOLD:
                self.held.remove(frame)
            if verdict is Verdict.WORK:
                self.worked.append(frame)


@dataclass
class Stack:
    """Two nodes and a coordinator whose messages may be late, lost or repeated, and whose frames come to each
    node at its own pace.
    """

    old: Node = field(default_factory=lambda: Node(FrameGate.of_running_node()))
    new: Node = field(default_factory=lambda: Node(FrameGate()))
    state: MoveState = field(default_factory=MoveState)
    emitted: int = 0
    old_heard: int = 0
    new_heard: int = 0
    old_answer: tuple[int, bool] | None = None

    def step(self, what: str) -> None:
        if what == "emit":
            self.emitted += 1
        elif what == "old hears" and self.old_heard < self.emitted:
            self.old.hear(self.old_heard)
            self.old_heard += 1
        elif what == "new hears" and self.new_heard < self.emitted:
            self.new.hear(self.new_heard)
            self.new_heard += 1
        elif what == "coordinate":
            self.coordinate()

    def coordinate(self) -> None:
        """One message arrives, is acted on and answered; a lost one is one that is sent again later."""
        state, newest = self.state, self.emitted - 1
        if state.step is Step.WARMING:
            self.state = warmed(state, newest, LIMITS, 0.0)
        elif state.step is Step.OFFERING:
            self.new.gate, can = self.new.gate.offer(state.switch_frame)
            self.new.look_again()
            self.state = offered(state, can, newest, LIMITS, 0.0)
        elif state.step is Step.ASKING and self.old_answer is None:
            self.old.gate, accepted = self.old.gate.give_up(state.switch_frame)
            self.old.look_again()
            self.old_answer = (state.switch_frame, accepted)
        elif state.step is Step.ASKING and self.old_answer is not None:
            again = self.old.gate.give_up(state.switch_frame)[1]
            assert again == self.old_answer[1]
            self.state = answered(state, self.old_answer[1], newest, LIMITS, 0.0)
            self.old_answer = None
        elif state.action in (Action.SETTLE, Action.END_NEW):
            self.new.gate = self.new.gate.settle(state.switch_frame, state.accepted)
            self.new.look_again()

    def finish(self) -> None:
        """Everything that is under way arrives."""
        for _ in range(200):
            self.coordinate()
        while self.old_heard < self.emitted:
            self.step("old hears")
        while self.new_heard < self.emitted:
            self.step("new hears")
        self.coordinate()


STEPS = st.sampled_from(["emit", "old hears", "new hears", "coordinate"])


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=80))
def test_every_frame_is_worked_on_exactly_once(steps: list[str]) -> None:
    stack = Stack()
    stack.state = begin(stack.state, MOVE, 0.0)
    for what in steps:
        stack.step(what)
    stack.finish()
    worked = Counter(stack.old.worked + stack.new.worked)
    assert worked == Counter(range(stack.emitted))
    assert stack.state.step in (Step.SWITCHED, Step.ABORTED)
    if stack.state.step is Step.SWITCHED:
        assert all(frame < stack.state.switch_frame for frame in stack.old.worked)
        assert all(frame >= stack.state.switch_frame for frame in stack.new.worked)
    else:
        assert not stack.new.worked


@settings(max_examples=80)
@given(st.lists(STEPS, max_size=80), st.integers(0, 10))
def test_frames_of_a_new_node_that_dies_are_taken_over(steps: list[str], more: int) -> None:
    stack = Stack()
    stack.state = begin(stack.state, MOVE, 0.0)
    for what in steps:
        stack.step(what)
    # It dies with all it held and hears no more; what it worked on it has given.
    given_by_new = list(stack.new.worked)
    stack.state = new_ended(stack.state, 1.0)
    first_missing = max(given_by_new, default=-1) + 1 if given_by_new else stack.state.switch_frame
    assert stack.state.step is Step.ABORTED
    if stack.old.gate.owned[-1][1] is not None:
        stack.old.gate = stack.old.gate.take_over(max(first_missing, stack.old.gate.owned[-1][1]))
        stack.old.look_again()
    stack.emitted += more
    while stack.old_heard < stack.emitted:
        stack.step("old hears")
    worked = Counter(stack.old.worked + given_by_new)
    assert worked == Counter(range(stack.emitted))


def test_an_old_node_that_has_seen_the_frame_refuses_and_a_later_one_is_tried() -> None:
    gate = FrameGate.of_running_node().seen(10)
    gate, accepted = gate.give_up(10)
    assert not accepted
    assert gate.verdict(10) is Verdict.WORK
    state = offered(warmed(begin(MoveState(), MOVE, 0.0), 7, LIMITS, 0.0), True, 7, LIMITS, 0.0)
    assert state.switch_frame == 10
    again = answered(state, False, 12, LIMITS, 0.0)
    assert again.step is Step.OFFERING
    assert again.switch_frame == 12 + 2 * LIMITS.lead


def test_a_new_node_that_has_let_the_frame_go_refuses() -> None:
    gate, can = FrameGate().seen(10).offer(10)
    assert not can
    gate, can = gate.offer(11)
    assert can
    assert gate.seen(12).offer(11)[1]  # asked again, it says the same
    assert gate.verdict(12) is Verdict.HOLD
    again = offered(warmed(begin(MoveState(), MOVE, 0.0), 7, LIMITS, 0.0), False, 10, LIMITS, 0.0)
    assert (again.step, again.switch_frame) == (Step.OFFERING, 10 + 2 * LIMITS.lead)


def test_a_move_that_never_fits_ends_with_the_old_node() -> None:
    state = warmed(begin(MoveState(), MOVE, 0.0), 0, LIMITS, 0.0)
    while state.busy:
        state = answered(offered(state, True, 0, LIMITS, 0.0), False, 0, LIMITS, 0.0)
    assert state.step is Step.ABORTED
    assert state.action is Action.END_NEW
    assert state.tries == LIMITS.tries


def test_only_one_move_at_a_time_and_none_to_where_it_is() -> None:
    state = begin(MoveState(), MOVE, 0.0)
    with pytest.raises(MoveError, match="camera_net is being moved to cpu1"):
        begin(state, MoveRequest("lidar_net", "cpu1", "cpu0"), 0.0)
    with pytest.raises(MoveError, match="on cpu0 already"):
        begin(MoveState(), MoveRequest("lidar_net", "cpu0", "cpu0"), 0.0)


def test_a_move_is_taken_back_only_before_the_old_node_is_asked() -> None:
    state = warmed(begin(MoveState(), MOVE, 0.0), 0, LIMITS, 0.0)
    assert cancel(state, 0.0).step is Step.ABORTED
    with pytest.raises(MoveError, match="cannot be taken back"):
        cancel(offered(state, True, 0, LIMITS, 0.0), 0.0)


def test_what_takes_too_long_is_decided() -> None:
    warming = begin(MoveState(), MOVE, 0.0)
    assert overdue(warming, LIMITS, LIMITS.warm_s - 1).step is Step.WARMING
    assert overdue(warming, LIMITS, LIMITS.warm_s + 1).step is Step.ABORTED
    offering = warmed(warming, 0, LIMITS, 0.0)
    assert overdue(offering, LIMITS, LIMITS.offer_s + 1).step is Step.ABORTED
    asking = offered(offering, True, 0, LIMITS, 0.0)
    # Nobody knows whether the old node has agreed: it is ended before the new one may work.
    assert overdue(asking, LIMITS, LIMITS.ask_s + 1).action is Action.END_OLD
    switched = old_ended(asking, 2.0)
    assert (switched.step, switched.accepted) == (Step.SWITCHED, True)
    late = overdue(switched, LIMITS, 2.0 + LIMITS.first_output_s + 1)
    assert late.action is Action.END_NEW
    assert "no output" in new_ended(late, 9.0).reason
    draining = first_output(switched, switched.switch_frame, 3.0)
    assert draining.step is Step.DRAINING
    assert overdue(draining, LIMITS, 3.0 + LIMITS.drain_s + 1).step is Step.DONE


def test_outputs_of_earlier_frames_do_not_end_the_switch() -> None:
    state = replace(MoveState(), request=MOVE, step=Step.SWITCHED, switch_frame=5)
    assert first_output(state, 4, 1.0) is state


# -- the policy


def health(outputs: int, misses: int, p50_ms: float = 300.0) -> PathHealth:
    return PathHealth(outputs, misses, p50_ms, budget_ms=200.0)


def test_a_path_must_be_in_trouble_for_a_while() -> None:
    policy = ReplacementPolicy(PolicySettings(enabled=True, missed_for_s=5.0))
    asked = [policy.observe(float(t), {"lidar->control": health(10 * t, 10 * t)}) for t in range(8)]
    assert asked[:5] == [None] * 5
    assert asked[5:] == ["lidar->control"] * 3


def test_seldom_misses_and_a_disabled_policy_ask_for_nothing() -> None:
    seldom = ReplacementPolicy(PolicySettings(enabled=True))
    disabled = ReplacementPolicy(PolicySettings())
    for t in range(30):
        assert seldom.observe(float(t), {"lidar->control": health(10 * t, 2 * t)}) is None
        assert disabled.observe(float(t), {"lidar->control": health(10 * t, 10 * t)}) is None


def test_a_silent_path_is_in_trouble() -> None:
    policy = ReplacementPolicy(PolicySettings(enabled=True, missed_for_s=3.0))
    assert [policy.observe(float(t), {"p": health(7, t)}) for t in range(5)][-1] == "p"


def test_gain_must_be_worth_it_and_reach_the_budget() -> None:
    policy = ReplacementPolicy(PolicySettings(enabled=True, gain=0.1))
    path = health(100, 100, p50_ms=300.0)
    assert policy.accepts(path, 280.0, 160.0)
    assert not policy.accepts(path, 280.0, 265.0)  # hardly a gain
    assert not policy.accepts(path, 280.0, 230.0)  # a gain, but still over budget


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=5))
def test_moves_are_never_closer_than_the_cool_down(outcomes: list[bool]) -> None:
    settings_ = PolicySettings(enabled=True, missed_for_s=1.0, cool_down_s=20.0, failed_cool_down_s=30.0)
    policy = ReplacementPolicy(settings_)
    moves: list[float] = []
    t = 0
    pending = list(outcomes)
    while pending and t < 20_000:
        if policy.observe(float(t), {"p": health(10 * t, 10 * t)}) is not None:
            policy.moved(float(t), pending.pop(0))
            moves.append(float(t))
        t += 1
    assert len(moves) == len(outcomes)
    for earlier, later, succeeded in zip(moves, moves[1:], outcomes, strict=False):
        assert later - earlier >= (settings_.cool_down_s if succeeded else settings_.failed_cool_down_s)
