"""NYUv2 (Silberman et al., 2012) in AdaShare's layout: segmentation, depth and surface normals of rooms.

Layout: `img/*.png`, `seg/*.png` (class of 40, 0-based; 255 unlabelled), `depth/*.npy` (metres),
`normal_mask/*.png`, and `nyu_v2_3task.json` with the files of each part; without it the whole folder is one
part. A `classes.json` beside it names classes that are not NYUv2's (`ClassNames`), as generated data has.

The normal images hold, as colour / 127.5 - 1, the components right, forward and up of the camera, and white
where there is none. That is nowhere written; it was found by comparing them with normals computed from the
depth of the same frames, whose best rotation onto each other is within 0.05 of this one in every entry.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_core.calibration import ImageResize
from training.datasets.camvid import AS_RECORDED
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError, read_image, read_label_image
from training.datasets.frame_input import FrameInput
from training.datasets.image_layouts import CLASS_NAMES_FILE, NYUV2_GROUP_FILE, nyuv2_intrinsics
from training.datasets.sample import DenseLabel, DenseLabels, Provenance, Sample
from training.datasets.single_view import (
    CAMERA,
    class_label,
    class_table,
    dense_label,
    read_array,
    read_class_names,
    read_groups,
    resize_of,
    single_view,
)

GROUP_FILE = NYUV2_GROUP_FILE

#: The 40 classes of Gupta et al. (2013), as EDNAS uses them.
NYU_40_CLASSES: tuple[str, ...] = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *(
        "counter",
        "blinds",
        "desk",
        "shelves",
        "curtain",
        "dresser",
        "pillow",
        "mirror",
        "floor_mat",
        "clothes",
    ),
    *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower_curtain", "box"),
    *("whiteboard", "person", "night_stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    *("other_structure", "other_furniture", "other_prop"),
)

#: The 13 classes of Couprie et al. (2013), as AutoMTL uses them.
NYU_13_CLASSES: tuple[str, ...] = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table"),
    *("television", "wall", "window"),
)

_WHOLES_OF_13: dict[str, tuple[str, ...]] = {
    "furniture": (
        *("cabinet", "bookshelf", "counter", "shelves", "dresser", "refrigerator", "night_stand"),
        "other_furniture",
    ),
    "table": ("table", "desk"),
    "wall": ("wall", "door"),
    "window": ("window", "blinds", "curtain"),
    "floor": ("floor", "floor_mat"),
}


def _class_13_of_40() -> dict[int, int]:
    """Returns the class of 13 by the class of 40; what has no place among the 13 are objects."""
    whole_of = {part: whole for whole, parts in _WHOLES_OF_13.items() for part in parts}
    found = {}
    for index, name in enumerate(NYU_40_CLASSES):
        whole = whole_of.get(name, name if name in NYU_13_CLASSES else "objects")
        found[index] = NYU_13_CLASSES.index(whole)
    return found


class NyuV2(SampleDataset):
    """One part of NYUv2."""

    name = "nyuv2"

    def __init__(
        self,
        root: str | Path,
        part: str = "train",
        classes: int = 40,
        frame_input: FrameInput = AS_RECORDED,
    ) -> None:
        """Lists the files.

        Args:
            root: Folder with img/, seg/, depth/, normal_mask/.
            part: Key of nyu_v2_3task.json; not used in folders without that file.
            classes: 40 (EDNAS) or 13 (AutoMTL); with a classes.json its classes or its coarse ones.
            frame_input: Size of the images.

        Raises:
            DataError: There is no such part or no image, or classes.json is damaged.
            ValueError: `classes` is neither.
        """
        if classes not in (13, 40):
            raise ValueError(f"NYUv2 has 13 or 40 classes, not {classes}")
        self.root, self.frame_input = Path(root), frame_input
        own = read_class_names(self.root)
        fine = own.names if own else NYU_40_CLASSES
        coarse = own.coarse_names if own else NYU_13_CLASSES
        coarse_of = dict(enumerate(own.coarse_of)) if own else _class_13_of_40()
        if classes == 13 and not coarse:
            raise DataError(self.root / CLASS_NAMES_FILE, "has no coarse classes; ask for 40")
        self.class_names = fine if classes == 40 else coarse
        identity = {index: index for index in range(len(fine))}
        self._table = class_table(identity if classes == 40 else coarse_of)
        if (self.root / GROUP_FILE).is_file():
            self._groups = read_groups(self.root / GROUP_FILE, part, 4)
        else:
            stems = sorted(path.stem for path in (self.root / "img").glob("*.png"))
            self._groups = [
                [f"img/{stem}.png", f"seg/{stem}.png", f"normal_mask/{stem}.png", f"depth/{stem}.npy"]
                for stem in stems
            ]
        if not self._groups:
            raise DataError(self.root / "img", "holds no images")

    def __len__(self) -> int:
        return len(self._groups)

    def labels_of(self, index: int) -> frozenset[str]:
        """Every image has all three."""
        return frozenset({"semantic_segmentation", "depth", "normals"})

    def token(self, index: int) -> str:
        """Returns the image's name."""
        return Path(self._groups[index][0]).stem

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, len(self))
        paths = [self.root / name for name in self._groups[index]]
        image_path, class_path, normal_path, depth_path = paths
        image = read_image(image_path)
        size = (image.shape[1], image.shape[0])
        resize = resize_of(size, self.frame_input.image)
        depth = read_array(depth_path, (size[1], size[0])).astype(np.float32)
        known = np.isfinite(depth) & (depth > 0)
        return Sample(
            provenance=Provenance(
                self.name,
                image_path.stem,
                files={
                    CAMERA: str(image_path),
                    "semantic_segmentation": str(class_path),
                    "normals": str(normal_path),
                    "depth": str(depth_path),
                },
            ),
            cameras=single_view(image, resize, nyuv2_intrinsics(size)),
            dense=DenseLabels(
                semantic_segmentation=class_label(
                    read_label_image(class_path, size), self._table, class_path, resize
                ),
                depth=dense_label(np.where(known, depth, 0).astype(np.float32), known, resize),
                normals=self._normals(read_label_image(normal_path, size), normal_path, resize),
                semantic_classes=self.class_names,
            ),
            labels_present=self.labels_of(index),
        )

    @staticmethod
    def _normals(colour: NDArray[np.uint8], path: Path, resize: ImageResize) -> DenseLabel:
        if colour.ndim != 3 or colour.shape[2] != 3:
            raise DataError(path, f"normals must have three channels, got the shape {colour.shape}")
        right, forward, up = np.moveaxis(colour.astype(np.float32) / 127.5 - 1, -1, 0)
        return unit_normals(np.stack([right, -up, forward], axis=-1), resize)


def unit_normals(vectors_hw3: NDArray[np.float32], resize: ImageResize) -> DenseLabel:
    """Returns normals of unit length; not valid where the stored vector is far from it."""

    length = np.linalg.norm(vectors_hw3, axis=-1)
    # Eight bits a component leave about a hundredth; white and black have 1.7.
    known = np.abs(length - 1) < 0.1
    unit = np.where(known[..., None], vectors_hw3 / np.maximum(length, 1e-6)[..., None], 0)
    return dense_label(unit.astype(np.float32), known, resize)
