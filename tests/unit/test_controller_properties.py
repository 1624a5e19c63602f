"""Whatever reaches the controller, the independent judge never finds an unsafe tick."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from control_fixtures import RANGES, TASK, Inspector, figures, make_controller
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_core.control.centre_line import DrivableGrid
from perception_core.control.inbox import (
    DetectionOutput,
    EgoMotion,
    LatencyFigures,
    LearnedProposal,
    MapOutput,
    ReferenceLine,
)
from perception_core.control.safety_envelope import DrivingState
from perception_core.control.sight_distance import Footprint
from perception_core.platform.stage_report import SensorShare

any_float = st.floats(width=32)
coordinate = st.one_of(st.floats(-60.0, 60.0), st.just(math.nan), st.just(math.inf))
footprints = st.lists(
    st.builds(
        Footprint, coordinate, st.floats(-30, 30), st.floats(0, 20), st.floats(0, 5), st.floats(-10, 10)
    ),
    max_size=3,
)
mostly_sane_footprints = st.lists(
    st.builds(
        Footprint, st.floats(-20, 80), st.floats(-6, 6), st.floats(0, 12), st.floats(0, 3), st.floats(-4, 4)
    ),
    max_size=4,
)
lines = st.sampled_from(
    [
        np.stack([np.arange(0.0, 150.0, 2.0), np.zeros(75)], axis=1),
        np.stack([np.arange(0.0, 150.0, 2.0), np.sin(np.arange(0.0, 150.0, 2.0) / 10.0) * 4.0], axis=1),
        np.array([[0.0, 0.0], [12.0, 0.5]]),
        np.array([[5.0, 30.0], [6.0, 30.0]]),
        np.array([[-30.0, 0.0], [-20.0, 0.0]]),
        np.zeros((3, 2)),
        np.array([[0.0, math.nan], [1.0, 1.0]]),
    ]
)


@dataclass(frozen=True)
class Phase:
    """Some ticks in which the inputs behave one way; None stands for silence."""

    ticks: int
    tick_s: float
    speed: float | None
    yaw_rate: float
    detection_every: int | None
    latency_s: float | None
    alive: tuple[str, ...]
    objects: list[Footprint]
    monitor: float | None
    line: np.ndarray | None
    drivable: bool
    proposal: tuple[float, float] | None
    command: str


phases = st.builds(
    Phase,
    ticks=st.integers(1, 40),
    tick_s=st.sampled_from([0.05, 0.05, 0.05, 0.01, 0.12, 0.0, 0.4]),
    speed=st.one_of(st.floats(0.0, 16.0), st.floats(0.0, 16.0), st.none(), any_float),
    yaw_rate=st.one_of(st.floats(-0.5, 0.5), any_float),
    detection_every=st.one_of(st.integers(1, 5), st.integers(1, 5), st.just(15), st.none()),
    latency_s=st.one_of(
        st.floats(0.0, 0.8), st.floats(0.0, 0.8), st.none(), st.floats(-1, 100), st.just(math.inf)
    ),
    alive=st.one_of(
        st.just(("lidar", "camera_front")), st.lists(st.sampled_from(sorted(RANGES)), unique=True).map(tuple)
    ),
    objects=st.one_of(st.just([]), mostly_sane_footprints, footprints),
    monitor=st.one_of(st.floats(0.0, 1.0), st.floats(0.0, 1.0), any_float, st.none()),
    line=st.one_of(lines, lines, st.none()),
    drivable=st.booleans(),
    proposal=st.one_of(st.none(), st.none(), st.tuples(any_float, any_float)),
    command=st.sampled_from(["engage", "engage", "engage", "nothing", "disengage", "override", "let go"]),
)


@settings(deadline=None, derandomize=True, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(phases, min_size=1, max_size=8))
def test_no_tick_is_unsafe(sequence: list[Phase]) -> None:
    controller, inspector = make_controller(), Inspector()
    now, tick, trace = 100.0, 0, 0
    grid = DrivableGrid(np.ones((20, 60), dtype=bool), -5.0, -5.0, 0.5)
    for phase in sequence:
        if phase.command == "disengage":
            controller.disengage("asked to")
        elif phase.command in ("override", "let go"):
            controller.override(phase.command == "override")
        for _ in range(phase.ticks):
            now += phase.tick_s
            tick += 1
            if phase.detection_every is not None and tick % phase.detection_every == 0:
                trace += 1
                stamped_ns = round((now - (min(phase.latency_s, 50.0) if phase.latency_s else 0.0)) * 1e9)
                sensors = tuple(SensorShare(name, name in phase.alive, stamped_ns, 0) for name in RANGES)
                controller.accept_detections(
                    DetectionOutput(TASK, trace, now, phase.latency_s, sensors, tuple(phase.objects))
                )
                if phase.drivable:
                    controller.accept_map(MapOutput(now, phase.latency_s, grid))
            if phase.speed is not None:
                controller.accept_motion(EgoMotion(now, phase.speed, phase.yaw_rate))
            if phase.monitor is not None and tick % 2 == 0:
                controller.accept_latency(figures(now, phase.monitor))
            if phase.line is not None:
                controller.accept_reference(ReferenceLine(now, phase.line))
            if phase.proposal is not None:
                controller.accept_proposal(LearnedProposal(now, None, *phase.proposal, np.zeros((0, 2))))
            if phase.command == "engage" and not controller.machine.engaged:
                controller.engage(now)
            command = controller.tick(now)
            if command.state == DrivingState.DISENGAGED:
                inspector.pause()
            else:
                inspector.inspect(now, command)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["lidar", "nobody"]), st.sampled_from([TASK, "other"])), any_float
    )
)
def test_any_figures_of_the_monitor_are_survived(worst: dict[tuple[str, str], float]) -> None:
    controller, inspector = make_controller(), Inspector()
    now = 0.0
    for trace in range(1, 40):
        now += 0.05
        sensors = (SensorShare("lidar", True, round((now - 0.1) * 1e9), 0),)
        controller.accept_detections(DetectionOutput(TASK, trace, now, 0.1, sensors, ()))
        controller.accept_motion(EgoMotion(now, 8.0, 0.0))
        controller.accept_reference(ReferenceLine(now, np.array([[0.0, 0.0], [100.0, 0.0]])))
        controller.accept_latency(LatencyFigures(now, worst))
        controller.engage(now)
        inspector.inspect(now, controller.tick(now))
    assert inspector.commands > 30


def test_the_property_test_reaches_every_state() -> None:
    """A guard against the property above becoming empty: a plain sequence goes through all states."""
    controller, seen = make_controller(), set()
    now, inspector = 0.0, Inspector()
    for tick in range(400):
        now += 0.05
        if tick % 2 == 0 and not 100 <= tick < 200:
            sensors = (SensorShare("lidar", True, round((now - 0.1) * 1e9), 0),)
            controller.accept_detections(DetectionOutput(TASK, tick + 1, now, 0.1, sensors, ()))
        controller.accept_motion(EgoMotion(now, 8.0, 0.0))
        controller.accept_reference(ReferenceLine(now, np.array([[0.0, 0.0], [100.0, 0.0]])))
        controller.accept_latency(figures(now, 0.2))
        controller.engage(now)
        command = controller.tick(now)
        seen.add(command.state)
        if command.state != DrivingState.DISENGAGED:
            inspector.inspect(now, command)
    assert seen >= {DrivingState.DRIVING, DrivingState.COMFORTABLE_STOP, DrivingState.FULL_STOP}
