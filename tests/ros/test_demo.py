"""`mmmt demo` from one end to the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CPU_DEPLOYMENTS = ("cpu-1process", "cpu-2core", "cpu-isolated")

pytestmark = pytest.mark.timeout(600)


def demo(out: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Runs the command; returns what it said and the summary, which is empty where it wrote none."""
    done = subprocess.run(
        [sys.executable, "-m", "mmmt_cli.main", "demo", "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ.copy(),
        timeout=560,
        check=False,
    )
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


def test_the_generated_recording_needs_nothing_from_outside(tmp_path: Path) -> None:
    done, summary = demo(tmp_path / "run", "--duration", "6")
    check(done, summary, tmp_path / "run")
    assert summary["rig"] == "synthetic"
    assert summary["ground_truth"]["messages"] > 0


@pytest.mark.parametrize("deployment", CPU_DEPLOYMENTS)
def test_a_real_frame_on_every_cpu_deployment(tmp_path: Path, recordings: Path, deployment: str) -> None:
    recording = recordings / "nuscenes_frame"
    done, summary = demo(
        tmp_path / "run", "--recording", str(recording), "--deployment", deployment, "--duration", "6"
    )
    check(done, summary, tmp_path / "run")
    assert summary["deployment"] == deployment
    assert summary["recording"] == "nuscenes_frame"
    assert summary["ground_truth"]["max_per_message"] == 69


def test_a_drive_with_one_camera(tmp_path: Path, recordings: Path) -> None:
    recording = recordings / "kitti_drive_2011_09_26"
    done, summary = demo(tmp_path / "run", "--recording", str(recording))
    check(done, summary, tmp_path / "run")
    assert summary["frames"]["in"] <= 30


def test_a_recording_that_is_none_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    done, summary = demo(tmp_path / "run", "--recording", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "is of no known kind" in done.stderr
    assert "Traceback" not in done.stderr
    assert summary == {}


def test_a_full_disk_is_one_message_and_no_half_report(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "messages.log").symlink_to("/dev/full")
    done, summary = demo(out, "--duration", "4")
    assert done.returncode == 1
    assert any("No space left on device" in text for text in summary["missing"]), summary["missing"]
    assert "the report is incomplete" in done.stderr
    assert "Incomplete" in (out / "index.html").read_text()
