"""Cityscapes as AdaShare (and MTAN) preprocessed it: small arrays of image, inverse depth and three label
sets.

Layout: `cityscape.json` lists for each part the files [image, depth, label2, label7, label19], all .npy:
image [h, w, 3] RGB 0..1, depth [h, w] or [h, w, 1], labels [h, w] with -1 where there is none. The depth is
the disparity scaled to an unknown unit (`DenseLabels.depth_unit` says so): errors on it are compared with
papers, not metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.camvid import AS_RECORDED
from training.datasets.cityscapes import segmentation_classes
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError
from training.datasets.frame_input import FrameInput
from training.datasets.sample import IGNORED_CLASS, DenseLabels, Provenance, Sample
from training.datasets.single_view import CAMERA, dense_label, read_array, read_groups, resize_of, single_view

GROUP_FILE = "cityscape.json"

#: The seven categories of Cityscapes, in the order of MTAN's preprocessing.
CATEGORIES: tuple[str, ...] = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")

_TASKS = frozenset({"semantic_segmentation", "depth"})


class CityscapesAdaShare(SampleDataset):
    """One part of the preprocessed Cityscapes."""

    name = "cityscapes_adashare"

    def __init__(
        self,
        root: str | Path,
        part: str = "train",
        classes: int = 19,
        frame_input: FrameInput = AS_RECORDED,
    ) -> None:
        """Reads the list of files.

        Args:
            root: Folder with cityscape.json.
            part: Key of it.
            classes: 19, 7 (the categories) or 2.
            frame_input: Size of the images.

        Raises:
            DataError: The list is missing, damaged or has no such part.
            ValueError: There are no such classes.
        """
        names = {19: segmentation_classes()[0], 7: CATEGORIES, 2: ("background", "foreground")}
        if classes not in names:
            raise ValueError(f"the preprocessed Cityscapes has 2, 7 or 19 classes, not {classes}")
        self.root, self.frame_input, self.class_names = Path(root), frame_input, names[classes]
        self._label_column = {2: 2, 7: 3, 19: 4}[classes]
        self._groups = read_groups(self.root / GROUP_FILE, part, 5)

    def __len__(self) -> int:
        return len(self._groups)

    def labels_of(self, index: int) -> frozenset[str]:
        """Every image has both."""
        return _TASKS

    def token(self, index: int) -> str:
        """Returns the image's name."""
        return Path(self._groups[index][0]).stem

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, len(self))
        paths = [self.root / name for name in self._groups[index]]
        image_path, depth_path, label_path = paths[0], paths[1], paths[self._label_column]
        image = read_array(image_path, (None, None, 3))
        if not (np.issubdtype(image.dtype, np.floating) and image.min() >= 0 and image.max() <= 1):
            raise DataError(image_path, "image must be floating-point numbers in 0..1")
        height, width = image.shape[:2]
        resize = resize_of((width, height), self.frame_input.image)
        depth = self._plane(depth_path, (height, width)).astype(np.float32)
        label = self._plane(label_path, (height, width))
        if label.min() < -1 or label.max() >= len(self.class_names):
            raise DataError(label_path, f"label outside -1..{len(self.class_names) - 1}")
        known = np.isfinite(depth) & (depth > 0)
        classes = np.where(label < 0, IGNORED_CLASS, label).astype(np.uint8)
        return Sample(
            provenance=Provenance(
                self.name,
                self.token(index),
                files={
                    CAMERA: str(image_path),
                    "depth": str(depth_path),
                    "semantic_segmentation": str(label_path),
                },
            ),
            cameras=single_view(np.round(image * 255).astype(np.uint8), resize),
            dense=DenseLabels(
                semantic_segmentation=dense_label(classes, classes != IGNORED_CLASS, resize),
                depth=dense_label(np.where(known, depth, 0).astype(np.float32), known, resize),
                semantic_classes=self.class_names,
                depth_unit="relative_inverse",
            ),
            labels_present=_TASKS,
        )

    @staticmethod
    def _plane(path: Path, size: tuple[int, int]) -> NDArray[Any]:
        values = np.squeeze(read_array(path))
        if values.shape != size:
            raise DataError(path, f"array has the shape {values.shape}, its image {size}")
        return values
