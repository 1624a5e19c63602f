"""What `mmmt doctor` looks at: each check says what it found and how to mend what is missing."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perception_core.configuration import ConfigurationError
from perception_core.deployment import load_deployment
from perception_core.host import BACKEND_MODULES, available_cores, check_host, is_importable, usable_gpus
from perception_core.resources import names_in

State = Literal["ok", "missing", "note"]

#: Frames of several cameras and their features in rings of a few frames.
WANTED_SHARED_MEMORY_MB = 256
_SHARED_MEMORY = Path("/dev/shm")
#: Libraries of the system that the open3d wheel needs, with their Debian packages.
_OPEN3D_LIBRARIES = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
}
_MESSAGES = ("sensor_msgs", "nav_msgs", "visualization_msgs", "diagnostic_msgs", "geometry_msgs", "tf2_msgs")
_VEHICLE_MESSAGES = ("ackermann_msgs", "autoware_control_msgs")


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        name: What was looked at.
        state: `ok`, `missing`, or `note` for what is optional or only worth knowing.
        found: What was found.
        remedy: How to mend it; empty where nothing is to be done.
        essential: The stack cannot run without it.
    """

    name: str
    state: State
    found: str
    remedy: str = ""
    essential: bool = False


def all_checks() -> list[Check]:
    """Runs every check; one that fails itself is reported as such instead of ending the rest."""
    checks: list[Check] = []
    for examine in EXAMINATIONS:
        try:
            checks += examine()
        except Exception as error:  # a broken installation may fail in any way; that is what the table is for
            name = examine.__name__.removeprefix("_").replace("_", " ")
            checks.append(
                Check(name, "missing", f"{type(error).__name__}: {error}", "see the error", essential=True)
            )
    return checks


def essentials_are_there(checks: list[Check]) -> bool:
    """Says whether the stack can run."""
    return not any(check.essential and check.state == "missing" for check in checks)


def _python() -> Iterator[Check]:
    good = (3, 10) <= sys.version_info[:2] <= (3, 12)
    found = f"{platform.python_version()} ({sys.executable})"
    yield Check(
        "Python",
        "ok" if good else "missing",
        found,
        "" if good else "use Python 3.10 to 3.12",
        essential=True,
    )


def _ros() -> Iterator[Check]:
    if not is_importable("rclpy"):
        remedy = "source /opt/ros/<jazzy|kilted>/setup.bash, or run `make setup` for the pip environment"
        yield Check("ROS 2", "missing", "rclpy is not importable", remedy, essential=True)
        return
    rclpy = importlib.import_module("rclpy")
    wheel = _version("ros-rclpy")
    distribution = os.environ.get("ROS_DISTRO", "")
    source = f"pip wheels, rclpy {wheel}" if wheel else f"rclpy from {Path(str(rclpy.__file__)).parents[1]}"
    yield Check("ROS 2", "ok", f"{distribution or 'no ROS_DISTRO set'}; {source}", essential=True)
    try:
        rmw = rclpy.utilities.get_rmw_implementation_identifier()
        yield Check("RMW", "ok", rmw, essential=True)
    except Exception as error:  # the loader raises whatever the missing library makes it raise
        remedy = "install rmw_fastrtps_cpp, or unset RMW_IMPLEMENTATION"
        yield Check("RMW", "missing", f"{type(error).__name__}: {error}", remedy, essential=True)
    domain = os.environ.get("ROS_DOMAIN_ID", "0 (default)")
    discovery = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET (default)")
    yield Check("ROS discovery", "note", f"domain {domain}, range {discovery}")


def _messages() -> Iterator[Check]:
    try:
        built = hasattr(importlib.import_module("mmmt_msgs.msg"), "StageTiming")
        found = "mmmt_msgs is built" if built else "mmmt_msgs is there but empty"
    except ImportError as error:
        built, found = False, f"mmmt_msgs: {error}"
    remedy = (
        ""
        if built
        else "run `make setup`, or on a ROS machine `colcon build` in ros_ws and source install/setup.bash"
    )
    yield Check("messages", "ok" if built else "missing", found, remedy, essential=True)
    absent = [name for name in _MESSAGES if not is_importable(name)]
    found = "all there" if not absent else f"without {', '.join(absent)}"
    remedy = (
        ""
        if not absent
        else "apt install " + " ".join(f"ros-$ROS_DISTRO-{n.replace('_', '-')}" for n in absent)
    )
    yield Check("standard messages", "ok" if not absent else "missing", found, remedy)
    absent = [name for name in _VEHICLE_MESSAGES if not is_importable(name)]
    found = "all there" if not absent else f"without {', '.join(absent)}: these commands are not published"
    yield Check("vehicle messages", "note" if absent else "ok", found)


def _launching() -> Iterator[Check]:
    try:
        there = hasattr(importlib.import_module("launch"), "LaunchDescription") and is_importable(
            "launch_ros"
        )
    except ImportError:
        there = False
    found = "launch and launch_ros" if there else "not there: `mmmt launch` starts the same processes"
    yield Check(
        "ros2 launch", "ok" if there else "note", found, "" if there else "comes with a ROS 2 installation"
    )


def _backends() -> Iterator[Check]:
    for name, (module, remedy) in BACKEND_MODULES.items():
        if name == "torch_compile":
            continue
        essential = name == "torch"
        if is_importable(module):
            yield Check(f"backend {name}", "ok", _version(module) or "there", essential=essential)
        else:
            yield Check(
                f"backend {name}", "missing" if essential else "note", "not installed", remedy, essential
            )


def _devices() -> Iterator[Check]:
    cores = available_cores()
    total = os.cpu_count() or len(cores)
    yield Check(
        "CPU", "ok", f"{_cpu_name()}; cores {_ranges(cores)} of {total}; {_memory_gb():.1f} GB memory"
    )
    gpus = usable_gpus()
    found = ", ".join(gpus) if gpus else "none that torch can use"
    remedy = "" if gpus else "for an NVIDIA GPU: its driver, and a CUDA build of torch (see README)"
    yield Check("GPU", "ok" if gpus else "note", found, remedy)


def _shared_memory() -> Iterator[Check]:
    if not _SHARED_MEMORY.is_dir():
        yield Check("shared memory", "missing", "no /dev/shm", "mount a tmpfs there", essential=True)
    else:
        usage = shutil.disk_usage(_SHARED_MEMORY)
        free, total = usage.free / 2**20, usage.total / 2**20
        good = free >= WANTED_SHARED_MEMORY_MB
        remedy = "" if good else "mount -o remount,size=1G /dev/shm, or --shm-size=1g for a container"
        yield Check(
            "shared memory", "ok" if good else "missing", f"{free:.0f} of {total:.0f} MB free", remedy
        )
    version = _version("iceoryx2")
    found = version or "not installed: tensors between processes are serialized"
    yield Check("iceoryx2", "ok" if version else "missing", found, "" if version else "pip install iceoryx2")


def _dds_profile() -> Iterator[Check]:
    given = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    if given:
        exists = Path(given).is_file()
        remedy = "" if exists else "correct or unset FASTDDS_DEFAULT_PROFILES_FILE"
        yield Check(
            "Fast DDS profile", "ok" if exists else "missing", f"{given} (from the environment)", remedy
        )
        return
    from perception_nodes.runtime.process_list import dds_profile_environment

    path = dds_profile_environment().get("FASTDDS_DEFAULT_PROFILES_FILE")
    if path is None:
        yield Check("Fast DDS profile", "note", "none is shipped for this RMW")
    else:
        exists = Path(path).is_file()
        remedy = "" if exists else "reinstall mmmt_perception"
        yield Check(
            "Fast DDS profile", "ok" if exists else "missing", f"{path} (set by the launcher)", remedy
        )


def _recordings() -> Iterator[Check]:
    version = _version("rosbags")
    remedy = "" if version else "pip install rosbags"
    yield Check("rosbags", "ok" if version else "missing", version or "no rosbag2 can be played", remedy)
    absent = [package for library, package in _OPEN3D_LIBRARIES.items() if not _loads(library)]
    version = _version("open3d-cpu") or _version("open3d")
    if version is None:
        yield Check(
            "open3d",
            "note",
            "not installed: the synthetic world cannot be rendered",
            "pip install open3d-cpu",
        )
    elif absent:
        remedy = f"apt install {' '.join(absent)}"
        yield Check("open3d", "missing", f"{version}, but system libraries are missing", remedy)
    else:
        yield Check("open3d", "ok", f"{version} and its system libraries")


def _deployments() -> Iterator[Check]:
    for name, path in names_in("hw_configs").items():
        try:
            resolved = load_deployment(path)
            check_host(resolved)
            yield Check(f"deployment {name}", "ok", f"{len(resolved.processes)} processes, runs here")
        except ConfigurationError as error:
            reason = str(error).splitlines()[0].removeprefix(f"{path.resolve()}: ")
            reason = reason.removeprefix(f"deployment '{name}' cannot run on this machine: ")
            found, _, remedy = reason.partition("; ")
            yield Check(f"deployment {name}", "note", found, remedy)


EXAMINATIONS: tuple[Callable[[], Iterator[Check]], ...] = (
    _python,
    _ros,
    _messages,
    _launching,
    _backends,
    _devices,
    _shared_memory,
    _dds_profile,
    _recordings,
    _deployments,
)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _ranges(cores: tuple[int, ...]) -> str:
    parts: list[list[int]] = []
    for core in cores:
        if parts and core == parts[-1][-1] + 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the architecture has to do
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
