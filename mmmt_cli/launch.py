"""`mmmt launch`: the stack of a deployment without the ROS launch package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from perception_core.deployment import ResolvedDeployment
    from perception_nodes.runtime.process_list import ProcessDescription


def launch(
    hw_config: Annotated[str, typer.Argument(help="Deployment: a name in hw_configs/ or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Overrides, e.g. placement.detection3d_head:=cpu0 processes.safety.executor:=multi "
            "devices.cpu0.backend:=torch 'budgets_ms.lidar->control:=300' "
            "parameters.control.engage_on_start:=true "
            "rig:=kitti bundle:=PATH",
            metavar="KEY:=VALUE",
        ),
    ] = None,
    recording: Annotated[
        Path | None, typer.Option(help="Play this recording into the stack and stop when it ends.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write index.html and summary.json into this folder.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Stop after so many seconds.", min=0.0)] = None,
    use_sim_time: Annotated[bool, typer.Option("--use-sim-time", help="Nodes follow /clock.")] = False,
    log_directory: Annotated[
        Path | None, typer.Option(help="Write each process' output to a file there.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the process table and start nothing.")
    ] = False,
) -> None:
    """Start the stack of a deployment; Ctrl-C stops it in order.

    Exit code 0: ran and stopped as asked; 1: a process could not be kept running; 2: a configuration error.
    """
    from perception_core.deployment import load_deployment
    from perception_core.host import check_host
    from perception_nodes.runtime.process_list import REPLAY, build_process_list
    from perception_nodes.runtime.supervisor import Supervisor, run_until_signal

    given = list(overrides or ())
    if recording is not None:
        given.append(f"parameters.replay.recording:={recording.resolve()}")
    resolved = load_deployment(hw_config, given)
    for note in resolved.notes:
        typer.echo(f"note: {note}", err=True)
    if report is not None:
        raise typer.Exit(_launch_with_report(resolved, recording, report, duration, use_sim_time, dry_run))
    processes = build_process_list(resolved, use_sim_time=use_sim_time, extra=[REPLAY] if recording else [])
    if dry_run:
        print_process_table(resolved, processes)
        return
    check_host(resolved)
    raise typer.Exit(run_until_signal(Supervisor(processes, log_directory=log_directory), duration))


def _launch_with_report(
    resolved: ResolvedDeployment,
    recording: Path | None,
    report: Path,
    duration: float | None,
    use_sim_time: bool,
    dry_run: bool,
) -> int:
    try:
        from mmmt_cli.report_run import run_with_report
    except ImportError as error:
        raise ConfigurationError(f"--report: the report is not installed ({error})") from error
    return run_with_report(resolved, recording, report, duration, use_sim_time, dry_run)


def print_process_table(resolved: ResolvedDeployment, processes: list[ProcessDescription]) -> None:
    """Prints what would be started, in order."""
    from rich.console import Console
    from rich.table import Table

    placement = resolved.deployment.placement
    table = Table(title=f"{resolved.deployment.name}: {len(processes)} processes", title_justify="left")
    for column in ("process", "executor", "cores", "threads", "nodes"):
        table.add_column(column)
    for process in processes:
        nodes = [f"{node} @ {placement[node]}" if node in placement else node for node in process.nodes]
        cores = ",".join(map(str, process.cores)) or "any"
        threads = process.environment.get("OMP_NUM_THREADS", "any")
        table.add_row(process.name, process.executor, cores, threads, "\n".join(nodes))
    console = Console()
    console.print(table)
    console.print(f"rig {resolved.rig_path}\nbundle {resolved.bundle.path}", soft_wrap=True, highlight=False)
