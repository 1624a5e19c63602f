"""`mmmt rig`: show, check and draft rigs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from perception_core.rig import Rig
    from perception_nodes.rig.bag_survey import BagSurvey

rig_app = typer.Typer(no_args_is_help=True, help="Show, check and draft rigs: the sensors of a vehicle.")


@rig_app.command("draft")
def draft(
    bag: Annotated[Path, typer.Argument(help="rosbag2: a folder, or a single .mcap or .db3 file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; without it the rig goes to stdout.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the rig; default: the bag's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a rig from a bag's topics, CameraInfo and /tf_static; comments say what was guessed."""
    from perception_nodes.recordings.interface import RecordingError
    from perception_nodes.rig.bag_survey import survey_bag
    from perception_nodes.rig.draft import draft_rig
    from perception_nodes.rig.writing import rig_text

    if not bag.exists():
        raise ConfigurationError(f"{bag}: no such file or folder")
    if out is not None and out.exists() and not force:
        raise ConfigurationError(f"{out}: exists already; give --force to overwrite it")
    try:
        drafted = draft_rig(survey_bag(bag))
    except RecordingError as error:
        raise ConfigurationError(str(error)) from error
    if name is not None:
        drafted.name = name
    text = rig_text(drafted)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{out}: cannot be written: {error.strerror}") from error
    checks = text.count("CHECK:")
    sensors = (1 if drafted.lidar else 0) + len(drafted.cameras)
    typer.echo(f"{out}: {sensors} sensors, {checks} values to check by hand", err=True)
    for note in drafted.notes:
        typer.echo(f"  note: {note}", err=True)


@rig_app.command("check")
def check(
    rig: Annotated[str, typer.Argument(help="Rig: a name in hw_configs/rigs/ or a YAML file.")],
    bag: Annotated[Path | None, typer.Option(help="Check it against this rosbag2 too.")] = None,
) -> None:
    """Validate a rig and its calibration file and show its sensors.

    Exit code 1 when something of it cannot work.
    """
    from perception_core.calibration import load_calibration
    from perception_core.resources import find_named
    from perception_core.rig import load_rig

    path = find_named("rig", "hw_configs/rigs", rig)
    loaded = load_rig(path)
    _print_rig(loaded)
    problems: list[str] = []
    if loaded.calibration.file is not None:
        calibration = load_calibration(path.parent / loaded.calibration.file)
        if loaded.calibration.intrinsics == "file":
            problems += [
                f"{name} has no intrinsics in {loaded.calibration.file}"
                for name in loaded.cameras
                if name not in calibration.cameras
            ]
    problems += _doubtful(loaded)
    if bag is not None:
        from perception_nodes.recordings.interface import RecordingError
        from perception_nodes.rig.bag_survey import survey_bag

        try:
            problems += _against_bag(loaded, survey_bag(bag))
        except RecordingError as error:
            raise ConfigurationError(str(error)) from error
    for problem in problems:
        typer.echo(f"problem: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{path}: fine", err=True)


def _print_rig(rig: Rig) -> None:
    rows = [("modality", "topic", "type", "frame", "offset s", "limit s", "trusted m")]
    sensors = ({"lidar": rig.lidar} if rig.lidar else {}) | dict(rig.cameras)
    for name, sensor in sensors.items():
        kind = sensor.type.rsplit("/", 1)[-1]  # type: ignore[union-attr]
        numbers = (f"{sensor.offset_s:g}", f"{sensor.max_delay_s:g}", f"{sensor.trusted_range_m:g}")
        rows.append((name, sensor.topic, kind, sensor.frame or "(header)", *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    typer.echo(f"{rig.name}: ego frame {rig.ego_frame}, frames at the rate of {rig.trigger}")
    for row in rows:
        typer.echo(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _doubtful(rig: Rig) -> list[str]:
    sensors = ({"lidar": rig.lidar} if rig.lidar else {}) | dict(rig.cameras)
    problems = []
    topics: dict[str, str] = {}
    for name, sensor in sensors.items():
        if sensor.topic in topics:
            problems.append(f"{name} and {topics[sensor.topic]} both listen to {sensor.topic}")
        topics[sensor.topic] = name
        if not sensor.topic.startswith("/"):
            problems.append(
                f"topic '{sensor.topic}' of {name} is not absolute: it would lie in the stack's own namespace"
            )
    if not any(sensor.trusted_range_m > 0 for sensor in sensors.values()):
        problems.append("no sensor has a trusted_range_m: control would never drive")
    return problems


def _against_bag(rig: Rig, survey: BagSurvey) -> list[str]:
    from perception_core.calibration import CalibrationError
    from perception_core.configuration import nearest

    problems = []
    expected: dict[str, tuple[str, str]] = {"lidar": (rig.lidar.topic, rig.lidar.type)} if rig.lidar else {}
    expected |= {name: (camera.topic, camera.type) for name, camera in rig.cameras.items()}
    if rig.calibration.intrinsics == "camera_info":
        expected |= {
            f"CameraInfo of {name}": (c.info_topic(), "sensor_msgs/msg/CameraInfo")
            for name, c in rig.cameras.items()
        }
    if rig.odometry is not None:
        expected["odometry"] = (rig.odometry.topic, "nav_msgs/msg/Odometry")
    for name, (topic, kind) in expected.items():
        if topic not in survey.topics:
            same = [other for other, (other_kind, _) in survey.topics.items() if other_kind == kind]
            problems.append(f"{name}: the bag has no topic {topic}" + nearest(topic, same))
        elif survey.topics[topic][0] != kind:
            problems.append(f"{name}: {topic} is a {survey.topics[topic][0]} in the bag, not a {kind}")
    if rig.calibration.extrinsics == "tf_static":
        frames = {facts.name: facts.frame for facts in (*survey.clouds, *survey.images)}
        sensors = ({"lidar": rig.lidar} if rig.lidar else {}) | dict(rig.cameras)
        for name, sensor in sensors.items():
            frame = sensor.frame or frames.get(sensor.topic, "")
            try:
                survey.tree.lookup(rig.ego_frame, frame)
            except CalibrationError as error:
                problems.append(f"{name}: {error}")
    return problems
