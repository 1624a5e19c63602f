"""What a run of the stack showed of every stage and path: read from its report or its record of timings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_core.bundle import SENSOR_FUSION, BundleSpec
from perception_core.configuration import ConfigurationError, nearest
from perception_core.platform.rolling import nearest_rank
from perception_core.platform.stage_report import CONTROL, Outcome

#: A stage or path that was seen less often than this is left out: its median says little.
MIN_COUNT = 5
SUMMARY_FILE = "summary.json"
_MS_PER_NS = 1e-6


@dataclass(frozen=True)
class StageObservation:
    """Medians of one stage on one device, milliseconds.

    Attributes:
        stage: Component, sensor_fusion or control.
        device: Device of the deployment, empty for stages that have none.
        run_ms: From its start to its output: the time its device is taken.
        count: Frames.
    """

    stage: str
    device: str
    run_ms: float
    count: int


@dataclass(frozen=True)
class RunObservations:
    """One run.

    Attributes:
        source: Where it was read from; for messages.
        bundle: Name of the bundle that ran; empty where the record does not say.
        stages: Medians by stage.
        path_ms: Median latency by path `modality->task`.
        left_out: What was seen too seldom to count, in words.
    """

    source: Path
    bundle: str
    stages: Mapping[str, StageObservation]
    path_ms: Mapping[str, float]
    left_out: tuple[str, ...] = field(default=())

    def placement(self) -> dict[str, str]:
        """Returns the placement it ran with, as far as it was seen."""
        return {name: seen.device for name, seen in self.stages.items() if seen.device}


def read_run(path: Path) -> RunObservations:
    """Reads a run: a report's folder, its summary.json, or the latency monitor's record of timings (JSON
    lines).

    Raises:
        ConfigurationError: It is none of these, or holds too few frames.
    """
    file = path / SUMMARY_FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: cannot be read: {error}") from error
    try:
        whole: Any = json.loads(text)
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, dict) and "stages" in whole and "paths" in whole:
        observed = _from_summary(file, whole)
    elif '"trace_id"' in text[:4096]:
        observed = _from_timings(file, text.splitlines())
    else:
        raise ConfigurationError(
            f"{file}: neither a run's {SUMMARY_FILE} nor a record of stage timings (parameter record of the "
            "latency monitor)"
        )
    if not any(seen.device for seen in observed.stages.values()):
        raise ConfigurationError(
            f"{file}: no component was seen in {MIN_COUNT} frames or more; let the stack run longer"
        )
    return observed


def is_run(path: Path) -> bool:
    """Says whether a path looks like a run rather than like a table of measurements."""
    if path.is_dir():
        return (path / SUMMARY_FILE).is_file()
    try:
        with path.open(encoding="utf-8") as file:
            head = file.read(4096)
    except (OSError, UnicodeDecodeError):
        return False
    return '"trace_id"' in head or '"recording"' in head


def check_same_bundle(observed: RunObservations, spec: BundleSpec) -> None:
    """Refuses a run of another bundle.

    Raises:
        ConfigurationError: Its name differs, or it has stages that are no components of the bundle.
    """
    if observed.bundle and observed.bundle != spec.name:
        raise ConfigurationError(
            f"{observed.source}: was measured with bundle '{observed.bundle}', not with '{spec.name}'; "
            "measure this bundle, or give --bundle"
        )
    for stage in observed.stages:
        if stage not in (*spec.components, SENSOR_FUSION, CONTROL):
            raise ConfigurationError(
                f"{observed.source}: stage '{stage}' is no component of bundle '{spec.name}': it was "
                "measured with another bundle" + nearest(stage, spec.components)
            )


def _from_summary(file: Path, summary: Mapping[str, Any]) -> RunObservations:
    stages, paths, left_out = {}, {}, []
    try:
        for name, figures in summary["stages"].items():
            count, run_ms = int(figures["count"]), figures["run_p50_ms"]
            if run_ms is None or count < MIN_COUNT:
                left_out.append(f"stage {name}: {count} frames")
                continue
            stages[name] = StageObservation(name, figures["device"], float(run_ms), count)
        for name, figures in summary["paths"].items():
            if figures["p50_ms"] is not None and int(figures["count"]) >= MIN_COUNT:
                paths[name] = float(figures["p50_ms"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"{file}: not a summary this version knows: {type(error).__name__}: {error}"
        ) from error
    return RunObservations(file, str(summary.get("bundle", "")), stages, paths, tuple(left_out))


def _from_timings(file: Path, lines: Iterable[str]) -> RunObservations:
    runs_ms: dict[str, list[float]] = {}
    devices: dict[str, str] = {}
    paths_ms: dict[str, list[float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            timing = json.loads(line)
            if timing["outcome"] != Outcome.DONE.name:
                continue
            stage, done_ns = timing["stage"], int(timing["done_ns"])
            if devices.setdefault(stage, timing["device"]) != timing["device"]:
                # Re-placed while it ran: what came before belongs to another placement.
                devices[stage] = timing["device"]
                runs_ms[stage] = []
            runs_ms.setdefault(stage, []).append((done_ns - int(timing["started_ns"])) * _MS_PER_NS)
            if timing["task"]:
                for modality, valid, received_ns, age_ns in timing["sensors"]:
                    if valid:
                        latency_ms = (done_ns - received_ns + age_ns) * _MS_PER_NS
                        paths_ms.setdefault(f"{modality}->{timing['task']}", []).append(latency_ms)
        except json.JSONDecodeError:
            continue  # the last line of a run that was cut off
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{file}:{number}: not a stage timing: {type(error).__name__}: {error}"
            ) from error
    stages = {
        name: StageObservation(name, devices[name], nearest_rank(sorted(values), 0.5), len(values))
        for name, values in runs_ms.items()
        if len(values) >= MIN_COUNT
    }
    left_out = tuple(
        f"stage {name}: {len(values)} frames" for name, values in runs_ms.items() if name not in stages
    )
    medians = {
        name: nearest_rank(sorted(values), 0.5)
        for name, values in paths_ms.items()
        if len(values) >= MIN_COUNT
    }
    return RunObservations(file, "", stages, medians, left_out)
