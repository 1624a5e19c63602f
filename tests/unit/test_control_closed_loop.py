"""The controller drives a simple vehicle: it stops in time, whatever happens to what it sees."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from control_fixtures import RANGES, STRAIGHT, TASK, Inspector, make_controller
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.control.controller import Command
from perception_core.control.inbox import DetectionOutput, EgoMotion, LatencyFigures, ReferenceLine
from perception_core.control.path import FloatArray
from perception_core.control.safety_envelope import DrivingState
from perception_core.control.sight_distance import Footprint
from perception_core.platform.stage_report import SensorShare
from perception_core.rig import VehicleLimits

STEP_S = 0.01
TICK_S = 0.05


@dataclass
class World:
    """A straight road, a vehicle with dead time in its actuators, sensors and a late perception.

    Attributes:
        obstacle_x: Near edge of a standing obstacle, seen once it is within `sees_m` of the ego origin.
        line: Reference path in the ego frame for a place on the road.
        latency_s: Of the perception at a time.
        period_s: Between sensor frames.
        alive: Whether the sensor is at a time.
        perceives: Whether perception delivers frames stamped at a time.
        monitored: Whether the latency monitor is alive at a time.
    """

    obstacle_x: float = 1e9
    sees_m: float = 50.0
    latency_s: Callable[[float], float] = lambda t: 0.2
    period_s: float = 0.1
    alive: Callable[[float], bool] = lambda t: True
    perceives: Callable[[float], bool] = lambda t: True
    monitored: Callable[[float], bool] = lambda t: True
    speed: float = 0.0
    line: Callable[[float], FloatArray] = lambda x: STRAIGHT
    vehicle: VehicleLimits = field(default_factory=VehicleLimits)

    def __post_init__(self) -> None:
        self.controller = make_controller(self.vehicle)
        self.inspector = Inspector(self.vehicle)
        self.x = self.time = 0.0
        self.commands: list[tuple[float, Command]] = []
        self.speeds: list[tuple[float, float]] = []
        self._actuators: deque[tuple[float, float]] = deque()
        self._acceleration = 0.0
        self._on_the_way: list[tuple[float, DetectionOutput]] = []
        self._p99 = 0.0
        self._steps = self._trace = 0

    @property
    def gap(self) -> float:
        """Front bumper to obstacle."""
        return self.obstacle_x - self.x - self.vehicle.front_overhang_m

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self._step()

    def _step(self) -> None:
        self._steps += 1
        self.time = now = self._steps * STEP_S
        if self._steps % round(self.period_s / STEP_S) == 0 and self.perceives(now):
            self._sense(now)
        for due, output in [item for item in self._on_the_way if item[0] <= now]:
            self._on_the_way.remove((due, output))
            self.controller.accept_detections(
                DetectionOutput(
                    output.task,
                    output.trace_id,
                    now,
                    now - output.received_s,
                    output.sensors,
                    output.footprints,
                )
            )
            self._p99 = max(self._p99 * 0.999, now - output.received_s)
        if self._steps % 10 == 0 and self.monitored(now):
            self.controller.accept_latency(LatencyFigures(now, {("lidar", TASK): self._p99}))
        if self._steps % 2 == 0:
            self.controller.accept_motion(EgoMotion(now, self.speed, 0.0))
            self.controller.accept_reference(ReferenceLine(now, self.line(self.x)))
        if self._steps % round(TICK_S / STEP_S) == 0:
            if not self.controller.machine.engaged:
                self.controller.engage(now)
            command = self.controller.tick(now)
            if command.state != DrivingState.DISENGAGED:
                self.inspector.inspect(now, command)
                self.commands.append((now, command))
                self._actuators.append((now + self.vehicle.actuation_delay_s, command.acceleration))
        while self._actuators and self._actuators[0][0] <= now:
            self._acceleration = self._actuators.popleft()[1]
        self.speed = max(0.0, self.speed + self._acceleration * STEP_S)
        self.x += self.speed * STEP_S
        self.speeds.append((now, self.speed))

    def _sense(self, now: float) -> None:
        self._trace += 1
        distance = self.obstacle_x - self.x
        seen = (Footprint(distance + 2.0, 0.0, 4.0, 2.0, 0.0),) if 0.0 < distance <= self.sees_m else ()
        stamp_ns = round(now * 1e9)
        sensors = tuple(
            SensorShare(name, name == "lidar" and self.alive(now), stamp_ns, 0) for name in RANGES
        )
        # received_s carries the stamp until the output arrives
        output = DetectionOutput(TASK, self._trace, now, None, sensors, seen if self.alive(now) else ())
        self._on_the_way.append((now + self.latency_s(now), output))


def test_accelerates_to_what_the_law_allows_and_not_beyond() -> None:
    world = World()
    world.run(25.0)
    limit = world.commands[-1][1].speed_limit
    assert 0.85 * limit < world.speed <= limit
    late = World(latency_s=lambda t: 0.8)
    late.run(25.0)
    assert late.commands[-1][1].speed_limit < limit - 0.8
    assert late.speed <= late.commands[-1][1].speed_limit


def test_drives_smoothly_at_its_limit() -> None:
    world = World()
    world.run(30.0)
    accelerations = [command.acceleration for _, command in world.commands[-200:]]
    assert max(accelerations) - min(accelerations) < 0.3


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    st.floats(60.0, 150.0), st.sampled_from([0.05, 0.1, 0.2, 0.3]), st.floats(0.02, 0.9), st.floats(0.0, 0.15)
)
def test_stops_before_an_obstacle_that_comes_into_sight(
    obstacle_x: float, period_s: float, latency_s: float, jitter_s: float
) -> None:
    world = World(
        obstacle_x=obstacle_x, period_s=period_s, latency_s=lambda t: latency_s + jitter_s * ((t * 7.3) % 1.0)
    )
    world.run(32.0)
    assert world.speed == 0.0
    assert 1.0 < world.gap < 4.0
    # The comfortable deceleration was reckoned with: the reserve up to the full one is not needed.
    assert min(command.acceleration for _, command in world.commands) > -3.0


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.floats(3.0, 14.0), st.floats(0.05, 0.6))
def test_perception_that_dies_stops_the_vehicle_within_what_was_last_seen(
    dies_at: float, latency_s: float
) -> None:
    """The last frame showed the road free to the trusted range: no further may the vehicle come."""
    world = World(latency_s=lambda t: latency_s, perceives=lambda t: t <= dies_at)
    world.run(dies_at)
    last_stamp_x = world.x
    free_until = last_stamp_x + RANGES["lidar"]
    world.run(10.0)
    assert world.speed == 0.0
    assert world.commands[-1][1].state == DrivingState.FULL_STOP
    assert world.x + world.vehicle.front_overhang_m <= free_until


def test_perception_that_dies_before_an_obstacle_in_sight() -> None:
    world = World(obstacle_x=130.0, perceives=lambda t: t < 13.0)
    world.run(30.0)
    assert world.speed == 0.0
    assert world.gap > 1.0


@pytest.mark.parametrize("fault", ["perceives", "monitored"])
def test_stops_and_drives_again(fault: str) -> None:
    world = World(**{fault: lambda t: not 12.0 < t < 22.0})
    world.run(22.0)
    assert world.speed == 0.0
    assert world.commands[-1][1].state == DrivingState.FULL_STOP
    world.run(0.9)
    assert world.commands[-1][1].state == DrivingState.FULL_STOP
    world.run(8.0)
    assert world.commands[-1][1].state == DrivingState.DRIVING
    assert world.speed > 3.0


def test_masked_sensor_stops_the_vehicle() -> None:
    world = World(alive=lambda t: t < 12.0)
    world.run(12.0)
    assert world.speed > 5.0
    world.run(6.0)
    assert world.speed == 0.0


def test_stack_that_becomes_slow_slows_the_vehicle_and_no_more() -> None:
    world = World(latency_s=lambda t: 0.15 if t < 15.0 else 0.9)
    world.run(15.0)
    fast = world.speed
    world.run(1.5)
    assert world.commands[-1][1].speed_limit < fast - 0.8
    world.run(10.0)
    assert 3.0 < world.speed < fast - 0.8
    assert world.commands[-1][1].state == DrivingState.DRIVING


def test_vehicle_that_is_too_fast_already_brakes() -> None:
    world = World(speed=20.0)
    world.run(1.5)
    assert any(command.acceleration < -4.0 for _, command in world.commands)
    world.run(12.0)
    assert world.speed <= world.commands[-1][1].speed_limit


def test_returns_to_its_lane() -> None:
    """Lateral: the steering points to the path and keeps its limits (the inspector looks)."""
    world = World(line=lambda x: STRAIGHT + np.array([0.0, 1.5]))
    world.run(3.0)
    assert world.commands[-1][1].steering_angle > 0.01
    world = World(line=lambda x: STRAIGHT - np.array([0.0, 1.5]))
    world.run(3.0)
    assert world.commands[-1][1].steering_angle < -0.01


def test_end_of_the_path_is_a_stop() -> None:
    def to_80(x: float) -> FloatArray:
        return np.array([[-5.0, 0.0], [0.0, 0.0], [max(80.0 - x, 0.1), 0.0]])

    world = World(line=to_80)
    world.run(30.0)
    assert world.speed == 0.0
    assert 70.0 < world.x + world.vehicle.front_overhang_m <= 80.0
