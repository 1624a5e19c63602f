"""The process list of every shipped deployment: what launch files and `mmmt launch` start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from deployment_fixtures import write_resources

from perception_core.configuration import ConfigurationError
from perception_core.deployment import ProcessSpec, load_deployment
from perception_nodes.runtime.process_list import (
    NO_RESPAWN,
    RANK_RECORDER,
    REPLAY,
    ExtraProcess,
    ProcessDescription,
    build_process_list,
    new_run_id,
)

COMPONENTS = ("camera_net", "lidar_net", "bev_fuser", "detection3d_head", "map_segmentation_head")
ON_CPU0 = ("camera_net", "map_segmentation_head")
ON_CPU1 = ("lidar_net", "bev_fuser", "detection3d_head")
SAFETY = ("latency_monitor", "control")

# deployment: {process: (nodes regardless of order, cores, OMP_NUM_THREADS or None where the library decides)}
EXPECTED: dict[str, dict[str, tuple[tuple[str, ...], tuple[int, ...], str | None]]] = {
    "cpu-1process": {"stack": (("sensor_fusion", *COMPONENTS, *SAFETY), (0, 1), "2")},
    "cpu-2core": {
        "safety": (SAFETY, (0, 1), "1"),
        "perception_cpu0": (ON_CPU0, (0,), "1"),
        "perception_cpu1": (ON_CPU1, (1,), "1"),
        "sensing": (("sensor_fusion",), (0, 1), "1"),
    },
    "cpu-isolated": {
        "safety": (SAFETY, (0, 1), "1"),
        "perception.camera_net": (("camera_net",), (0,), "1"),
        "perception.lidar_net": (("lidar_net",), (1,), "1"),
        "perception.bev_fuser": (("bev_fuser",), (1,), "1"),
        "perception.detection3d_head": (("detection3d_head",), (1,), "1"),
        "perception.map_segmentation_head": (("map_segmentation_head",), (0,), "1"),
        "sensing": (("sensor_fusion",), (0, 1), "1"),
    },
    "gpu-single": {
        "safety": (SAFETY, (), "1"),
        "perception": (COMPONENTS, (), "1"),
        "sensing": (("sensor_fusion",), (), "1"),
    },
    "gpu-cpu-split": {
        "safety": (SAFETY, (), "1"),
        "perception_gpu": (("lidar_net", "camera_net", "bev_fuser"), (), "1"),
        "perception_cpu": (("detection3d_head", "map_segmentation_head"), (0, 1, 2, 3), "4"),
        "sensing": (("sensor_fusion",), (), "1"),
    },
    "orin": {
        "safety": (SAFETY, (8, 9), "1"),
        "perception": (COMPONENTS, (4, 5, 6, 7), "1"),
        "sensing": (("sensor_fusion",), (0, 1, 2, 3), "1"),
    },
}


def shipped(name: str, *overrides: str) -> list[ProcessDescription]:
    return build_process_list(load_deployment(name, overrides), run_id="run")


@pytest.mark.parametrize("name", EXPECTED)
def test_processes_of_the_shipped_deployments(name: str) -> None:
    processes = shipped(name)

    found = {
        process.name: (
            tuple(sorted(process.nodes)),
            process.cores,
            process.environment.get("OMP_NUM_THREADS"),
        )
        for process in processes
    }
    assert found == {
        key: (tuple(sorted(nodes)), cores, threads) for key, (nodes, cores, threads) in EXPECTED[name].items()
    }
    assert processes[0].name == "safety" or len(processes) == 1
    assert processes[-1].name == "sensing" or len(processes) == 1


def test_sensing_stops_first_and_safety_last() -> None:
    processes = build_process_list(load_deployment("cpu-2core"), extra=[REPLAY, RECORDER])

    order = [process.name for process in sorted(processes, key=lambda process: process.shutdown_rank)]

    assert order == ["replay", "sensing", "perception_cpu0", "perception_cpu1", "safety", "recorder"]


def test_an_override_moves_a_component_to_another_process() -> None:
    by_name = {process.name: process for process in shipped("cpu-2core", "placement.detection3d_head:=cpu0")}

    assert "detection3d_head" in by_name["perception_cpu0"].nodes
    assert "detection3d_head" not in by_name["perception_cpu1"].nodes
    command = by_name["perception_cpu0"].command
    assert command[command.index("placement.detection3d_head:=cpu0") - 1] == "--override"


def test_the_command_starts_the_process_runtime_of_this_interpreter() -> None:
    resolved = load_deployment("cpu-2core", ["rig:=kitti"])

    process = build_process_list(resolved, run_id="run", use_sim_time=True)[0]

    assert process.command[:3] == (sys.executable, "-m", "perception_nodes.runtime.process")
    options = process.command[3:]
    assert options[options.index("--deployment") + 1] == str(resolved.path)
    assert options[options.index("--process") + 1] == process.name
    assert options[options.index("--run-id") + 1] == "run"
    assert f"rig:={resolved.rig_path}" in options
    assert f"bundle:={resolved.bundle.path}" in options
    assert "rig:=kitti" not in options
    assert options[-1] == "--use-sim-time"
    assert process.environment["PYTHONPATH"].split(":")[0] == str(Path(__file__).resolve().parents[2])
    assert process.signals_ready


def test_a_run_has_one_id_and_every_run_another() -> None:
    resolved = load_deployment("cpu-2core")
    runs = [{process.run_id for process in build_process_list(resolved)} for _ in range(2)]

    assert all(len(run) == 1 for run in runs)
    assert runs[0] != runs[1]
    assert new_run_id() != new_run_id()


RECORDER = ExtraProcess("recorder", command=("recorder", "--to", "x"), shutdown_rank=RANK_RECORDER)


def test_extra_processes() -> None:
    resolved = load_deployment("cpu-1process", ["parameters.replay.rate:=2.0"])

    replay, recorder = build_process_list(resolved, extra=[REPLAY, RECORDER])[-2:]

    assert "--nodes" in replay.command
    assert replay.command[replay.command.index("--nodes") + 1] == "replay"
    assert "parameters.replay.rate:=2.0" in replay.command
    assert replay.start_when_ready
    assert replay.ends_run
    assert replay.respawn == NO_RESPAWN
    assert recorder.command == ("recorder", "--to", "x")
    assert not recorder.signals_ready
    with pytest.raises(ConfigurationError, match="process 'stack' is there already"):
        build_process_list(resolved, extra=[ExtraProcess("stack", nodes=("replay",))])


def test_a_slow_replay_widens_the_limits_between_sensors() -> None:
    stretch = "parameters.sensor_fusion.time_stretch:="

    def stretches(*overrides: str, replayed: bool = True) -> list[list[str]]:
        resolved = load_deployment("cpu-1process", list(overrides))
        processes = build_process_list(resolved, extra=[REPLAY] if replayed else [])
        return [
            [text.removeprefix(stretch) for text in process.command if text.startswith(stretch)]
            for process in processes
        ]

    assert stretches("parameters.replay.rate:=0.1") == [["10.0"], []]
    assert stretches("parameters.replay.rate:=2") == [["0.5"], []]
    assert stretches() == [[], []]
    assert stretches("parameters.replay.rate:=0.1", replayed=False) == [[]]
    assert stretches("parameters.replay.rate:=0.1", "parameters.replay.stamps:=recorded") == [[], []]
    assert stretches("parameters.replay.rate:=0.1", f"{stretch}3.0") == [["3.0"], ["3.0"]]


def test_environment_of_the_deployment_wins(tmp_path: Path) -> None:
    path = write_resources(tmp_path)
    overrides = [
        "processes.perception.environment.OMP_NUM_THREADS:=7",
        "processes.perception.environment.X:=1",
    ]

    processes = build_process_list(load_deployment(path, overrides, [tmp_path]))

    environment = next(process.environment for process in processes if process.name == "perception")
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["X"] == "1"
    assert environment["MKL_NUM_THREADS"] == "1"


def test_only_this_hosts_processes_are_listed(tmp_path: Path) -> None:
    text = write_resources(tmp_path).read_text(encoding="utf-8")
    text = text.replace("[components]", "[components@cpu0]").replace(
        "  safety:", "  far: {nodes: [components@cpu1]}\n  safety:"
    )
    text = text.replace("cores: [1], backend: torch", "cores: [1], backend: torch, host: second")
    (tmp_path / "hw_configs" / "split.yaml").write_text(text, encoding="utf-8")
    resolved = load_deployment("split", (), [tmp_path])

    assert [process.name for process in build_process_list(resolved)] == ["safety", "perception", "sensing"]
    assert [process.name for process in build_process_list(resolved, host="second")] == ["far"]


def test_executor_of_a_process_is_shown() -> None:
    table = {
        process.name: process.executor
        for process in shipped("cpu-2core", "processes.safety.executor:=multi", "processes.safety.threads:=3")
    }
    assert table["safety"] == "multi(3)"
    assert table["sensing"] == "single"


def test_replay_takes_an_executor_of_its_own() -> None:
    spec = ProcessSpec(nodes=(), executor="multi", threads=4, cores=(1,))
    process = build_process_list(
        load_deployment("cpu-1process"), extra=[ExtraProcess("replay", nodes=("replay",), spec=spec)]
    )[-1]
    assert process.cores == (1,)
    assert process.command[process.command.index("--executor") + 1] == "multi"


def test_a_coordinator_is_started_only_where_components_may_move() -> None:
    names = [process.name for process in build_process_list(load_deployment("cpu-2core"))]
    assert "move_coordinator" not in names

    resolved = load_deployment("cpu-2core", ["movable:=[camera_net]"])
    coordinator = build_process_list(resolved)[-1]
    assert (coordinator.name, coordinator.nodes) == ("move_coordinator", ("move_coordinator",))
    assert coordinator.respawn.enabled
    assert coordinator.signals_ready
    assert "movable:=[camera_net]" in coordinator.command
