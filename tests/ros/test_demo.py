"""`mmmt demo` from one end to the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from demo_fixtures import REPOSITORY, check, demo
from light_bundle import light_bundle

CPU_DEPLOYMENTS = ("cpu-1process", "cpu-2core", "cpu-isolated")

#: The tests are not about speed: two slow cores shall get through some frames in the time asked for.
SLOWLY = "0.25"

pytestmark = pytest.mark.timeout(600)


def test_the_generated_recording_needs_nothing_from_outside(tmp_path: Path) -> None:
    done, summary = demo(tmp_path / "run")
    check(done, summary, tmp_path / "run")
    assert summary["rig"] == "synthetic"
    assert summary["ground_truth"]["messages"] > 0


@pytest.mark.parametrize("deployment", CPU_DEPLOYMENTS)
def test_a_real_frame_on_every_cpu_deployment(tmp_path: Path, recordings: Path, deployment: str) -> None:
    recording = recordings / "nuscenes_frame"
    done, summary = demo(
        *(tmp_path / "run", "--recording", str(recording), "--deployment", deployment),
        *("--duration", "6", "--rate", SLOWLY),
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
    done, summary = demo(out, "--duration", "4", f"bundle:={light_bundle()}")
    assert done.returncode == 1
    assert any("No space left on device" in text for text in summary["missing"]), summary["missing"]
    assert "the report is incomplete" in done.stderr
    assert "Incomplete" in (out / "index.html").read_text()


def test_an_unreadable_bundle_is_one_message(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(REPOSITORY / "bundles" / "fuller-tiny", bundle)
    weights = bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done, _ = demo(tmp_path / "run", "--duration", "4", f"bundle:={bundle}")
    assert done.returncode in (1, 2)
    assert "weights.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
