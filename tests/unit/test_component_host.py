"""What a process that was started again has, and how a network is loaded beside the work of its device."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from transport_fixtures import make_context

from perception_core.configuration import ConfigurationError
from perception_core.deployment import Device
from perception_core.movable import Home
from perception_nodes import topics
from perception_nodes.runtime.component_host import context_on, nodes_at_home
from perception_nodes.runtime.placement_record import PlacementRecord
from perception_nodes.runtime.warm_loading import WARMING_NICENESS, keeps_no_threads, load_beside

PLACEMENT = {"camera_net": "cpu0", "lidar_net": "cpu1", "head": "cpu1"}


@pytest.mark.parametrize(
    ("recorded", "process", "expected"),
    [
        ({}, "a", (("camera_net",), {})),
        ({"camera_net": Home("b", "cpu1")}, "a", ((), {})),
        ({"camera_net": Home("b", "cpu1")}, "b", (("lidar_net", "head"), {"camera_net": "cpu1"})),
        ({"camera_net": Home("a", "cpu0")}, "a", (("camera_net",), {})),
        ({"head": Home("b", "cpu0")}, "b", (("lidar_net",), {"head": "cpu0"})),
    ],
    ids=["nothing moved", "went", "came", "went and came back", "another device of the same process"],
)
def test_a_process_started_again_has_the_components_that_are_its_own_now(
    recorded: dict[str, Home], process: str, expected: tuple[tuple[str, ...], dict[str, str]]
) -> None:
    names = {"a": ("camera_net",), "b": ("lidar_net", "head")}[process]
    assert nodes_at_home(names, PLACEMENT, recorded, process) == expected


def test_the_record_keeps_every_components_home(tmp_path: Path) -> None:
    record = PlacementRecord("run", tmp_path / "run")
    assert record.read() == {}
    record.write("camera_net", Home("b", "cpu1"))
    record.write("head", Home("a", "cpu0"))
    record.write("camera_net", Home("a", "cpu0"))
    assert PlacementRecord("run", tmp_path / "run").read() == {
        "camera_net": Home("a", "cpu0"),
        "head": Home("a", "cpu0"),
    }
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["placement.json"]
    record.path.write_text('{"camera_net": ')
    with pytest.raises(ConfigurationError, match=r"placement\.json"):
        record.read()


def test_a_moved_nodes_context_places_it_where_it_is() -> None:
    context = make_context(
        process="b",
        processes={"a": ("net", "near_head"), "b": ("far_head",)},
        homes={"net": ("a", "b")},
    )
    moved = context_on(context, "net", "device_of_far_head")
    assert moved.process_of("net") == "b"
    assert moved.deployment.placement["net"] == "device_of_far_head"
    assert moved.processes == {"a": ("near_head",), "b": ("far_head", "net")}
    assert moved.homes == context.homes
    assert context.process_of("net") == "a"


def test_loading_beside_the_work_is_pinned_and_yields_but_not_for_ever() -> None:
    core = min(os.sched_getaffinity(0))
    seen: list[tuple[set[int], int, str]] = []
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def load() -> str:
        niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        seen.append((os.sched_getaffinity(0), niceness, threading.current_thread().name))
        return "network"

    device = Device(kind="cpu", cores=(core,), backend="torch")
    before = os.sched_getaffinity(0)
    assert load_beside(load, device) == "network"
    assert seen == [({core}, min(19, own + WARMING_NICENESS), "warming")]
    assert os.sched_getaffinity(0) == before
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_what_loading_raises_reaches_the_caller() -> None:
    def load() -> None:
        raise ConfigurationError("no such weights")

    with pytest.raises(ConfigurationError, match="no such weights"):
        load_beside(load, Device(kind="gpu"))


def test_runtimes_with_threads_of_their_own_are_not_loaded_at_a_lower_priority() -> None:
    assert keeps_no_threads(Device(kind="cpu", cores=(0, 1), backend="torch"))
    assert keeps_no_threads(Device(kind="cpu", cores=(0,), backend="onnxruntime"))
    assert not keeps_no_threads(Device(kind="cpu", cores=(0, 1), backend="onnxruntime"))
    assert not keeps_no_threads(Device(kind="gpu"))


def test_ros_names_of_processes_and_devices() -> None:
    assert topics.hosting_of("perception_cpu0") == "hosting/perception_cpu0"
    assert topics.hosting_of("perception.camera_net") == "hosting/perceptionx2ecamera_net"
    assert topics.name_of("cpu-0") != topics.name_of("cpu_0")
