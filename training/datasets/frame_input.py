"""Prepares images and sweeps exactly as the vehicle's sensor fusion does, from files instead of messages.

The functions of `perception_core` that do the work are the ones `perception_nodes.fusion.frame_assembly`
calls; a test feeds both sides with the same frame and compares the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydantic
from numpy.typing import ArrayLike, NDArray

from perception_core.bundle import BundleInput, ImageInput
from perception_core.calibration import CalibrationError, CameraCalibration, ImageRectifier, ImageResize
from perception_core.configuration import StrictModel
from perception_core.geometry import FloatArray
from perception_core.pointcloud import even_subset, prepare_points
from perception_core.resources import find_named
from perception_core.rig import Rig, load_rig
from training.datasets.files import DataError, read_image
from training.datasets.sample import CameraImages, Float32Array

#: Pose a masked camera gets, as on the vehicle: at the ego origin, looking ahead. Networks invert these
#: matrices.
PLACEHOLDER_POSE: FloatArray = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


class FrameInput(StrictModel):
    """What a network takes of a frame.

    Attributes:
        image: Size of the images; None: as recorded.
        cameras: Take the images at all.
        max_points: Points kept of a frame, evenly spread over its sweeps; None: all.
        sweeps: LiDAR sweeps merged into a frame, this one and earlier ones. The vehicle gives one.
    """

    image: ImageInput | None = ImageInput(height=128, width=352)
    cameras: bool = True
    max_points: int | None = pydantic.Field(default=60_000, gt=0)
    sweeps: int = pydantic.Field(default=1, ge=1)

    @classmethod
    def of_bundle(cls, needs: BundleInput, sweeps: int = 1) -> FrameInput:
        """Returns what a bundle or model (`PerceptionModel.bundle_input()`) takes."""
        image = needs.image
        if image is None and needs.mono is not None:
            image = ImageInput(height=needs.mono.height, width=needs.mono.width)
        return cls(
            image=image,
            cameras=image is not None,
            max_points=needs.max_points or None,
            sweeps=sweeps,
        )


#: What the shipped bundles' networks take.
DEFAULT_INPUT = FrameInput()


@lru_cache
def shipped_rig(name: str) -> Rig:
    """Returns a rig of hw_configs/rigs, from which come the order of views and the LiDAR's settings.

    Raises:
        ConfigurationError: There is no such rig.
    """
    return load_rig(find_named("rig", "hw_configs/rigs", name))


@dataclass(frozen=True, eq=False)
class View:
    """One camera's image file and its calibration.

    Attributes:
        name: Modality name.
        path: Image file.
        intrinsics_33: Pixels of the recorded image.
        camera_from_ego_44: Ego frame at the frame's stamp to the camera at the image's.
        size: Width and height of the recorded image; None: whatever the file has.
    """

    name: str
    path: Path
    intrinsics_33: FloatArray
    camera_from_ego_44: FloatArray
    size: tuple[int, int] | None = None


def image_from_original(resize: ImageResize) -> FloatArray:
    """Returns the 3x3 map of homogeneous pixels of the source image to pixels of the resized one."""
    return resize.intrinsics(np.eye(3))


def read_views(views: Sequence[View | str], target: ImageInput | None) -> CameraImages:
    """Reads and resizes the images of a frame.

    Args:
        views: What to read, in the order of the view axis; a name alone stands for a camera that gave no
            image.
        target: Size of the result; None: as recorded.

    Raises:
        DataError: An image cannot be used, its calibration is impossible or, without a target, sizes differ.
    """
    images: list[NDArray[np.uint8] | None] = []
    valid, intrinsics, poses, maps, sizes = [], [], [], [], []
    for view in views:
        valid.append(not isinstance(view, str))
        if isinstance(view, str):
            images.append(None)
            intrinsics.append(np.eye(3))
            poses.append(PLACEHOLDER_POSE)
            maps.append(np.eye(3))
            sizes.append((1, 1))
            continue
        image, size = _read_view(view, target)
        resize = ImageResize(size, target or ImageInput(height=size[1], width=size[0]))
        images.append(image)
        intrinsics.append(resize.intrinsics(view.intrinsics_33))
        poses.append(np.asarray(view.camera_from_ego_44, dtype=np.float64))
        maps.append(image_from_original(resize))
        sizes.append(size)
    shape = _common_shape([v for v in views if not isinstance(v, str)], [i for i in images if i is not None])
    if shape is None:
        shape = (target.height, target.width, 3) if target is not None else (1, 1, 3)
    stacked = np.zeros((len(views), *shape), dtype=np.uint8)
    for index, read in enumerate(images):
        if read is None:
            intrinsics[index] = np.array(
                [[shape[1], 0, shape[1] / 2], [0, shape[1], shape[0] / 2], [0, 0, 1.0]]
            )
        else:
            stacked[index] = read
    return CameraImages(
        names=tuple(view if isinstance(view, str) else view.name for view in views),
        images_vhwc=stacked,
        valid_v=np.array(valid, dtype=bool),
        intrinsics_v33=np.stack(intrinsics).astype(np.float64),
        camera_from_ego_v44=np.stack(poses),
        image_from_original_v33=np.stack(maps),
        original_size_v2=np.array(sizes, dtype=np.int64),
    )


def _read_view(view: View, target: ImageInput | None) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Returns the resized image and the size it was recorded in."""
    if target is None or view.size is None:
        image = read_image(view.path, view.size)
        size = view.size or (image.shape[1], image.shape[0])
        return (image if target is None else _rectifier(view, size, target).apply(image)), size
    rectifier = _rectifier(view, view.size, target)
    image = read_image(view.path, view.size, reduction=rectifier.reduction)
    return rectifier.apply(image), view.size


def _rectifier(view: View, size: tuple[int, int], target: ImageInput) -> ImageRectifier:
    try:
        return ImageRectifier(CameraCalibration(view.intrinsics_33, *size), target)
    except CalibrationError as error:
        raise DataError(view.path, f"calibration of {view.name}: {error}") from error


def _common_shape(views: Sequence[View], images: Sequence[NDArray[np.uint8]]) -> tuple[int, ...] | None:
    for view, image in zip(views, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                view.path,
                f"image of {image.shape[1]}x{image.shape[0]} pixels stands beside {views[0].path.name} of "
                f"{images[0].shape[1]}x{images[0].shape[0]}; give one image size for all",
            )
    return images[0].shape if images else None


@dataclass(frozen=True, eq=False)
class Sweep:
    """Points of one LiDAR sweep.

    Attributes:
        points_n4: float32 x y z intensity in the LiDAR's frame.
        ego_from_lidar_44: Pose of the LiDAR in the ego frame of the sweep's own time.
        frame_from_ego_44: That ego frame in the ego frame of the sample's stamp: the vehicle's motion.
        time_s: The sweep's time relative to the stamp; negative for earlier sweeps.
    """

    points_n4: Float32Array
    ego_from_lidar_44: FloatArray
    frame_from_ego_44: ArrayLike
    time_s: float


def merge_sweeps(
    sweeps: Sequence[Sweep], *, min_range_m: float, intensity_scale: float, max_points: int | None
) -> Float32Array:
    """Brings sweeps into the ego frame at the stamp, as `points_nc`.

    Args:
        sweeps: The frame's own sweep first.
        min_range_m: Points nearer to the sensor than this are the vehicle itself and are removed.
        intensity_scale: Divides the intensity, which is then limited to 0..1.
        max_points: Keep at most this many of each sweep's share; None: all.

    Returns:
        [N, 5] float32 x y z intensity time.
    """
    share = None if max_points is None else max(1, max_points // max(1, len(sweeps)))
    parts = []
    for sweep in sweeps:
        points_n5 = np.empty((len(sweep.points_n4), 5), dtype=np.float32)
        points_n5[:, :4] = sweep.points_n4[:, :4]
        points_n5[:, 4] = sweep.time_s
        # One transform for both steps: points go through float32 once, as on the vehicle.
        pose = np.asarray(sweep.frame_from_ego_44) @ sweep.ego_from_lidar_44
        parts.append(
            prepare_points(
                points_n5,
                pose,
                min_range_m=min_range_m,
                intensity_scale=intensity_scale,
                max_points=share if len(sweeps) > 1 else max_points,
            )
        )
    if not parts:
        return np.zeros((0, 5), dtype=np.float32)
    merged = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if max_points is not None and len(merged) > max_points:
        merged = merged[even_subset(len(merged), max_points)]
    return np.ascontiguousarray(merged)
