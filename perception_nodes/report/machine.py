"""What the run ran on: computer, operating system, ROS and the libraries that compute."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from perception_core.resources import package_root

_LIBRARIES = ("torch", "onnxruntime", "openvino", "iceoryx2", "numpy")


def machine_details() -> dict[str, str]:
    """Describes this machine; what cannot be found out is left out."""
    details = {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0)))
        if hasattr(os, "sched_getaffinity")
        else str(os.cpu_count()),
        "memory": _memory(),
        "gpu": _gpu(),
        "system": _system(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "ros_distribution": os.environ.get("ROS_DISTRO", ""),
        "rclpy": _version("rclpy") or _version("ros-rclpy"),
        "rmw": _rmw(),
    }
    details |= {library: _version(library) for library in _LIBRARIES}
    return {key: value for key, value in details.items() if value}


def source_commit() -> str | None:
    """The commit the running code is of, with `+changes` where tracked files differ from it; None outside a
    git tree.
    """
    root = package_root()
    if not (root / ".git").exists():
        return None
    commit = _output(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    if not commit:
        return None
    changed = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+changes" if changed else commit


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return f"{int(line.split()[1]) / 1048576:.1f} GiB"
    return ""


def _gpu() -> str:
    return ", ".join(_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines())


def _system() -> str:
    for line in _lines("/etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return platform.system()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _rmw() -> str:
    try:
        from rclpy.utilities import get_rmw_implementation_identifier

        return str(get_rmw_implementation_identifier())
    except (ImportError, RuntimeError):
        return os.environ.get("RMW_IMPLEMENTATION", "")
