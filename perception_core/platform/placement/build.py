"""Turns a task graph on a platform into a placement problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perception_core.bundle import SENSOR_FUSION
from perception_core.configuration import ConfigurationError, StrictModel, nearest
from perception_core.platform.component_latency import ComponentLatency, FirstKnownLatency
from perception_core.platform.devices import Platform
from perception_core.platform.placement.problem import (
    PlacementProblem,
    PowerReading,
    ProblemDevice,
    ProblemEdge,
    ProblemPath,
)
from perception_core.platform.stage_report import CONTROL
from perception_core.platform.task_graph import CAMERA_PREPROCESSING, LIDAR_PREPROCESSING, TaskGraph

#: The computer that the stack's own nodes run on; no device of a deployment has a name like this.
HOST = "(host)"
#: Stages that the stack's own nodes do where no device is told to.
HOST_STAGES = (SENSOR_FUSION, LIDAR_PREPROCESSING, CAMERA_PREPROCESSING, CONTROL)
_US_PER_MS = 1000


class HardwareLoss(StrictModel):
    """How Loss_hw of Eq. 3 weighs.

    Attributes:
        gamma2: γ2: milliseconds that a watt is worth.
        power: How Power(d) is read.
        period_ms: Time between frames, None: frames do not overlap.
    """

    gamma2: float = 1.0
    power: PowerReading = "active"
    period_ms: float | None = None


@dataclass(frozen=True)
class HostTimes:
    """What the stack itself takes, beside the components.

    Attributes:
        stage_ms: Milliseconds of sensor pre-processing and control on the host, by stage.
        handover_ms: Time between a component's output and its consumer's beginning that neither link nor
            queue explains: announcements, executors.
        path_offset_ms: By path: age of the sensor's data, and what else measurements showed.
    """

    stage_ms: Mapping[str, float] = field(default_factory=dict)
    handover_ms: float = 0.0
    path_offset_ms: Mapping[str, float] = field(default_factory=dict)


def build_problem(
    graph: TaskGraph,
    platform: Platform,
    latency: ComponentLatency,
    loss: HardwareLoss | None = None,
    host: HostTimes | None = None,
    fixed: Mapping[str, str] | None = None,
) -> PlacementProblem:
    """Makes the problem of placing a graph's components on a platform's devices.

    Args:
        graph: Stages and paths.
        platform: Devices and links.
        latency: Tells each component's latency on each device; where it does not know, the component cannot
            be placed there.
        loss: Weights of the objective.
        host: What the stack itself takes.
        fixed: Components that stay where they are, with their device.

    Raises:
        ConfigurationError: A fixed component or its device does not exist.
    """
    loss, host, fixed = loss or HardwareLoss(), host or HostTimes(), fixed or {}
    _check_fixed(graph, platform, fixed)
    known = FirstKnownLatency([latency])
    names = [*platform.devices, HOST]
    stages = tuple(graph.stages)
    rows = []
    for stage in stages:
        allowed = [fixed[stage]] if stage in fixed else list(platform.devices)
        row = [
            _microseconds(known.latency_ms(stage, name))
            if name in allowed and platform.devices[name].takes(stage)
            else None
            for name in platform.devices
        ]
        on_host = stage in HOST_STAGES and stage not in fixed
        row.append(_microseconds(host.stage_ms.get(stage, 0.0)) if on_host else None)
        rows.append(tuple(row))
    number = {stage: i for i, stage in enumerate(stages)}
    return PlacementProblem(
        stages=stages,
        devices=(
            *(
                ProblemDevice(
                    name,
                    idle_w=device.idle_w,
                    busy_w=device.busy_w,
                    memory_mb=device.memory_mb,
                    concurrency=device.concurrency,
                    contention=device.contention,
                )
                for name, device in platform.devices.items()
            ),
            ProblemDevice(HOST, concurrency=len(stages), host=True),
        ),
        duration_us=tuple(rows),
        edges=tuple(
            ProblemEdge(
                number[producer], number[stage.name], _transfers(platform, names, size, host.handover_ms)
            )
            for stage in graph.stages.values()
            for producer, size in stage.feeds_from.items()
        ),
        paths=tuple(
            ProblemPath(
                path.name,
                number[path.output],
                _microseconds(path.offset_ms + host.path_offset_ms.get(path.name, 0.0)) or 0,
                _microseconds(path.budget_ms),
            )
            for path in graph.paths
        ),
        memory_mb=tuple(stage.memory_mb for stage in graph.stages.values()),
        gamma2=loss.gamma2,
        power=loss.power,
        period_us=_microseconds(loss.period_ms),
    )


def _check_fixed(graph: TaskGraph, platform: Platform, fixed: Mapping[str, str]) -> None:
    for stage, device in fixed.items():
        if stage not in graph.stages:
            raise ConfigurationError(
                f"no component '{stage}' to keep in place" + nearest(stage, graph.stages)
            )
        if device not in platform.devices:
            raise ConfigurationError(
                f"'{stage}' cannot be kept on '{device}': no such device" + nearest(device, platform.devices)
            )


def _microseconds(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * _US_PER_MS)


def _transfers(
    platform: Platform, names: list[str], size_bytes: int, handover_ms: float
) -> tuple[tuple[int | None, ...], ...]:
    """Transfer times by producer's and consumer's device; from and to the host only the handover counts,
    because its stages' times were taken with it.
    """
    handover_us = round(handover_ms * _US_PER_MS)
    rows = []
    for source in names:
        row: list[int | None] = []
        for target in names:
            if HOST in (source, target) or source == target:
                row.append(handover_us)
                continue
            link = platform.link(source, target)
            row.append(None if link is None else handover_us + round(link.transfer_us(size_bytes)))
        rows.append(tuple(row))
    return tuple(rows)
