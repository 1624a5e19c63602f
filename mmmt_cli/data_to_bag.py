"""`mmmt data to-bag`: turn a scene of a data set into a standard rosbag2."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from perception_nodes.recordings.interface import Recording
    from training.bags.drive import DriveBag

#: Storage plugin by the suffix of a single-file bag.
_STORAGES: dict[str, Literal["mcap", "sqlite3"]] = {".mcap": "mcap", ".db3": "sqlite3"}
_PROGRESS_STEPS = 1000

#: Called with (part done, whole).
Progress = Callable[[int, int], None]


def to_bag(
    dataset: Annotated[
        Path, typer.Argument(help="Data set in nuScenes' format, KITTI drive, or annotated frame.")
    ],
    scene_and_bag: Annotated[
        list[str],
        typer.Argument(
            metavar="[SCENE] OUT",
            help="Scene by name, token or number (nuScenes' format only; default: the first), and the bag to "
            "write: NAME.mcap or NAME.db3 for one file, another name for a folder with metadata.yaml.",
        ),
    ],
    rig: Annotated[
        str | None, typer.Option(help="Rig whose topics and frames are used; default: the data set's own.")
    ] = None,
    start: Annotated[float, typer.Option(min=0, help="Begin so many seconds into the scene.")] = 0.0,
    duration: Annotated[float | None, typer.Option(min=0.01, help="Seconds; default: to the end.")] = None,
    compressed: Annotated[bool, typer.Option("--compressed", help="Compress with zstd.")] = False,
) -> None:
    """Write a scene as a standard rosbag2 that ROS tools and `mmmt launch` play.

    It holds PointCloud2, CompressedImage with CameraInfo, /tf_static, odometry and, where the data set is
    annotated, the boxes as markers and objects.
    """
    from mmmt_cli.data import progress_bar
    from perception_nodes.recordings import RecordingError, open_recording

    if len(scene_and_bag) > 2:
        raise ConfigurationError(f"give DATASET [SCENE] OUT, not also {' '.join(scene_and_bag[2:])}")
    scene, out = scene_and_bag[0] if len(scene_and_bag) == 2 else "", Path(scene_and_bag[-1])
    try:
        recording = open_recording(dataset, **({"scene": scene} if scene else {}))
    except RecordingError as error:
        raise ConfigurationError(str(error)) from error
    try:
        with progress_bar(f"Writing {out.name}") as progress:
            counts = write_bag(recording, out, rig, start, duration, compressed=compressed, progress=progress)
    except OSError as error:
        raise ConfigurationError(f"{out}: cannot be written: {error}") from error
    finally:
        recording.close()
    for fault in counts.faults:
        typer.echo(f"left out: {fault}", err=True)
    held = ", ".join(f"{count} {name}" for name, count in sorted(counts.items.items()))
    typer.echo(f"{out}: {held}")
    if out.suffix in _STORAGES:
        typer.echo(
            f"to be played with rig {counts.rig_name}: a single file, unlike a folder, does not carry it"
        )


class Counts:
    """What was written and what could not be.

    Attributes:
        items: Messages by kind.
        faults: What is wrong with items that were left out.
        rig_name: The rig the bag is laid out by.
    """

    def __init__(self, rig_name: str) -> None:
        self.rig_name = rig_name
        self.items: Counter[str] = Counter()
        self.faults: list[str] = []


def write_bag(
    recording: Recording,
    out: Path,
    rig_name: str | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    *,
    compressed: bool = False,
    progress: Progress | None = None,
) -> Counts:
    """Writes a recording as a bag, which appears under its name only when it is complete.

    Args:
        recording: Of a data set, not itself a bag.
        out: New file (.mcap, .db3) or folder.
        rig_name: Rig of hw_configs/rigs or a file; None: the recording's own.
        start_s: Seconds into the recording.
        duration_s: None: to its end.
        compressed: Compress with zstd.
        progress: Told how far it is.

    Raises:
        ConfigurationError: The recording is a bag already, `out` exists, nothing of the recording can be
            read, or the rig does not fit.
        OSError: The bag cannot be written.
    """
    from perception_core.resources import find_named
    from perception_core.rig import load_rig
    from training.bags.drive import RIG_KEY, BagLayoutError, DriveBag
    from training.bags.writer import BagWriter

    if not recording.sensor_frames:
        raise ConfigurationError(f"{recording.name} is a bag already ({recording.kind})")
    if out.exists():
        raise ConfigurationError(f"{out}: exists already; name another file or remove it")
    storage = _STORAGES.get(out.suffix)
    if storage == "sqlite3" and compressed:
        # how messages are compressed stands in metadata.yaml only
        raise ConfigurationError(f"{out}: one .db3 file cannot be compressed; write .mcap or a folder")
    rig_name = rig_name or recording.rig_name
    if rig_name is None:
        raise ConfigurationError(f"no rig is known for {recording.name}; name one with --rig")
    rig = load_rig(find_named("rig", "hw_configs/rigs", rig_name))
    out.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}.", dir=out.parent))
    try:
        folder = workshop / out.stem
        custom = {RIG_KEY: rig_name, "mmmt_source": recording.description}
        with BagWriter(folder, storage or "mcap", custom, compressed) as bag:
            counts = Counts(rig_name)
            _write_items(recording, DriveBag(bag, rig), counts, start_s, duration_s, progress)
        if storage is None:
            folder.rename(out)
        else:
            # what the storage plugins write is complete without the metadata.yaml beside it
            (file,) = (file for file in folder.iterdir() if file.suffix == out.suffix)
            file.rename(out)
    except BagLayoutError as error:
        raise ConfigurationError(f"{recording.name}: {error}; choose a fitting rig with --rig") from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return counts


def _write_items(
    recording: Recording,
    bag: DriveBag,
    counts: Counts,
    start_s: float,
    duration_s: float | None,
    progress: Progress | None,
) -> None:
    from perception_nodes.recordings import items

    intrinsics = recording.camera_intrinsics()
    for modality, camera in intrinsics.items():
        if any(camera.distortion):
            raise ConfigurationError(f"{recording.name}: {modality} is not rectified, which is not supported")
    frames = {frame: modality for modality, frame in recording.sensor_frames.items()}
    ego_from_sensor = {
        frames[transform.child]: transform.parent_from_child
        for transform in recording.static_transforms()
        if transform.child in frames
    }
    begin_ns = recording.start_ns + round(start_s * 1e9)
    length_s = recording.duration_s - start_s if duration_s is None else duration_s
    bag.calibrate(
        begin_ns,
        ego_from_sensor,
        {name: (camera.matrix_33, camera.width, camera.height) for name, camera in intrinsics.items()},
    )
    for item in recording.messages(start_s):
        done_s = (item.time_ns - begin_ns) * 1e-9
        if done_s >= length_s:
            break
        if isinstance(item, items.PointsItem):
            bag.write_points(item.time_ns, item.modality, item.points_nc, item.fields)
            counts.items["sweeps"] += 1
        elif isinstance(item, items.ImageItem):
            bag.write_image(item.time_ns, item.modality, item.data, item.format)
            counts.items["images"] += 1
        elif isinstance(item, items.OdometryItem):
            bag.write_odometry(item.time_ns, item.world_from_ego, item.velocity_3, item.yaw_rate)
            counts.items["odometry"] += 1
        elif isinstance(item, items.ObjectsItem):
            bag.write_objects(item.time_ns, [(o.label, o.box_7, o.velocity_2) for o in item.objects])
            counts.items["annotated moments"] += 1
        elif isinstance(item, items.FaultItem):
            counts.faults.append(item.message)
        if progress is not None:
            progress(round(_PROGRESS_STEPS * min(1.0, done_s / length_s)), _PROGRESS_STEPS)
    if not counts.items["sweeps"] + counts.items["images"]:
        raise ConfigurationError(
            f"{recording.name}: no sweep or image of it can be read"
            + (f"; e.g. {counts.faults[0]}" if counts.faults else " in this stretch")
        )
