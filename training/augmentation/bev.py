"""Flips, rotates and scales the ego frame; points, boxes, masks, the way driven and camera poses follow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pydantic

from perception_core.configuration import StrictModel
from perception_core.geometry import FloatArray, rotation_about_z
from perception_core.ops.bev_grid import BevGrid
from training.datasets.box_frames import angles_of, rotation_of
from training.datasets.foreground import footprint_masks
from training.datasets.sample import BevMasks, BoxLabels, ControlTargets, Sample, SampleError


def ego_transform(
    *,
    rotate_rad: float = 0.0,
    scale: float = 1.0,
    flip_x: bool = False,
    flip_y: bool = False,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> FloatArray:
    """Composes a 4x4 map of ego points: flip, then rotate about z, then scale, then shift.

    Args:
        rotate_rad: Counter-clockwise seen from above.
        scale: Of all three axes.
        flip_x: Exchange front and back.
        flip_y: Exchange left and right.
        shift: Metres.
    """
    result = np.eye(4)
    mirror = np.diag([-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0, 1.0])
    result[:3, :3] = scale * rotation_about_z(rotate_rad) @ mirror
    result[:3, 3] = shift
    return result


def transform_ego(sample: Sample, new_from_old_44: FloatArray, grid: BevGrid | None = None) -> Sample:
    """Moves everything that is given in the ego frame.

    Images stay as they are: `camera_from_ego` takes up the inverse, so a point projects to the pixel it did.
    Sizes, velocities and speeds scale with the world. A mirror image of a drive backwards is no drive: where
    x is flipped the control label is dropped.

    Args:
        sample: The sample.
        new_from_old_44: A similarity: rotation about z, reflection of x or y, uniform scale, shift.
        grid: Cells of the resulting masks; None: those of the sample. A smaller grid cuts from the sample's.

    Raises:
        SampleError: The map is no such similarity.
    """
    scale, mirror = _similarity(new_from_old_44)
    points_nc = sample.points_nc.copy()
    points_nc[:, :3] = points_nc[:, :3] @ new_from_old_44[:3, :3].T + new_from_old_44[:3, 3]
    motion = sample.ego_motion_c.copy()
    motion[0] *= scale
    motion[1] *= mirror
    cameras = sample.cameras
    if cameras is not None:
        back = np.linalg.inv(new_from_old_44)
        cameras = dataclasses.replace(cameras, camera_from_ego_v44=cameras.camera_from_ego_v44 @ back)
    boxes = None if sample.boxes is None else transform_boxes(sample.boxes, new_from_old_44)
    foreground = sample.foreground_masks
    if foreground is not None and boxes is not None and boxes.class_names == foreground.class_names:
        foreground = footprint_masks(boxes, grid or foreground.grid)
    elif foreground is not None:
        foreground = warp_masks(foreground, new_from_old_44, grid)
    is_backwards = mirror < 0 and new_from_old_44[0, 0] < 0
    control, labels = sample.control, sample.labels_present
    if control is not None and is_backwards:
        control, labels = None, labels - {"control"}
    elif control is not None:
        control = _transform_control(control, new_from_old_44, scale, mirror)
    return dataclasses.replace(
        sample,
        cameras=cameras,
        points_nc=points_nc,
        ego_motion_c=motion,
        ego_from_source_44=new_from_old_44 @ sample.ego_from_source_44,
        boxes=boxes,
        map_masks=None if sample.map_masks is None else warp_masks(sample.map_masks, new_from_old_44, grid),
        foreground_masks=foreground,
        control=control,
        labels_present=labels,
    )


def _similarity(transform_44: FloatArray) -> tuple[float, float]:
    """Returns scale and -1 for a reflection, else 1.

    Raises:
        SampleError: It shears, scales unevenly or tilts.
    """
    linear = transform_44[:3, :3]
    scale = float(np.cbrt(abs(np.linalg.det(linear))))
    if scale <= 0 or np.abs(linear @ linear.T - scale**2 * np.eye(3)).max() > 1e-6 * max(scale**2, 1):
        raise SampleError(
            f"the ego frame can be rotated, mirrored and scaled evenly, not by {linear.tolist()}"
        )
    if abs(linear[2, 2] - scale) > 1e-6 * scale:
        raise SampleError("the ego frame's z axis must stay upright")
    return scale, float(np.sign(np.linalg.det(linear)))


def transform_boxes(boxes: BoxLabels, new_from_old_44: FloatArray) -> BoxLabels:
    """Moves boxes by a similarity, see `transform_ego`."""
    scale, mirror = _similarity(new_from_old_44)
    turn = new_from_old_44[:3, :3] / scale
    angles = np.concatenate([boxes.boxes_b9[:, 6:7], boxes.pitch_roll_b2], axis=1)
    # A box looks the same from both sides: mirroring it as well keeps the rotation proper and the front in
    # front.
    rotation = turn @ rotation_of(angles) @ np.diag([1.0, mirror, 1.0])
    turned = angles_of(rotation)
    moved = boxes.boxes_b9.copy()
    moved[:, :3] = boxes.boxes_b9[:, :3] @ new_from_old_44[:3, :3].T + new_from_old_44[:3, 3]
    moved[:, 3:6] *= scale
    moved[:, 6] = turned[:, 0]
    moved[:, 7:9] = boxes.boxes_b9[:, 7:9] @ new_from_old_44[:2, :2].T
    return dataclasses.replace(boxes, boxes_b9=moved, pitch_roll_b2=turned[:, 1:])


def warp_masks(masks: BevMasks, new_from_old_44: FloatArray, grid: BevGrid | None = None) -> BevMasks:
    """Moves masks: each new cell takes the old cell its centre came from; False where there was none."""
    target, source = grid or masks.grid, masks.grid
    x = target.x_min + (np.arange(target.columns) + 0.5) * target.cell_size
    y = target.y_min + (np.arange(target.rows) + 0.5) * target.cell_size
    new_xy = np.stack(np.meshgrid(x, y), axis=-1)  # [rows, columns, 2]
    back = np.linalg.inv(new_from_old_44[:2, :2])
    old_xy = (new_xy - new_from_old_44[:2, 3]) @ back.T
    column = np.floor((old_xy[..., 0] - source.x_min) / source.cell_size).astype(np.int64)
    row = np.floor((old_xy[..., 1] - source.y_min) / source.cell_size).astype(np.int64)
    inside = (column >= 0) & (column < source.columns) & (row >= 0) & (row < source.rows)
    warped = np.zeros((len(masks.class_names), target.rows, target.columns), dtype=bool)
    warped[:, inside] = masks.masks_khw[:, row[inside], column[inside]]
    return BevMasks(warped, masks.class_names, target)


def _transform_control(
    control: ControlTargets, new_from_old_44: FloatArray, scale: float, mirror: float
) -> ControlTargets:
    # The way is given from the ego origin on, which a shift moves away from the vehicle.
    waypoints = control.waypoints_k2 @ new_from_old_44[:2, :2].T + new_from_old_44[:2, 3]
    waypoints[~control.waypoint_valid_k] = 0
    return dataclasses.replace(
        control,
        steering_rad=control.steering_rad * mirror,
        speed_mps=control.speed_mps * scale,
        waypoints_k2=waypoints,
    )


class BevAugmentationConfig(StrictModel):
    """How the ego frame is augmented; the defaults of the ranges change nothing.

    Attributes:
        rotate_deg: Largest rotation to either side.
        scale: Range of the scale.
        flip_x_probability: Of exchanging front and back, which drops the control label.
        flip_y_probability: Of exchanging left and right.
        grid: Cells of the resulting masks; None: those of the sample. Load masks on a larger grid
            (`NuScenesConfig.grid`) and give the network's here, else the corners of rotated masks are empty.
    """

    rotate_deg: float = pydantic.Field(default=0.0, ge=0, le=180)
    scale: tuple[float, float] = (1.0, 1.0)
    flip_x_probability: float = pydantic.Field(default=0.0, ge=0, le=1)
    flip_y_probability: float = pydantic.Field(default=0.0, ge=0, le=1)
    grid: BevGrid | None = None

    @pydantic.model_validator(mode="after")
    def _scale_is_a_range(self) -> BevAugmentationConfig:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be a range of positive numbers, got {self.scale}")
        return self


class BevAugmentation:
    """Draws and applies maps of the ego frame."""

    def __init__(self, config: BevAugmentationConfig) -> None:
        """Creates the augmentation."""
        self.config = config

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """Returns the augmented sample."""
        config = self.config
        transform = ego_transform(
            rotate_rad=float(np.radians(config.rotate_deg) * random.uniform(-1, 1)),
            scale=float(random.uniform(*config.scale)),
            flip_x=bool(random.random() < config.flip_x_probability),
            flip_y=bool(random.random() < config.flip_y_probability),
        )
        return transform_ego(sample, transform, config.grid)
