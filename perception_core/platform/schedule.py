"""The schedule that a placement leads to: list scheduling as the stack's device workers do it.

A stage is ready when all it needs has arrived; a device takes what is ready in the order of frames, then of
readiness, then of the graph, and never interrupts a stage. That is what `device_worker` does on the vehicle.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from perception_core.platform.placement.problem import PlacementProblem

_ROUNDING = 1e-6


class UnreachableError(ValueError):
    """A placement puts two stages on devices between which nothing can pass."""


@dataclass(frozen=True)
class Slot:
    """One stage's work on one frame; microseconds since the first frame's sensor data.

    Attributes:
        stage: Index of the stage.
        device: Index of the device.
        frame: Number of the frame, from 0.
        ready_us: All its inputs are on the device.
        start_us, end_us: Its work.
    """

    stage: int
    device: int
    frame: int
    ready_us: int
    start_us: int
    end_us: int


def end_times(problem: PlacementProblem, placement: Sequence[int]) -> list[int]:
    """Returns when each stage ends in the schedule of one frame, microseconds.

    Raises:
        UnreachableError: Nothing can pass between two devices of the placement.
    """
    if problem.serial:
        return [slot.end_us for slot in _serial_schedule(problem, placement)]
    return [slot.end_us for slot in simulate(problem, placement)]


def _serial_schedule(problem: PlacementProblem, placement: Sequence[int]) -> list[Slot]:
    """Schedules one frame where each device does one thing at a time.

    Stages are taken in the order they become ready, which never goes back, so a device's queue is simply the
    order in which they are taken.
    """
    count = len(problem.stages)
    waiting = [len(edges) for edges in problem.feeding]
    ready = [0] * count
    free_at = [0] * len(problem.devices)
    slots: list[Slot | None] = [None] * count
    queue = [(0, i) for i in range(count) if not waiting[i]]
    heapq.heapify(queue)
    while queue:
        ready_us, i = heapq.heappop(queue)
        d = placement[i]
        duration = problem.duration_us[i][d]
        if duration is None:
            raise UnreachableError(f"{problem.stages[i]} cannot run on {problem.devices[d].name}")
        host = problem.devices[d].host
        start = ready_us if host else max(ready_us, free_at[d])
        end = start + duration
        free_at[d] = end
        slots[i] = Slot(i, d, 0, ready_us, start, end)
        for edge in problem.fed[i]:
            j = edge.consumer
            transfer = edge.transfer_us[d][placement[j]]
            if transfer is None:
                raise _unreachable(problem, i, j, placement)
            ready[j] = max(ready[j], end + transfer)
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(queue, (ready[j], j))
    return [slot for slot in slots if slot is not None]


def _unreachable(problem: PlacementProblem, i: int, j: int, placement: Sequence[int]) -> UnreachableError:
    source, target = (problem.devices[placement[k]].name for k in (i, j))
    return UnreachableError(
        f"no link from {source} to {target}, which {problem.stages[i]} and {problem.stages[j]} would need"
    )


@dataclass
class _Work:
    """A stage at work in the simulation."""

    key: tuple[int, int, int]  # frame, ready, stage
    start_us: int
    remaining_us: float


@dataclass
class _DeviceState:
    """A device in the simulation."""

    places: int
    at_work: list[_Work] = field(default_factory=list)
    queue: list[tuple[int, int, int]] = field(default_factory=list)
    since_us: int = 0


class _Simulation:
    """Events in order of time; devices share themselves among what is at work."""

    def __init__(
        self, problem: PlacementProblem, placement: Sequence[int], frames: int, period_us: int
    ) -> None:
        self.problem, self.placement = problem, tuple(placement)
        self.waiting = {(f, i): len(edges) for f in range(frames) for i, edges in enumerate(problem.feeding)}
        self.ready_us: dict[tuple[int, int], int] = {}
        self.arrivals: list[tuple[int, int, int]] = []  # time, frame, stage
        self.slots: list[Slot] = []
        self.states = [
            _DeviceState(len(problem.stages) * frames if device.host else device.concurrency)
            for device in problem.devices
        ]
        for frame in range(frames):
            for i, edges in enumerate(problem.feeding):
                if not edges:
                    heapq.heappush(self.arrivals, (frame * period_us, frame, i))

    def run(self) -> list[Slot]:
        while True:
            ends = [end for d, _ in enumerate(self.states) if (end := self._next_end(d)) is not None]
            times = [*ends, self.arrivals[0][0]] if self.arrivals else ends
            if not times:
                break
            self._advance(min(times))
        return sorted(self.slots, key=lambda slot: (slot.frame, slot.stage))

    def _next_end(self, d: int) -> int | None:
        state = self.states[d]
        if not state.at_work:
            return None
        slowdown = self.problem.devices[d].slowdown(len(state.at_work))
        least = min(work.remaining_us for work in state.at_work)
        return state.since_us + max(0, math.ceil(least * slowdown - _ROUNDING))

    def _advance(self, now_us: int) -> None:
        for d, state in enumerate(self.states):
            slowdown = self.problem.devices[d].slowdown(len(state.at_work))
            for work in state.at_work:
                work.remaining_us -= (now_us - state.since_us) / slowdown
            state.since_us = now_us
            for work in [work for work in state.at_work if work.remaining_us <= _ROUNDING]:
                state.at_work.remove(work)
                self._end(work, d, now_us)
        self._arrive(now_us)
        while (first := self._first_in_line()) is not None:
            self._start(first, now_us)
            self._arrive(now_us)

    def _arrive(self, now_us: int) -> None:
        while self.arrivals and self.arrivals[0][0] <= now_us:
            ready_us, frame, i = heapq.heappop(self.arrivals)
            heapq.heappush(self.states[self.placement[i]].queue, (frame, ready_us, i))

    def _first_in_line(self) -> int | None:
        """Returns the device whose next stage is first of all that can start now."""
        able = [
            (state.queue[0][1], state.queue[0][2], d)
            for d, state in enumerate(self.states)
            if state.queue and len(state.at_work) < state.places
        ]
        return min(able)[2] if able else None

    def _start(self, d: int, now_us: int) -> None:
        state = self.states[d]
        key = heapq.heappop(state.queue)
        duration = self.problem.duration_us[key[2]][d]
        if duration is None:
            raise UnreachableError(
                f"{self.problem.stages[key[2]]} cannot run on {self.problem.devices[d].name}"
            )
        work = _Work(key, now_us, float(duration))
        if duration == 0:
            self._end(work, d, now_us)
        else:
            state.at_work.append(work)

    def _end(self, work: _Work, d: int, now_us: int) -> None:
        frame, ready_us, i = work.key
        self.slots.append(Slot(i, d, frame, ready_us, work.start_us, now_us))
        for edge in self.problem.fed[i]:
            j = edge.consumer
            transfer = edge.transfer_us[d][self.placement[j]]
            if transfer is None:
                raise _unreachable(self.problem, i, j, self.placement)
            known = self.ready_us.get((frame, j), 0)
            self.ready_us[frame, j] = max(known, now_us + transfer)
            self.waiting[frame, j] -= 1
            if not self.waiting[frame, j]:
                heapq.heappush(self.arrivals, (self.ready_us[frame, j], frame, j))


def simulate(
    problem: PlacementProblem, placement: Sequence[int], frames: int = 1, period_us: int | None = None
) -> list[Slot]:
    """Schedules frames that follow each other, devices shared among the stages at work on them.

    Args:
        problem: Stages, devices, durations.
        placement: Device of each stage.
        frames: Number of frames.
        period_us: Time between them; None: the problem's, and 0 without one.

    Returns:
        Every stage of every frame, by frame and stage.

    Raises:
        UnreachableError: Nothing can pass between two devices of the placement.
    """
    period = period_us if period_us is not None else (problem.period_us or 0)
    return _Simulation(problem, placement, frames, period).run()


@dataclass(frozen=True)
class Schedule:
    """What a placement leads to, for one frame alone; milliseconds, watts, joules.

    Attributes:
        slots: Every stage's work in the order of the graph, microseconds.
        path_ms: Latency of every path `modality->task`.
        critical_path: Stages of the chain that the longest path waits for, first stage first.
        slack_ms: By stage: how much longer it could take before the longest path grows.
        load: By device with work: share of the longest path's time, or of the period, it is at work.
        power_w: Σ Power(d) of Eq. 3.
        energy_j: Energy a frame, idle power of active devices included.
        loss_hw: Loss_hw of Eq. 3: longest path in ms + γ2 · power.
        max_rate_hz: Frames a second that the busiest device can do when frames overlap; infinite where no
            device but the host has work.
    """

    slots: tuple[Slot, ...]
    path_ms: dict[str, float]
    critical_path: tuple[str, ...]
    slack_ms: dict[str, float]
    load: dict[str, float]
    power_w: float
    energy_j: float
    loss_hw: float
    max_rate_hz: float

    @property
    def longest_path_ms(self) -> float:
        """The maximum of Lat_xp(m,t) of Eq. 3."""
        return max(self.path_ms.values(), default=0.0)


def schedule(problem: PlacementProblem, placement: Sequence[int]) -> Schedule:
    """Schedules one frame and reckons all that Eq. 3 and a reader want to know of it.

    Raises:
        UnreachableError: Nothing can pass between two devices of the placement.
    """
    slots = _serial_schedule(problem, placement) if problem.serial else simulate(problem, placement)
    path_us = {path.name: slots[path.output].end_us + path.offset_us for path in problem.paths}
    longest_us = max(path_us.values(), default=0)
    work_us = {
        d: sum(problem.duration_us[i][d] or 0 for i, placed in enumerate(placement) if placed == d)
        for d, device in enumerate(problem.devices)
        if d in placement and not device.host
    }
    span_us = problem.period_us or longest_us
    busiest_us = max((work / problem.devices[d].work_per_time for d, work in work_us.items()), default=0.0)
    power_w = problem.power_w(placement)
    return Schedule(
        slots=tuple(slots),
        path_ms={name: value / 1000 for name, value in path_us.items()},
        critical_path=tuple(problem.stages[i] for i in _critical_path(problem, slots)),
        slack_ms={problem.stages[i]: slack / 1000 for i, slack in enumerate(slack_us(problem, slots))},
        load={
            problem.devices[d].name: work / (problem.devices[d].work_per_time * span_us) if span_us else 0.0
            for d, work in work_us.items()
        },
        power_w=power_w,
        energy_j=problem.energy_j(placement, span_us),
        loss_hw=longest_us / 1000 + problem.gamma2 * power_w,
        max_rate_hz=1e6 / busiest_us if busiest_us else math.inf,
    )


def slack_us(problem: PlacementProblem, slots: Sequence[Slot]) -> list[int]:
    """Returns how much later each stage could end before the longest path grows, the order on every device
    kept.

    A stage that no path depends on could take until the longest path's end.
    """
    longest = max((slots[path.output].end_us + path.offset_us for path in problem.paths), default=0)
    latest = [longest] * len(slots)
    for path in problem.paths:
        latest[path.output] = min(latest[path.output], longest - path.offset_us)
    followers = _device_followers(problem, slots)
    for i in sorted(range(len(slots)), key=lambda k: (slots[k].end_us, slots[k].start_us, k), reverse=True):
        for edge in problem.fed[i]:
            j = edge.consumer
            transfer = edge.transfer_us[slots[i].device][slots[j].device] or 0
            latest[i] = min(latest[i], latest[j] - (slots[j].end_us - slots[j].start_us) - transfer)
        for j in followers[i]:
            latest[i] = min(latest[i], latest[j] - (slots[j].end_us - slots[j].start_us))
    return [latest[i] - slots[i].end_us for i in range(len(slots))]


def _device_followers(problem: PlacementProblem, slots: Sequence[Slot]) -> list[list[int]]:
    """Returns the stages that may have to wait for a stage's device."""
    followers: list[list[int]] = [[] for _ in slots]
    for d, device in enumerate(problem.devices):
        if device.host:
            continue
        here = sorted(
            (slot for slot in slots if slot.device == d), key=lambda s: (s.start_us, s.end_us, s.stage)
        )
        for position, slot in enumerate(here):
            after = [other for other in here[position + 1 :] if other.start_us >= slot.end_us]
            followers[slot.stage] = [other.stage for other in after]
    return followers


def _critical_path(problem: PlacementProblem, slots: Sequence[Slot]) -> list[int]:
    """Walks back from the end of the longest path over what each stage waited for last."""
    if not problem.paths:
        return []
    longest = max(problem.paths, key=lambda path: slots[path.output].end_us + path.offset_us)
    chain = [longest.output]
    while True:
        slot = slots[chain[-1]]
        before: list[tuple[int, int]] = []
        if slot.start_us > slot.ready_us:
            before = [
                (other.end_us, other.stage)
                for other in slots
                if other.device == slot.device and other.end_us <= slot.start_us and other.stage not in chain
            ]
        if not before:
            before = [
                (
                    slots[edge.producer].end_us
                    + (edge.transfer_us[slots[edge.producer].device][slot.device] or 0),
                    edge.producer,
                )
                for edge in problem.feeding[slot.stage]
            ]
        if not before:
            return chain[::-1]
        chain.append(max(before)[1])
