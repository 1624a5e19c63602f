"""Says on which machine a figure was measured: processor, cores, memory, GPUs; no names of hosts or users."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pydantic

from perception_core.configuration import StrictModel
from perception_core.host import available_cores, usable_gpus


class Machine(StrictModel):
    """A machine as far as its speed goes.

    Attributes:
        processor: Name of the processor.
        cores: CPU cores this process may use.
        memory_gib: Memory in GiB.
        gpus: Names of the GPUs that torch can use.
        system: Operating system and architecture.
    """

    processor: str
    cores: int = pydantic.Field(ge=1)
    memory_gib: float = pydantic.Field(ge=0)
    gpus: tuple[str, ...] = ()
    system: str = ""


def this_machine() -> Machine:
    """Looks at this machine."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(),
        cores=len(available_cores()),
        memory_gib=round(pages * size / 2**30, 1),
        gpus=usable_gpus(),
        system=f"{platform.system()} {platform.machine()}",
    )


def describe_machine() -> dict[str, object]:
    """Returns `this_machine()` as plain values."""
    return this_machine().model_dump(mode="json")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    # `model name` on x86; ARM kernels only give `Model` or nothing.
    for key in ("model name", "Model", "Hardware"):
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return platform.processor() or platform.machine()
