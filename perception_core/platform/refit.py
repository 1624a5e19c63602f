"""Corrects what is believed of components' latencies by what runs of the stack showed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from perception_core.bundle import SENSOR_FUSION
from perception_core.deployment import Device
from perception_core.platform.component_latency import ComponentLatency
from perception_core.platform.placement.build import HostTimes
from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.run_observations import RunObservations
from perception_core.platform.schedule import end_times
from perception_core.platform.stage_report import CONTROL

#: How much a correction is held back, in observations: one device explains what its components have in common
#: before each component is taken to be slow or fast everywhere.
_DEVICE_HOLD, _COMPONENT_HOLD = 0.1, 1.0
_ROUNDS = 60


class RefittedLatency:
    """Latencies of runs where there are any, elsewhere those of a model, corrected.

    Where both are known, log(measured / model) is split into what belongs to the component and what to the
    device (least squares, held back towards none); the two correct the model everywhere else. A component
    seen only on a device of the same make as another takes as long there.
    """

    def __init__(
        self,
        base: ComponentLatency | None,
        measured_ms: Mapping[tuple[str, str], float],
        alike: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Fits the corrections.

        Args:
            base: What was believed before, None: nothing.
            measured_ms: Medians by (component, device).
            alike: By device, the devices of the same make.
        """
        self.base = base
        self.measured_ms = dict(measured_ms)
        self._alike = dict(alike or {})
        self.component_factor: dict[str, float] = {}
        self.device_factor: dict[str, float] = {}
        self._fit()

    def _fit(self) -> None:
        ratios = {
            (component, device): math.log(measured / believed)
            for (component, device), measured in self.measured_ms.items()
            if measured > 0 and (believed := self._believed(component, device)) is not None and believed > 0
        }
        of_component = dict.fromkeys((component for component, _ in ratios), 0.0)
        of_device = dict.fromkeys((device for _, device in ratios), 0.0)
        for _ in range(_ROUNDS):
            for device in of_device:
                rest = [ratio - of_component[c] for (c, d), ratio in ratios.items() if d == device]
                of_device[device] = sum(rest) / (len(rest) + _DEVICE_HOLD)
            for component in of_component:
                rest = [ratio - of_device[d] for (c, d), ratio in ratios.items() if c == component]
                of_component[component] = sum(rest) / (len(rest) + _COMPONENT_HOLD)
        self.component_factor = {name: math.exp(value) for name, value in of_component.items()}
        self.device_factor = {name: math.exp(value) for name, value in of_device.items()}

    def _believed(self, component: str, device: str) -> float | None:
        return None if self.base is None else self.base.latency_ms(component, device)

    def latency_ms(self, component: str, device: str) -> float | None:
        """See ComponentLatency."""
        measured = self.measured_ms.get((component, device))
        if measured is not None:
            return measured
        same_make = [
            value
            for other in self._alike.get(device, ())
            if (value := self.measured_ms.get((component, other))) is not None
        ]
        if same_make:
            return math.exp(sum(math.log(max(value, 1e-6)) for value in same_make) / len(same_make))
        believed = self._believed(component, device)
        if believed is None:
            return None
        return believed * self.component_factor.get(component, 1.0) * self.device_factor.get(device, 1.0)


def measured_by_device(runs: Iterable[RunObservations]) -> dict[tuple[str, str], float]:
    """Returns the mean of the runs' medians by (component, device), runs weighed by their frames."""
    sums: dict[tuple[str, str], tuple[float, int]] = {}
    for run in runs:
        for seen in run.stages.values():
            if seen.device:
                total, count = sums.get((seen.stage, seen.device), (0.0, 0))
                sums[seen.stage, seen.device] = (total + seen.run_ms * seen.count, count + seen.count)
    return {key: total / count for key, (total, count) in sums.items()}


def alike_devices(devices: Mapping[str, Device]) -> dict[str, tuple[str, ...]]:
    """Returns, for each device, the others of its kind, number of cores, backend and precision on the
    same host.
    """

    def make(device: Device) -> tuple[object, ...]:
        return (
            device.kind,
            len(device.cores),
            device.backend,
            device.precision,
            device.host,
            device.kind == "cpu" or device.index,
        )

    return {
        name: tuple(other for other in devices if other != name and make(devices[other]) == make(device))
        for name, device in devices.items()
    }


def host_times(runs: Sequence[RunObservations]) -> HostTimes:
    """Returns what the stack's own stages took."""
    found = {}
    for stage in (SENSOR_FUSION, CONTROL):
        seen = [run.stages[stage] for run in runs if stage in run.stages]
        if seen:
            found[stage] = sum(one.run_ms * one.count for one in seen) / sum(one.count for one in seen)
    return HostTimes(stage_ms=found)


def path_offsets(problem: PlacementProblem, run: RunObservations) -> dict[str, float]:
    """Returns by how many milliseconds each path's measured median lies above what the schedule of the run's
    own placement says: age of the sensor's data, announcements, executors.

    Paths that were not seen get the mean of their task's others, and else of all.

    Args:
        problem: Without offsets, its latencies those of the run.
        run: The run; every component must have been seen.

    Raises:
        KeyError: A component was not seen in the run.
    """
    ends = end_times(problem, problem.indices(run.placement()))
    seen = {
        path.name: run.path_ms[path.name] - (ends[path.output] + path.offset_us) / 1000
        for path in problem.paths
        if path.name in run.path_ms
    }
    offsets = {}
    for path in problem.paths:
        task = path.name.partition("->")[2]
        of_task = [value for name, value in seen.items() if name.partition("->")[2] == task]
        rest = of_task or list(seen.values())
        offsets[path.name] = seen.get(path.name, sum(rest) / len(rest) if rest else 0.0)
    return offsets


class CorrectedLatency:
    """A model of one network, times the factors by which it missed another one that was measured."""

    def __init__(self, model: ComponentLatency, correction: RefittedLatency) -> None:
        """Takes the model and what measurements of the other network showed."""
        self._model, self._correction = model, correction

    def latency_ms(self, component: str, device: str) -> float | None:
        """See ComponentLatency."""
        modelled = self._model.latency_ms(component, device)
        if modelled is None:
            return None
        of_component = self._correction.component_factor.get(component, 1.0)
        return modelled * of_component * self._correction.device_factor.get(device, 1.0)
