"""Latency as the sum of measured operators, each measured once and kept in a file."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from perception_core.atomic_write import write_atomically
from perception_core.configuration import ConfigurationError
from perception_core.platform.latency.operators import Operator

_VERSION = 1


class OperatorRunner(Protocol):
    """Measures operators on the device at hand."""

    @property
    def device(self) -> str:
        """What is measured: processor, backend, threads; tables of others are not mixed with it."""
        ...

    def measure_ms(self, operator: Operator) -> float:
        """Returns the median milliseconds of an operator."""
        ...


class OperatorTable:
    """Measured operators by device, in one JSON file.

    Args:
        path: The file; made when something is entered.

    Raises:
        ConfigurationError: The file is no such table.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._times: dict[str, dict[str, float]] = self._read()

    def get(self, device: str, operator: Operator) -> float | None:
        """Returns the milliseconds of an operator, None where it was not measured."""
        return self._times.get(device, {}).get(operator.key)

    def devices(self) -> dict[str, int]:
        """Returns the number of measured operators by device."""
        return {device: len(times) for device, times in self._times.items()}

    def enter(self, device: str, times_ms: dict[str, float]) -> None:
        """Adds measurements by operator key and writes the file.

        What another process has entered meanwhile is kept. The file is always whole.
        """
        for name, times in self._read().items():
            self._times.setdefault(name, {}).update(times)
        self._times.setdefault(device, {}).update(times_ms)
        content = {"version": _VERSION, "milliseconds": self._times}
        write_atomically(self.path, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def _read(self) -> dict[str, dict[str, float]]:
        if not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']} is not {_VERSION}")
            return {
                str(device): {str(key): float(value) for key, value in times.items()}
                for device, times in content["milliseconds"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{self.path}: is no table of measured operators ({error}); remove it to measure anew"
            ) from error


class MeasuredLatency:
    """Latency model (a): the sum of a network's operators, as measured one by one.

    Args:
        table: Where measurements are kept.
        runner: Measures what the table lacks; None: nothing is measured.
        device: Which device's measurements to use; None: the runner's.

    Raises:
        ConfigurationError: Neither a runner nor a device is given.
    """

    def __init__(
        self, table: OperatorTable, runner: OperatorRunner | None = None, device: str | None = None
    ) -> None:
        if runner is None and device is None:
            raise ConfigurationError(
                f"{table.path}: say which device's measurements to use: "
                + (", ".join(table.devices()) or "there are none yet")
            )
        self._table, self._runner = table, runner
        self._device = device or (runner.device if runner is not None else "")

    @property
    def name(self) -> str:
        """Name of the device."""
        return f"measured {self._device}"

    def latency_ms(self, operators: Sequence[Operator]) -> float:
        """Returns milliseconds of one inference; measures what is not known yet.

        Raises:
            ConfigurationError: An operator is not known and nothing can measure it.
        """
        missing = {op.key: op for op in operators if self._table.get(self._device, op) is None}
        if missing and self._runner is None:
            first = next(iter(missing))
            raise ConfigurationError(
                f"{self._table.path}: has no measurement of {len(missing)} of the network's operators on "
                f"'{self._device}', e.g. '{first}'; measure them on the device"
            )
        if missing and self._runner is not None:
            self._table.enter(
                self._device,
                {key: self._runner.measure_ms(operator) for key, operator in missing.items()},
            )
        return sum(self._table.get(self._device, operator) or 0.0 for operator in operators)


def processor_name() -> str:
    """Returns the processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
