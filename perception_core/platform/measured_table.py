"""Measured latencies of a bundle's components on the devices of a deployment: the file that `mmmt profile`
writes and planning reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pydantic

from perception_core.atomic_write import write_atomically
from perception_core.bundle import Bundle, BundleSpec
from perception_core.bundle_identity import bundle_identity
from perception_core.configuration import ConfigurationError, StrictModel, nearest
from perception_core.platform.machine import Machine
from perception_core.precision import FULL_PRECISION, Precision


class Measurement(StrictModel):
    """One component on one device with one backend.

    Attributes:
        component: Name of the component.
        device: Name of the device in the deployment.
        backend: How it ran.
        precision: The component itself or one of its variants.
        threads: Threads it ran with, as many as the device has cores; 0 on a GPU.
        repeats: Frames that were timed.
        median_ms, p95_ms, minimum_ms: Over these frames.
    """

    component: str
    device: str
    backend: str
    precision: Precision = FULL_PRECISION
    threads: int = pydantic.Field(ge=0)
    repeats: int = pydantic.Field(gt=0)
    median_ms: float = pydantic.Field(ge=0)
    p95_ms: float = pydantic.Field(ge=0)
    minimum_ms: float = pydantic.Field(ge=0)


class Unmeasured(StrictModel):
    """A device and backend that could not be measured.

    Attributes:
        device: Name of the device.
        backend: Name of the backend.
        precision: Precision that was asked for.
        component: Name of the component; None: none of them.
        why: And what to do.
    """

    device: str
    backend: str
    precision: Precision = FULL_PRECISION
    component: str | None = None
    why: str


class MeasuredTable(StrictModel):
    """All measurements of one bundle on one deployment's devices.

    Attributes:
        format: Of the file.
        deployment: Name of the deployment.
        bundle: Name of the bundle.
        bundle_identity: `perception_core.bundle_identity` of it.
        machine: Where it was measured.
        date: When, ISO 8601.
        cameras, points: The frame that was run.
        device_backends: Backend that the deployment gives each device.
        device_precisions: Precision that it gives each device; `fp32` where nothing is said.
        component_precisions: Precision that it gives single components, whatever their device's is.
        entries: Measurements.
        unmeasured: What is missing, and why.
    """

    format: Literal[1] = 1
    deployment: str
    bundle: str
    bundle_identity: str
    machine: Machine
    date: str
    cameras: int = pydantic.Field(ge=0)
    points: int = pydantic.Field(ge=0)
    device_backends: dict[str, str]
    device_precisions: dict[str, Precision] = {}
    component_precisions: dict[str, Precision] = {}
    entries: tuple[Measurement, ...]
    unmeasured: tuple[Unmeasured, ...] = ()

    def latency_ms(self, component: str, device: str) -> float:
        """Returns the median latency of a component on a device with the backend and in the precision the
        deployment gives it there.

        Raises:
            ConfigurationError: It was not measured; says why.
        """
        return self.measurement(component, device).median_ms

    def measurement(
        self,
        component: str,
        device: str,
        backend: str | None = None,
        precision: Precision | None = None,
    ) -> Measurement:
        """Returns one measurement.

        Args:
            component: Name of the component.
            device: Name of the device.
            backend: None: the one the deployment gives the device.
            precision: None: the one the deployment gives the component on this device.

        Raises:
            ConfigurationError: It was not measured; says why.
        """
        if device not in self.device_backends:
            raise ConfigurationError(
                f"the measurements of deployment '{self.deployment}' have no device '{device}'"
                + nearest(device, self.device_backends)
            )
        wanted = backend or self.device_backends[device]
        of_device = self.device_precisions.get(device, FULL_PRECISION)
        computed_in = precision or self.component_precisions.get(component, of_device)
        for entry in self.entries:
            if (entry.component, entry.device) != (component, device):
                continue
            if (entry.backend, entry.precision) == (wanted, computed_in):
                return entry
        components = {entry.component for entry in self.entries}
        if component not in components:
            raise ConfigurationError(
                f"the measurements of bundle '{self.bundle}' have no component '{component}'"
                + nearest(component, components)
            )
        reasons = [
            item.why
            for item in self.unmeasured
            if (item.device, item.backend, item.precision) == (device, wanted, computed_in)
            and item.component in (None, component)
        ]
        why = f": {reasons[0]}" if reasons else "; measure it with `mmmt profile`"
        raise ConfigurationError(
            f"component '{component}' was not measured on device '{device}' with {wanted}"
            f"{'' if computed_in == FULL_PRECISION else f' in {computed_in}'}{why}"
        )

    def fastest(self, component: str, device: str, precision: Precision | None = None) -> Measurement:
        """Returns the measurement of the fastest backend.

        Args:
            component: Name of the component.
            device: Name of the device.
            precision: None: any that was measured; what a variant costs in accuracy stands in the bundle.

        Raises:
            ConfigurationError: There is none.
        """
        found = [
            entry
            for entry in self.entries
            if (entry.component, entry.device) == (component, device) and precision in (None, entry.precision)
        ]
        if not found:
            return self.measurement(component, device, precision=precision)  # says why there is none
        return min(found, key=lambda entry: entry.median_ms)

    @property
    def components(self) -> tuple[str, ...]:
        """Components that were measured, in the bundle's order."""
        return tuple(dict.fromkeys(entry.component for entry in self.entries))

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices of the deployment."""
        return tuple(self.device_backends)

    def require_bundle(self, bundle: Bundle | BundleSpec, path: Path | None = None) -> None:
        """Refuses a table of another bundle.

        Raises:
            ConfigurationError: It is one.
        """
        spec = bundle.spec if isinstance(bundle, Bundle) else bundle
        identity = bundle_identity(spec)
        if identity != self.bundle_identity:
            where = f"{path}: " if path else ""
            raise ConfigurationError(
                f"{where}was measured with another bundle, '{self.bundle}' ({self.bundle_identity[:12]}…), "
                f"not with '{spec.name}' ({identity[:12]}…): network, weights or graphs differ; measure anew "
                "with `mmmt profile`"
            )

    @classmethod
    def load(cls, path: str | Path, bundle: Bundle | BundleSpec | None = None) -> MeasuredTable:
        """Reads a table.

        Args:
            path: File written by `save`.
            bundle: Bundle it must be of; None: any.

        Raises:
            ConfigurationError: It is missing, damaged, of another format or of another bundle.
        """
        path = Path(path)
        try:
            table = cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ConfigurationError(f"{path}: no such file; `mmmt profile --out` writes one") from error
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: no measurements of `mmmt profile`: {error}") from error
        if bundle is not None:
            table.require_bundle(bundle, path)
        return table

    def save(self, path: str | Path) -> None:
        """Writes the table; a file of that name is always whole."""
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")
