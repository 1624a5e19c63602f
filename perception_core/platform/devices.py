"""The platform: what components can run on, what that costs, and what lies between two devices.

A platform is more than the `devices` of a deployment: it also knows how fast a device computes, so that a
placement can be judged before anything was measured. Presets lie in `presets/`; each of their figures names
its source.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pydantic

from perception_core.configuration import ConfigurationError, ConfigurationFile, StrictModel, nearest
from perception_core.deployment import Deployment

PRESETS = Path(__file__).parent / "presets"

#: Bits of a byte times bytes of a gigabit: links are given in gigabits a second, tensors in bytes.
_BITS_PER_BYTE = 8
_BITS_PER_US_AT_1_GBPS = 1000.0


class ComputeRate(StrictModel):
    """How fast a device computes, for components that nobody has measured on it.

    Attributes:
        multiply_adds_per_s: What the device can do at most, or what was measured on a known network.
        efficiency: Share of it that a network reaches; 1 where `multiply_adds_per_s` was measured.
        memory_gb_per_s: Gigabytes a second between the device and its memory; None: never the limit.
        overhead_ms: Time a component takes beside its arithmetic: launching, preparing, synchronizing.
    """

    multiply_adds_per_s: float = pydantic.Field(gt=0)
    efficiency: float = pydantic.Field(default=1.0, gt=0, le=1)
    memory_gb_per_s: float | None = pydantic.Field(default=None, gt=0)
    overhead_ms: float = pydantic.Field(default=0.0, ge=0)


class PlatformDevice(StrictModel):
    """Something a component can run on.

    Attributes:
        kind: What it is.
        idle_w, busy_w: Power in watts while switched on without and with work.
        memory_mb: Memory for components' weights and activations in megabytes (1e6 bytes), None: not limited.
        concurrency: Components it works on at once; others wait.
        contention: What every further component at work adds to the others' time: with n at work, each
            takes 1 + contention * (n - 1) times as long. 0: they do not disturb each other; 1: they share the
            device evenly.
        compute: Its speed, None where only measured components can run on it.
        excludes: Patterns (as of file names) of components and stages that cannot run on it.
        includes: Patterns of those that can; empty: all.
        sources: Where each figure comes from, by the figure's name.
    """

    kind: Literal["cpu", "gpu", "npu", "dla", "fpga"]
    idle_w: float = pydantic.Field(default=0.0, ge=0)
    busy_w: float = pydantic.Field(default=0.0, ge=0)
    memory_mb: float | None = pydantic.Field(default=None, gt=0)
    concurrency: int = pydantic.Field(default=1, ge=1)
    contention: float = pydantic.Field(default=0.0, ge=0, le=1)
    compute: ComputeRate | None = None
    excludes: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    sources: dict[str, str] = {}

    @pydantic.model_validator(mode="after")
    def _busy_costs_more(self) -> PlatformDevice:
        if self.busy_w < self.idle_w:
            raise ValueError(f"busy_w is {self.busy_w:g}, less than idle_w {self.idle_w:g}")
        return self

    def takes(self, stage: str) -> bool:
        """Says whether a component or pre-processing stage can run on it at all."""
        included = not self.includes or any(fnmatch.fnmatchcase(stage, pattern) for pattern in self.includes)
        return included and not any(fnmatch.fnmatchcase(stage, pattern) for pattern in self.excludes)

    def slowdown(self, at_work: int) -> float:
        """Factor on a component's time while `at_work` components run on the device."""
        return 1.0 + self.contention * max(0, at_work - 1)


class PlatformLink(StrictModel):
    """Connection from one device to another.

    Attributes:
        bandwidth_gbps: Gigabits a second.
        latency_us: Microseconds that any transfer takes.
        source: Where the figures come from.
    """

    bandwidth_gbps: float = pydantic.Field(gt=0)
    latency_us: float = pydantic.Field(default=0.0, ge=0)
    source: str = ""

    def transfer_us(self, size_bytes: int) -> float:
        """Microseconds from handing tensors of `size_bytes` over until they are there."""
        return self.latency_us + size_bytes * _BITS_PER_BYTE / (self.bandwidth_gbps * _BITS_PER_US_AT_1_GBPS)


class Platform(StrictModel):
    """The devices of a vehicle's computers and the links between them.

    Attributes:
        devices: By name.
        links: Written `a->b`; where only one direction is given it holds for both.
        default_link: Between devices without a link of their own; None: nothing can pass between them.
    """

    name: str
    description: str = ""
    devices: dict[str, PlatformDevice]
    links: dict[str, PlatformLink] = {}
    default_link: PlatformLink | None = None

    @pydantic.model_validator(mode="after")
    def _links_have_ends(self) -> Platform:
        if not self.devices:
            raise ValueError("a platform needs at least one device")
        for name in self.links:
            ends = name.split("->")
            if len(ends) != 2 or ends[0] == ends[1]:
                raise ValueError(f"link '{name}': a link is written DEVICE->OTHER_DEVICE")
            for end in ends:
                if end not in self.devices:
                    raise ValueError(f"link '{name}': no device '{end}'" + nearest(end, self.devices))
        return self

    def link(self, source: str, target: str) -> PlatformLink | None:
        """Returns the connection between two different devices, None where there is none."""
        return (
            self.links.get(f"{source}->{target}")
            or self.links.get(f"{target}->{source}")
            or self.default_link
        )


def list_presets() -> list[str]:
    """Returns the names of the shipped platforms."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_platform(name_or_path: str | Path) -> Platform:
    """Reads a platform.

    Args:
        name_or_path: A shipped preset or a YAML file.

    Raises:
        ConfigurationError: There is none, or it is wrong; names file, line and the nearest name.
    """
    path = Path(name_or_path).expanduser()
    if not (path.suffix in (".yaml", ".yml") and path.is_file()):
        path = PRESETS / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ConfigurationError(f"no platform '{name_or_path}'" + nearest(str(name_or_path), list_presets()))
    return ConfigurationFile.read(path).validate(Platform)


def platform_of(deployment: Deployment, speeds: Platform | None = None) -> Platform:
    """Turns a deployment's devices and links into a platform.

    Powers, memory and links come from the deployment. A process runs one component of a device at a time,
    so concurrency is 1. Devices that neither the deployment nor `speeds` know the speed of run only what was
    measured on them.

    Args:
        deployment: The deployment.
        speeds: Platform that tells the computing rate of devices of the same name, or else of the only
            device of the same kind.
    """
    devices = {}
    for name, device in deployment.devices.items():
        power = device.power_w
        known = None if speeds is None else _counterpart(name, device.kind, speeds)
        devices[name] = PlatformDevice(
            kind=device.kind,
            idle_w=power.idle if power else 0.0,
            busy_w=power.busy if power else 0.0,
            memory_mb=device.memory_mb,
            compute=known.compute if known else None,
            excludes=known.excludes if known else (),
            includes=known.includes if known else (),
            sources=_deployment_sources(deployment.name, known),
        )
    links = {
        name: PlatformLink(
            bandwidth_gbps=link.bandwidth_gbps,
            latency_us=link.latency_us,
            source=f"deployment {deployment.name}",
        )
        for name, link in deployment.links.items()
    }
    # A deployment need not list links: tensors then pass all the same, at a cost nobody told.
    unknown = PlatformLink(bandwidth_gbps=1e6, source="not given by the deployment: taken as costing nothing")
    return Platform(name=deployment.name, devices=devices, links=links, default_link=unknown)


def _counterpart(name: str, kind: str, speeds: Platform) -> PlatformDevice | None:
    same_name = speeds.devices.get(name)
    # A deployment knows one kind of neural accelerator, a platform tells a DLA from others.
    kinds = ("npu", "dla") if kind == "npu" else (kind,)
    if same_name is not None and same_name.kind in kinds:
        return same_name
    of_kind = [device for device in speeds.devices.values() if device.kind in kinds]
    return of_kind[0] if len({device.model_dump_json() for device in of_kind}) == 1 else None


def _deployment_sources(deployment: str, known: PlatformDevice | None) -> dict[str, str]:
    own = dict.fromkeys(("idle_w", "busy_w", "memory_mb"), f"deployment {deployment}")
    speed = {} if known is None else {
        key: text for key, text in known.sources.items() if key not in own
    }  # fmt: skip
    return own | speed


def unsourced_figures(platform: Platform) -> list[str]:
    """Lists the figures of a platform that name no source, as `device.figure`; none in a shipped preset."""
    missing = []
    for name, device in platform.devices.items():
        missing += [f"{name}.{figure}" for figure in _figures_of(device) if figure not in device.sources]
    missing += [name for name, link in platform.links.items() if not link.source]
    if platform.default_link is not None and not platform.default_link.source:
        missing.append("default_link")
    return missing


def _figures_of(device: PlatformDevice) -> list[str]:
    values: Mapping[str, object] = device.model_dump(exclude_defaults=True)
    figures = [name for name in values if name not in ("kind", "sources", "compute")]
    if device.compute is not None:
        figures += list(device.compute.model_dump(exclude_defaults=True))
    return figures
