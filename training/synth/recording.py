"""Records a drive through the generated street as a standard rosbag2, and keeps the demo's recording in a
cache.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import training.bags
from perception_core.geometry import (
    compose,
    inverse,
    quaternion_from_yaw,
    transform_from_quaternion,
    wrap_angle,
    yaw_of,
)
from perception_core.resources import find_named
from perception_core.rig import Rig, load_rig
from training.bags.messages import AnnotatedBox
from training.bags.writer import BagWriter
from training.synth.camera import CameraRenderer, nuscenes_like_cameras
from training.synth.lidar import nuscenes_like_lidar, sweep
from training.synth.scene import Scene, points_per_instance
from training.synth.street import EgoDrive, Street, make_street

#: Called with (moments done, moments in all).
Progress = Callable[[int, int], None]

RIG = "synthetic"
#: Key of the bag's metadata that names the rig it was made for.
RIG_KEY = "mmmt_rig"
POINT_FIELDS = ("x", "y", "z", "intensity", "ring")
ODOMETRY_FRAME = "odom"
REFERENCE_PATH = "/mmmt/control/reference_path"
GROUND_TRUTH_OBJECTS, GROUND_TRUTH_MARKERS = "/mmmt/ground_truth/objects", "/mmmt/ground_truth/markers"

#: Drives begin at this time; any fixed one will do.
_START_NS = 1_750_000_000_000_000_000
_ODOMETRY_HZ = 50
#: A planner would repeat its path like this; it reaches this far beyond the end of the drive.
_REFERENCE_PERIOD_S = 0.5
_REFERENCE_BEYOND_S = 10.0
_REFERENCE_STEP_S = 0.25
_JPEG_QUALITY = 88
_ANNOTATED_RANGE_M = 75.0
#: Messages reach the recorder a little after they were measured: cameras one after the other, then the sweep.
_CAMERA_DELAY_NS, _CAMERA_STAGGER_NS, _LIDAR_DELAY_NS = 4_000_000, 1_500_000, 18_000_000
_LARGEST_POOL = 8


@dataclass(frozen=True)
class DriveOptions:
    """What is recorded; the same options always give the same data.

    Attributes:
        seconds: Length of the drive.
        seed: Of the street and of sensor noise.
        lidar_hz: Sweeps a second.
        camera_divider: A picture of each camera with every so-manieth sweep.
        width: Pixels.
        height: Pixels.
    """

    seconds: float = 6.0
    seed: int = 7
    lidar_hz: int = 10
    camera_divider: int = 2
    width: int = 640
    height: int = 360

    def moments(self) -> int:
        """Returns the number of sweeps."""
        return max(1, round(self.seconds * self.lidar_hz))


@dataclass(frozen=True)
class Moment:
    """What the sensors saw at one moment, ready to be written.

    Attributes:
        index: Which sweep.
        points_nc: float32 [N, 5], columns POINT_FIELDS, in the LiDAR frame.
        pictures: JPEG bytes by modality, empty where the cameras rest.
        boxes: Annotated objects in the ego frame.
    """

    index: int
    points_nc: NDArray[np.float32]
    pictures: dict[str, bytes]
    boxes: list[AnnotatedBox]


class DriveRenderer:
    """Renders moments of one drive."""

    def __init__(self, options: DriveOptions, threads: int = 1) -> None:
        """Makes the street and prepares the sensors.

        Args:
            options: What to record.
            threads: Threads of one ray cast.
        """
        self._options = options
        self._threads = threads
        self._street: Street = make_street(options.seed, options.seconds)
        self._lidar = nuscenes_like_lidar()
        self._renderers = [
            CameraRenderer(camera) for camera in nuscenes_like_cameras(options.width, options.height)
        ]

    def moment(self, index: int) -> Moment:
        """Renders the moment of one sweep."""
        import cv2

        time_s = index / self._options.lidar_hz
        scene = Scene(self._street, time_s, self._threads)
        pose = self._street.ego.world_from_ego(time_s)
        # a generator of its own for each moment: any process may render any moment
        measured = sweep(self._lidar, scene, pose, np.random.default_rng([self._options.seed, index]))
        pictures = {}
        if index % self._options.camera_divider == 0:
            for number, renderer in enumerate(self._renderers):
                picture = renderer.render(scene, pose, seed=index * len(self._renderers) + number)
                encoded, jpeg = cv2.imencode(
                    ".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                )
                if not encoded:
                    raise RuntimeError(
                        f"{renderer.camera.modality}: the picture could not be encoded as JPEG"
                    )
                pictures[renderer.camera.modality] = jpeg.tobytes()
        boxes = annotate(scene, pose, points_per_instance(measured.instance_n))
        return Moment(index, measured.points_nc, pictures, boxes)


def annotate(scene: Scene, world_from_ego: NDArray[np.float64], points: dict[int, int]) -> list[AnnotatedBox]:
    """Lists the boxes, in the ego frame, of the actors that the LiDAR hit at least once.

    Args:
        scene: The street at one moment.
        world_from_ego: Pose of the vehicle.
        points: LiDAR points by instance.
    """
    ego_from_world = inverse(world_from_ego)
    boxes: list[AnnotatedBox] = []
    for instance, actor in scene.visible:
        state = actor.state(scene.time_s)
        pose = compose(
            ego_from_world, transform_from_quaternion(state.position_3, quaternion_from_yaw(state.yaw))
        )
        x, y, z = (float(value) for value in pose[:3, 3])
        if points.get(instance, 0) == 0 or np.hypot(x, y) > _ANNOTATED_RANGE_M:
            continue
        length, width, height = actor.size
        velocity = ego_from_world[:2, :2] @ state.velocity_2
        yaw = float(wrap_angle(yaw_of(pose)))
        box = (x, y, z + height / 2, float(length), float(width), float(height), yaw)
        boxes.append((actor.label, box, (float(velocity[0]), float(velocity[1]))))
    return boxes


# -- rendering on several cores ------------------------------------------------------------------------------

_process_renderer: DriveRenderer | None = None


def _begin_process(options: DriveOptions) -> None:
    global _process_renderer
    _process_renderer = DriveRenderer(options)


def _render_in_process(index: int) -> Moment:
    if _process_renderer is None:
        raise RuntimeError("the rendering process was not prepared")
    return _process_renderer.moment(index)


def _moments(options: DriveOptions, processes: int) -> Iterator[Moment]:
    indices = range(options.moments())
    if processes <= 1:
        renderer = DriveRenderer(options, threads=0)
        yield from map(renderer.moment, indices)
        return
    # spawned, not forked: Open3D's thread pool does not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin_process, initargs=(options,)
    ) as pool:
        try:
            yield from pool.map(_render_in_process, indices)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# -- the bag -------------------------------------------------------------------------------------------------


def write_recording(
    folder: Path, options: DriveOptions, progress: Progress | None = None, processes: int | None = None
) -> Path:
    """Renders a drive and writes it as a rosbag2 (mcap) with the topics and frames of the rig `synthetic`.

    The bag appears under its name only when it is complete.

    Args:
        folder: The bag's folder; must not exist.
        options: What to record.
        progress: Called after each moment.
        processes: Rendering processes; None: one per core this process may use, at most eight.

    Returns:
        `folder`.

    Raises:
        FileExistsError: There is something at `folder`.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: exists already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if processes is None:
        processes = min(len(os.sched_getaffinity(0)), _LARGEST_POOL)
    # beside its place, so that the last step is a rename on one file system; the process number in its name
    # tells the next run whether it was left behind
    _remove_abandoned(folder)
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{os.getpid()}.", dir=folder.parent))
    try:
        unfinished = workshop / folder.name
        _write_bag(unfinished, options, min(processes, options.moments()), progress)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return folder


def _remove_abandoned(folder: Path) -> None:
    """Removes unfinished work on `folder` of processes that are no more."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.*"):
        process = left.name[len(folder.name) + 2 :].split(".")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _write_bag(folder: Path, options: DriveOptions, processes: int, progress: Progress | None) -> None:
    rig = load_rig(find_named("rig", "hw_configs/rigs", RIG))
    total = options.moments()
    custom = {RIG_KEY: RIG} | {
        f"drive_{name}": str(value) for name, value in dataclasses.asdict(options).items()
    }
    with BagWriter(folder, custom=custom) as bag:
        recorder = _Recorder(bag, rig, options)
        recorder.begin()
        for moment in _moments(options, processes):
            recorder.write(moment)
            if progress is not None:
                progress(moment.index + 1, total)


class _Recorder:
    """Writes moments with everything that goes with them."""

    def __init__(self, bag: BagWriter, rig: Rig, options: DriveOptions) -> None:
        if rig.lidar is None:
            raise ValueError(f"rig '{rig.name}' has no lidar, which the generated drive has")
        self._bag = bag
        self._rig = rig
        self._lidar_sensor = rig.lidar
        self._options = options
        self._cameras = {
            camera.modality: camera for camera in nuscenes_like_cameras(options.width, options.height)
        }
        self._ego: EgoDrive = EgoDrive()
        self._next_odometry = 0
        self._next_reference_s = 0.0
        self._annotates = bag.knows("mmmt_msgs/msg/DetectedObjectArray")

    def begin(self) -> None:
        """Writes the fixed transforms."""
        ego = self._rig.ego_frame
        transforms = [(ego, self._lidar_sensor.frame, nuscenes_like_lidar().ego_from_lidar)] + [
            (ego, self._rig.cameras[name].frame, camera.ego_from_camera)
            for name, camera in self._cameras.items()
        ]
        self._bag.write(
            "/tf_static", self._bag.messages.transforms(_START_NS, transforms), _START_NS, latched=True
        )

    def write(self, moment: Moment) -> None:
        """Writes one moment, odometry up to it first."""
        messages, rig = self._bag.messages, self._rig
        stamp_ns = _START_NS + round(moment.index * 1e9 / self._options.lidar_hz)
        self._write_odometry(stamp_ns)
        self._write_reference(stamp_ns)
        for number, (modality, jpeg) in enumerate(moment.pictures.items()):
            camera, sensor = self._cameras[modality], rig.cameras[modality]
            at_ns = stamp_ns + _CAMERA_DELAY_NS + number * _CAMERA_STAGGER_NS
            info = messages.camera_info(stamp_ns, sensor.frame, camera.matrix_33, camera.width, camera.height)
            self._bag.write(sensor.info_topic(), info, at_ns)
            self._bag.write(
                sensor.topic, messages.compressed_image(stamp_ns, sensor.frame, jpeg, "jpeg"), at_ns
            )
        at_ns = stamp_ns + _LIDAR_DELAY_NS
        cloud = messages.point_cloud(stamp_ns, self._lidar_sensor.frame, moment.points_nc, POINT_FIELDS)
        self._bag.write(self._lidar_sensor.topic, cloud, at_ns)
        if self._annotates:
            objects = messages.detected_objects(stamp_ns, rig.ego_frame, "ground_truth", moment.boxes)
            self._bag.write(GROUND_TRUTH_OBJECTS, objects, at_ns)
        markers = messages.markers(stamp_ns, rig.ego_frame, "ground_truth", moment.boxes)
        self._bag.write(GROUND_TRUTH_MARKERS, markers, at_ns)

    def _write_reference(self, stamp_ns: int) -> None:
        """Writes the lane that is driven, as a planner would give it to control."""
        if (stamp_ns - _START_NS) * 1e-9 < self._next_reference_s:
            return
        self._next_reference_s += _REFERENCE_PERIOD_S
        times = np.arange(0.0, self._options.seconds + _REFERENCE_BEYOND_S, _REFERENCE_STEP_S)
        points_n3 = np.stack([self._ego.position(float(time_s)) for time_s in times])
        path = self._bag.messages.path(stamp_ns, ODOMETRY_FRAME, points_n3)
        self._bag.write(REFERENCE_PATH, path, stamp_ns)

    def _write_odometry(self, until_ns: int) -> None:
        if self._rig.odometry is None:
            return
        while (stamp_ns := _START_NS + round(self._next_odometry * 1e9 / _ODOMETRY_HZ)) <= until_ns:
            time_s = (stamp_ns - _START_NS) * 1e-9
            pose, speed = self._ego.world_from_ego(time_s), float(np.linalg.norm(self._ego.velocity(time_s)))
            message = self._bag.messages.odometry(
                stamp_ns,
                ODOMETRY_FRAME,
                self._rig.ego_frame,
                pose,
                [speed, 0.0, 0.0],
                self._ego.yaw_rate(time_s),
            )
            self._bag.write(self._rig.odometry.topic, message, stamp_ns)
            self._next_odometry += 1


# -- the cache -----------------------------------------------------------------------------------------------


def default_cache() -> Path:
    """Returns the folder for generated data: MMMT_CACHE, else XDG_CACHE_HOME/mmmt, else ~/.cache/mmmt."""
    if given := os.environ.get("MMMT_CACHE"):
        return Path(given).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "mmmt"
    return Path.home() / ".cache" / "mmmt"


def content_key(options: DriveOptions) -> str:
    """Names what a drive contains: its options and the generator's own source, so that no stale drive is ever
    found.
    """
    digest = hashlib.sha256(repr(sorted(dataclasses.asdict(options).items())).encode())
    generator, bags = Path(__file__).parent, Path(training.bags.__file__).parent
    for file in [*sorted(generator.glob("*.py")), *sorted(bags.glob("*.py"))]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def ensure_demo_recording(
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    options: DriveOptions | None = None,
    **more: Any,
) -> Path:
    """Returns the demo's recording, generated on first use.

    Args:
        cache_dir: Where generated drives are kept; None: `default_cache()`.
        progress: Called after each moment while generating.
        options: What to record; None: the demo's drive.
        more: Passed to `write_recording`.

    Returns:
        The bag's folder.
    """
    options = options or DriveOptions()
    folder = (cache_dir or default_cache()) / "drives" / f"street-{options.seed}-{content_key(options)}"
    if (folder / "metadata.yaml").is_file():
        return folder
    try:
        return write_recording(folder, options, progress, **more)
    except OSError:
        # another process finished the same drive meanwhile
        if (folder / "metadata.yaml").is_file():
            return folder
        raise
