"""Taskonomy-tiny (Zamir et al., 2018) in AdaShare's layout: five tasks of indoor images.

Layout: `taskonomy.json` lists for each part the files [rgb, segmentation, normals, depth, keypoints, edges].
As published: segmentation 8 bit (0 unlabelled, else class + 1); normals 8 bit colour; depth (z) 16 bit in
1/512 m, 64500 and above unknown; keypoints and edges 16 bit, of which AdaShare uses the range up to 0.005 and
0.08 of full scale. A `classes.json` beside the list names the classes of generated data.

Normals: red, green, blue are x right, y up, z towards the viewer, as OpenGL has them. No file says so;
compare with depth before trusting a new download (`mmmt data overlay` draws both).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.camvid import AS_RECORDED
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError, read_image, read_label_image
from training.datasets.frame_input import FrameInput
from training.datasets.image_layouts import EDGE_RANGE, KEYPOINT_RANGE, TASKONOMY_GROUP_FILE
from training.datasets.nyuv2 import unit_normals
from training.datasets.sample import DenseLabels, Provenance, Sample
from training.datasets.single_view import (
    CAMERA,
    class_label,
    class_table,
    dense_label,
    read_class_names,
    read_groups,
    resize_of,
    single_view,
)

GROUP_FILE = TASKONOMY_GROUP_FILE

#: Classes of the segmentation (pseudo-labels of a network trained on COCO); they have no published names
#: here.
TASKONOMY_CLASSES: tuple[str, ...] = tuple(f"class_{index}" for index in range(1, 18))

_TASKS = ("semantic_segmentation", "normals", "depth", "keypoints", "edges")

#: Depth units a metre, and the value from which on depth is unknown.
_DEPTH_SCALE, _DEPTH_UNKNOWN = 512.0, 64500


class Taskonomy(SampleDataset):
    """One part of Taskonomy."""

    name = "taskonomy"

    def __init__(self, root: str | Path, part: str = "train", frame_input: FrameInput = AS_RECORDED) -> None:
        """Reads the list of files.

        Args:
            root: Folder with taskonomy.json.
            part: Key of it.
            frame_input: Size of the images.

        Raises:
            DataError: The list is missing, damaged or has no such part.
        """
        self.root, self.frame_input = Path(root), frame_input
        self._groups = read_groups(self.root / GROUP_FILE, part, 6)
        own = read_class_names(self.root)
        self.class_names = own.names if own else TASKONOMY_CLASSES
        self._table = class_table({index + 1: index for index in range(len(self.class_names))})

    def __len__(self) -> int:
        return len(self._groups)

    def labels_of(self, index: int) -> frozenset[str]:
        """Every image has all five."""
        return frozenset(_TASKS)

    def token(self, index: int) -> str:
        """Returns building and point of view."""
        path = Path(self._groups[index][0])
        return f"{path.parent.name}-{path.stem}" if path.parent.name else path.stem

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, len(self))
        image_path, *label_paths = (self.root / name for name in self._groups[index])
        paths = dict(zip(_TASKS, label_paths, strict=True))
        image = read_image(image_path)
        size = (image.shape[1], image.shape[0])
        resize = resize_of(size, self.frame_input.image)
        raw = {task: read_label_image(path, size) for task, path in paths.items()}
        for task in ("depth", "keypoints", "edges"):
            if raw[task].dtype != np.uint16 or raw[task].ndim != 2:
                raise DataError(paths[task], f"{task} must be one channel of 16 bits, got {raw[task].dtype}")
        if raw["normals"].ndim != 3:
            raise DataError(paths["normals"], "normals must have three channels")
        known = (raw["depth"] < _DEPTH_UNKNOWN) & (raw["depth"] > 0)
        normals = raw["normals"][..., :3].astype(np.float32) / 127.5 - 1
        # Taskonomy's normals are only as good as its geometry: where that has holes there are none.
        normals = np.where(known[..., None], normals * np.array([1, -1, -1], dtype=np.float32), 0).astype(
            np.float32
        )
        everywhere = np.ones(known.shape, dtype=bool)
        return Sample(
            provenance=Provenance(
                self.name,
                self.token(index),
                image_path.parent.name,
                files={CAMERA: str(image_path), **{task: str(path) for task, path in paths.items()}},
            ),
            cameras=single_view(image, resize),
            dense=DenseLabels(
                semantic_segmentation=class_label(
                    raw["semantic_segmentation"], self._table, paths["semantic_segmentation"], resize
                ),
                depth=dense_label(
                    np.where(known, raw["depth"] / _DEPTH_SCALE, 0).astype(np.float32), known, resize
                ),
                normals=unit_normals(normals, resize),
                edges=dense_label(_strength(raw["edges"], EDGE_RANGE), everywhere, resize),
                keypoints=dense_label(_strength(raw["keypoints"], KEYPOINT_RANGE), everywhere, resize),
                semantic_classes=self.class_names,
            ),
            labels_present=self.labels_of(index),
        )


def _strength(values: NDArray[np.uint16], used_range: float) -> NDArray[np.float32]:
    """Returns 0..1 of the part of the scale that is used."""
    return np.clip(values.astype(np.float32) / (2**16 * used_range), 0, 1).astype(np.float32)
