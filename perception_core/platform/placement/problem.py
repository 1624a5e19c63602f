"""The placement problem of Eq. 2 and 3 in whole microseconds, so that every solver reckons the same to the
last digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

#: How Power(d) of Eq. 3 is read. `active`: the power a device draws at work, summed over all devices that
#: have a component. `average`: its mean over a frame's period, so that a device that works less counts less.
PowerReading = Literal["active", "average"]

_US_PER_MS = 1000


@dataclass(frozen=True)
class ProblemDevice:
    """A device d.

    Attributes:
        name: Its name.
        idle_w, busy_w: Watts.
        memory_mb: Limit, None: none.
        concurrency: Stages at work at once.
        contention: See PlatformDevice.
        host: The computer that the stack's own nodes run on: never waited for, always on, no part of ω.
    """

    name: str
    idle_w: float = 0.0
    busy_w: float = 0.0
    memory_mb: float | None = None
    concurrency: int = 1
    contention: float = 0.0
    host: bool = False

    def slowdown(self, at_work: int) -> float:
        """Factor on a stage's time while `at_work` run on the device."""
        return 1.0 + self.contention * max(0, at_work - 1)

    @property
    def work_per_time(self) -> float:
        """Work done in a unit of time when all places are taken."""
        return self.concurrency / self.slowdown(self.concurrency)


@dataclass(frozen=True)
class ProblemEdge:
    """Tensors that go from one stage to another.

    Attributes:
        producer, consumer: Indices of stages; producer < consumer.
        transfer_us: By the producer's and the consumer's device; None: they cannot reach each other.
    """

    producer: int
    consumer: int
    transfer_us: tuple[tuple[int | None, ...], ...]


@dataclass(frozen=True)
class ProblemPath:
    """A path xp(m, t).

    Attributes:
        name: `modality->task`.
        output: Index of the stage that ends it.
        offset_us: Added to that stage's end.
        budget_us: Limit, None: none.
    """

    name: str
    output: int
    offset_us: int = 0
    budget_us: int | None = None


@dataclass(frozen=True)
class PlacementProblem:
    """Stages in topological order, devices, and what to minimize.

    A placement is a tuple with a device's index for every stage: the ω of Eq. 2 in short.

    Attributes:
        stages: Names.
        devices: The devices.
        duration_us: By stage and device; None: the stage cannot run there.
        edges: The tensors.
        paths: What Eq. 3 takes the maximum of.
        memory_mb: What each stage holds.
        gamma2: γ2 of Eq. 3: milliseconds that a watt is worth.
        power: How Power(d) is read.
        period_us: Time between frames; None: frames do not overlap. With a period, a device must not get
            more work for a frame than it can do in it. The reading `average` needs one.
    """

    stages: tuple[str, ...]
    devices: tuple[ProblemDevice, ...]
    duration_us: tuple[tuple[int | None, ...], ...]
    edges: tuple[ProblemEdge, ...]
    paths: tuple[ProblemPath, ...]
    memory_mb: tuple[float, ...]
    gamma2: float = 0.0
    power: PowerReading = "active"
    period_us: int | None = None

    def __post_init__(self) -> None:
        count = len(self.stages)
        if not (len(self.duration_us) == len(self.memory_mb) == count):
            raise ValueError(f"{count} stages need as many durations and memories")
        if any(len(row) != len(self.devices) for row in self.duration_us):
            raise ValueError("every stage needs a duration for each device")
        if any(not 0 <= edge.producer < edge.consumer < count for edge in self.edges):
            raise ValueError("edges run from a stage to a later one")
        if self.power == "average" and self.period_us is None:
            raise ValueError("average power needs the time between frames")

    @cached_property
    def memory_kb(self) -> tuple[int, ...]:
        """What each stage holds, in kilobytes rounded up."""
        return tuple(math.ceil(round(megabytes * 1000, 3)) for megabytes in self.memory_mb)

    @cached_property
    def memory_limit_kb(self) -> tuple[int | None, ...]:
        """Each device's memory in kilobytes, None: not limited."""
        return tuple(
            None if d.memory_mb is None else math.floor(round(d.memory_mb * 1000, 3)) for d in self.devices
        )

    @cached_property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """The devices each stage can be on, its own memory reckoned."""
        return tuple(
            tuple(
                d
                for d, limit_kb in enumerate(self.memory_limit_kb)
                if row[d] is not None and (limit_kb is None or self.memory_kb[i] <= limit_kb)
            )
            for i, row in enumerate(self.duration_us)
        )

    @cached_property
    def free_stages(self) -> tuple[int, ...]:
        """Stages that have a choice."""
        return tuple(i for i, devices in enumerate(self.choices) if len(devices) > 1)

    @cached_property
    def feeding(self) -> tuple[tuple[ProblemEdge, ...], ...]:
        """Edges into each stage."""
        return tuple(
            tuple(edge for edge in self.edges if edge.consumer == i) for i in range(len(self.stages))
        )

    @cached_property
    def fed(self) -> tuple[tuple[ProblemEdge, ...], ...]:
        """Edges out of each stage."""
        return tuple(
            tuple(edge for edge in self.edges if edge.producer == i) for i in range(len(self.stages))
        )

    @cached_property
    def active_cost_us(self) -> tuple[int, ...]:
        """γ2 · power of a device that is active whatever it does, as microseconds of the objective."""
        return tuple(
            0
            if device.host
            else round(
                self.gamma2 * _US_PER_MS * (device.busy_w if self.power == "active" else device.idle_w)
            )
            for device in self.devices
        )

    @cached_property
    def work_cost_us(self) -> tuple[tuple[int, ...], ...]:
        """γ2 · power that a stage's work adds on a device, as microseconds of the objective."""
        return tuple(
            tuple(self._work_cost_us(row[d], device) for d, device in enumerate(self.devices))
            for row in self.duration_us
        )

    def _work_cost_us(self, duration_us: int | None, device: ProblemDevice) -> int:
        if self.power == "active" or device.host or duration_us is None or self.period_us is None:
            return 0
        share = duration_us / (device.work_per_time * self.period_us)
        return round(self.gamma2 * _US_PER_MS * (device.busy_w - device.idle_w) * share)

    @cached_property
    def work_limit_us(self) -> tuple[int | None, ...]:
        """Work each device can do in a period; None: no limit."""
        return tuple(
            None if self.period_us is None or device.host else int(self.period_us * device.work_per_time)
            for device in self.devices
        )

    @cached_property
    def serial(self) -> bool:
        """Every device but the host works on one stage at a time."""
        return all(device.concurrency == 1 for device in self.devices if not device.host)

    def power_w(self, placement: Sequence[int]) -> float:
        """Σ Power(d) of Eq. 3 in watts."""
        total = 0.0
        for d, device in enumerate(self.devices):
            if device.host or d not in placement:
                continue
            if self.power == "active" or self.period_us is None:
                total += device.busy_w
            else:
                work_us = sum(self.duration_us[i][d] or 0 for i, p in enumerate(placement) if p == d)
                share = work_us / (device.work_per_time * self.period_us)
                total += device.idle_w + (device.busy_w - device.idle_w) * share
        return total

    def energy_j(self, placement: Sequence[int], frame_us: int) -> float:
        """Joules a frame of `frame_us`: idle power of active devices throughout, the rest while at work."""
        total = 0.0
        for d, device in enumerate(self.devices):
            if device.host or d not in placement:
                continue
            work_us = sum(self.duration_us[i][d] or 0 for i, p in enumerate(placement) if p == d)
            busy_us = work_us / device.work_per_time
            total += (
                device.idle_w * max(frame_us, busy_us) + (device.busy_w - device.idle_w) * busy_us
            ) * 1e-6
        return total

    def by_name(self, placement: Sequence[int]) -> dict[str, str]:
        """Returns stage to device; stages of the host left out."""
        return {
            stage: self.devices[d].name
            for stage, d in zip(self.stages, placement, strict=True)
            if not self.devices[d].host
        }

    def indices(self, placement: dict[str, str]) -> tuple[int, ...]:
        """Returns the indices of a placement by name; stages it does not name are where they can only be.

        Raises:
            KeyError: A stage has a choice and is not named, or a device is unknown.
        """
        number = {device.name: d for d, device in enumerate(self.devices)}
        host = next((d for d, device in enumerate(self.devices) if device.host), None)
        found = []
        for i, stage in enumerate(self.stages):
            if stage in placement:
                found.append(number[placement[stage]])
            elif host is not None and host in self.choices[i]:
                found.append(host)
            elif len(self.choices[i]) == 1:
                found.append(self.choices[i][0])
            else:
                raise KeyError(stage)
        return tuple(found)
