"""One camera's image with dense labels: what the image data sets share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_core.bundle import ImageInput
from perception_core.calibration import ImageResize
from perception_core.configuration import nearest
from perception_core.geometry import FloatArray
from training.datasets.files import DataError, read_bytes, read_json
from training.datasets.frame_input import PLACEHOLDER_POSE, image_from_original
from training.datasets.image_layouts import CLASS_NAMES_FILE, nominal_intrinsics
from training.datasets.sample import IGNORED_CLASS, CameraImages, DenseLabel

CAMERA = "camera_front"


def resize_of(size: tuple[int, int], target: ImageInput | None) -> ImageResize:
    """Returns the mapping of a recorded image of (width, height) to the network's; None: to itself."""
    return ImageResize(size, target or ImageInput(height=size[1], width=size[0]))


def single_view(
    image_hwc: NDArray[np.uint8],
    resize: ImageResize,
    intrinsics_33: FloatArray | None = None,
    camera_from_ego_44: FloatArray | None = None,
    name: str = CAMERA,
) -> CameraImages:
    """Wraps one image, resized, as the cameras of a sample.

    Args:
        image_hwc: RGB as recorded.
        resize: See `resize_of`.
        intrinsics_33: Of the recorded image; None: nominal ones.
        camera_from_ego_44: None: a camera in the ego origin that looks ahead.
        name: Modality.
    """
    matrix = nominal_intrinsics(resize.source_size) if intrinsics_33 is None else intrinsics_33
    return CameraImages(
        names=(name,),
        images_vhwc=np.ascontiguousarray(resize.apply(image_hwc))[None],
        valid_v=np.ones(1, dtype=bool),
        intrinsics_v33=resize.intrinsics(matrix)[None],
        camera_from_ego_v44=np.array(PLACEHOLDER_POSE if camera_from_ego_44 is None else camera_from_ego_44)[
            None
        ],
        image_from_original_v33=image_from_original(resize)[None],
        original_size_v2=np.array([resize.source_size], dtype=np.int64),
    )


def dense_label(value: NDArray[Any], valid: NDArray[np.bool_], resize: ImageResize) -> DenseLabel:
    """Resizes a label without mixing neighbouring pixels.

    Args:
        value: [h, w] or [h, w, C] at the recorded image's size: uint8 classes or float32.
        valid: bool [h, w].
        resize: The image's.
    """
    resized = resize.apply(value, cv2.INTER_NEAREST)
    # Rows added at the top come out as zero, so they are not valid.
    known = resize.apply(valid.astype(np.uint8), cv2.INTER_NEAREST).astype(bool)
    fill = IGNORED_CLASS if value.dtype == np.uint8 else 0
    mask = known if value.ndim == 2 else known[..., None]
    return DenseLabel(np.where(mask, resized, np.array(fill, dtype=value.dtype))[None], known[None])


def class_label(
    ids: NDArray[Any], class_of_id: NDArray[np.uint8], path: Path, resize: ImageResize
) -> DenseLabel:
    """Turns a label image into classes.

    Args:
        ids: [h, w] integers as stored.
        class_of_id: [256] class of each, IGNORED_CLASS for those without.
        path: Of the label image, for the message.
        resize: The image's.

    Raises:
        DataError: It is no image of one channel of bytes.
    """
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise DataError(path, f"label image must have one channel of 8 bits, got {ids.shape} {ids.dtype}")
    classes = class_of_id[ids]
    return dense_label(classes, classes != IGNORED_CLASS, resize)


def class_table(classes: dict[int, int]) -> NDArray[np.uint8]:
    """Returns [256] the class of each stored value, IGNORED_CLASS for values not in `classes`."""
    table = np.full(256, IGNORED_CLASS, dtype=np.uint8)
    for value, index in classes.items():
        table[value] = index
    return table


@dataclass(frozen=True)
class ClassNames:
    """Classes of a data set that has others than the one whose layout it is written in.

    Attributes:
        names: In the order of the stored numbers.
        coarse_names: Fewer classes; empty where there are none.
        coarse_of: The coarse class of each.
    """

    names: tuple[str, ...]
    coarse_names: tuple[str, ...] = ()
    coarse_of: tuple[int, ...] = ()


def read_class_names(root: Path) -> ClassNames | None:
    """Reads `classes.json` of a data set.

    Args:
        root: Of the data set.

    Returns:
        None where there is no such file: its classes are the published ones.

    Raises:
        DataError: The file is damaged.
    """
    path = root / CLASS_NAMES_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        names = tuple(str(name) for name in content["names"])
        coarse = content.get("coarse", {"names": (), "of": ()})
        coarse_names = tuple(str(name) for name in coarse["names"])
        coarse_of = tuple(int(index) for index in coarse["of"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(path, f"no names of classes: {type(error).__name__}: {error}") from error
    if not 0 < len(names) < IGNORED_CLASS or len(coarse_of) != (len(names) if coarse_names else 0):
        raise DataError(path, "needs 1 to 254 names, and the coarse class of each where there are such")
    if any(not 0 <= index < len(coarse_names) for index in coarse_of):
        raise DataError(path, f"coarse classes must be numbered 0..{len(coarse_names) - 1}")
    return ClassNames(names, coarse_names, coarse_of)


def read_array(path: Path, shape: tuple[int | None, ...] | None = None) -> NDArray[Any]:
    """Reads a .npy file of numbers.

    Args:
        path: The file.
        shape: What it must have, None in it stands for any size; None: any shape.

    Raises:
        DataError: It is missing, cut off, holds objects or has another shape.
    """
    read_bytes(path)  # a missing or empty file has the same message everywhere
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(path, f"no array of numbers, or cut off: {error}") from error
    if shape is None:
        return np.asarray(values)
    fits = values.ndim == len(shape) and all(w in (None, h) for h, w in zip(values.shape, shape, strict=True))
    if not fits:
        wanted = " x ".join("?" if size is None else str(size) for size in shape)
        raise DataError(path, f"array has the shape {values.shape}, expected {wanted}")
    return np.asarray(values)


def read_groups(path: Path, mode: str, width: int) -> list[list[str]]:
    """Reads the list of files AdaShare keeps beside its data sets.

    Args:
        path: JSON of {mode: [[image, label, ...], ...]}.
        mode: Part, e.g. `train`.
        width: Files a sample.

    Raises:
        DataError: The file is damaged or has no such part.
    """
    content = read_json(path)
    if not isinstance(content, dict) or mode not in content:
        raise DataError(
            path, f"has no part '{mode}'" + nearest(mode, content if isinstance(content, dict) else ())
        )
    groups = content[mode]
    if not groups or any(not isinstance(group, list) or len(group) != width for group in groups):
        raise DataError(path, f"part '{mode}' must be lists of {width} files each")
    return [[str(name) for name in group] for group in groups]


def first_part(path: Path) -> str:
    """Returns the first part of such a list.

    Raises:
        DataError: The file is damaged or holds no part.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise DataError(path, "must map parts, e.g. train, to lists of files")
    return str(next(iter(content)))
