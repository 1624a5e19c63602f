"""Resizes, crops, flips and rotates images; intrinsics and dense labels follow."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pydantic
from numpy.typing import NDArray

from perception_core.bundle import ImageInput
from perception_core.configuration import StrictModel
from perception_core.geometry import FloatArray
from training.augmentation.bev import transform_ego
from training.datasets.sample import IGNORED_CLASS, CameraImages, DenseLabel, DenseLabels, Sample


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTransform:
    """What happens to an image: a similarity of its pixels, then a window of a size.

    Attributes:
        target_from_source_33: Homogeneous pixels (centres at whole numbers) of the image to those of the
            result: scaling alike in both directions, rotation, reflection and shift.
        size: Width and height of the result.
    """

    target_from_source_33: FloatArray
    size: tuple[int, int]


def image_transform(
    target_size: tuple[int, int],
    *,
    scale: float = 1.0,
    crop: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
    rotate_deg: float = 0.0,
) -> ImageTransform:
    """Composes an image transform: scale, then crop, then flip, then rotate about the result's centre.

    Args:
        target_size: Width and height of the result.
        scale: Larger than 1 enlarges.
        crop: Column and row of the scaled image at which the result's left upper corner lies.
        flip: Left and right are exchanged.
        rotate_deg: Counter-clockwise as seen.
    """
    width, height = target_size
    scaling = np.array([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5], [0, 0, 1]])
    shift = np.array([[1, 0, -crop[0]], [0, 1, -crop[1]], [0, 0, 1.0]])
    result = shift @ scaling
    if flip:
        result = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1.0]]) @ result
    if rotate_deg:
        angle = np.radians(rotate_deg)
        cosine, sine = np.cos(angle), np.sin(angle)
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        # rows grow downwards, so counter-clockwise as seen is this way round
        turn = np.array([[cosine, sine], [-sine, cosine]])
        rotation = np.eye(3)
        rotation[:2, :2] = turn
        rotation[:2, 2] = middle - turn @ middle
        result = rotation @ result
    return ImageTransform(result, target_size)


def transform_image(
    image_hwc: NDArray[Any], transform: ImageTransform, *, nearest: bool = False, fill: float = 0
) -> NDArray[Any]:
    """Moves an image's pixels; what comes from outside of it is `fill`.

    Args:
        image_hwc: [h, w] or [h, w, C].
        transform: Where pixels go.
        nearest: Do not mix pixels (labels).
        fill: Value of pixels without a source.
    """
    return cv2.warpAffine(
        image_hwc,
        transform.target_from_source_33[:2],
        transform.size,
        flags=cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill,) * 4,
    )


def transform_view_images(sample: Sample, transforms: list[ImageTransform]) -> Sample:
    """Applies one transform to each view: images, intrinsics and dense labels.

    Depth stays: it is measured along the optical axis, which does not move; that things look larger is in the
    intrinsics. Normals turn with the picture, whose axes they are given in.

    Args:
        sample: With cameras.
        transforms: One a view, all to one size.
    """
    cameras = sample.cameras
    assert cameras is not None
    moved = CameraImages(
        names=cameras.names,
        images_vhwc=np.stack(
            [
                np.asarray(transform_image(image, transform), dtype=np.uint8)
                for image, transform in zip(cameras.images_vhwc, transforms, strict=True)
            ]
        ),
        valid_v=cameras.valid_v,
        intrinsics_v33=np.stack(
            [t.target_from_source_33 @ k for t, k in zip(transforms, cameras.intrinsics_v33, strict=True)]
        ),
        camera_from_ego_v44=cameras.camera_from_ego_v44,
        image_from_original_v33=np.stack(
            [
                t.target_from_source_33 @ m
                for t, m in zip(transforms, cameras.image_from_original_v33, strict=True)
            ]
        ),
        original_size_v2=cameras.original_size_v2,
    )
    dense = {task: _transform_dense(task, label, transforms) for task, label in sample.dense.items()}
    labels = DenseLabels(
        **dense, semantic_classes=sample.dense.semantic_classes, depth_unit=sample.dense.depth_unit
    )
    return dataclasses.replace(sample, cameras=moved, dense=labels)


def _transform_dense(task: str, label: DenseLabel, transforms: list[ImageTransform]) -> DenseLabel:
    values, valids = [], []
    for value, valid, transform in zip(label.value, label.valid, transforms, strict=True):
        fill = IGNORED_CLASS if task == "semantic_segmentation" else 0
        moved = transform_image(np.ascontiguousarray(value), transform, nearest=True, fill=fill)
        if task == "normals":
            linear = transform.target_from_source_33[:2, :2]
            turn = linear / np.sqrt(abs(np.linalg.det(linear)))
            moved = np.concatenate([moved[..., :2] @ turn.T.astype(np.float32), moved[..., 2:]], axis=-1)
        values.append(moved.astype(value.dtype))
        valids.append(transform_image(valid.astype(np.uint8), transform, nearest=True).astype(bool))
    return DenseLabel(np.stack(values), np.stack(valids))


class ImageAugmentationConfig(StrictModel):
    """How images are augmented.

    Attributes:
        size: Size of the result; None: that of the image.
        scale: Range of the resize; 1 keeps the pixels' size.
        flip_probability: Of exchanging left and right.
        rotate_deg: Largest rotation to either side.
        crop: `random`: anywhere in the resized image; `bottom`: centred, at its bottom, where the road is (as
            BEVFusion crops).
        same_for_all_views: One draw for all cameras of a sample.
    """

    size: ImageInput | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip_probability: float = pydantic.Field(default=0.0, ge=0, le=1)
    rotate_deg: float = pydantic.Field(default=0.0, ge=0, le=180)
    crop: str = pydantic.Field(default="random", pattern="^(random|bottom)$")
    same_for_all_views: bool = False

    @pydantic.model_validator(mode="after")
    def _scale_is_a_range(self) -> ImageAugmentationConfig:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be a range of positive numbers, got {self.scale}")
        return self


class ImageAugmentation:
    """Draws and applies image transforms."""

    def __init__(self, config: ImageAugmentationConfig) -> None:
        """Creates the augmentation."""
        self.config = config

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """Returns the augmented sample; one without cameras as it is."""
        if sample.cameras is None:
            return sample
        views = len(sample.cameras)
        if self.config.same_for_all_views:
            transforms = [self.draw(sample.cameras.size, random)] * views
        else:
            transforms = [self.draw(sample.cameras.size, random) for _ in range(views)]
        return transform_view_images(sample, transforms)

    def draw(self, source_size: tuple[int, int], random: np.random.Generator) -> ImageTransform:
        """Draws a transform for an image of (width, height)."""
        config = self.config
        target = source_size if config.size is None else (config.size.width, config.size.height)
        scale = float(random.uniform(*config.scale))
        spare = [scale * source - wanted for source, wanted in zip(source_size, target, strict=True)]
        if config.crop == "bottom":
            crop = (spare[0] / 2, spare[1])
        else:
            # Where the resized image is smaller than the result, it lies somewhere inside with a black
            # border.
            crop = (spare[0] * float(random.random()), spare[1] * float(random.random()))
        return image_transform(
            target,
            scale=scale,
            crop=(round(crop[0]), round(crop[1])),
            flip=bool(random.random() < config.flip_probability),
            rotate_deg=float(random.uniform(-1, 1)) * config.rotate_deg,
        )


def mirror_world(sample: Sample) -> Sample:
    """Exchanges left and right of the whole world: images and ego frame together.

    Unlike a flip of images or BEV alone the result is a scene that could have been recorded: cameras stay
    rigid and focal lengths positive, which networks that decode 3D boxes from one image need. Traffic keeps
    to the other side.
    """
    mirrored = transform_ego(sample, np.diag([1.0, -1.0, 1.0, 1.0]))
    cameras = mirrored.cameras
    if cameras is None:
        return mirrored
    flip = image_transform(cameras.size, flip=True)
    mirrored = transform_view_images(mirrored, [flip] * len(cameras))
    cameras = mirrored.cameras
    assert cameras is not None
    # The same reflection of the camera's x axis on both sides of the projection cancels out.
    across = np.diag([-1.0, 1.0, 1.0])
    poses = cameras.camera_from_ego_v44.copy()
    poses[:, :3] = across @ poses[:, :3]
    cameras = dataclasses.replace(
        cameras, intrinsics_v33=cameras.intrinsics_v33 @ across, camera_from_ego_v44=poses
    )
    return dataclasses.replace(mirrored, cameras=cameras)
