"""`mmmt demo`: a recording through the whole stack, and a report of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from perception_core.configuration import ConfigurationError


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Overrides of the deployment, e.g. placement.detection3d_head:=cpu0 "
            "parameters.replay.rate:=0.5",
            metavar="KEY:=VALUE",
        ),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Option(
            help="A rosbag2 (mcap or sqlite3), a nuScenes data set or frame, a KITTI drive. "
            "Without it: a short recording of a street that the project generates itself."
        ),
    ] = None,
    deployment: Annotated[
        str, typer.Option(help="Deployment: a name in hw_configs/ or a YAML file.")
    ] = "cpu-2core",
    out: Annotated[
        Path, typer.Option("--out", "--report", "-o", help="Folder for index.html, summary.json and logs.")
    ] = Path("runs/demo"),
    duration: Annotated[
        float | None,
        typer.Option(
            help="Seconds of data; a shorter recording is looped. Without it: once to its end.", min=1.0
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Seconds of data played in a second: less than 1 for a machine that is too slow for the "
            "recording. The vehicle's clocks go on in real time.",
            min=0.01,
            max=100.0,
        ),
    ] = None,
    rig: Annotated[
        str | None,
        typer.Option(help="Rig: a name in hw_configs/rigs/ or a file. Without it: by the recording's kind."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the process table and start nothing.")
    ] = False,
) -> None:
    """Play a recording through the stack and write a report.

    Exit code 0: frames were processed, every control command was safe, the report is whole. 1: one of these
    is not so, the reason is printed. 2: a configuration error.
    """
    from mmmt_cli.report_run import RunOptions, prepare, run
    from perception_core.deployment import load_deployment

    # The demo plays both the vehicle and its sensors: other machines of the network have no part in it.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    given = list(overrides or ())
    path = recording if recording is not None else default_recording()
    if rig is not None:
        given.append(f"rig:={rig}")
    elif not any(text.startswith("rig:=") for text in given):
        given.append(f"rig:={rig_of(path)}")
    resolved = load_deployment(deployment, given)
    options = RunOptions(
        path,
        out,
        duration if duration is not None else default_duration(path),
        engage=True,
        rate=rate,
        wait_for_output=duration is None,
    )
    if dry_run:
        from mmmt_cli.launch import print_process_table

        print_process_table(*prepare(resolved, options))
        return
    raise typer.Exit(run(resolved, options))


def default_recording() -> Path:
    """The project's own recording, generated on first use.

    Raises:
        ConfigurationError: The generator or a package it needs is not installed.
    """
    try:
        from mmmt_cli.data import demo_recording
    except ImportError as error:
        raise ConfigurationError(
            f"the demo's recording cannot be generated: {error}; name another one with --recording"
        ) from error
    return demo_recording()


def rig_of(recording: Path) -> str:
    """The rig that fits a recording.

    Raises:
        ConfigurationError: There is no such recording, or its kind does not say what vehicle it comes from.
    """
    from perception_nodes.recordings.interface import RecordingError
    from perception_nodes.recordings.opening import open_recording

    try:
        opened = open_recording(recording)
    except RecordingError as error:
        raise ConfigurationError(str(error)) from error
    try:
        if opened.rig_name is None:
            raise ConfigurationError(
                f"recording {recording} ({opened.kind}) does not say which vehicle it comes from: "
                f"name its rig with --rig, or write one with `mmmt rig draft {recording}`"
            )
        return opened.rig_name
    finally:
        opened.close()


def default_duration(recording: Path) -> float | None:
    """None for a recording that ends by itself, else the length of one pass."""
    from perception_nodes.recordings.opening import open_recording

    opened = open_recording(recording)
    try:
        return opened.duration_s if opened.endless else None
    finally:
        opened.close()
