"""The typed sample every loader gives, and the batch that training and evaluation take.

A sample holds what `sensor_fusion` would hand the network for the same moment, and labels in the same frame.
The two sides meet in four places; training calls the very functions the vehicle calls:

- Frame: the ego frame (rear axle centre on the ground, x forward, y left, z up, metres) at the frame's stamp,
  which is the LiDAR's. Without a LiDAR it is the camera's.
- Points: columns x y z [m], intensity 0..1, time relative to the stamp [s] (earlier sweeps are negative),
  prepared by `perception_core.pointcloud.prepare_points`.
- Images: RGB uint8 without normalization (the network's first layer normalizes), resized by
  `perception_core.calibration.ImageRectifier`; `camera_from_ego` contains the vehicle's motion between the
  stamp and the image. Pixel centres lie at whole numbers.
- BEV masks: `perception_core.ops.bev_grid.BevGrid`, rows along +y, columns along +x.

Which pillars points fall into is decided inside the network, from its own grid and height range: loaders hand
over every point, as the vehicle does.

Samples hold numpy arrays, which loaders and augmentation work on; `training.datasets.batch.collate` turns
them into tensors, named as in `perception_core.bundle.FRAME_TENSORS` with a leading batch axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from perception_core.configuration import nearest
from perception_core.geometry import FloatArray
from perception_core.ops.bev_grid import BevGrid

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

#: Value of `semantic_segmentation` where there is no label; also False in its validity mask.
IGNORED_CLASS = 255

#: Dense labels of images, one value or vector a pixel.
DENSE_TASKS: tuple[str, ...] = ("semantic_segmentation", "depth", "normals", "edges", "keypoints")

#: Everything `Sample.labels_present` may name: the tasks of the design.
TASKS: tuple[str, ...] = (
    *("detection3d", "map_segmentation", "foreground_segmentation", "mono_detection3d", "control"),
    *DENSE_TASKS,
)


class SampleError(ValueError):
    """Parts of a sample contradict each other, or samples do not fit into one batch."""


@dataclass(frozen=True)
class Provenance:
    """Where a sample comes from.

    Attributes:
        dataset: Name of the data set's kind, e.g. `nuscenes`.
        token: Names the sample within its data set (nuScenes: sample token; else the file's stem).
        scene: Scene, drive or city; empty where the data set has none.
        time_ns: The frame's stamp; 0 where the data set has none.
        files: The files that were read, by modality or label.
    """

    dataset: str
    token: str
    scene: str = ""
    time_ns: int = 0
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class CameraImages:
    """Images of V cameras, all of one size, with their calibration.

    Attributes:
        names: Modality names, e.g. `camera_front`, in the order of the view axis.
        images_vhwc: uint8 RGB, zeros where masked.
        valid_v: bool; False: the camera gave no image for this frame.
        intrinsics_v33: float64, pixels of these images. Augmentation of the images belongs into them: after a
            rotation they are no longer upper triangular, after a flip a focal length is negative.
        camera_from_ego_v44: float64, ego points at the frame's stamp to camera points (x right, y down,
            z forward) at the image's. Augmentation of the BEV belongs into them: then they are not rigid.
        image_from_original_v33: float64, maps homogeneous pixels of the recorded image to those of these
            images.
        original_size_v2: int64, width and height of the recorded image.
    """

    names: tuple[str, ...]
    images_vhwc: NDArray[np.uint8]
    valid_v: BoolArray
    intrinsics_v33: FloatArray
    camera_from_ego_v44: FloatArray
    image_from_original_v33: FloatArray
    original_size_v2: IntArray

    def __post_init__(self) -> None:
        """Refuses arrays that do not belong together.

        Raises:
            SampleError: A shape or type is wrong.
        """
        views = len(self.names)
        _check_array("images_vhwc", self.images_vhwc, (views, None, None, 3), np.uint8)
        _check_array("valid_v", self.valid_v, (views,), np.bool_)
        _check_array("intrinsics_v33", self.intrinsics_v33, (views, 3, 3), np.float64)
        _check_array("camera_from_ego_v44", self.camera_from_ego_v44, (views, 4, 4), np.float64)
        _check_array("image_from_original_v33", self.image_from_original_v33, (views, 3, 3), np.float64)
        _check_array("original_size_v2", self.original_size_v2, (views, 2), np.int64)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images."""
        return self.images_vhwc.shape[2], self.images_vhwc.shape[1]

    def __len__(self) -> int:
        """Number of views."""
        return len(self.names)


@dataclass(eq=False)
class BoxLabels:
    """Annotated 3D boxes in the ego frame.

    Attributes:
        boxes_b9: float64 x y z of the centre, length width height, yaw, vx vy. The velocity is over ground,
            along the ego frame's axes; NaN where it is not annotated.
        labels_b: int64, index into `class_names`.
        points_b: int64, LiDAR points inside as annotated; -1 where not known.
        class_names: Class names in channel order.
        pitch_roll_b2: float64 radians; the box's rotation is Rz(yaw) Ry(pitch) Rx(roll). Zero, the default,
            for boxes that stand upright. Detection in the bird's-eye view ignores them.
        tokens: Names the annotation of each box within its data set; default: empty strings.
    """

    boxes_b9: FloatArray
    labels_b: IntArray
    points_b: IntArray
    class_names: tuple[str, ...]
    # None only says that they were not given: __post_init__ fills them.
    pitch_roll_b2: FloatArray = None  # type: ignore[assignment]
    tokens: tuple[str, ...] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Fills what was not given and refuses what does not belong together.

        Raises:
            SampleError: A shape, type or class index is wrong.
        """
        count = len(self.boxes_b9)
        if self.pitch_roll_b2 is None:
            self.pitch_roll_b2 = np.zeros((count, 2))
        if self.tokens is None:
            self.tokens = ("",) * count
        _check_array("boxes_b9", self.boxes_b9, (count, 9), np.float64)
        _check_array("labels_b", self.labels_b, (count,), np.int64)
        _check_array("points_b", self.points_b, (count,), np.int64)
        _check_array("pitch_roll_b2", self.pitch_roll_b2, (count, 2), np.float64)
        if len(self.tokens) != count:
            raise SampleError(f"{count} boxes but {len(self.tokens)} tokens")
        if count and not (self.labels_b.min() >= 0 and self.labels_b.max() < len(self.class_names)):
            raise SampleError(f"a box label lies outside 0..{len(self.class_names) - 1}")

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.boxes_b9)

    def select(self, chosen: BoolArray | IntArray) -> BoxLabels:
        """Returns the boxes of a mask or of indices, in that order."""
        order = np.flatnonzero(chosen) if np.asarray(chosen).dtype == np.bool_ else np.asarray(chosen)
        return BoxLabels(
            self.boxes_b9[order],
            self.labels_b[order],
            self.points_b[order],
            self.class_names,
            self.pitch_roll_b2[order],
            tuple(self.tokens[index] for index in order),
        )

    @classmethod
    def empty(cls, class_names: tuple[str, ...]) -> BoxLabels:
        """Returns no boxes at all, which is a label: the frame was annotated and nothing is there."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(np.zeros((0, 9)), nothing, nothing.copy(), class_names)


@dataclass(eq=False)
class BevMasks:
    """Binary masks in the bird's-eye view; masks of several classes may overlap.

    Attributes:
        masks_khw: bool, rows along +y, columns along +x.
        class_names: Class of each mask.
        grid: Where the cells lie in the ego frame.
    """

    masks_khw: BoolArray
    class_names: tuple[str, ...]
    grid: BevGrid

    def __post_init__(self) -> None:
        """Refuses masks that do not fit the grid.

        Raises:
            SampleError: A shape or type is wrong.
        """
        shape = (len(self.class_names), self.grid.rows, self.grid.columns)
        _check_array("masks_khw", self.masks_khw, shape, np.bool_)


@dataclass(eq=False)
class ControlTargets:
    """What a driver did next.

    Attributes:
        steering_rad: Angle of the front wheels at the stamp, positive left.
        speed_mps: The speed the vehicle has a configured time later; what the control head shall propose.
        waypoints_k2: float64 x y of the ego origin at evenly spaced times after the stamp, in the ego frame
            of the stamp; zero where not valid.
        waypoint_valid_k: bool; False beyond the end of the scene.
        steering_valid: Whether the steering angle is known: a vehicle that stands does not show it by its
            way.
    """

    steering_rad: float
    speed_mps: float
    waypoints_k2: FloatArray
    waypoint_valid_k: BoolArray
    steering_valid: bool = True

    def __post_init__(self) -> None:
        """Refuses values that are not numbers.

        Raises:
            SampleError: A shape is wrong or a value is not finite.
        """
        count = len(self.waypoints_k2)
        _check_array("waypoints_k2", self.waypoints_k2, (count, 2), np.float64)
        _check_array("waypoint_valid_k", self.waypoint_valid_k, (count,), np.bool_)
        values = [self.steering_rad, self.speed_mps, *self.waypoints_k2.ravel()]
        if not np.isfinite(values).all():
            raise SampleError(f"control targets are not finite: {values}")


@dataclass(eq=False)
class DenseLabel:
    """One label a pixel of every view.

    Attributes:
        value: [V, H, W] or [V, H, W, C]; see `DenseLabels` for the types. Zero (semantic: IGNORED_CLASS)
            where it is not valid.
        valid: bool [V, H, W].
    """

    value: NDArray[Any]
    valid: BoolArray


@dataclass(eq=False)
class DenseLabels:
    """Dense labels of the sample's images, at the size of the images.

    Attributes:
        semantic_segmentation: uint8 class, IGNORED_CLASS where not valid.
        depth: float32 metres along the optical axis.
        normals: float32 unit vectors towards the viewer's side of the surface in the camera frame (x right,
            y down, z forward: z is negative on whatever the camera sees).
        edges: float32 strength 0..1 of occlusion or texture edges.
        keypoints: float32 strength 0..1 of 2D keypoints.
        semantic_classes: Class names of `semantic_segmentation`.
        depth_unit: `m`, or `relative_inverse` for data sets that only tell 1 / depth in an unknown unit.
    """

    semantic_segmentation: DenseLabel | None = None
    depth: DenseLabel | None = None
    normals: DenseLabel | None = None
    edges: DenseLabel | None = None
    keypoints: DenseLabel | None = None
    semantic_classes: tuple[str, ...] = ()
    depth_unit: Literal["m", "relative_inverse"] = "m"

    def __post_init__(self) -> None:
        """Refuses labels of wrong types.

        Raises:
            SampleError: A shape or type is wrong.
        """
        for task, label in self.items():
            _check_array(f"{task}.valid", label.valid, (None, None, None), np.bool_)
            shape = (*label.valid.shape, 3) if task == "normals" else label.valid.shape
            kind = np.uint8 if task == "semantic_segmentation" else np.float32
            _check_array(f"{task}.value", label.value, shape, kind)

    def items(self) -> list[tuple[str, DenseLabel]]:
        """Returns the labels there are by task, in the order of DENSE_TASKS."""
        return [(task, getattr(self, task)) for task in DENSE_TASKS if getattr(self, task) is not None]


@dataclass(eq=False)
class Sample:
    """One frame with its labels.

    Attributes:
        provenance: Where it comes from.
        cameras: Images, None for a data set without.
        points_nc: float32 [N, 5] x y z intensity time, see the module; N = 0 without LiDAR.
        lidar_valid: Whether the LiDAR belongs to this frame.
        ego_motion_c: float32 [3] speed [m/s], yaw rate [rad/s], 1 where they are known, else three zeros.
        world_from_ego_44: float64 pose of the ego frame in the data set's world, None where it has none. Not
            touched by augmentation.
        ego_from_lidar_44: float64 pose of the LiDAR as mounted, None where not known. Not touched by
            augmentation.
        ego_from_source_44: float64, what augmentation of the BEV did: source ego points to this sample's. The
            identity as loaded.
        boxes: Label of `detection3d` and `mono_detection3d`.
        map_masks: Label of `map_segmentation`.
        foreground_masks: Label of `foreground_segmentation`: the boxes' footprints by detection class.
        control: Label of `control`.
        dense: Labels of the DENSE_TASKS.
        labels_present: Tasks whose labels this sample has; the losses of all others are not taken.
    """

    provenance: Provenance
    cameras: CameraImages | None = None
    points_nc: Float32Array = field(default_factory=lambda: np.zeros((0, 5), dtype=np.float32))
    lidar_valid: bool = False
    ego_motion_c: Float32Array = field(default_factory=lambda: np.zeros(3, dtype=np.float32))
    world_from_ego_44: FloatArray | None = None
    ego_from_lidar_44: FloatArray | None = None
    ego_from_source_44: FloatArray = field(default_factory=lambda: np.eye(4))
    boxes: BoxLabels | None = None
    map_masks: BevMasks | None = None
    foreground_masks: BevMasks | None = None
    control: ControlTargets | None = None
    dense: DenseLabels = field(default_factory=DenseLabels)
    labels_present: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuses a sample that claims labels it does not have, and labels that do not fit the images.

        Raises:
            SampleError: See above.
        """
        _check_array("points_nc", self.points_nc, (None, 5), np.float32)
        _check_array("ego_motion_c", self.ego_motion_c, (3,), np.float32)
        for task in self.labels_present:
            if task not in TASKS:
                raise SampleError(f"unknown task '{task}'" + nearest(task, TASKS))
            if self._label_of(task) is None:
                raise SampleError(f"{self.provenance.token}: label of '{task}' is claimed but not there")
        if not self.lidar_valid and len(self.points_nc):
            raise SampleError(f"{self.provenance.token}: has points of a LiDAR that is not valid")
        for task, label in self.dense.items():
            images = None if self.cameras is None else self.cameras.images_vhwc
            if images is None or label.valid.shape != images.shape[:3]:
                raise SampleError(
                    f"{self.provenance.token}: label {task} of shape {label.valid.shape} does not fit images "
                    f"of shape {None if images is None else images.shape}"
                )

    def _label_of(self, task: str) -> object | None:
        if task in DENSE_TASKS:
            label: object | None = getattr(self.dense, task)
            return label
        return {
            "detection3d": self.boxes,
            "mono_detection3d": self.boxes,
            "map_segmentation": self.map_masks,
            "foreground_segmentation": self.foreground_masks,
            "control": self.control,
        }[task]

    def keeping(self, tasks: Iterable[str]) -> Sample:
        """Returns the sample with the labels of these tasks only, as if no others had been annotated.

        Tasks it has no label of are passed over: a mixture may ask every data set for the same list.

        Raises:
            SampleError: There is no such task.
        """
        wanted = set(tasks)
        for task in wanted - set(TASKS):
            raise SampleError(f"unknown task '{task}'" + nearest(task, TASKS))
        present = self.labels_present & wanted
        dense = {task: label for task, label in self.dense.items() if task in present}
        return dataclasses.replace(
            self,
            boxes=self.boxes if present & {"detection3d", "mono_detection3d"} else None,
            map_masks=self.map_masks if "map_segmentation" in present else None,
            foreground_masks=self.foreground_masks if "foreground_segmentation" in present else None,
            control=self.control if "control" in present else None,
            dense=DenseLabels(
                **dense,
                semantic_classes=self.dense.semantic_classes,
                depth_unit=self.dense.depth_unit,
            ),
            labels_present=frozenset(present),
        )

    def frame(self) -> dict[str, torch.Tensor]:
        """Returns the frame as `sensor_fusion` hands it to the network: tensors by FRAME_TENSORS' names.

        Cameras are left out where the sample has none.
        """
        frame = {
            "points_nc": torch.from_numpy(self.points_nc),
            "lidar_valid": torch.tensor([self.lidar_valid]),
            "ego_motion_c": torch.from_numpy(self.ego_motion_c),
        }
        if self.cameras is not None:
            frame["images_vhwc"] = torch.from_numpy(self.cameras.images_vhwc)
            frame["camera_valid_v"] = torch.from_numpy(self.cameras.valid_v)
            frame["intrinsics_v33"] = _float_tensor(self.cameras.intrinsics_v33)
            frame["camera_from_ego_v44"] = _float_tensor(self.cameras.camera_from_ego_v44)
        return frame


def _float_tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _check_array(name: str, array: NDArray[Any], shape: Sequence[int | None], kind: Any) -> None:
    fits = array.ndim == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != kind:
        wanted = "x".join("?" if size is None else str(size) for size in shape)
        raise SampleError(
            f"{name} must be {np.dtype(kind).name} of shape {wanted}, got {array.dtype.name} of shape "
            f"{'x'.join(map(str, array.shape))}"
        )
