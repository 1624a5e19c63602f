"""predicted latency of every path (measured table + schedule model) ─ vs ─ measured p50, by placement.

    mmmt profile's table ┐
    one placement's run  ┴► refit ─► schedule model ─► path latencies │ replay ─► stack ─► p50 of each path

What predicts knows the components' latencies measured one by one and runs of the deployment's own placement,
as `mmmt plan --measured` does; it has seen none of the placements it is judged by. Runs of all placements
take turns, and each figure is the median of its placement's runs. Milliseconds; `mape` is the mean of
|predicted - measured| / measured over all paths of all placements, as a fraction; `mape_table_only` is the
same without the run. `best_predicted_rank` is the place, from 1, that the placement predicted to be best has
in the measured order of longest paths, `best_predicted_excess` by what fraction it is slower than the one
measured best, and `best_predicted_within_spread` whether that lies within the spread of the best one's runs.
"""

from __future__ import annotations

import itertools
import logging
import random
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks._stack import recording_and_rig, replay_overrides, running

if TYPE_CHECKING:
    from perception_core.deployment import ResolvedDeployment
    from perception_core.platform.component_latency import ComponentLatency
    from perception_core.platform.run_observations import RunObservations

NAME = "prediction"
_ENUMERATED = 4096

_log = logging.getLogger(__name__)
Placement = dict[str, str]


def run(
    deployment: Annotated[str, typer.Option(help="A name in hw_configs/ or a file.")] = "cpu-2core",
    recording: Annotated[
        Path | None, typer.Option(help="Recording to play; default: the generated demo drive.")
    ] = None,
    rig: Annotated[str | None, typer.Option(help="Rig of the recording; default: that of its kind.")] = None,
    placements: Annotated[int, typer.Option(help="Placements judged.", min=2)] = 6,
    runs: Annotated[int, typer.Option(help="Runs of each placement, taking turns.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Seconds of each run.", min=5.0)] = 30.0,
    rate: Annotated[
        float, typer.Option(help="Speed of the replay; slow enough that frames do not queue.", min=0.01)
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the order of the runs.")] = 0,
) -> dict[str, Any]:
    """Profiles the components, then runs the placements in turn."""
    from perception_core.deployment import load_deployment
    from perception_core.platform.component_timing import TimingOptions, measure_deployment

    path, rig = recording_and_rig(recording, rig)
    overrides = replay_overrides(path, rig, rate)
    resolved = load_deployment(deployment, overrides)
    options = TimingOptions(cameras=len(resolved.rig.cameras), every_backend=False)
    table = measure_deployment(resolved.deployment, resolved.bundle, options, lambda text: _log.info(text))
    own = dict(resolved.deployment.placement)
    measured: dict[int, list[RunObservations]] = {}
    with tempfile.TemporaryDirectory(prefix="mmmt_prediction_") as folder:
        first = _observe(deployment, overrides, own, seconds, Path(folder) / "first.jsonl")
        judged = _choose(resolved, _Model(resolved, table, first), placements)
        generator = random.Random(seed)
        for turn in range(runs):
            order = list(range(-1, len(judged)))
            generator.shuffle(order)
            for number in order:
                placement = own if number < 0 else judged[number]
                _log.info("run %d of %d: %s", turn + 1, runs, placement)
                file = Path(folder) / f"{turn}_{number}.jsonl"
                measured.setdefault(number, []).append(
                    _observe(deployment, overrides, placement, seconds, file)
                )
    model = _Model(resolved, table, _merged(measured.pop(-1)))
    uncorrected = _Model(resolved, table, None)
    rows = [
        _row(placement, model.path_ms(placement), uncorrected.path_ms(placement), measured[number])
        for number, placement in enumerate(judged)
    ]
    return {
        "deployment": resolved.deployment.name,
        "bundle": resolved.bundle.spec.name,
        "own_placement": own,
        "runs_each": runs,
        "placements": rows,
        "mape": _mape(rows, "predicted_ms"),
        "mape_table_only": _mape(rows, "table_only_ms"),
        **best_predicted(rows),
    }


class _Model:
    """Predicts as `mmmt plan --measured TABLE --measured RUN` does."""

    def __init__(
        self, resolved: ResolvedDeployment, table: ComponentLatency, observed: RunObservations | None
    ) -> None:
        from dataclasses import replace

        from perception_core.platform.component_latency import FirstKnownLatency
        from perception_core.platform.component_work import work_of_bundle
        from perception_core.platform.devices import platform_of
        from perception_core.platform.placement.build import build_problem
        from perception_core.platform.refit import (
            RefittedLatency,
            alike_devices,
            host_times,
            measured_by_device,
            path_offsets,
        )
        from perception_core.platform.task_graph import task_graph

        deployment, spec = resolved.deployment, resolved.bundle.spec
        runs = [] if observed is None else [observed]
        known = FirstKnownLatency([table])
        latency = RefittedLatency(known, measured_by_device(runs), alike_devices(deployment.devices))
        host = host_times(runs)
        platform = platform_of(deployment)
        graph = task_graph(spec, resolved.rig, work_of_bundle(resolved.bundle, resolved.rig))
        self._problem = build_problem(graph, platform, latency, host=host)
        if observed is not None:
            host = replace(host, path_offset_ms=path_offsets(self._problem, observed))
            self._problem = build_problem(graph, platform, latency, host=host)

    def path_ms(self, placement: Placement) -> dict[str, float]:
        """Returns the predicted latency of every path."""
        from perception_core.platform.schedule import schedule

        return schedule(self._problem, self._problem.indices(placement)).path_ms


def _choose(resolved: ResolvedDeployment, model: _Model, count: int) -> list[Placement]:
    """Returns the placements predicted best and worst and some evenly between; not the deployment's own."""
    from perception_core.configuration import ConfigurationError
    from perception_core.platform.refit import alike_devices

    deployment = resolved.deployment
    components, devices = list(resolved.bundle.spec.components), list(deployment.devices)
    alike = alike_devices(deployment.devices)
    same_make = all(len(others) == len(devices) - 1 for others in alike.values())

    def canonical(placement: Placement) -> tuple[Any, ...]:
        """Placements that differ only in what devices of one make are called are one."""
        names = [placement[component] for component in components]
        if not same_make:
            return tuple(names)
        numbers: dict[str, int] = {}
        return tuple(numbers.setdefault(name, len(numbers)) for name in names)

    if len(devices) ** len(components) > _ENUMERATED:
        raise ConfigurationError(
            f"deployment '{deployment.name}' has more than {_ENUMERATED} placements; take one with fewer "
            "devices"
        )
    different = {canonical(dict(deployment.placement)): dict(deployment.placement)}
    for names in itertools.product(devices, repeat=len(components)):
        placement = dict(zip(components, names, strict=True))
        different.setdefault(canonical(placement), placement)
    others = list(different.values())[1:]
    if len(others) < count:
        raise ConfigurationError(
            f"deployment '{deployment.name}' has only {len(others)} placements beside its own, {count} were "
            "asked for"
        )
    others.sort(key=lambda placement: max(model.path_ms(placement).values()))
    return [others[rank] for rank in spaced(len(others), count)]


def spaced(length: int, count: int) -> list[int]:
    """Returns `count` different indices of a list, first and last among them, evenly between."""
    return [round(number * (length - 1) / (count - 1)) for number in range(count)]


def _observe(
    deployment: str, overrides: list[str], placement: Placement, seconds: float, record: Path
) -> RunObservations:
    from perception_core.platform.run_observations import read_run

    given = [
        *overrides,
        *(f"placement.{component}:={device}" for component, device in placement.items()),
        f"parameters.latency_monitor.record_to:={record}",
    ]
    with running(deployment, given) as (_, supervisor):
        supervisor.wait(seconds)
    return read_run(record)


def _merged(runs: list[RunObservations]) -> RunObservations:
    """Medians over several runs of one placement."""
    from dataclasses import replace

    stages = {
        name: replace(
            seen, run_ms=statistics.median(run.stages[name].run_ms for run in runs if name in run.stages)
        )
        for name, seen in runs[0].stages.items()
    }
    return replace(runs[0], stages=stages, path_ms=_medians(runs))


def _medians(runs: list[RunObservations]) -> dict[str, float]:
    paths = dict.fromkeys(path for run in runs for path in run.path_ms)
    return {
        path: statistics.median(run.path_ms[path] for run in runs if path in run.path_ms) for path in paths
    }


def _row(
    placement: Placement,
    predicted_ms: dict[str, float],
    table_only_ms: dict[str, float],
    runs: list[RunObservations],
) -> dict[str, Any]:
    """One placement's account; paths that no run saw often enough are left out."""
    measured_ms = _medians(runs)
    paths = [path for path in predicted_ms if path in measured_ms]
    if not paths:
        raise RuntimeError(f"no path was seen with {placement}; let the runs last longer (--seconds)")
    longest = [max(run.path_ms[path] for path in paths if path in run.path_ms) for run in runs]
    return {
        "placement": placement,
        "predicted_ms": {path: predicted_ms[path] for path in paths},
        "table_only_ms": {path: table_only_ms[path] for path in paths},
        "measured_ms": {path: measured_ms[path] for path in paths},
        "not_seen": [path for path in predicted_ms if path not in measured_ms],
        "longest_predicted_ms": max(predicted_ms[path] for path in paths),
        "longest_measured_ms": statistics.median(longest),
        "longest_of_runs_ms": sorted(longest),
    }


def _mape(rows: list[dict[str, Any]], which: str) -> float:
    return statistics.fmean(
        abs(row[which][path] - measured) / measured
        for row in rows
        for path, measured in row["measured_ms"].items()
    )


def best_predicted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Says how the placement that was predicted best turned out."""
    chosen = min(rows, key=lambda row: row["longest_predicted_ms"])
    best = min(rows, key=lambda row: row["longest_measured_ms"])
    chosen_ms, best_ms = chosen["longest_measured_ms"], best["longest_measured_ms"]
    return {
        "best_predicted_rank": 1 + sum(row["longest_measured_ms"] < chosen_ms for row in rows),
        "best_predicted_excess": chosen_ms / best_ms - 1.0,
        "best_predicted_within_spread": chosen_ms <= best["longest_of_runs_ms"][-1],
    }
