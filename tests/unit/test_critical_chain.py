"""The critical chain follows whichever ended last: the data a stage needed or the device it waited for."""

from __future__ import annotations

import pytest

from perception_core.platform.critical_chain import StageRun, critical_chain

FEEDS = {
    "lidar_net": ("sensor_fusion",),
    "camera_net": ("sensor_fusion",),
    "bev_fuser": ("lidar_net", "camera_net"),
    "head": ("bev_fuser",),
}


def runs(camera_resource: str) -> dict[str, StageRun]:
    shared = camera_resource == "cpu0"
    camera_start = 31 if shared else 11
    camera_done = camera_start + 40
    return {
        "sensor_fusion": StageRun("sensor_fusion", "sensing", 0, 10, 8),
        "lidar_net": StageRun("lidar_net", "cpu0", 11, 30, 18),
        "camera_net": StageRun("camera_net", camera_resource, camera_start, camera_done, 39),
        "bev_fuser": StageRun("bev_fuser", "cpu0", camera_done + 1, camera_done + 11, 9),
        "head": StageRun("head", "cpu0", camera_done + 12, camera_done + 22, 9),
    }


def test_with_two_devices_only_the_slower_branch_counts() -> None:
    chain = critical_chain("head", runs("cpu1"), FEEDS)
    assert [run.stage for run in chain] == ["sensor_fusion", "camera_net", "bev_fuser", "head"]


def test_on_one_device_the_branch_that_held_it_counts_too() -> None:
    chain = critical_chain("head", runs("cpu0"), FEEDS)
    assert [run.stage for run in chain] == ["sensor_fusion", "lidar_net", "camera_net", "bev_fuser", "head"]
    end_to_end = chain[-1].done_ns - chain[0].started_ns
    assert end_to_end - sum(run.compute_ns for run in chain) == 10


def test_an_output_that_never_came_has_no_chain() -> None:
    with pytest.raises(KeyError):
        critical_chain("head", {}, FEEDS)
