"""What the machine we are on has, and whether a deployment can run on it. Checked at launch, not when a file
is read.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from perception_core.configuration import ConfigurationError
from perception_core.deployment import ResolvedDeployment

#: The Python module that a backend needs, and how to get it.
BACKEND_MODULES = {
    "torch": ("torch", "pip install torch"),
    "torch_compile": ("torch", "pip install torch"),
    "onnxruntime": ("onnxruntime", "pip install onnxruntime"),
    "openvino": ("openvino", "pip install openvino"),
    "tensorrt": ("tensorrt", "install TensorRT for this machine's CUDA (on Jetson it comes with JetPack)"),
}


#: Device files of NVIDIA's driver, of Jetson's, of WSL's and of AMD's.
_GPU_DEVICE_FILES = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg", "kfd")


@dataclass(frozen=True)
class HostFacts:
    """What a host offers.

    Attributes:
        cores: CPU cores this process may use.
        gpus: Names of the CUDA GPUs that torch can use, by index; None: nobody asked.
        modules: Importable modules among those the backends need.
    """

    cores: tuple[int, ...]
    gpus: tuple[str, ...] | None
    modules: Collection[str]

    @classmethod
    def of_this_machine(cls, with_gpus: bool = False) -> HostFacts:
        """Looks at this machine.

        Args:
            with_gpus: Also look for GPUs, which imports torch.
        """
        modules = {module for module, _ in BACKEND_MODULES.values() if is_importable(module)}
        return cls(available_cores(), usable_gpus() if with_gpus else None, modules)


def available_cores() -> tuple[int, ...]:
    """Returns the CPU cores this process may run on (containers and cpusets may hide some)."""
    return tuple(sorted(os.sched_getaffinity(0)))


def is_importable(module: str) -> bool:
    """Says whether a top-level module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def usable_gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs that the installed torch can use."""
    if not is_importable("torch") or not _has_gpu_driver():
        return ()
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _has_gpu_driver() -> bool:
    """Says whether a driver of a GPU that torch could use is loaded: importing torch to learn of none takes
    seconds.
    """
    return any(list(Path("/dev").glob(pattern)) for pattern in _GPU_DEVICE_FILES)


def check_host(resolved: ResolvedDeployment, host: str = "local", facts: HostFacts | None = None) -> None:
    """Refuses a deployment that this machine cannot run.

    Args:
        resolved: The deployment.
        host: Which of the deployment's hosts this machine is; devices of others are not checked.
        facts: What the machine has; None: look.

    Raises:
        ConfigurationError: Cores, a GPU or a backend are missing; lists all that is missing and what to do.
    """
    if facts is None:
        needs_gpu = any(d.kind == "gpu" and d.host == host for d in resolved.deployment.devices.values())
        facts = HostFacts.of_this_machine(with_gpus=needs_gpu)
    problems = list(_missing(resolved, host, facts))
    if problems:
        name = resolved.deployment.name
        raise ConfigurationError(
            "\n".join(
                f"{resolved.path}: deployment '{name}' cannot run on this machine: {text}"
                for text in problems
            )
        )


def _missing(resolved: ResolvedDeployment, host: str, facts: HostFacts) -> Iterator[str]:
    used = set(resolved.deployment.placement.values())
    for name, device in resolved.deployment.devices.items():
        if device.host != host or name not in used:
            continue
        yield from _missing_cores(f"device '{name}'", f"devices.{name}.cores", device.cores, facts)
        if device.kind == "gpu" and facts.gpus is not None and device.index >= len(facts.gpus):
            seen = ", ".join(facts.gpus) or "none"
            yield (
                f"device '{name}' is GPU {device.index}, torch sees {seen}; install its driver and a CUDA "
                f"build of torch, or place the components elsewhere (placement.COMPONENT:=DEVICE)"
            )
        module, remedy = BACKEND_MODULES[device.backend]
        if module not in facts.modules:
            yield (
                f"backend '{device.backend}' of device '{name}' needs the module '{module}', "
                f"which is not installed; {remedy}, or choose another (devices.{name}.backend:=torch)"
            )
    for name, process in resolved.process_specs.items():
        if process.cores and resolved.host_of(name) == host:
            yield from _missing_cores(f"process '{name}'", f"processes.{name}.cores", process.cores, facts)


def _missing_cores(who: str, key: str, cores: tuple[int, ...], facts: HostFacts) -> Iterator[str]:
    missing = [core for core in cores if core not in facts.cores]
    if missing:
        there = ", ".join(map(str, facts.cores))
        yield (
            f"{who} wants core {', '.join(map(str, missing))}, this machine offers {there}; "
            f"change it with e.g. {key}:=[{facts.cores[0]}]"
        )
