"""The process list as launch_ros actions. Only imported by the launch files: needs a ROS with launch and
launch_ros.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown
from launch.events.process import ProcessIO
from launch_ros.actions import Node

from perception_core.configuration import ConfigurationError
from perception_core.deployment import load_deployment
from perception_core.host import check_host
from perception_core.overrides import SEPARATOR
from perception_nodes.runtime.launch_arguments import (
    LaunchArgument,
    declared_arguments,
    given_hw_config,
    overrides_from,
    refuse_unknown,
)
from perception_nodes.runtime.process_list import ExtraProcess, ProcessDescription, build_process_list

#: Seconds between the end of a process and its restart; launch knows no growing delays.
RESPAWN_DELAY_S = 2.0
#: Seconds a process gets after SIGINT and after SIGTERM.
INTERRUPT_PATIENCE_S = "8"
TERMINATE_PATIENCE_S = "4"


def describe(
    launch_file: str, arguments: Sequence[LaunchArgument] = (), extra: Sequence[ExtraProcess] = ()
) -> LaunchDescription:
    """Builds the description of a launch file.

    Args:
        launch_file: Its file name.
        arguments: What it declares beside the deployment's arguments; each becomes a parameter of the extra
            process' first node under the same name.
        extra: Processes beside those of the deployment.
    """
    hw_config = given_hw_config(sys.argv, launch_file)
    on_command_line = dict(text.split(SEPARATOR, 1) for text in sys.argv if SEPARATOR in text)
    given: dict[str, str] = {key: on_command_line[key] for key in ("rig", "bundle") if key in on_command_line}
    declared = [*declared_arguments(hw_config, given), *arguments]

    def start(context: LaunchContext) -> list[Any]:
        if hw_config is not None:  # else the command line is that of the launch file that includes this one
            refuse_unknown(sys.argv, declared)
        configurations = {name: str(value) for name, value in context.launch_configurations.items()}
        overrides = overrides_from(configurations, declared)
        for argument in arguments:
            if configurations.get(argument.name):
                for process in extra:
                    overrides.append(
                        f"parameters.{process.nodes[0]}.{argument.name}:={configurations[argument.name]}"
                    )
        resolved = load_deployment(configurations["hw_config"], overrides)
        check_host(resolved)
        use_sim_time = configurations["use_sim_time"] == "true"
        processes = build_process_list(resolved, use_sim_time=use_sim_time, extra=extra)
        return [*(LogInfo(msg=note) for note in resolved.notes), *actions_of(processes)]

    return LaunchDescription([*map(_declare, declared), OpaqueFunction(function=_refuse_clearly(start))])


def actions_of(processes: Sequence[ProcessDescription]) -> list[Any]:
    """Turns processes into actions: nodes that start now, and handlers that start the rest when those are
    ready.
    """
    now = [process for process in processes if not process.start_when_ready]
    later = [process for process in processes if process.start_when_ready]
    nodes = {process.name: _node(process) for process in processes}
    actions: list[Any] = [nodes[process.name] for process in now]
    if later:
        awaited = {process.name for process in now if process.signals_ready}
        actions += _when_ready(awaited, nodes, [nodes[process.name] for process in later])
    for process in processes:
        if process.ends_run:
            stop = EmitEvent(event=Shutdown(reason=f"{process.name} has ended"))
            actions.append(
                RegisterEventHandler(OnProcessExit(target_action=nodes[process.name], on_exit=stop))
            )
    return actions


def _declare(argument: LaunchArgument) -> DeclareLaunchArgument:
    choices = list(argument.choices) if argument.choices is not None else None
    return DeclareLaunchArgument(
        argument.name, default_value=argument.default, description=argument.description, choices=choices
    )


def _node(process: ProcessDescription) -> Node:
    return Node(
        executable=process.command[0],
        arguments=list(process.command[1:]),
        exec_name=process.name,
        additional_env=process.environment,
        output="screen",
        respawn=process.respawn.enabled,
        respawn_delay=RESPAWN_DELAY_S,
        sigterm_timeout=INTERRUPT_PATIENCE_S,
        sigkill_timeout=TERMINATE_PATIENCE_S,
    )


def _when_ready(
    awaited: Iterable[str], nodes: dict[str, Node], later: list[Node]
) -> list[RegisterEventHandler]:
    """Starts `later` once every awaited process has said on its output that it is ready."""
    missing = set(awaited)

    def on_output(name: str, event: ProcessIO) -> list[Node]:
        if name not in missing or f"{name}: ready:".encode() not in event.text:
            return []
        missing.discard(name)
        return later if not missing else []

    def handler(name: str) -> RegisterEventHandler:
        def on_event(event: ProcessIO) -> list[Node]:
            return on_output(name, event)

        return RegisterEventHandler(
            OnProcessIO(target_action=nodes[name], on_stdout=on_event, on_stderr=on_event)
        )

    return [handler(name) for name in sorted(missing)]


def _refuse_clearly(function: Any) -> Any:
    """Makes a configuration error end the launch with its message instead of a traceback."""

    def guarded(context: LaunchContext) -> list[Any]:
        try:
            return function(context)
        except ConfigurationError as error:
            raise RuntimeError(str(error)) from None

    return guarded
