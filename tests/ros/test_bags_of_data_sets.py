"""Scenes of data sets, written as standard bags, through the whole stack."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_fixtures import check, demo, mmmt
from light_bundle import light_bundle

pytestmark = pytest.mark.timeout(600)

#: The networks need about half of a slow machine; the tests are not about speed.
RATE = "parameters.replay.rate:=0.5"


def play(bag: Path, out: Path) -> dict[str, object]:
    """Plays a bag whose rig its folder names; returns the frames' account."""
    done, summary = demo(out, "--recording", str(bag), RATE, f"bundle:={light_bundle()}")
    check(done, summary, out)
    assert not any(summary["frames"]["rejected_by_modality"].values()), summary["faults"]
    frames: dict[str, object] = summary["frames"]
    return frames


def test_a_generated_scene(tmp_path: Path) -> None:
    pytest.importorskip("open3d", reason="Open3D casts the rays and is not installed")
    data, bag = tmp_path / "data", tmp_path / "bag"
    done = mmmt(
        *("data", "synth", "--format", "nuscenes", "--scenes", "1", "--seed", "7"),
        *("--scale", "tiny", "--out", str(data)),
    )
    assert done.returncode == 0, done.stderr
    done = mmmt("data", "to-bag", str(data), str(bag))
    assert done.returncode == 0, done.stderr
    frames = play(bag, tmp_path / "run")
    assert frames["in"]


def test_the_kitti_drive(tmp_path: Path, recordings: Path) -> None:
    bag = tmp_path / "bag"
    done = mmmt("data", "to-bag", str(recordings / "kitti_drive_2011_09_26"), str(bag))
    assert done.returncode == 0, done.stderr
    frames = play(bag, tmp_path / "run")
    assert frames["in"]
