"""nuScenes (Caesar et al., 2020) and data sets in its format, read through the official devkit.

A sample is a keyframe: its LiDAR sweep and earlier ones moved into the keyframe's ego frame, six images,
boxes with velocity, BEV map masks, foreground masks and control targets. It is what `sensor_fusion` makes of
the same moment on the vehicle: the frame is the ego frame at the LiDAR's stamp, `camera_from_ego` contains
the motion up to the image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydantic

from perception_core.configuration import StrictModel, nearest
from perception_core.geometry import FloatArray, compose, inverse, rotation_from_quaternion
from perception_core.labels import NUSCENES_DETECTION_CLASSES, NUSCENES_MAP_CLASSES
from perception_core.ops.bev_grid import BevGrid
from training.datasets.box_frames import boxes_in_ego
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.ego_track import ControlTargetsConfig, EgoTrack
from training.datasets.files import DataError, read_json, read_points
from training.datasets.foreground import footprint_masks
from training.datasets.frame_input import (
    DEFAULT_INPUT,
    FrameInput,
    Sweep,
    View,
    merge_sweeps,
    read_views,
    shipped_rig,
)
from training.datasets.info_dataset import camera_name
from training.datasets.lidar_depth import sparse_depth
from training.datasets.nuscenes_index import NuScenesIndex, Progress, default_cache, open_index, pose
from training.datasets.nuscenes_map import MapMasks
from training.datasets.sample import (
    BoxLabels,
    CameraImages,
    ControlTargets,
    DenseLabels,
    Float32Array,
    Provenance,
    Sample,
    SampleError,
)

#: Columns of a sweep's file: x y z intensity ring.
SWEEP_COLUMNS = 5
_RING_COLUMN = 4

#: Tasks this loader has labels of.
NUSCENES_TASKS: tuple[str, ...] = (
    *("detection3d", "map_segmentation", "foreground_segmentation", "control", "mono_detection3d", "depth"),
)


class NuScenesConfig(StrictModel):
    """What a nuScenes loader gives.

    Attributes:
        split: Split of the devkit (train, val, mini_train …) or of the data set's own splits.json; empty:
            every scene.
        tasks: Labels to load, of NUSCENES_TASKS. `depth` is sparse, from the LiDAR.
        detection_classes: In the order of the network's channels.
        map_classes: In the order of the network's channels.
        grid: BEV grid of the masks. Augmentation that rotates or shrinks the BEV wants a larger one to cut
            from.
        min_box_points: Boxes with fewer LiDAR and radar points inside are left out; nuScenes' evaluation
            leaves out those with none.
        control: What control targets are.
        steering: Where the steering angle comes from: the way driven (`ego_poses`), or the CAN bus where it
            has it.
        cache: Folder of the cached index; None: MMMT_CACHE or the user's cache folder.
        cache_masks: Keep drawn map masks there too.
    """

    split: str = ""
    tasks: tuple[str, ...] = ("detection3d", "map_segmentation", "foreground_segmentation", "control")
    detection_classes: tuple[str, ...] = NUSCENES_DETECTION_CLASSES
    map_classes: tuple[str, ...] = NUSCENES_MAP_CLASSES
    grid: BevGrid = BevGrid(x_min=-51.2, x_max=51.2, y_min=-51.2, y_max=51.2, cell_size=0.8)
    min_box_points: int = pydantic.Field(default=0, ge=0)
    control: ControlTargetsConfig = ControlTargetsConfig()
    steering: str = pydantic.Field(default="ego_poses", pattern="^(ego_poses|can_bus)$")
    cache: Path | None = None
    cache_masks: bool = False

    @pydantic.model_validator(mode="after")
    def _tasks_are_known(self) -> NuScenesConfig:
        for task in self.tasks:
            if task not in NUSCENES_TASKS:
                raise ValueError(f"nuScenes has no labels of '{task}'" + nearest(task, NUSCENES_TASKS))
        return self


class NuScenesDataset(SampleDataset):
    """Keyframes of a nuScenes-format data set.

    Attributes:
        index: The joined tables.
        samples: Index of each of this split's samples in `index`.
    """

    name = "nuscenes"

    def __init__(
        self,
        root: str | Path,
        version: str = "",
        config: NuScenesConfig | None = None,
        frame_input: FrameInput = DEFAULT_INPUT,
        progress: Progress | None = None,
    ) -> None:
        """Reads the tables, or their cached index.

        Args:
            root: Folder with samples/, sweeps/, maps/ and the tables' folder.
            version: Name of the tables' folder; empty: the only one there is.
            config: What to give; None: the defaults.
            frame_input: What the network takes.
            progress: Told how many scenes are done while the index is made.

        Raises:
            DataError: Tables are missing, damaged or contradict each other, or the split does not exist.
        """
        self.root = Path(root)
        self.version = version or _only_version(self.root)
        self.config = config or NuScenesConfig()
        self.frame_input = frame_input
        self.index = open_index(self.root, self.version, self.config.cache, progress)
        self.samples = self._samples_of_split()
        self._rig = shipped_rig("nuscenes")
        cache = self.config.cache or default_cache()
        self._masks = MapMasks(
            self.root,
            self.config.map_classes,
            self.config.grid,
            cache / "nuscenes" if self.config.cache_masks else None,
        )
        self._class_of_category = _detection_channels(self.index, self.config.detection_classes)
        self._view_of_channel = {camera_name(name): i for i, name in enumerate(self.index.channels)}
        self._tracks: dict[int, EgoTrack] = {}
        self._steering_ratio = self.fit_steering_ratio() if self.config.steering == "can_bus" else None
        self._labels = self._plan_labels()

    # -- what there is ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.samples)

    def token(self, index: int) -> str:
        """Returns the sample token."""
        return self.index.sample_token[self.samples[index]].decode()

    def labels_of(self, index: int) -> frozenset[str]:
        """All asked for, but for control at the end of a scene, where nothing was driven any more."""
        return self._labels[index]

    def _plan_labels(self) -> list[frozenset[str]]:
        tasks = frozenset(self.config.tasks)
        if len(self.index.annotation_token) == 0:  # the test split
            tasks -= {"detection3d", "mono_detection3d", "foreground_segmentation"}
        if not self.frame_input.cameras:
            tasks -= {"depth"}
        if "control" not in tasks:
            return [tasks] * len(self)
        first_s = self.config.control.spacing_s
        labels = []
        for sample in self.samples:
            track, stamp_s = self._track(self.index.scene_of(sample)), self._stamp_us(sample) * 1e-6
            ends = stamp_s + first_s > track.end_s + 0.025 or track.end_s <= track.start_s
            labels.append(tasks - {"control"} if ends else tasks)
        return labels

    def _samples_of_split(self) -> list[int]:
        index = self.index
        if not self.config.split:
            return list(range(len(index.sample_token)))
        wanted = self._scenes_of_split()
        names = [name.decode() for name in index.scene_name]
        found = [scene for scene, name in enumerate(names) if name in wanted]
        if not found:
            raise DataError(
                self.root / self.version,
                f"split '{self.config.split}' has no scene in these tables; is the version right?",
            )
        return [
            sample
            for scene in found
            for sample in range(index.scene_sample_start[scene], index.scene_sample_start[scene + 1])
        ]

    def _scenes_of_split(self) -> frozenset[str]:
        from nuscenes.utils.splits import create_splits_scenes

        split, own = self.config.split, self.root / self.version / "splits.json"
        known = create_splits_scenes()
        if own.is_file():
            known.update(read_json(own))
        if split not in known:
            raise DataError(own, f"unknown split '{split}'" + nearest(split, known))
        return frozenset(known[split])

    # -- a sample --------------------------------------------------------------------------------------------

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, len(self))
        sample = self.samples[index]
        tables, scene = self.index, self.index.scene_of(self.samples[index])
        sweep = int(tables.sample_sweep[sample])
        world_from_ego = pose(tables.sweep_world_from_ego[sweep])
        labels, token = self._labels[index], self.token(index)
        files: dict[str, str] = {}
        points_nc = self._points(sweep, scene, world_from_ego, files)
        cameras = self._cameras(sample, world_from_ego, files) if self.frame_input.cameras else None
        boxes = None
        if labels & {"detection3d", "mono_detection3d", "foreground_segmentation"}:
            boxes = self._boxes(sample, world_from_ego)
        dense = DenseLabels()
        if "depth" in labels and cameras is not None:
            dense = DenseLabels(depth=sparse_depth(points_nc[points_nc[:, 4] == 0], cameras))
        try:
            return Sample(
                provenance=Provenance(
                    self.name,
                    token,
                    tables.scene_name[scene].decode(),
                    self._stamp_us(sample) * 1000,
                    files,
                ),
                cameras=cameras,
                points_nc=points_nc,
                lidar_valid=True,
                ego_motion_c=self._ego_motion(sample, scene),
                world_from_ego_44=world_from_ego,
                ego_from_lidar_44=pose(tables.sweep_ego_from_lidar[sweep]),
                boxes=boxes if labels & {"detection3d", "mono_detection3d"} else None,
                map_masks=self._masks.draw(tables.scene_location[scene].decode(), world_from_ego, token)
                if "map_segmentation" in labels
                else None,
                foreground_masks=footprint_masks(boxes, self.config.grid)
                if boxes is not None and "foreground_segmentation" in labels
                else None,
                control=self._control(sample, scene) if "control" in labels else None,
                dense=dense,
                labels_present=labels,
            )
        except SampleError as error:
            raise DataError(self.root / self.version, f"sample {token}: {error}") from error

    def _stamp_us(self, sample: int) -> int:
        return int(self.index.sweep_time_us[self.index.sample_sweep[sample]])

    def _points(
        self, sweep: int, scene: int, world_from_ego: FloatArray, files: dict[str, str]
    ) -> Float32Array:
        tables, lidar = self.index, self._rig.lidar
        assert lidar is not None
        first = max(int(tables.scene_sweep_start[scene]), sweep - self.frame_input.sweeps + 1)
        ego_from_world = inverse(world_from_ego)
        sweeps = []
        for earlier in range(sweep, first - 1, -1):
            path = self.root / tables.sweep_path[earlier].decode()
            if earlier == sweep:
                files["lidar"] = str(path)
                frame_from_ego, elapsed_us = np.eye(4), 0
            else:
                frame_from_ego = compose(ego_from_world, pose(tables.sweep_world_from_ego[earlier]))
                elapsed_us = int(tables.sweep_time_us[earlier] - tables.sweep_time_us[sweep])
            points = read_points(path, SWEEP_COLUMNS, ring_column=_RING_COLUMN)
            sweeps.append(
                Sweep(points, pose(tables.sweep_ego_from_lidar[earlier]), frame_from_ego, elapsed_us * 1e-6)
            )
        return merge_sweeps(
            sweeps,
            min_range_m=lidar.min_range_m,
            intensity_scale=lidar.intensity_scale,
            max_points=self.frame_input.max_points,
        )

    def _cameras(self, sample: int, world_from_ego: FloatArray, files: dict[str, str]) -> CameraImages:
        tables = self.index
        views: list[View | str] = []
        for name in self._rig.cameras:
            channel = self._view_of_channel.get(name)
            relative = tables.camera_path[sample, channel].decode() if channel is not None else ""
            if channel is None or not relative:
                views.append(name)
                continue
            files[name] = str(self.root / relative)
            camera_from_ego = compose(
                inverse(pose(tables.camera_ego_from_camera[sample, channel])),
                inverse(pose(tables.camera_world_from_ego[sample, channel])),
                world_from_ego,
            )
            width, height = tables.camera_size[sample, channel]
            views.append(
                View(
                    name,
                    self.root / relative,
                    tables.camera_intrinsics[sample, channel],
                    camera_from_ego,
                    (int(width), int(height)),
                )
            )
        return read_views(views, self.frame_input.image)

    def _boxes(self, sample: int, world_from_ego: FloatArray) -> BoxLabels:
        tables = self.index
        span = slice(tables.sample_annotation_start[sample], tables.sample_annotation_start[sample + 1])
        label = self._class_of_category[tables.annotation_category[span]]
        points = tables.annotation_points[span]
        chosen = np.flatnonzero((label >= 0) & (points.sum(axis=1) >= self.config.min_box_points))
        rows = chosen + span.start
        if len(rows) == 0:
            return BoxLabels.empty(self.config.detection_classes)
        boxes_b9, pitch_roll = boxes_in_ego(
            inverse(world_from_ego),
            tables.annotation_centre[rows],
            tables.annotation_size[rows],
            np.stack([rotation_from_quaternion(q) for q in tables.annotation_rotation[rows]]),
            tables.annotation_velocity[rows],
        )
        return BoxLabels(
            boxes_b9,
            label[chosen],
            points[chosen, 0].astype(np.int64),
            self.config.detection_classes,
            pitch_roll,
            tuple(token.decode() for token in tables.annotation_token[rows]),
        )

    # -- motion ----------------------------------------------------------------------------------------------

    def _track(self, scene: int) -> EgoTrack:
        if scene not in self._tracks:
            tables = self.index
            span = slice(tables.scene_sweep_start[scene], tables.scene_sweep_start[scene + 1])
            poses = np.stack([pose(row) for row in tables.sweep_world_from_ego[span]])
            try:
                self._tracks[scene] = EgoTrack(tables.sweep_time_us[span] * 1e-6, poses)
            except ValueError as error:
                raise DataError(
                    self.root / self.version / "sample_data.json",
                    f"scene {tables.scene_name[scene].decode()}: {error}",
                ) from error
        return self._tracks[scene]

    def _ego_motion(self, sample: int, scene: int) -> Float32Array:
        motion = self._track(scene).motion(self._stamp_us(sample) * 1e-6)
        return np.array([0, 0, 0] if motion is None else [*motion, 1], dtype=np.float32)

    def _control(self, sample: int, scene: int) -> ControlTargets | None:
        wheel = float(self.index.can_steering[sample])
        steering = wheel / self._steering_ratio if self._steering_ratio and np.isfinite(wheel) else None
        stamp_s = self._stamp_us(sample) * 1e-6
        return self._track(scene).control_targets(stamp_s, self.config.control, steering)

    def fit_steering_ratio(self) -> float:
        """Returns how much further the steering wheel turns than the front wheels, fitted to the drives.

        nuScenes does not tell the ratio: the CAN bus holds the steering wheel's angle, the ego poses the way.
            Least
        squares through zero over all samples that move faster than 3 m/s.

        Raises:
            DataError: The CAN bus has no steering, or no drive turns.
        """
        tables = self.index
        wheel, wheels = [], []
        for sample in np.flatnonzero(np.isfinite(tables.can_steering)):
            scene = tables.scene_of(int(sample))
            motion = self._track(scene).motion(self._stamp_us(int(sample)) * 1e-6)
            if motion is not None and motion[0] > 3.0:
                wheel.append(float(tables.can_steering[sample]))
                wheels.append(float(np.arctan(self.config.control.wheelbase_m * motion[1] / motion[0])))
        squares = float(np.square(wheels).sum()) if wheels else 0.0
        if squares < 1e-3:
            raise DataError(
                self.root / "can_bus",
                "no steering to fit the steering ratio to; use steering: ego_poses, or add the expansion",
            )
        return float(np.dot(wheel, wheels)) / squares


def _only_version(root: Path) -> str:
    versions = sorted(path.name for path in root.glob("v1.0-*") if path.is_dir())
    if len(versions) != 1:
        raise DataError(
            root,
            f"name the version, one of {', '.join(versions)}"
            if versions
            else "holds no folder v1.0-… of tables",
        )
    return versions[0]


def _detection_channels(
    index: NuScenesIndex, classes: tuple[str, ...]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns, for each category, the channel of its detection class, -1 for categories outside the task."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    channel = {name: number for number, name in enumerate(classes)}
    names = [category_to_detection_name(category) for category in index.categories]
    return np.array([channel.get(name or "", -1) for name in names], dtype=np.int64)
