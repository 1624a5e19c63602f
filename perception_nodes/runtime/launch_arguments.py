"""Arguments of the launch files: what they declare for a deployment, and the overrides that follow from what
was given.

Plain Python, so that it can be tested where the ROS launch package is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from perception_core.configuration import ConfigurationError, nearest
from perception_core.deployment import Device, ResolvedDeployment, load_deployment
from perception_core.overrides import FORMS, SECTIONS, SEPARATOR
from perception_core.precision import FULL_PRECISION
from perception_core.resources import names_in
from perception_nodes.runtime.executor import ExecutorKind

DEFAULT_HW_CONFIG = "cpu-2core"

#: Stands for "as the deployment says".
UNSET = ""
_EXECUTORS = get_args(ExecutorKind)
#: Arguments that ros2 launch itself adds.
_OF_ROS2_LAUNCH = ("launch-prefix", "launch-prefix-filter")


@dataclass(frozen=True)
class LaunchArgument:
    """An argument a launch file declares.

    Attributes:
        name: Its name, that of the override where it is one.
        description: Shown by --show-args.
        default: Value when it is not given; None: it must be given.
        choices: The only values allowed; None: any.
    """

    name: str
    description: str
    default: str | None = UNSET
    choices: tuple[str, ...] | None = None


RECORDING = LaunchArgument(
    "recording",
    "Recording to play: a rosbag2, a nuScenes or KITTI folder, or a recording made by `mmmt data`.",
    default=None,
)


def given_hw_config(argv: Sequence[str], launch_file: str) -> str | None:
    """Finds the deployment that a command line names, before launch has parsed it.

    Args:
        argv: sys.argv.
        launch_file: Name of the launch file that asks.

    Returns:
        The deployment; None when this launch file is included by another one, whose command line says
        nothing about it.
    """
    if not any(Path(argument).name == launch_file for argument in argv):
        return None
    prefix = f"hw_config{SEPARATOR}"
    given = [argument.removeprefix(prefix) for argument in argv if argument.startswith(prefix)]
    return given[-1] if given else DEFAULT_HW_CONFIG


def declared_arguments(
    hw_config: str | None, given: Mapping[str, str] | None = None, search_paths: Sequence[str | Path] = ()
) -> list[LaunchArgument]:
    """Lists the arguments of a launch file.

    Args:
        hw_config: The deployment; None: not known yet, then the arguments of all shipped deployments are
            declared without defaults and choices.
        given: `rig` and `bundle` where they were given.
        search_paths: Folders with hw_configs/ and bundles/ to look at before the shipped ones.

    Raises:
        ConfigurationError: The deployment is wrong.
    """
    shipped = names_in("hw_configs", search_paths)
    rigs = ", ".join(names_in("hw_configs/rigs", search_paths))
    arguments = [
        LaunchArgument(
            "hw_config",
            f"Deployment: a YAML file, or one of: {', '.join(shipped)}",
            DEFAULT_HW_CONFIG if hw_config is None else hw_config,
        ),
        LaunchArgument("use_sim_time", "All nodes follow /clock.", "false", ("true", "false")),
        LaunchArgument("rig", f"Rig: a YAML file, or one of: {rigs}; empty: the deployment's"),
        LaunchArgument("bundle", "Bundle folder; empty: the deployment's"),
    ]
    if hw_config is None:
        described = [_overrides_of(_load(str(path), None, search_paths)) for path in shipped.values()]
        names = {argument.name: argument for arguments in described for argument in arguments}
        loose = "as the deployment says where empty"
        arguments += [
            LaunchArgument(name, f"{a.description.split(':')[0]}; {loose}") for name, a in names.items()
        ]
    else:
        arguments += _overrides_of(_load(hw_config, given, search_paths))
    return arguments


def overrides_from(configurations: Mapping[str, str], declared: Iterable[LaunchArgument]) -> list[str]:
    """Turns launch configurations into overrides of the deployment.

    Args:
        configurations: Everything launch knows at that moment, which may include names of other launch files.
        declared: The arguments of this launch file.

    Returns:
        `key:=value` texts for what differs from what was declared. Names that look like an override but are
        none are handed on, so that load_deployment refuses them.
    """
    defaults = {argument.name: argument.default for argument in declared}
    overrides = []
    for name, value in configurations.items():
        if not is_override(name) or value == defaults.get(name, UNSET):
            continue
        overrides.append(f"{name}{SEPARATOR}{value}")
    return overrides


def is_override(name: str) -> bool:
    """Says whether an argument's name has the form of an override."""
    return name in ("rig", "bundle", "movable") or ("." in name and name.split(".")[0] in SECTIONS)


def refuse_unknown(argv: Iterable[str], declared: Iterable[LaunchArgument]) -> None:
    """Refuses arguments of the command line that launch would silently ignore.

    Args:
        argv: `name:=value` texts; others are skipped.
        declared: The arguments of this launch file.

    Raises:
        ConfigurationError: A name is neither declared nor the form of an override.
    """
    names = [argument.name for argument in declared]
    for text in argv:
        name, separator, _ = text.partition(SEPARATOR)
        if not separator or name in names or name in _OF_ROS2_LAUNCH or is_override(name):
            continue
        hint = nearest(name, names)
        forms = f"; forms are: {', '.join(FORMS)}" if "did you mean" not in hint else ""
        raise ConfigurationError(f"unknown argument '{text}'{forms or hint}")


def _load(
    hw_config: str, given: Mapping[str, str] | None, search_paths: Sequence[str | Path]
) -> ResolvedDeployment:
    overrides = {key: value for key, value in (given or {}).items() if value != UNSET}
    return load_deployment(hw_config, overrides, search_paths)


def _overrides_of(resolved: ResolvedDeployment) -> list[LaunchArgument]:
    deployment = resolved.deployment
    devices = "; ".join(f"{name} is {_describe(device)}" for name, device in deployment.devices.items())
    arguments = []
    for component, device in deployment.placement.items():
        task = resolved.bundle.spec.components[component].task
        what = f"Device of {component}" + (f" (task {task})" if task else "")
        arguments.append(
            LaunchArgument(f"placement.{component}", f"{what}: {devices}", device, tuple(deployment.devices))
        )
    for name, process in deployment.processes.items():
        description = f"Executor of process {name}: hosts {', '.join(process.nodes)}; see docs/executors.md"
        arguments.append(
            LaunchArgument(f"processes.{name}.executor", description, process.executor, _EXECUTORS)
        )
    return arguments


def _describe(device: Device) -> str:
    where = (
        f"cores {','.join(map(str, device.cores))}" if device.kind == "cpu" and device.cores else device.kind
    )
    if device.kind != "cpu":
        where = f"{device.kind} {device.index}"
    precision = "" if device.precision == FULL_PRECISION else f" in {device.precision}"
    return f"{where} with {device.backend}{precision}"
