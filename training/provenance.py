"""Where a result comes from: command, commit, machine, versions. Written beside every result."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perception_core.platform.machine import describe_machine
from perception_core.resources import package_root


def current_commit() -> str | None:
    """Returns the commit of the source tree, with `+changes` where files differ from it; None outside of
    git.
    """
    root = package_root()
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changed else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ("git", "-C", str(root), *arguments), capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def command_line() -> str:
    """Returns the command this process was started with, the program without its folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_origin() -> dict[str, Any]:
    """Returns command, commit, machine, versions and date as plain values."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "lightning", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": command_line(),
        "commit": current_commit(),
        "machine": describe_machine(),
        "versions": versions,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
