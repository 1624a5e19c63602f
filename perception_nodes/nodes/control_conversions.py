"""Between ROS messages and the controller's plain types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmmt_msgs.msg import (
    ControlCommand,
    ControlProposal,
    DetectedObject,
    DetectedObjectArray,
    LatencyStatus,
    MapSegmentation,
    SensorStamp,
)

from perception_core.control.centre_line import DrivableGrid
from perception_core.control.controller import Command, ControllerOptions
from perception_core.control.inbox import (
    DetectionOutput,
    LatencyFigures,
    LearnedProposal,
    MapOutput,
    measured_latency_s,
)
from perception_core.control.judge import JudgedCommand
from perception_core.control.object_fusion import FusionObject, fuse_objects
from perception_core.control.safety_envelope import DrivingState
from perception_core.control.sight_distance import Footprint
from perception_core.platform.path_latency import SensorShare

NANOSECONDS = 1e-9


def yaw_of(quaternion: Any) -> float:
    """Returns the rotation about z of a geometry_msgs/Quaternion; the identity for one that is all zeros."""
    x, y, z, w = quaternion.x, quaternion.y, quaternion.z, quaternion.w
    if x == y == z == w == 0.0:
        return 0.0
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def sensor_shares(stamps: list[SensorStamp]) -> tuple[SensorShare, ...]:
    """Converts sensor stamps."""
    return tuple(SensorShare(s.modality, s.valid, s.received_ns, s.age_at_reception_ns) for s in stamps)


def detection_output(
    message: DetectedObjectArray,
    task: str,
    received_ns: int,
    score_threshold: float,
    modalities: frozenset[str] | None = None,
) -> DetectionOutput:
    """Converts the objects that count; one without a valid score counts.

    Args:
        message: The objects.
        task: The task.
        received_ns: Arrival, CLOCK_MONOTONIC of this host.
        score_threshold: Objects with a lower score do not count.
        modalities: Sensors the task rests on; others that the frame contains are not the output's. None: all.
    """
    footprints = []
    for item in message.objects:
        if item.score < score_threshold:
            continue
        footprints.append(footprint_of(item))
    stamps = [s for s in message.sensors if modalities is None or s.modality in modalities]
    sensors = sensor_shares(stamps)
    return DetectionOutput(
        task=task,
        trace_id=message.trace_id,
        received_s=received_ns * NANOSECONDS,
        latency_s=measured_latency_s(sensors, received_ns),
        sensors=sensors,
        footprints=tuple(footprints),
    )


def fused_message(
    messages: Mapping[str, DetectedObjectArray], options: ControllerOptions
) -> DetectedObjectArray:
    """Makes one list of what several tasks found in one frame (`perception_core.control.object_fusion`).

    Tasks are fused in the order of the options, the required ones first. What a later task sees is only taken
    for an earlier one's object while a measuring sensor is in the frame.

    Args:
        messages: By task, all of one frame; at least one.
        options: Order of tasks, tolerances, measuring sensors.
    """
    order = dict.fromkeys((*options.required_tasks, *options.detection_tasks))
    newest = [messages[task] for task in order if task in messages]
    originals: list[DetectedObject] = []
    fused: list[FusionObject] = []
    for message in newest:
        found = []
        for item in message.objects:
            label = str(len(originals))  # leads back to the message's object; fusion keeps labels
            originals.append(item)
            found.append(FusionObject(footprint_of(item), label, float(item.score), (message.task,)))
        measured = any(s.valid and s.modality in options.measuring_modalities for s in message.sensors)
        fused = fuse_objects(fused, found, options.fusion) if measured else [*fused, *found]
    first = newest[0]
    result = DetectedObjectArray(
        header=first.header, trace_id=first.trace_id, task="fused", sensors=first.sensors
    )
    for entry in fused:
        original = originals[int(entry.label)]
        result.objects.append(
            DetectedObject(
                label=original.label,
                score=entry.score,
                pose=original.pose,
                size=original.size,
                has_velocity=original.has_velocity,
                velocity=original.velocity,
            )
        )
    return result


def footprint_of(item: DetectedObject) -> Footprint:
    """Returns the ground rectangle of an object."""
    position = item.pose.position
    return Footprint(
        position.x, position.y, abs(item.size.x), abs(item.size.y), yaw_of(item.pose.orientation)
    )


def map_output(message: MapSegmentation, received_ns: int, layer: str, threshold: float) -> MapOutput:
    """Takes the drivable layer out of a map.

    Raises:
        ValueError: The layer is missing, the sizes do not agree or the grid is not aligned with the ego
            frame.
    """
    if layer not in message.layers:
        raise ValueError(f"map has no layer '{layer}', only {', '.join(message.layers) or 'none'}")
    height, width = message.info.height, message.info.width
    probability = np.frombuffer(bytes(message.probability), dtype=np.uint8)
    if probability.size != len(message.layers) * height * width or not probability.size:
        raise ValueError(
            f"map has {probability.size} values, not {len(message.layers)} layers of {height} x {width} cells"
        )
    origin, resolution = message.info.origin, float(message.info.resolution)
    if not (resolution > 0.0 and math.isfinite(origin.position.x) and math.isfinite(origin.position.y)):
        raise ValueError(
            f"map has resolution {resolution} and origin {origin.position.x}, {origin.position.y}"
        )
    if abs(yaw_of(origin.orientation)) > 1e-3:
        raise ValueError("map is turned against the ego frame")
    drivable = probability.reshape(len(message.layers), height, width)[list(message.layers).index(layer)]
    return MapOutput(
        received_s=received_ns * NANOSECONDS,
        latency_s=measured_latency_s(sensor_shares(message.sensors), received_ns),
        grid=DrivableGrid(drivable >= threshold * 255.0, origin.position.x, origin.position.y, resolution),
    )


def learned_proposal(message: ControlProposal, received_ns: int) -> LearnedProposal:
    """Converts a proposal."""
    return LearnedProposal(
        received_s=received_ns * NANOSECONDS,
        latency_s=measured_latency_s(sensor_shares(message.sensors), received_ns),
        steering_rad=message.steering_angle,
        speed_mps=message.speed,
        waypoints_n2=np.array([[p.x, p.y] for p in message.waypoints], dtype=np.float64).reshape(-1, 2),
    )


def latency_figures(message: LatencyStatus, received_ns: int) -> LatencyFigures:
    """Takes for each path the larger of p99 and newest latency: the p99 alone would notice a sudden
    slowness only after some frames.
    """
    worst: dict[tuple[str, str], float] = {}
    for path in message.paths:
        values = [value for value in (path.p99_ms, path.last_ms) if math.isfinite(value)]
        if values and path.count > 0:
            worst[(path.modality, path.task)] = max(values) * 1e-3
    return LatencyFigures(received_s=received_ns * NANOSECONDS, worst_s=worst)


def command_message(command: Command, sequence: int) -> ControlCommand:
    """Converts a command; the caller stamps it."""
    basis = command.basis
    return ControlCommand(
        trace_id=0 if basis is None else basis.trace_id,
        sequence=sequence,
        engaged=command.state != DrivingState.DISENGAGED,
        state=int(command.state),
        reason=command.reason,
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


def judged_command(message: ControlCommand) -> JudgedCommand:
    """Takes from a recorded ControlCommand what `perception_core.control.judge` looks at."""
    return JudgedCommand(
        engaged=message.engaged,
        state=message.state,
        steering_angle=message.steering_angle,
        steering_rate=message.steering_rate,
        speed=message.speed,
        acceleration=message.acceleration,
        measured_speed=message.measured_speed,
        speed_limit=message.speed_limit,
        sight_distance=message.sight_distance,
        reaction_time=message.reaction_time,
        perception_age=message.perception_age,
    )
