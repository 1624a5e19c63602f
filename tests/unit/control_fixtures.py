"""A small vehicle and stand-ins for what reaches the controller, for the control tests."""

from __future__ import annotations

import math

import numpy as np

from perception_core.control.controller import Command, Controller, ControllerOptions
from perception_core.control.inbox import DetectionOutput, EgoMotion, LatencyFigures, ReferenceLine
from perception_core.control.judge import JudgedCommand, JudgeOptions, unsafe_reasons
from perception_core.control.sight_distance import Footprint
from perception_core.platform.stage_report import SensorShare
from perception_core.rig import VehicleLimits

TASK = "detection3d"
RANGES = {"lidar": 50.0, "camera_front": 40.0, "camera_back": 0.0}
STRAIGHT = np.stack([np.arange(0.0, 200.0, 2.0), np.zeros(100)], axis=1)


def make_controller(vehicle: VehicleLimits | None = None, **options: object) -> Controller:
    return Controller(vehicle or VehicleLimits(), RANGES, ControllerOptions(**options))


def detections(
    now_s: float,
    trace_id: int,
    latency_s: float = 0.2,
    alive: tuple[str, ...] = ("lidar",),
    footprints: tuple[Footprint, ...] = (),
    known_clock: bool = True,
) -> DetectionOutput:
    stamped_ns = round((now_s - latency_s) * 1e9)
    return DetectionOutput(
        task=TASK,
        trace_id=trace_id,
        received_s=now_s,
        latency_s=latency_s if known_clock else None,
        sensors=tuple(SensorShare(name, name in alive, stamped_ns, 0) for name in RANGES),
        footprints=footprints,
    )


def figures(now_s: float, latency_s: float) -> LatencyFigures:
    return LatencyFigures(now_s, {(name, TASK): latency_s for name in RANGES})


def feed(
    controller: Controller, now_s: float, trace_id: int, speed: float = 0.0, latency_s: float = 0.2
) -> None:
    """Everything a healthy stack sends, once."""
    assert controller.accept_detections(detections(now_s, trace_id, latency_s)) == ""
    controller.accept_latency(figures(now_s, latency_s))
    assert controller.accept_motion(EgoMotion(now_s, speed, 0.0)) == ""
    assert controller.accept_reference(ReferenceLine(now_s, STRAIGHT)) == ""


def judged(command: Command) -> JudgedCommand:
    return JudgedCommand(
        engaged=True,
        state=int(command.state),
        steering_angle=command.steering_angle,
        steering_rate=command.steering_rate,
        speed=command.speed,
        acceleration=command.acceleration,
        measured_speed=command.measured_speed,
        speed_limit=command.speed_limit,
        sight_distance=command.sight_distance,
        reaction_time=command.reaction_time,
        perception_age=command.perception_age,
    )


class Inspector:
    """Judges every command of a run as it comes."""

    def __init__(self, vehicle: VehicleLimits | None = None, options: JudgeOptions | None = None) -> None:
        self._vehicle = vehicle or VehicleLimits()
        self._options = options
        self._previous: tuple[float, JudgedCommand] | None = None
        self.commands = 0

    def inspect(self, now_s: float, command: Command, period_s: float = 0.05) -> None:
        current = judged(command)
        numbers = [value for value in vars(command).values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers)), command
        if self._previous is None:
            reasons = unsafe_reasons(None, current, period_s, self._vehicle, self._options)
        else:
            elapsed_s = now_s - self._previous[0]
            reasons = unsafe_reasons(self._previous[1], current, elapsed_s, self._vehicle, self._options)
        assert reasons == [], (now_s, command)
        self._previous = (now_s, current)
        self.commands += 1

    def pause(self) -> None:
        """The controller was disengaged: its next command is a first one."""
        self._previous = None
