"""Collation of samples into a batch of tensors: whatever labels each sample has, and none it has not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from perception_core.ops.bev_grid import BevGrid
from training.datasets.sample import (
    DENSE_TASKS,
    IGNORED_CLASS,
    TASKS,
    BevMasks,
    Provenance,
    Sample,
    SampleError,
)

#: Pose of a view that a sample does not have: at the ego origin, looking ahead. Networks invert these
#: matrices.
_PLACEHOLDER_POSE = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])

Part = TypeVar("Part")


@dataclass(eq=False)
class CameraBatch:
    """Images of B samples; samples with fewer cameras than others are filled up with masked views.

    Attributes:
        images_bvhwc: uint8 RGB.
        camera_valid_bv: bool.
        intrinsics_bv33: float32.
        camera_from_ego_bv44: float32.
        image_from_original_bv33: float32.
    """

    images_bvhwc: torch.Tensor
    camera_valid_bv: torch.Tensor
    intrinsics_bv33: torch.Tensor
    camera_from_ego_bv44: torch.Tensor
    image_from_original_bv33: torch.Tensor


@dataclass(eq=False)
class BoxBatch:
    """Boxes of one sample, as `training.datasets.sample.BoxLabels`.

    Attributes:
        boxes_b9: float32; velocity NaN where not annotated.
        labels_b: int64.
        points_b: int64, -1 where not known.
        pitch_roll_b2: float32.
    """

    boxes_b9: torch.Tensor
    labels_b: torch.Tensor
    points_b: torch.Tensor
    pitch_roll_b2: torch.Tensor


@dataclass(eq=False)
class BevMaskBatch:
    """BEV masks of B samples; all False where `Batch.present` says that a sample has none.

    Attributes:
        masks_bkhw: bool.
        class_names: Class of each mask.
        grid: Where the cells lie.
    """

    masks_bkhw: torch.Tensor
    class_names: tuple[str, ...]
    grid: BevGrid


@dataclass(eq=False)
class ControlBatch:
    """Control targets of B samples; zeros and not valid where a sample has none.

    Attributes:
        steering_b1: float32 radians.
        steering_valid_b1: bool.
        speed_b1: float32 metres a second.
        waypoints_bk2: float32 metres.
        waypoint_valid_bk: bool.
    """

    steering_b1: torch.Tensor
    steering_valid_b1: torch.Tensor
    speed_b1: torch.Tensor
    waypoints_bk2: torch.Tensor
    waypoint_valid_bk: torch.Tensor


@dataclass(eq=False)
class DenseBatch:
    """One dense label of B samples.

    Attributes:
        value: (B, V, H, W) or (B, V, H, W, C); uint8 for classes, else float32.
        valid_bvhw: bool, False everywhere for a sample without this label.
    """

    value: torch.Tensor
    valid_bvhw: torch.Tensor


@dataclass(eq=False)
class Batch:
    """B samples as tensors. Samples may have different labels: `present` says which.

    Attributes:
        provenance: Where each sample comes from.
        cameras: None where no sample has images.
        points_nc: float32, the samples' points one after the other.
        batch_index_n: int64, sample of each point.
        lidar_valid_b: bool.
        ego_motion_bc: float32 (B, 3).
        world_from_ego_b44: float64; NaN for a sample without a world.
        ego_from_source_b44: float64, what augmentation did.
        boxes: One entry a sample; None where it has no boxes as label.
        box_classes: Class names of the boxes' labels.
        map_masks, foreground_masks, control: None where no sample has them.
        dense: By task; tasks no sample has a label of are left out.
        semantic_classes: Class names of `semantic_segmentation`.
        depth_unit: As `DenseLabels.depth_unit`; `m` without depth.
        present: For every task of TASKS, bool (B): which samples have its label.
    """

    provenance: tuple[Provenance, ...]
    cameras: CameraBatch | None
    points_nc: torch.Tensor
    batch_index_n: torch.Tensor
    lidar_valid_b: torch.Tensor
    ego_motion_bc: torch.Tensor
    world_from_ego_b44: torch.Tensor
    ego_from_source_b44: torch.Tensor
    boxes: tuple[BoxBatch | None, ...]
    box_classes: tuple[str, ...]
    map_masks: BevMaskBatch | None
    foreground_masks: BevMaskBatch | None
    control: ControlBatch | None
    dense: dict[str, DenseBatch]
    semantic_classes: tuple[str, ...]
    depth_unit: str
    present: dict[str, torch.Tensor]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.provenance)

    def has(self, task: str) -> bool:
        """Whether any sample has the label of a task."""
        return bool(self.present[task].any())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Returns the batch with all tensors on a device."""
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory; torch's DataLoader calls it where asked to."""
        return _map_tensors(self, torch.Tensor.pin_memory)


def _map_tensors(part: Part, change: Callable[[torch.Tensor], torch.Tensor]) -> Part:
    """Applies a function to every tensor of a dataclass, and of dataclasses, dicts and tuples in it."""

    def changed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, (type, Provenance)):
            return _map_tensors(value, change)
        if isinstance(value, dict):
            return {key: changed(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(changed(item) for item in value)
        return value

    fields = dataclasses.fields(part)  # type: ignore[arg-type]
    return dataclasses.replace(part, **{f.name: changed(getattr(part, f.name)) for f in fields})  # type: ignore[type-var]


def collate(samples: Sequence[Sample]) -> Batch:
    """Makes a batch. Give it to torch's DataLoader as `collate_fn`.

    Raises:
        SampleError: There are no samples, or their image sizes, grids, classes or numbers of waypoints
            differ.
    """
    if not samples:
        raise SampleError("a batch needs at least one sample")
    counts = torch.tensor([len(sample.points_nc) for sample in samples])
    unknown_pose = np.full((4, 4), np.nan)
    return Batch(
        provenance=tuple(sample.provenance for sample in samples),
        cameras=_collate_cameras(samples),
        points_nc=torch.from_numpy(np.concatenate([sample.points_nc for sample in samples])),
        batch_index_n=torch.repeat_interleave(torch.arange(len(samples)), counts),
        lidar_valid_b=torch.tensor([sample.lidar_valid for sample in samples]),
        ego_motion_bc=torch.from_numpy(np.stack([sample.ego_motion_c for sample in samples])),
        world_from_ego_b44=torch.from_numpy(
            np.stack([unknown_pose if s.world_from_ego_44 is None else s.world_from_ego_44 for s in samples])
        ),
        ego_from_source_b44=torch.from_numpy(np.stack([sample.ego_from_source_44 for sample in samples])),
        boxes=tuple(_collate_boxes(sample) for sample in samples),
        box_classes=_common(
            samples, "box classes", [None if s.boxes is None else s.boxes.class_names for s in samples]
        )
        or (),
        map_masks=_collate_masks(samples, "map masks", [sample.map_masks for sample in samples]),
        foreground_masks=_collate_masks(
            samples, "foreground masks", [sample.foreground_masks for sample in samples]
        ),
        control=_collate_control(samples),
        dense=_collate_dense(samples),
        semantic_classes=_common(
            samples,
            "semantic classes",
            [None if s.dense.semantic_segmentation is None else s.dense.semantic_classes for s in samples],
        )
        or (),
        depth_unit=_common(
            samples, "unit of depth", [None if s.dense.depth is None else s.dense.depth_unit for s in samples]
        )
        or "m",
        present={task: torch.tensor([task in sample.labels_present for sample in samples]) for task in TASKS},
    )


def _common(samples: Sequence[Sample], what: str, values: Sequence[Part | None]) -> Part | None:
    """Returns the one value all samples have that have any.

    Raises:
        SampleError: Two samples differ.
    """
    found: Part | None = None
    owner = ""
    for sample, value in zip(samples, values, strict=True):
        if value is None:
            continue
        name = f"{sample.provenance.dataset} {sample.provenance.token}"
        if found is not None and value != found:
            raise SampleError(
                f"samples of one batch must have the same {what}: {owner} has {found}, {name} has {value}; "
                "draw them in batches of their own"
            )
        found, owner = value, name
    return found


def _collate_cameras(samples: Sequence[Sample]) -> CameraBatch | None:
    size = _common(samples, "image size", [None if s.cameras is None else s.cameras.size for s in samples])
    if size is None:
        return None
    width, height = size
    batch, views = len(samples), max(len(s.cameras) for s in samples if s.cameras is not None)
    images = np.zeros((batch, views, height, width, 3), dtype=np.uint8)
    valid = np.zeros((batch, views), dtype=bool)
    intrinsics = np.zeros((batch, views, 3, 3), dtype=np.float32)
    intrinsics[:] = [[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]
    poses = np.zeros((batch, views, 4, 4), dtype=np.float32)
    poses[:] = _PLACEHOLDER_POSE
    from_original = np.zeros((batch, views, 3, 3), dtype=np.float32)
    from_original[:] = np.eye(3)
    for index, sample in enumerate(samples):
        if sample.cameras is not None:
            cameras, count = sample.cameras, len(sample.cameras)
            images[index, :count] = cameras.images_vhwc
            valid[index, :count] = cameras.valid_v
            intrinsics[index, :count] = cameras.intrinsics_v33
            poses[index, :count] = cameras.camera_from_ego_v44
            from_original[index, :count] = cameras.image_from_original_v33
    return CameraBatch(*(torch.from_numpy(a) for a in (images, valid, intrinsics, poses, from_original)))


def _collate_boxes(sample: Sample) -> BoxBatch | None:
    boxes = sample.boxes
    if boxes is None:
        return None
    return BoxBatch(
        torch.from_numpy(boxes.boxes_b9.astype(np.float32)),
        torch.from_numpy(boxes.labels_b),
        torch.from_numpy(boxes.points_b),
        torch.from_numpy(boxes.pitch_roll_b2.astype(np.float32)),
    )


def _collate_masks(
    samples: Sequence[Sample], what: str, masks: Sequence[BevMasks | None]
) -> BevMaskBatch | None:
    form = _common(
        samples,
        f"classes and grid of {what}",
        [None if m is None else (m.class_names, m.grid) for m in masks],
    )
    if form is None:
        return None
    names, grid = form
    masks_bkhw = np.zeros((len(samples), len(names), grid.rows, grid.columns), dtype=bool)
    for index, mask in enumerate(masks):
        if mask is not None:
            masks_bkhw[index] = mask.masks_khw
    return BevMaskBatch(torch.from_numpy(masks_bkhw), names, grid)


def _collate_control(samples: Sequence[Sample]) -> ControlBatch | None:
    controls = [sample.control for sample in samples]
    count = _common(
        samples, "number of waypoints", [None if c is None else len(c.waypoints_k2) for c in controls]
    )
    if count is None:
        return None
    batch = len(samples)
    steering, speed = np.zeros((batch, 1), dtype=np.float32), np.zeros((batch, 1), dtype=np.float32)
    steering_valid = np.zeros((batch, 1), dtype=bool)
    waypoints = np.zeros((batch, count, 2), dtype=np.float32)
    valid = np.zeros((batch, count), dtype=bool)
    for index, control in enumerate(controls):
        if control is not None:
            steering[index], speed[index] = control.steering_rad, control.speed_mps
            steering_valid[index] = control.steering_valid
            waypoints[index], valid[index] = control.waypoints_k2, control.waypoint_valid_k
    return ControlBatch(
        *(torch.from_numpy(array) for array in (steering, steering_valid, speed, waypoints, valid))
    )


def _collate_dense(samples: Sequence[Sample]) -> dict[str, DenseBatch]:
    views = max((len(s.cameras) for s in samples if s.cameras is not None), default=0)
    result = {}
    for task in DENSE_TASKS:
        labels = [getattr(sample.dense, task) for sample in samples]
        first = next((label for label in labels if label is not None), None)
        if first is None:
            continue
        fill = IGNORED_CLASS if task == "semantic_segmentation" else 0
        value = np.full((len(samples), views, *first.value.shape[1:]), fill, dtype=first.value.dtype)
        valid = np.zeros((len(samples), views, *first.valid.shape[1:]), dtype=bool)
        for index, label in enumerate(labels):
            if label is not None:
                value[index, : len(label.value)] = label.value
                valid[index, : len(label.valid)] = label.valid
        result[task] = DenseBatch(torch.from_numpy(value), torch.from_numpy(valid))
    return result
