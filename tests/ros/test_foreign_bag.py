"""Bags of vehicles the project does not know, through the whole stack after `mmmt rig draft`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bag_fixtures import ForeignVehicle, cut_bag, write_foreign_bag
from demo_fixtures import check, demo, mmmt
from light_bundle import light_bundle

pytestmark = pytest.mark.timeout(600)

#: The networks need about half of a slow machine; the test is not about speed.
RATE = "parameters.replay.rate:=0.5"


def bundle() -> str:
    """The override that puts the lightest network into the stack."""
    return f"bundle:={light_bundle()}"


def drafted_rig(bag: Path) -> Path:
    """A rig as `mmmt rig draft` writes it, no line changed by hand."""
    rig = bag.parent / "rig.yaml"
    done = mmmt("rig", "draft", str(bag), "--out", str(rig))
    assert done.returncode == 0, done.stderr
    return rig


@pytest.mark.parametrize(
    ("vehicle", "storage"),
    [
        (ForeignVehicle(cameras=3, size=(640, 360), image="png"), "mcap"),
        (ForeignVehicle(cameras=6, size=(800, 600), image="jpeg"), "sqlite3"),
    ],
    ids=["three PNG cameras, mcap", "six JPEG cameras, sqlite3"],
)
def test_a_foreign_bag_plays_after_a_draft(tmp_path: Path, vehicle: ForeignVehicle, storage: Any) -> None:
    bag = write_foreign_bag(tmp_path / "bag", vehicle, storage, sweeps=30, points=3000)
    out = tmp_path / "run"
    done, summary = demo(out, "--recording", str(bag), "--rig", str(drafted_rig(bag)), RATE, bundle())
    check(done, summary, out)
    assert 0 < summary["frames"]["in"] <= 30
    cameras = [
        name for name in summary["paths"] if name.startswith("camera_") and name.endswith("detection3d")
    ]
    assert len(cameras) == vehicle.cameras
    assert not any(summary["frames"]["rejected_by_modality"].values()), summary["faults"]


def test_a_bag_cut_off_in_the_middle_plays_as_far_as_it_goes(tmp_path: Path) -> None:
    vehicle = ForeignVehicle(cameras=3, size=(320, 180))
    bag = write_foreign_bag(tmp_path / "bag", vehicle, sweeps=30, points=3000)
    rig = drafted_rig(bag)
    cut_bag(bag, share=0.6)
    out = tmp_path / "run"
    done, summary = demo(out, "--recording", str(bag), "--rig", str(rig), RATE, bundle())
    check(done, summary, out)
    assert 0 < summary["frames"]["in"] < 30
    assert "broke off" in summary["ended"]
    assert any("cut" in fault["message"] for fault in summary["faults"]), summary["faults"]
