"""How long a component takes on a device: from a table of measurements, from a model, or the one corrected by
the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from perception_core.configuration import ConfigurationError
from perception_core.platform.component_work import ComponentWork
from perception_core.platform.devices import Platform

_MS_PER_S = 1e3


class ComponentLatency(Protocol):
    """What tells a component's latency; a measured table of `mmmt profile` is one too."""

    def latency_ms(self, component: str, device: str) -> float | None:
        """Returns milliseconds for one frame on one device, None where it does not know."""
        ...


class TableLatency:
    """Latencies that somebody wrote down."""

    def __init__(self, milliseconds: Mapping[tuple[str, str], float]) -> None:
        """Takes milliseconds by (component, device)."""
        self.milliseconds = dict(milliseconds)

    def latency_ms(self, component: str, device: str) -> float | None:
        """See ComponentLatency."""
        return self.milliseconds.get((component, device))


class RooflineLatency:
    """Overhead, and the slower one of arithmetic and memory (Williams et al., Roofline, 2009)."""

    def __init__(self, platform: Platform, work: Mapping[str, ComponentWork]) -> None:
        """Takes the devices' speeds and the components' work."""
        self.platform = platform
        self.work = dict(work)

    def latency_ms(self, component: str, device: str) -> float | None:
        """See ComponentLatency; None where the work was not counted, the device's speed is unknown, or it
        cannot run the component.
        """
        work, target = self.work.get(component), self.platform.devices.get(device)
        if work is None or work.multiply_adds is None or target is None or target.compute is None:
            return None
        if not target.takes(component):
            return None
        rate = target.compute
        arithmetic_s = work.multiply_adds / (rate.multiply_adds_per_s * rate.efficiency)
        memory_s = work.moved_bytes / (rate.memory_gb_per_s * 1e9) if rate.memory_gb_per_s else 0.0
        return rate.overhead_ms + _MS_PER_S * max(arithmetic_s, memory_s)


class FirstKnownLatency:
    """Asks one source after the other: measurements before models."""

    def __init__(self, sources: Sequence[ComponentLatency]) -> None:
        """Takes the sources, best first."""
        self.sources = tuple(sources)

    def latency_ms(self, component: str, device: str) -> float | None:
        """See ComponentLatency."""
        for source in self.sources:
            known = _ask(source, component, device)
            if known is not None:
                return known
        return None


def _ask(source: ComponentLatency, component: str, device: str) -> float | None:
    """Returns what a source knows; one that refuses to answer does not know."""
    try:
        return source.latency_ms(component, device)
    except (KeyError, ConfigurationError):
        return None
