"""Runs `mmmt demo` as a user does, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def mmmt(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a sub-command."""
    return subprocess.run(
        [sys.executable, "-m", "mmmt_cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ.copy(),
        timeout=560,
        check=False,
    )


def demo(out: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Runs the command; returns what it said and the summary, which is empty where it wrote none."""
    done = mmmt("demo", "--out", str(out), *arguments)
    path = out / "summary.json"
    return done, json.loads(path.read_text()) if path.exists() else {}


def check(done: subprocess.CompletedProcess[str], summary: dict[str, Any], out: Path) -> None:
    """What every run must show, however slow the machine is."""
    assert summary, done.stderr
    assert summary["missing"] == [], done.stderr
    frames, control = summary["frames"], summary["control"]
    assert frames["out"] > 0, done.stderr
    assert frames["in"] == frames["out"] + frames["dropped"]
    assert summary["paths"]["lidar->detection3d"]["count"] > 0
    assert (
        0
        < summary["paths"]["lidar->detection3d"]["p50_ms"]
        <= summary["paths"]["lidar->detection3d"]["max_ms"]
    )
    assert control["ticks"] > 0, done.stderr
    assert control["unsafe_ticks"] == 0, control
    assert set(summary["stages"]) >= {
        "sensor_fusion",
        "lidar_net",
        "bev_fuser",
        "detection3d_head",
        "control",
    }
    assert str(out / "index.html") in done.stdout
    assert "<svg" in (out / "index.html").read_text()
    assert done.returncode == 0, done.stderr
