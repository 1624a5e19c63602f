"""The exact reference: the placement problem for OR-tools' CP-SAT."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perception_core.configuration import ConfigurationError
from perception_core.platform.placement.greedy import GreedySolver
from perception_core.platform.placement.objective import PlacementObjective
from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.placement.solver import PlacementSolver

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel


@dataclass(frozen=True)
class ExactSettings:
    """Limits of the exact solver.

    Attributes:
        time_limit_s: For each of its two steps.
        workers: Threads of CP-SAT; None: as many as there are cores, at most 8.
    """

    time_limit_s: float = 60.0
    workers: int | None = None


class ExactSolver(PlacementSolver):
    """Finds a best placement and proves it, in two steps.

    1. *Any order*: each device may take its stages in whatever order is best. That is a relaxation of what
       the stack does, so its optimum is a lower bound; where the placement, scheduled as the stack does it,
       reaches the bound, it is proven.
    2. *In order of readiness*: else the device workers' order is made a constraint, and the model is exact.

    Where a device works on several stages at once, step 1 leaves their mutual slow-down out and step 2 does
    not exist: the bound holds, the placement may not be proven.

    """

    name = "exact"

    def __init__(self, settings: ExactSettings | None = None) -> None:
        self.settings = settings or ExactSettings()

    def _search(
        self, objective: PlacementObjective, seed: int, start: tuple[int, ...] | None
    ) -> tuple[tuple[int, ...], int | None, bool]:
        problem = objective.problem
        hint = GreedySolver().solve(problem, seed=seed, start=start).placement
        relaxed = _CpSatModel(problem, ordered=False).solve(self.settings, hint, seed)
        best = min([hint, *([relaxed.placement] if relaxed.placement else [])], key=objective.score)
        bound = relaxed.bound_us
        if relaxed.infeasible:
            # Nobody can keep to the constraints: the placement that breaks them least is all there is to say.
            return best, None, False
        if objective.score(best).feasible and bound is not None and objective.score(best).loss_us <= bound:
            return best, bound, True
        if not problem.serial:
            return best, bound, False
        ordered = _CpSatModel(problem, ordered=True).solve(self.settings, best, seed, bound)
        if ordered.placement is not None:
            best = min([best, ordered.placement], key=objective.score)
        if ordered.bound_us is not None:
            bound = ordered.bound_us if bound is None else max(bound, ordered.bound_us)
        feasible = objective.score(best).feasible
        return best, bound, feasible and bound is not None and objective.score(best).loss_us <= bound


@dataclass(frozen=True)
class _Answer:
    placement: tuple[int, ...] | None
    bound_us: int | None
    infeasible: bool


def _import_cp_model() -> Any:
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise ConfigurationError(
            "the exact placement solver needs the package ortools (pip install ortools==9.14.6206); "
            "or choose another: evolution, greedy"
        ) from error
    return cp_model


class _CpSatModel:
    """The problem as a CP-SAT model; times in microseconds."""

    def __init__(self, problem: PlacementProblem, *, ordered: bool) -> None:
        self.problem = problem
        cp_model = self._cp_model = _import_cp_model()
        self.model: CpModel = cp_model.CpModel()
        self.horizon = _horizon_us(problem)
        count = len(problem.stages)
        self.on = [
            {d: self.model.new_bool_var(f"on_{i}_{d}") for d in problem.choices[i]} for i in range(count)
        ]
        self.start = [self._time(f"start_{i}") for i in range(count)]
        self.end = [self._time(f"end_{i}") for i in range(count)]
        for i in range(count):
            self.model.add_exactly_one(list(self.on[i].values()))
            duration = sum((problem.duration_us[i][d] or 0) * on for d, on in self.on[i].items())
            self.model.add(self.end[i] == self.start[i] + duration)
        self._limits()
        self._devices()
        if ordered:
            self._order()
        else:
            self._arrivals()
        self._objective()

    def _time(self, name: str) -> Any:
        return self.model.new_int_var(0, self.horizon, name)

    def _limits(self) -> None:
        """Memory of the devices, and their work between two frames."""
        problem = self.problem
        for limits, needs in (
            (problem.memory_limit_kb, [[kb] * len(problem.devices) for kb in problem.memory_kb]),
            (problem.work_limit_us, [[us or 0 for us in row] for row in problem.duration_us]),
        ):
            for d, limit in enumerate(limits):
                if limit is not None:
                    used = sum(needs[i][d] * on[d] for i, on in enumerate(self.on) if d in on)
                    self.model.add(used <= limit)

    def _devices(self) -> None:
        """A device works on as many stages at once as it has places."""
        problem = self.problem
        for d, device in enumerate(problem.devices):
            if device.host:
                continue
            intervals = []
            for i, on in enumerate(self.on):
                duration = problem.duration_us[i][d]
                if d in on and duration:
                    interval = self.model.new_optional_interval_var(
                        self.start[i], duration, self.end[i], on[d], f"work_{i}_{d}"
                    )
                    intervals.append(interval)
            if device.concurrency == 1:
                self.model.add_no_overlap(intervals)
            else:
                self.model.add_cumulative(intervals, [1] * len(intervals), device.concurrency)

    def _pairs(self, edge_index: int) -> Any:
        """Yields (producer on, consumer on, transfer) for every pair of devices of an edge."""
        edge = self.problem.edges[edge_index]
        for d, on_d in self.on[edge.producer].items():
            for e, on_e in self.on[edge.consumer].items():
                yield on_d, on_e, edge.transfer_us[d][e]

    def _arrivals(self) -> None:
        """A stage starts when all it needs has arrived, or later."""
        for k, edge in enumerate(self.problem.edges):
            self.model.add(self.start[edge.consumer] >= self.end[edge.producer])
            for on_d, on_e, transfer in self._pairs(k):
                if transfer is None:
                    self.model.add_bool_or([on_d.negated(), on_e.negated()])
                elif transfer:
                    self.model.add(
                        self.start[edge.consumer] >= self.end[edge.producer] + transfer
                    ).only_enforce_if([on_d, on_e])

    def _order(self) -> None:
        """A device takes stages in the order of their readiness, and at once: as `schedule` does."""
        problem, model = self.problem, self.model
        count = len(problem.stages)
        transfers = [self._time(f"transfer_{k}") for k in range(len(problem.edges))]
        for k, transfer_var in enumerate(transfers):
            for on_d, on_e, transfer in self._pairs(k):
                if transfer is None:
                    model.add_bool_or([on_d.negated(), on_e.negated()])
                else:
                    model.add(transfer_var == transfer).only_enforce_if([on_d, on_e])
        ready = [self._time(f"ready_{i}") for i in range(count)]
        for i in range(count):
            arrived = [
                self.end[edge.producer] + transfers[k]
                for k, edge in enumerate(problem.edges)
                if edge.consumer == i
            ]
            model.add_max_equality(ready[i], [0, *arrived])
        waits: list[list[Any]] = [[ready[i]] for i in range(count)]
        before = _ancestors(problem)
        for j in range(count):
            for i in range(j):
                shared = [d for d in self.on[i] if d in self.on[j] and not problem.devices[d].host]
                if not shared:
                    continue
                together = self._together(i, j, shared)
                if i in before[j]:
                    continue  # its end is part of what j waits for already
                first = model.new_bool_var(f"first_{i}_{j}")
                model.add(ready[i] <= ready[j]).only_enforce_if(first)
                model.add(ready[i] >= ready[j] + 1).only_enforce_if(first.negated())
                waits[j].append(self._wait(i, [together, first], f"{i}_{j}"))
                waits[i].append(self._wait(j, [together, first.negated()], f"{j}_{i}"))
        for i in range(count):
            model.add_max_equality(self.start[i], waits[i])

    def _together(self, i: int, j: int, shared: Sequence[int]) -> Any:
        """Returns a literal that is true exactly where both stages are on one device."""
        both = []
        for d in shared:
            literal = self.model.new_bool_var(f"both_{i}_{j}_{d}")
            self.model.add_bool_and([self.on[i][d], self.on[j][d]]).only_enforce_if(literal)
            self.model.add_bool_or([literal, self.on[i][d].negated(), self.on[j][d].negated()])
            both.append(literal)
        together = self.model.new_bool_var(f"together_{i}_{j}")
        self.model.add_max_equality(together, both)
        return together

    def _wait(self, other: int, conditions: Sequence[Any], name: str) -> Any:
        """Returns a time that is the other stage's end where all conditions hold, else 0."""
        active = self.model.new_bool_var(f"waits_{name}")
        self.model.add_bool_and(conditions).only_enforce_if(active)
        self.model.add_bool_or([active, *(condition.negated() for condition in conditions)])
        wait = self._time(f"wait_{name}")
        self.model.add(wait == self.end[other]).only_enforce_if(active)
        self.model.add(wait == 0).only_enforce_if(active.negated())
        return wait

    def _objective(self) -> None:
        problem, model = self.problem, self.model
        latency = model.new_int_var(
            0, self.horizon + max((p.offset_us for p in problem.paths), default=0), "latency"
        )
        for path in problem.paths:
            model.add(latency >= self.end[path.output] + path.offset_us)
            if path.budget_us is not None:
                model.add(self.end[path.output] + path.offset_us <= path.budget_us)
        cost: Any = latency
        for d, active_cost in enumerate(problem.active_cost_us):
            users = [on[d] for on in self.on if d in on]
            if active_cost and users:
                active = model.new_bool_var(f"active_{d}")
                model.add_max_equality(active, users)
                cost = cost + active_cost * active
        for i, on in enumerate(self.on):
            for d, literal in on.items():
                if problem.work_cost_us[i][d]:
                    cost = cost + problem.work_cost_us[i][d] * literal
        model.minimize(cost)

    def solve(
        self, settings: ExactSettings, hint: Sequence[int], seed: int, bound_us: int | None = None
    ) -> _Answer:
        """Runs CP-SAT; a bound that is already known spares it work."""
        cp_model = self._cp_model
        for i, on in enumerate(self.on):
            for d, literal in on.items():
                self.model.add_hint(literal, hint[i] == d)
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = settings.time_limit_s
        solver.parameters.num_workers = settings.workers or min(8, len(os.sched_getaffinity(0)))
        solver.parameters.random_seed = seed
        status = solver.solve(self.model)
        if status == cp_model.INFEASIBLE:
            return _Answer(None, None, True)
        if status == cp_model.MODEL_INVALID:
            raise RuntimeError(f"CP-SAT refuses the model: {self.model.validate()}")
        told = solver.best_objective_bound
        bounds = [round(told)] if math.isfinite(told) else []
        bound = max([*bounds, *([] if bound_us is None else [bound_us])], default=None)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return _Answer(None, bound, False)
        placement = tuple(
            next(d for d, literal in on.items() if solver.boolean_value(literal)) for on in self.on
        )
        return _Answer(placement, bound, False)


def _horizon_us(problem: PlacementProblem) -> int:
    """Returns a time by which every reasonable schedule has ended: everything one after the other."""
    work = sum(
        max((duration for duration in row if duration is not None), default=0) for row in problem.duration_us
    )
    moved = sum(
        max((value for row in edge.transfer_us for value in row if value is not None), default=0)
        for edge in problem.edges
    )
    return work + moved + 1


def _ancestors(problem: PlacementProblem) -> list[set[int]]:
    """Returns everything each stage depends on."""
    found: list[set[int]] = []
    for edges in problem.feeding:
        found.append(set().union(*(found[edge.producer] | {edge.producer} for edge in edges)))
    return found
