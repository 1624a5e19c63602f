"""What the nodes of a live re-placement are made of, without ROS: homes, held frames, and whole moves with
processes that answer late, not at all, or die.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from deployment_fixtures import DEPLOYMENT, write_resources
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.configuration import ConfigurationError
from perception_core.deployment import load_deployment
from perception_core.movable import ComponentMove, Home, first_homes, plan_move, possible_homes
from perception_core.platform.component_work import work_of_bundle
from perception_core.platform.frame_holder import FrameHolder
from perception_core.platform.frame_watch import FrameWatch
from perception_core.platform.move_proposal import RunningStages, propose_move
from perception_core.platform.move_protocol import HostReply, HostRequest, Operation, Phase
from perception_core.platform.move_runner import MoveRunner
from perception_core.platform.replacement import FrameGate, MoveError, MoveLimits, Step
from perception_core.platform.run_observations import RunObservations, StageObservation

COMPONENTS_APART = DEPLOYMENT.replace(
    "  perception: {executor: multi, threads: 3, nodes: [components]}\n",
    "  perception_cpu0: {executor: single, nodes: [components@cpu0]}\n"
    "  perception_cpu1: {executor: single, nodes: [components@cpu1]}\n",
)
MOVABLE = COMPONENTS_APART + "movable: [camera_net, detection3d_head]\n"

OLD, NEW = Home("a", "cpu0"), Home("b", "cpu1")
MOVE = ComponentMove("camera_net", OLD, NEW)
LIMITS = MoveLimits(warm_s=30, offer_s=2, ask_s=1, first_output_s=3, drain_s=2, lead=4, tries=5)


# -- the deployment


def resolved_of(tmp_path: Path, text: str):
    path = write_resources(tmp_path, text)
    return load_deployment(path, search_paths=[tmp_path])


def test_movable_components_have_the_homes_their_devices_give(tmp_path: Path) -> None:
    resolved = resolved_of(tmp_path, MOVABLE)
    homes = possible_homes(resolved.deployment, resolved.processes)
    assert homes == {
        "camera_net": (Home("perception_cpu0", "cpu0"), Home("perception_cpu1", "cpu1")),
        "detection3d_head": (Home("perception_cpu1", "cpu1"), Home("perception_cpu0", "cpu0")),
    }


def test_a_deployment_without_movable_components_has_no_homes(tmp_path: Path) -> None:
    resolved = resolved_of(tmp_path, COMPONENTS_APART)
    assert resolved.deployment.movable == ()
    assert possible_homes(resolved.deployment, resolved.processes) == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("movable: [camera_nett]", "no component 'camera_nett'; did you mean 'camera_net'"),
        ("movable: [camera_net, camera_net]", "listed twice"),
    ],
)
def test_what_cannot_be_movable_is_refused(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        resolved_of(tmp_path, f"{COMPONENTS_APART}{line}\n")


def test_a_component_without_a_second_device_is_refused(tmp_path: Path) -> None:
    text = MOVABLE.replace(": cpu0\n", ": cpu1\n")
    with pytest.raises(ConfigurationError, match="could be moved nowhere"):
        resolved_of(tmp_path, text)


@pytest.mark.parametrize(
    ("component", "device", "words"),
    [
        ("bev_fuser", "cpu0", "not among the deployment's movable components"),
        ("camera_net", "cpu2", "no device 'cpu2'"),
        ("camera_net", "cpu0", "on cpu0 already"),
    ],
)
def test_moves_that_cannot_be_say_why(tmp_path: Path, component: str, device: str, words: str) -> None:
    resolved = resolved_of(tmp_path, MOVABLE)
    homes = possible_homes(resolved.deployment, resolved.processes)
    now = first_homes(resolved.deployment, resolved.processes)
    with pytest.raises(MoveError, match=words):
        plan_move(resolved.deployment, homes, now, {}, component, device)


def test_memory_is_checked_with_what_is_there_now(tmp_path: Path) -> None:
    text = MOVABLE.replace(
        "cpu1: {kind: cpu, cores: [1], backend: torch}",
        "cpu1: {kind: cpu, cores: [1], backend: torch, memory_mb: 30}",
    )
    resolved = resolved_of(tmp_path, text)
    homes = possible_homes(resolved.deployment, resolved.processes)
    now = first_homes(resolved.deployment, resolved.processes)
    memory_mb = dict.fromkeys(resolved.bundle.spec.components, 10.0)
    with pytest.raises(MoveError, match=r"10\.0 MB more than its 30 MB"):
        plan_move(resolved.deployment, homes, now, memory_mb, "camera_net", "cpu1")
    # The head has left cpu1 before: now there is room.
    now["detection3d_head"] = Home("perception_cpu0", "cpu0")
    move = plan_move(resolved.deployment, homes, now, memory_mb, "camera_net", "cpu1")
    assert move.target == Home("perception_cpu1", "cpu1")


# -- held frames


def test_held_frames_come_out_in_order_and_the_oldest_goes_first() -> None:
    holder: FrameHolder[str] = FrameHolder(FrameGate(), capacity=3)
    assert not holder.hear(1, "not its own")
    assert holder.offer(2)
    for number in (5, 2, 4, 3):
        assert not holder.hear(number, f"frame {number}")
    assert holder.settle(2, True) == ["frame 3", "frame 4", "frame 5"]
    assert holder.hear(6, "frame 6")


def test_a_later_offer_lets_go_what_the_old_node_keeps() -> None:
    holder: FrameHolder[int] = FrameHolder(FrameGate(), capacity=8)
    holder.offer(3)
    for number in range(3, 6):
        holder.hear(number, number)
    assert holder.offer(7)
    holder.hear(7, 7)
    assert holder.settle(7, True) == [7]


def test_a_node_is_drained_when_a_frame_it_gave_up_has_come_and_nothing_is_pending() -> None:
    holder: FrameHolder[int] = FrameHolder(FrameGate.of_running_node(), capacity=3)
    assert holder.hear(1, 1)
    assert holder.give_up(3)
    holder.done()
    assert not holder.drained()  # frame 2 may still come
    assert holder.hear(2, 2)
    assert not holder.hear(3, 3)
    assert not holder.drained()
    holder.counted(lambda: None)()
    assert holder.drained()


def test_nothing_before_what_was_given_up_is_taken_over() -> None:
    holder: FrameHolder[int] = FrameHolder(FrameGate.of_running_node(), capacity=3)
    assert holder.give_up(3)
    for number in range(1, 6):
        holder.hear(number, number)
    assert holder.take_over(0) == [3, 4, 5]


# -- whole moves


@dataclass
class Node:
    """A node whose work takes no time."""

    holder: FrameHolder[int]
    worked: list[int] = field(default_factory=list)
    phase: Phase = Phase.ACTIVE

    def hear(self, frame: int) -> None:
        if self.phase is Phase.ACTIVE and self.holder.hear(frame, frame):
            self.work([frame])

    def work(self, frames: list[int]) -> None:
        for frame in frames:
            self.worked.append(frame)
            self.holder.gave_output(frame)
            self.holder.done()


class Stack:
    """Two processes, and frames that come while the coordinator waits. Is `Hosts`, and the record."""

    def __init__(self, faults: list[str] | None = None, period: int = 2) -> None:
        self.watch = FrameWatch()
        self.nodes: dict[Home, Node] = {OLD: Node(FrameHolder(FrameGate.of_running_node(), 3))}
        self.ended: list[Node] = []
        self.killed: list[str] = []
        self.deaf: set[str] = set()
        self.mute_target = False
        self.faults = faults or []
        self.home = OLD
        self.now_s = 0.0
        self.frame = 0
        self.period = period
        self.ticks = 0

    # time, and the frames that come in it

    def clock(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.now_s += seconds
        self.ticks += 1
        if self.ticks % self.period == 0:
            self.emit()

    def emit(self) -> None:
        self.frame += 1
        self.watch.begun(self.frame)
        for home, node in list(self.nodes.items()):
            if home == NEW and self.mute_target:
                continue
            node.hear(self.frame)
            if node.worked:
                self.watch.output(MOVE.component, home.device, node.worked[-1])

    # Hosts

    def ask(self, process: str, request: HostRequest) -> HostReply | None:
        if process in self.deaf:
            self.now_s += 1.0
            return None
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "lost":
            self.now_s += 1.0
            return None
        reply = self.answer(process, request)
        if fault == "answer lost":
            self.now_s += 1.0
            return None
        return reply

    def answer(self, process: str, request: HostRequest) -> HostReply:
        home = OLD if process == OLD.process else NEW
        node = self.nodes.get(home)
        if request.operation is Operation.START and node is None:
            node = self.nodes[home] = Node(FrameHolder(FrameGate(), 3))
        if node is None:
            return HostReply(Phase.ABSENT)
        accepted = False
        holder = node.holder
        if request.operation is Operation.OFFER:
            accepted = holder.offer(request.frame)
        elif request.operation is Operation.GIVE_UP:
            accepted = holder.give_up(request.frame)
        elif request.operation is Operation.SETTLE:
            node.work(holder.settle(request.frame or None, request.accepted))
        elif request.operation is Operation.TAKE_OVER:
            node.work(holder.take_over(request.frame))
        elif request.operation is Operation.END and (not request.drain_s or holder.drained()):
            self.ended.append(self.nodes.pop(home))
            return HostReply(Phase.ABSENT, last_output=holder.last_output)
        return HostReply(node.phase, accepted, hears=holder.newest >= 0, last_output=holder.last_output)

    def end_process(self, process: str) -> None:
        """The supervisor starts it again at once, with the component where the record says."""
        self.killed.append(process)
        self.deaf.discard(process)
        home = OLD if process == OLD.process else NEW
        if home in self.nodes:
            self.ended.append(self.nodes.pop(home))
        if self.home == home:
            self.nodes[home] = Node(FrameHolder(FrameGate.of_running_node(), 3))

    def write(self, component: str, home: Home) -> None:
        self.home = home

    def worked(self) -> list[int]:
        nodes = [*self.ended, *self.nodes.values()]
        return sorted(frame for node in nodes for frame in node.worked)


def runner_of(stack: Stack) -> MoveRunner:
    return MoveRunner(stack, stack.watch, stack, LIMITS, silent_s=10.0, clock=stack.clock, pause=stack.pause)


def test_a_move_loses_no_frame_and_ends_the_old_node() -> None:
    stack = Stack()
    state = runner_of(stack).run(MOVE)
    for _ in range(5):
        stack.emit()
    assert state.step is Step.DONE
    assert stack.worked() == list(range(1, stack.frame + 1))
    assert list(stack.nodes) == [NEW]
    assert stack.home == NEW
    assert stack.killed == []
    assert all(frame < state.switch_frame for frame in stack.ended[0].worked)


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(["", "", "lost", "answer lost"]), max_size=40), st.integers(1, 5), st.booleans()
)
def test_lost_requests_and_answers_cost_no_frame(faults: list[str], period: int, back: bool) -> None:
    stack = Stack(list(faults), period)
    runner = runner_of(stack)
    state = runner.run(MOVE)
    if back and state.step is Step.DONE:
        runner.run(ComponentMove(MOVE.component, NEW, OLD))
    for _ in range(6):
        stack.emit()
    assert stack.worked() == list(range(1, stack.frame + 1))
    assert not runner.state.busy
    assert len(stack.nodes) == 1
    assert next(iter(stack.nodes)) == stack.home
    assert stack.killed == []


def test_a_new_node_without_output_is_ended_and_the_old_one_goes_on_from_the_switch() -> None:
    stack = Stack()
    runner = runner_of(stack)

    def silence() -> bool:
        stack.mute_target = runner.state.step in (Step.ASKING, Step.SWITCHED)
        return stack.mute_target

    plain_pause = stack.pause

    def pause(seconds: float) -> None:
        silence()
        plain_pause(seconds)

    runner._pause = pause
    state = runner.run(MOVE)
    stack.emit()
    assert state.step is Step.ABORTED
    assert "no output" in state.reason
    assert list(stack.nodes) == [OLD]
    assert stack.home == OLD
    worked = stack.worked()
    assert len(worked) == len(set(worked))
    # The old node has kept the newest frames; what it could not keep would have expired.
    assert worked[-4:] == list(range(stack.frame - 3, stack.frame + 1))


def test_an_old_process_that_does_not_answer_is_ended_and_the_new_node_works() -> None:
    stack = Stack()
    runner = runner_of(stack)
    changes: list[Step] = []

    def on_change(state) -> None:
        changes.append(state.step)
        if state.step is Step.ASKING:
            stack.deaf.add(OLD.process)

    runner._on_change = on_change
    state = runner.run(MOVE)
    stack.emit()
    assert state.step is Step.DONE
    assert stack.killed == [OLD.process]
    assert list(stack.nodes) == [NEW]
    worked = stack.worked()
    assert worked[-1] == stack.frame
    assert Step.SWITCHED in changes


def test_a_node_that_cannot_load_leaves_everything_as_it_was() -> None:
    stack = Stack()
    failed = Node(FrameHolder(FrameGate(), 3), phase=Phase.FAILED)
    stack.nodes[NEW] = failed
    state = runner_of(stack).run(MOVE)
    for _ in range(3):
        stack.emit()
    assert state.step is Step.ABORTED
    assert list(stack.nodes) == [OLD]
    assert stack.worked() == list(range(1, stack.frame + 1))


def test_a_stack_without_frames_is_not_blamed_on_the_new_node() -> None:
    """The new node is waited for only from the first frame it could work on."""
    stack = Stack()
    runner = runner_of(stack)
    quiet_since: list[float] = []
    plain_emit = stack.emit

    def emit() -> None:
        if runner.state.step is Step.SWITCHED and len(quiet_since) < 200:
            quiet_since.append(stack.now_s)  # the recording is paused for a while
            return
        plain_emit()

    stack.emit = emit  # type: ignore[method-assign]
    state = runner.run(MOVE)
    assert quiet_since[-1] - quiet_since[0] > LIMITS.first_output_s
    assert state.step is Step.DONE
    assert stack.worked() == list(range(1, stack.frame + 1))


def test_a_move_of_a_dead_coordinator_is_ended_by_the_next_one() -> None:
    for recorded, agreed in ((OLD, False), (OLD, True), (NEW, True)):
        stack = Stack()
        new = stack.nodes[NEW] = Node(FrameHolder(FrameGate(), 3))
        for _ in range(3):
            stack.emit()
        assert new.holder.offer(6)
        if agreed:
            assert stack.nodes[OLD].holder.give_up(6)
        stack.home = recorded
        for _ in range(4):
            stack.emit()
        runner_of(stack).recover(MOVE.component, recorded, NEW if recorded == OLD else OLD)
        stack.emit()
        assert list(stack.nodes) == [recorded]
        assert stack.worked() == list(range(1, stack.frame + 1)), (recorded, agreed)


# -- moves the policy asks for


def observed_with(placement: dict[str, str], run_ms: dict[str, float]) -> RunObservations:
    stages = {
        name: StageObservation(name, placement.get(name, ""), value, 20) for name, value in run_ms.items()
    }
    return RunObservations(Path("run"), "fuller-tiny", stages, {"lidar->detection3d": 200.0})


RUN_MS = {
    "sensor_fusion": 5.0,
    "lidar_net": 60.0,
    "camera_net": 100.0,
    "bev_fuser": 10.0,
    "detection3d_head": 10.0,
    "map_segmentation_head": 5.0,
}


def proposal_of(tmp_path: Path, text: str, run_ms: dict[str, float], choices: dict[str, list[str]]):
    resolved = resolved_of(tmp_path, text)
    return propose_move(
        resolved.deployment,
        resolved.bundle.spec,
        resolved.rig,
        work_of_bundle(resolved.bundle, resolved.rig),
        observed_with(dict(resolved.deployment.placement), run_ms),
        choices,
        "lidar->detection3d",
    )


def test_two_networks_that_wait_for_each_other_are_taken_apart(tmp_path: Path) -> None:
    """Both feed the fuser; on one device they take 160 ms one after the other, on two 100 ms."""
    both = {"camera_net": ["cpu0", "cpu1"], "detection3d_head": ["cpu1", "cpu0"]}
    proposal = proposal_of(tmp_path, MOVABLE, RUN_MS, both)
    assert proposal is not None
    assert (proposal.component, proposal.device) == ("camera_net", "cpu1")
    assert proposal.before_ms - proposal.after_ms == pytest.approx(60.0, abs=1.0)


def test_nothing_is_proposed_that_helps_nobody_or_rests_on_nothing(tmp_path: Path) -> None:
    only_head = {"detection3d_head": ["cpu1", "cpu0"]}
    assert proposal_of(tmp_path / "a", MOVABLE, RUN_MS, only_head) is None
    unseen = {name: value for name, value in RUN_MS.items() if name != "bev_fuser"}
    assert proposal_of(tmp_path / "b", MOVABLE, unseen, {"camera_net": ["cpu0", "cpu1"]}) is None


def test_what_a_component_took_on_its_last_device_is_forgotten() -> None:
    running = RunningStages()
    for _ in range(10):
        running.add("camera_net", "cpu0", 100.0)
    for _ in range(6):
        running.add("camera_net", "cpu1", 40.0)
    seen = running.observations("fuller-tiny", {}).stages["camera_net"]
    assert (seen.device, seen.run_ms, seen.count) == ("cpu1", 40.0, 6)
