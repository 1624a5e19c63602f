"""Random placement problems of the shape perception stacks have, to compare solvers on."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from perception_core.platform.placement.problem import (
    PlacementProblem,
    PowerReading,
    ProblemDevice,
    ProblemEdge,
    ProblemPath,
)
from perception_core.platform.schedule import end_times


@dataclass(frozen=True)
class _DeviceKind:
    """Typical device: speed relative to a CPU core, watts, overhead in microseconds, share of components it
    takes.
    """

    name: str
    speed: tuple[float, float]
    busy_w: tuple[float, float]
    overhead_us: int
    takes: float


_KINDS = (
    _DeviceKind("cpu", (0.7, 2.0), (5.0, 15.0), 200, 1.0),
    _DeviceKind("gpu", (6.0, 20.0), (25.0, 70.0), 500, 1.0),
    _DeviceKind("dla", (3.0, 10.0), (4.0, 10.0), 700, 0.7),
    _DeviceKind("fpga", (1.5, 6.0), (5.0, 12.0), 600, 0.7),
)
_EASY_BUDGET, _HARD_BUDGET = 1.1, 2.5


def random_problem(
    seed: int, stages: int | None = None, devices: int | None = None, power: PowerReading | None = None
) -> PlacementProblem:
    """Makes a problem: modality nets, fusers and task heads on unlike devices.

    A placement that keeps to memory and budgets always exists: the limits are drawn around one.

    Args:
        seed: The same gives the same problem.
        stages: Components, 4 to 12; None: drawn.
        devices: Devices, 2 to 5; None: drawn.
        power: How Power(d) is read; None: drawn.
    """
    chance = random.Random(seed)
    stages = stages or chance.randint(4, 12)
    count = devices or chance.randint(2, 5)
    edges = _random_graph(chance, stages)
    kinds = [_KINDS[0], *(chance.choice(_KINDS) for _ in range(count - 1))]
    duration_us = _random_durations(chance, stages, kinds)
    outputs = [i for i in range(stages) if all(producer != i for producer, _ in edges)]
    memory_mb = tuple(round(chance.uniform(2.0, 80.0), 1) for _ in range(stages))
    drawn: PowerReading = chance.choice(("active", "average"))  # drawn in any case: a seed gives one problem
    reading = power or drawn
    witness = tuple(
        chance.choice([d for d in range(count) if duration_us[i][d] is not None]) for i in range(stages)
    )
    problem_devices = []
    for d, kind in enumerate(kinds):
        busy_w = round(chance.uniform(*kind.busy_w), 1)
        held = sum(memory_mb[i] for i in range(stages) if witness[i] == d)
        problem_devices.append(
            ProblemDevice(
                name=f"{kind.name}{d}",
                idle_w=round(busy_w * chance.uniform(0.05, 0.2), 1),
                busy_w=busy_w,
                memory_mb=round(max(90.0, held * chance.uniform(1.02, 1.5)), 1)
                if chance.random() < 0.5
                else None,
            )
        )
    slowest = sum(max(us for us in row if us is not None) for row in duration_us)
    problem = PlacementProblem(
        stages=tuple(f"component_{i}" for i in range(stages)),
        devices=tuple(problem_devices),
        duration_us=tuple(duration_us),
        edges=tuple(ProblemEdge(p, c, _random_transfer(chance, count)) for p, c in edges),
        paths=tuple(ProblemPath(f"modality->task_{i}", i) for i in outputs),
        memory_mb=memory_mb,
        gamma2=round(10 ** chance.uniform(-1.5, 0.5), 3),
        power=reading,
        period_us=2 * slowest if reading == "average" else None,
    )
    return _with_budgets(chance, problem, witness)


def _random_graph(chance: random.Random, stages: int) -> list[tuple[int, int]]:
    """1 to 3 nets without inputs, then stages that take from 1 to 3 earlier ones, most from late ones."""
    nets = min(stages - 1, chance.randint(1, 3))
    edges = []
    for i in range(nets, stages):
        wanted = min(i, 1 if chance.random() < 0.6 else chance.randint(2, 3))
        weights = [1.0 + 2.0 * k for k in range(i)]
        feeders: set[int] = set()
        while len(feeders) < wanted:
            feeders.add(chance.choices(range(i), weights)[0])
        edges += [(feeder, i) for feeder in sorted(feeders)]
    return edges


def _random_durations(
    chance: random.Random, stages: int, kinds: list[_DeviceKind]
) -> list[tuple[int | None, ...]]:
    speeds = [chance.uniform(*kind.speed) for kind in kinds]
    rows = []
    for _ in range(stages):
        work_us = 10 ** chance.uniform(3.3, 5.0)
        row: list[int | None] = []
        for d, kind in enumerate(kinds):
            # How well a component suits a device varies more than the devices' speeds tell.
            suits = chance.uniform(0.5, 1.5)
            fits = d == 0 or chance.random() < kind.takes
            row.append(round(kind.overhead_us + work_us / (speeds[d] * suits)) if fits else None)
        rows.append(tuple(row))
    return rows


def _random_transfer(chance: random.Random, devices: int) -> tuple[tuple[int, ...], ...]:
    size_bytes = 10 ** chance.uniform(4.0, 7.0)
    rows = []
    for d in range(devices):
        row = []
        for e in range(devices):
            gigabytes_per_s = chance.uniform(1.0, 25.0)
            row.append(0 if d == e else round(chance.uniform(15, 80) + size_bytes / gigabytes_per_s / 1e3))
        rows.append(tuple(row))
    return tuple(rows)


def _with_budgets(
    chance: random.Random, problem: PlacementProblem, witness: tuple[int, ...]
) -> PlacementProblem:
    """Gives some paths a budget that the witness keeps."""
    ends = end_times(problem, witness)
    paths = tuple(
        replace(path, budget_us=round(ends[path.output] * chance.uniform(_EASY_BUDGET, _HARD_BUDGET)))
        if chance.random() < 0.4
        else path
        for path in problem.paths
    )
    return replace(problem, paths=paths)
