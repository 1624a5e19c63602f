"""The one place that turns a deployment into processes to start; the launch files and `mmmt launch` both use
it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from perception_core.configuration import ConfigurationError
from perception_core.deployment import LOCAL_HOST, STACK_NODES, ProcessSpec, ResolvedDeployment
from perception_core.overrides import SEPARATOR
from perception_core.resources import package_root
from perception_nodes.runtime.replay_pace import overrides_for_pace

PROCESS_MODULE = "perception_nodes.runtime.process"

#: Processes stop in ascending order: what makes data first, what keeps the vehicle safe last, then what
#: records.
RANK_REPLAY = 0
RANK_SENSING = 10
RANK_PERCEPTION = 20
RANK_SAFETY = 30
RANK_RECORDER = 40
_RANK_OF_NODE = {
    "replay": RANK_REPLAY,
    "sensor_fusion": RANK_SENSING,
    "recorder": RANK_RECORDER,
} | dict.fromkeys(("latency_monitor", "control"), RANK_SAFETY)

#: How many threads numeric libraries start, read when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class RespawnPolicy:
    """When and how fast a process that ended by itself is started again.

    Attributes:
        enabled: Start it again at all.
        initial_delay_s: Wait before the first restart; doubles (`factor`) with every failure in a row.
        factor: Growth of the wait.
        max_delay_s: Longest wait.
        stable_s: A process that ran this long failed for a new reason: the count starts again.
        max_failed_starts: Failures in a row before the process ever became ready, after which the stack
            gives up.
        max_failures: Failures in a row of a process that had become ready, after which the stack gives up.
    """

    enabled: bool = True
    initial_delay_s: float = 0.5
    factor: float = 2.0
    max_delay_s: float = 10.0
    stable_s: float = 30.0
    max_failed_starts: int = 3
    max_failures: int = 10


NO_RESPAWN = RespawnPolicy(enabled=False)


@dataclass(frozen=True)
class ProcessDescription:
    """A process to start.

    Attributes:
        name: Its name in the deployment.
        nodes: The nodes it hosts.
        command: Program and arguments.
        environment: Variables set on top of the parent's.
        cores: The cores it pins itself to; empty: not pinned.
        executor: Its rclpy executor, for tables.
        respawn: What happens when it ends by itself.
        shutdown_rank: Processes stop in ascending order of this.
        run_id: The run of the stack it belongs to.
        signals_ready: It says through the supervisor's pipe when its nodes are active.
        start_when_ready: Start it only when every process that signals readiness is ready.
        ends_run: When it ends, the whole stack stops with its exit code.
    """

    name: str
    nodes: tuple[str, ...]
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()
    executor: str = ""
    respawn: RespawnPolicy = RespawnPolicy()
    shutdown_rank: int = RANK_PERCEPTION
    run_id: str = ""
    signals_ready: bool = False
    start_when_ready: bool = False
    ends_run: bool = False


@dataclass(frozen=True)
class ExtraProcess:
    """A process beside those of the deployment, such as replay or a recorder.

    Attributes:
        name: Its name; none of the deployment's.
        nodes: Nodes of the registry it hosts; their parameters come from the deployment
            (`parameters.replay.rate:=2`).
        command: A program of its own instead of the process runtime.
        overrides: Overrides that hold for this process unless the deployment's say otherwise.
        spec: Executor, cores and environment.
        respawn: What happens when it ends by itself.
        shutdown_rank: Place in the shutdown order.
        start_when_ready: Start it when the stack is ready.
        ends_run: When it ends, the whole stack stops with its exit code.
    """

    name: str
    nodes: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    spec: ProcessSpec = field(default_factory=lambda: ProcessSpec(nodes=()))
    respawn: RespawnPolicy = NO_RESPAWN
    shutdown_rank: int = RANK_REPLAY
    start_when_ready: bool = False
    ends_run: bool = False


#: Plays a recording once the stack is ready and ends the run when the recording ends.
REPLAY = ExtraProcess(
    "replay",
    nodes=("replay",),
    overrides=("parameters.replay.end_process_after:=2.0",),
    start_when_ready=True,
    ends_run=True,
)

#: Moves components while the stack runs; part of every stack whose deployment lists movable ones.
MOVE_COORDINATOR = ExtraProcess(
    "move_coordinator", nodes=("move_coordinator",), respawn=RespawnPolicy(), shutdown_rank=RANK_REPLAY
)


def new_run_id() -> str:
    """Returns a name for a run that no other run of this host has."""
    return f"{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}_{os.urandom(2).hex()}"


def build_process_list(
    resolved: ResolvedDeployment,
    *,
    use_sim_time: bool = False,
    extra: Sequence[ExtraProcess] = (),
    run_id: str | None = None,
    host: str = LOCAL_HOST,
) -> list[ProcessDescription]:
    """Turns a deployment into the processes to start on one host, in the order to start them.

    Args:
        resolved: The deployment.
        use_sim_time: All nodes follow /clock.
        extra: Further processes.
        run_id: Names the run; None: a new name.
        host: The deployment's host this machine is.

    Returns:
        Safety first, sensing last, so that consumers stand before producers begin; then the extra processes.

    Raises:
        ConfigurationError: An extra process has the name of another one.
    """
    run_id = run_id or new_run_id()
    names = [name for name in resolved.processes if resolved.host_of(name) == host]
    replayed = any("replay" in process.nodes for process in extra)
    pace = overrides_for_pace(resolved.deployment.parameters) if replayed else ()
    described = [_describe(resolved, name, use_sim_time, run_id, pace) for name in names]
    described.sort(
        key=lambda process: -process.shutdown_rank
    )  # stable: within a rank as the deployment lists them
    if resolved.deployment.movable and host == LOCAL_HOST:
        extra = (MOVE_COORDINATOR, *extra)
    for process in extra:
        if process.name in [other.name for other in described]:
            raise ConfigurationError(
                f"process '{process.name}' is there already; name the extra process differently"
            )
        described.append(_describe_extra(resolved, process, use_sim_time, run_id))
    return described


def _describe(
    resolved: ResolvedDeployment, name: str, use_sim_time: bool, run_id: str, defaults: Sequence[str]
) -> ProcessDescription:
    spec, nodes = resolved.process_specs[name], resolved.processes[name]
    return ProcessDescription(
        name=name,
        nodes=nodes,
        command=_runtime_command(resolved, name, use_sim_time, run_id, defaults),
        environment=_environment(resolved, spec, _compute_threads(resolved, name)),
        cores=resolved.cores_of(name),
        executor=_executor_text(spec),
        shutdown_rank=max(_RANK_OF_NODE.get(node, RANK_PERCEPTION) for node in nodes),
        run_id=run_id,
        signals_ready=True,
    )


def _describe_extra(
    resolved: ResolvedDeployment, process: ExtraProcess, use_sim_time: bool, run_id: str
) -> ProcessDescription:
    command = process.command
    if not command:
        command = (
            *_runtime_command(resolved, process.name, use_sim_time, run_id, process.overrides),
            "--nodes",
            *process.nodes,
            "--executor",
            process.spec.executor,
        )
    return ProcessDescription(
        name=process.name,
        nodes=process.nodes,
        command=command,
        environment=_environment(resolved, process.spec, 1),
        cores=process.spec.cores,
        executor=_executor_text(process.spec) if process.nodes else "",
        respawn=process.respawn,
        shutdown_rank=process.shutdown_rank,
        run_id=run_id,
        signals_ready=not process.command,
        start_when_ready=process.start_when_ready,
        ends_run=process.ends_run,
    )


def _runtime_command(
    resolved: ResolvedDeployment, name: str, use_sim_time: bool, run_id: str, defaults: Sequence[str] = ()
) -> tuple[str, ...]:
    command = [sys.executable, "-m", PROCESS_MODULE]
    command += ["--deployment", str(resolved.path), "--process", name, "--run-id", run_id]
    found = {
        "rig": str(resolved.rig_path),
        "bundle": str(resolved.bundle.path),
    }  # so that no child has to search again
    given = [text for text in resolved.overrides if text.partition(SEPARATOR)[0] not in found]
    keys = [text.partition(SEPARATOR)[0] for text in given]
    given += [text for text in defaults if text.partition(SEPARATOR)[0] not in keys]
    for text in [*(f"{key}{SEPARATOR}{value}" for key, value in found.items()), *given]:
        command += ["--override", text]
    return (*command, "--use-sim-time") if use_sim_time else tuple(command)


def _executor_text(spec: ProcessSpec) -> str:
    return f"multi({spec.threads})" if spec.executor == "multi" else spec.executor


def _compute_threads(resolved: ResolvedDeployment, name: str) -> int | None:
    """Threads of one operator: as many as the largest CPU device of the process has cores; None: the library
    decides.
    """
    if all(node in STACK_NODES for node in resolved.processes[name]):
        return 1
    devices = [device for device in resolved.devices_of(name).values() if device.kind == "cpu"]
    if not all(device.cores for device in devices):
        return None
    return max((len(device.cores) for device in devices), default=1)


def _environment(resolved: ResolvedDeployment, spec: ProcessSpec, threads: int | None) -> dict[str, str]:
    environment = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path()}
    # Threads that wait for each other sleep: a network's cores also serve ROS callbacks, and those of a
    # virtual machine may be taken away while the other threads spin.
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if threads is not None:
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    if resolved.deployment.transport.dds_profile:
        environment |= dds_profile_environment()
    return environment | spec.environment


def _python_path() -> str:
    """The parent's PYTHONPATH with the folder this package was imported from in front, so that children find
    the same.
    """
    paths = [str(package_root()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(path for path in paths if path))


def dds_profile_environment() -> dict[str, str]:
    """Returns the variables that make Fast DDS use the shipped profile; none without the transport."""
    try:
        from perception_nodes.transport import dds_profile
    except ImportError:
        return {}
    return dict(dds_profile.environment())
