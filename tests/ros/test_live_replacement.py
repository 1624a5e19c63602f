"""Components of a running stack are moved to another process and device while frames come: each is worked on
exactly once, nothing is started again, and control drives on.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from mmmt_msgs.msg import ControlCommand
from patient_stack import PATIENCE_S, PERIOD_S, patient_overrides
from sensor_feed import SensorFeed
from stack_fixtures import RunningStack, running_stack

from perception_nodes.move_client import MoveOutcome, MoveRefusedError, move_component

#: What a slow and busy machine may take for loading a network and for the messages of a move.
MOVE_LIMIT_S = 180.0
MOVABLE = "movable:=[camera_net, detection3d_head]"
PATIENT_MOVES = (
    "parameters.move_coordinator.warm_s:=120",
    "parameters.move_coordinator.first_output_s:=30",
    "parameters.move_coordinator.drain_s:=30",
    "parameters.move_coordinator.lead_s:=2.0",
    "parameters.move_coordinator.silent_s:=60",
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with (
        running_stack("cpu-2core", (*patient_overrides(), MOVABLE, *PATIENT_MOVES)) as running,
        SensorFeed(running.resolved.rig, PERIOD_S),
    ):
        running.probe.wait_for_state(ControlCommand.STATE_DRIVING, PATIENCE_S)
        running.probe.wait_for_outputs(3, PATIENCE_S)
        yield running


def done_by(stack: RunningStack, stage: str) -> dict[int, list[str]]:
    """Devices on which a stage worked on each frame, by trace id."""
    found: dict[int, list[str]] = {}
    for _, timing in list(stack.probe.timings):
        if timing.stage == stage and timing.outcome == timing.OUTCOME_DONE:
            found.setdefault(timing.trace_id, []).append(timing.device)
    return found


def move(stack: RunningStack, component: str, device: str) -> MoveOutcome:
    """Moves a component; frames come before, meanwhile and afterwards."""
    stack.probe.wait_for_outputs(2, PATIENCE_S, since=time.monotonic())
    outcome = move_component(component, device, MOVE_LIMIT_S)
    assert outcome.done, (outcome, stack.tail())
    stack.probe.wait_for_outputs(3, PATIENCE_S, since=time.monotonic())
    return outcome


def assert_nothing_lost(stack: RunningStack, component: str, began_ns: int) -> None:
    """Each frame put together since then, up to the newest with an output, was worked on exactly once."""
    done = done_by(stack, component)
    newest = max(done)
    frames = [trace for trace in done_by(stack, "sensor_fusion") if began_ns <= trace <= newest]
    assert len(frames) >= 5
    assert Counter({trace: len(done.get(trace, ())) for trace in frames}) == Counter(dict.fromkeys(frames, 1))
    outputs = Counter(message.trace_id for _, message in list(stack.probe.objects["detection3d"]))
    heard = [trace for trace in frames if trace <= max(outputs)]
    assert Counter({trace: outputs[trace] for trace in heard}) == Counter(dict.fromkeys(heard, 1))


@pytest.mark.parametrize(
    ("component", "source", "target"),
    [
        ("camera_net", "cpu0", "cpu1"),
        ("detection3d_head", "cpu1", "cpu0"),
        ("camera_net", "cpu1", "cpu0"),
        ("detection3d_head", "cpu0", "cpu1"),
    ],
    ids=["inner there", "head there", "inner back", "head back"],
)
def test_a_move_loses_no_frame(stack: RunningStack, component: str, source: str, target: str) -> None:
    began_ns, began = time.time_ns(), time.monotonic()
    pids = dict(stack.supervisor.pids)
    outcome = move(stack, component, target)

    assert_nothing_lost(stack, component, began_ns)
    for trace, devices in done_by(stack, component).items():
        if trace >= began_ns:
            assert devices == [target if trace >= outcome.switch_frame else source]
    assert dict(stack.supervisor.pids) == pids
    states = {command.state for at, command in list(stack.probe.commands) if at >= began}
    assert states == {ControlCommand.STATE_DRIVING}
    assert stack.judge() == []


@pytest.mark.parametrize(
    ("component", "device", "words"),
    [
        ("bev_fuser", "cpu0", "not among the deployment's movable components"),
        ("camera_net", "gpu0", "no device 'gpu0'"),
        ("camera_net", "cpu0", "on cpu0 already"),
    ],
)
def test_what_cannot_be_moved_is_refused(
    stack: RunningStack, component: str, device: str, words: str
) -> None:
    with pytest.raises(MoveRefusedError, match=words):
        move_component(component, device, PATIENCE_S)


def test_a_moved_component_comes_back_where_it_was_moved_to(stack: RunningStack) -> None:
    """The process it has gone to dies: started again, it has the component, and its old process has not."""
    move(stack, "camera_net", "cpu1")
    victim = stack.supervisor.pids["perception_cpu1"]
    assert victim is not None
    killed_ns = time.time_ns()
    os.kill(victim, signal.SIGKILL)

    def back() -> bool:
        return any(trace > killed_ns for trace in done_by(stack, "camera_net"))

    stack.probe.wait_for(back, PATIENCE_S, "camera_net to work again")
    stack.probe.wait_for_outputs(3, PATIENCE_S, since=time.monotonic())
    after = {trace: on for trace, on in done_by(stack, "camera_net").items() if trace > killed_ns}
    assert set(map(tuple, after.values())) == {("cpu1",)}
    began_ns = time.time_ns()
    move(stack, "camera_net", "cpu0")
    assert_nothing_lost(stack, "camera_net", began_ns)
