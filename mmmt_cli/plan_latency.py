"""Where a plan's latencies come from: tables, runs, and a model for the rest."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_core.configuration import ConfigurationError, nearest
from perception_core.deployment import ResolvedDeployment
from perception_core.platform.component_latency import ComponentLatency, FirstKnownLatency, RooflineLatency
from perception_core.platform.component_work import work_of_bundle
from perception_core.platform.devices import Platform, list_presets, load_platform, platform_of
from perception_core.platform.refit import RefittedLatency, alike_devices, measured_by_device
from perception_core.platform.run_observations import RunObservations, check_same_bundle, is_run, read_run

_TABLE_MODULE = "perception_core.platform.measured_table"


@dataclass(frozen=True)
class Measurements:
    """What was measured.

    Attributes:
        tables: Tables of `mmmt profile`.
        runs: Runs of the stack.
    """

    tables: tuple[ComponentLatency, ...] = ()
    runs: tuple[RunObservations, ...] = ()

    @classmethod
    def read(cls, paths: Sequence[Path], resolved: ResolvedDeployment) -> Measurements:
        """Reads files of either kind.

        Raises:
            ConfigurationError: A file is of neither kind or of another bundle.
        """
        tables, runs = [], []
        for path in paths:
            if not path.exists():
                raise ConfigurationError(f"--measured {path}: no such file or folder")
            if is_run(path):
                run = read_run(path)
                check_same_bundle(run, resolved.bundle.spec)
                _check_devices(run, resolved)
                runs.append(run)
            else:
                tables.append(_read_table(path, resolved))
        return cls(tuple(tables), tuple(runs))


def _check_devices(run: RunObservations, resolved: ResolvedDeployment) -> None:
    devices = resolved.deployment.devices
    for component, device in run.placement().items():
        if device not in devices:
            raise ConfigurationError(
                f"{run.source}: {component} was measured on device '{device}', which deployment "
                f"'{resolved.deployment.name}' does not have" + nearest(device, devices)
            )


def _read_table(path: Path, resolved: ResolvedDeployment) -> ComponentLatency:
    """Reads a table of `mmmt profile`.

    Raises:
        ConfigurationError: It cannot be read, or is of another bundle.
    """
    try:
        module = importlib.import_module(_TABLE_MODULE)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--measured {path}: not a run of the stack, and tables of measurements cannot be read: {error}"
        ) from error
    return _DeploymentTable(module.MeasuredTable.load(path, resolved.bundle.spec), resolved)


class _DeploymentTable:
    """A table asked for the backends and precisions that this deployment gives its devices."""

    def __init__(self, table: Any, resolved: ResolvedDeployment) -> None:
        self._table = table
        self._devices = resolved.deployment.devices
        self._precisions = resolved.deployment.precision

    def latency_ms(self, component: str, device: str) -> float | None:
        """See ComponentLatency."""
        if device not in self._devices:
            return None
        backend = self._devices[device].backend
        precision = self._precisions.get(component, self._devices[device].precision)
        try:
            return float(self._table.measurement(component, device, backend, precision).median_ms)
        except ConfigurationError:
            return None  # not measured there; what that means is the plan's to say


def latency_source(
    resolved: ResolvedDeployment, measurements: Measurements, platform: str | None
) -> tuple[ComponentLatency, Platform | None, tuple[str, ...]]:
    """Returns what tells the latencies, the platform whose speeds were used, and notes.

    Runs come first, corrected to devices they did not use; then tables; then the model, for which the
    network is built and its multiply-adds are counted only if something is still unknown.

    Raises:
        ConfigurationError: The platform does not exist.
    """
    deployment, spec = resolved.deployment, resolved.bundle.spec
    known: list[ComponentLatency] = list(measurements.tables)
    runs_ms = measured_by_device(measurements.runs)
    alike = alike_devices(deployment.devices)
    refitted = RefittedLatency(FirstKnownLatency(known), runs_ms, alike)
    speeds = _speeds(deployment.name, platform)
    missing = [
        f"{component} on {device}"
        for component in spec.components
        for device in deployment.devices
        if refitted.latency_ms(component, device) is None
    ]
    if not missing:
        return refitted, speeds, ()
    if speeds is None:
        return (
            refitted,
            None,
            (_not_considered(missing),),
        )
    work = work_of_bundle(resolved.bundle, resolved.rig, _count_multiply_adds(resolved))
    model = RooflineLatency(platform_of(deployment, speeds), work)
    source = RefittedLatency(FirstKnownLatency([*known, model]), runs_ms, alike)
    return source, speeds, (f"modelled with the speeds of platform {speeds.name}: {', '.join(missing)}",)


def _not_considered(missing: Sequence[str]) -> str:
    return (
        f"not measured and not modelled, so not considered: {', '.join(missing)}; measure it "
        "(mmmt profile) or give --platform"
    )


def _speeds(deployment: str, platform: str | None) -> Platform | None:
    if platform is not None:
        return load_platform(platform)
    return load_platform(deployment) if deployment in list_presets() else None


def _count_multiply_adds(resolved: ResolvedDeployment) -> dict[str, float]:
    """Builds the bundle's network and runs one example frame through it."""
    from perception_core.models import create_model
    from perception_core.models.profile import profile_model

    spec = resolved.bundle.spec
    model = create_model(spec.model.name, **spec.model.arguments)
    profiles = profile_model(model, cameras=max(1, len(resolved.rig.cameras)))
    return {name: float(profile.multiply_adds) for name, profile in profiles.items()}
