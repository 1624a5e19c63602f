"""What the launch files declare, and which overrides follow from what launch was given."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from perception_core.configuration import ConfigurationError
from perception_core.deployment import load_deployment
from perception_core.resources import package_root
from perception_nodes.runtime.launch_arguments import (
    RECORDING,
    declared_arguments,
    given_hw_config,
    overrides_from,
    refuse_unknown,
)

LAUNCH_FILES = ("perception.launch.py", "replay.launch.py")


def launch_is_installed() -> bool:
    """The folder launch/ of this repository imports as an empty namespace package, so ask for what the real
    one has.
    """
    try:
        return hasattr(importlib.import_module("launch"), "LaunchDescription")
    except ImportError:
        return False


@pytest.mark.parametrize("hw_config", ["cpu-1process", "cpu-2core", "cpu-isolated", "gpu-cpu-split"])
def test_every_components_device_and_every_processes_executor_is_declared(hw_config: str) -> None:
    deployment = load_deployment(hw_config).deployment

    declared = {argument.name: argument for argument in declared_arguments(hw_config)}

    for component, device in deployment.placement.items():
        argument = declared[f"placement.{component}"]
        assert argument.default == device
        assert argument.choices == tuple(deployment.devices)
        assert component in argument.description
    for process, spec in deployment.processes.items():
        argument = declared[f"processes.{process}.executor"]
        assert argument.default == spec.executor
        assert argument.choices == ("single", "multi", "events")
        assert process in argument.description
    assert declared["hw_config"].default == hw_config
    assert declared["use_sim_time"].choices == ("true", "false")
    assert "kitti" in declared["rig"].description
    assert all(argument.description for argument in declared.values())


def test_a_launch_file_that_is_included_declares_all_shipped_arguments_without_choices() -> None:
    declared = {argument.name: argument for argument in declared_arguments(None)}

    assert {"placement.lidar_net", "processes.stack.executor", "processes.perception_cpu0.executor"} <= set(
        declared
    )
    assert declared["placement.lidar_net"].choices is None
    assert declared["placement.lidar_net"].default == ""


def test_only_what_differs_becomes_an_override() -> None:
    declared = declared_arguments("cpu-2core")
    configurations = {argument.name: str(argument.default) for argument in declared}
    configurations |= {
        "hw_config": "cpu-2core",
        "placement.detection3d_head": "cpu0",
        "processes.safety.executor": "multi",
        "budgets_ms.lidar->control": "300",
        "rig": "kitti",
        "vehicle_model": "of another launch file",
    }

    overrides = overrides_from(configurations, declared)

    assert sorted(overrides) == [
        "budgets_ms.lidar->control:=300",
        "placement.detection3d_head:=cpu0",
        "processes.safety.executor:=multi",
        "rig:=kitti",
    ]
    assert load_deployment("cpu-2core", overrides).deployment.placement["detection3d_head"] == "cpu0"


def test_a_misspelt_component_reaches_the_deployment_and_is_refused_there() -> None:
    overrides = overrides_from({"placement.lidr_net": "cpu0"}, declared_arguments("cpu-2core"))
    with pytest.raises(ConfigurationError, match=r"did you mean 'placement\.lidar_net'"):
        load_deployment("cpu-2core", overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("placment.lidar_net:=cpu0", "did you mean 'placement.lidar_net'?"),
        ("use_sim_tim:=true", "did you mean 'use_sim_time'?"),
        ("zzz:=1", "forms are: rig:=NAME"),
    ],
)
def test_unknown_arguments_are_refused(text: str, message: str) -> None:
    argv = ["ros2", "launch", "mmmt_perception", "perception.launch.py", "hw_config:=cpu-2core", text]
    with pytest.raises(ConfigurationError) as caught:
        refuse_unknown(argv, declared_arguments("cpu-2core"))
    assert message in str(caught.value)


def test_known_arguments_pass() -> None:
    argv = [
        "use_sim_time:=true",
        "placement.lidar_net:=cpu0",
        "parameters.control.gain:=2",
        "recording:=x",
        "--debug",
    ]
    refuse_unknown(argv, [*declared_arguments("cpu-2core"), RECORDING])


def test_the_deployment_is_read_from_the_command_line_of_this_launch_file_only() -> None:
    name = "perception.launch.py"
    assert given_hw_config(["ros2", "launch", "mmmt_perception", name, "hw_config:=orin"], name) == "orin"
    assert given_hw_config(["ros2", "launch", f"/share/launch/{name}"], name) == "cpu-2core"
    assert given_hw_config(["ros2", "launch", "vehicle", "all.launch.py", "hw_config:=orin"], name) is None


def test_the_launch_folder_stays_out_of_the_way_of_ros_launch() -> None:
    folder = package_root() / "launch"
    assert sorted(path.name for path in folder.glob("*.py")) == sorted(LAUNCH_FILES)


@pytest.mark.skipif(not launch_is_installed(), reason="ROS launch is not installed here")
@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_launch_files_describe_themselves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    path = package_root() / "launch" / name
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "mmmt_perception", name, "hw_config:=cpu-isolated"])

    description = get_launch_description_from_python_launch_file(str(Path(path)))

    declared = {argument.name for argument in description.get_launch_arguments()}
    assert {"hw_config", "use_sim_time", "placement.lidar_net", "processes.perception.executor"} <= declared
    assert ("recording" in declared) == (name == "replay.launch.py")
