"""Ground-truth paste (Yan et al., 2018): objects cut from other frames are put where nothing stands.

Objects keep the place they had in their own frame, so that the number and pattern of their points fit their
distance. Points of the scene inside a pasted box go: the object hides them. Images do not change; with
cameras, stop pasting in the last epochs, as TransFusion and BEVFusion do, so that the network does not learn
to see what no camera shows.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydantic
from numpy.typing import NDArray

from perception_core.atomic_write import write_atomically
from perception_core.configuration import StrictModel, nearest
from perception_core.geometry import FloatArray, box_corners, points_in_box
from training.datasets.dataset import SampleDataset
from training.datasets.files import DataError
from training.datasets.foreground import footprint_masks
from training.datasets.sample import BoxLabels, Float32Array, Sample, SampleError

Progress = Callable[[int, int], None]

_FORMAT = 1


@dataclasses.dataclass(eq=False)
class ObjectDatabase:
    """Objects with their points.

    Attributes:
        class_names: Class names of the labels.
        boxes_b9: As `BoxLabels.boxes_b9`, in the ego frame they were seen from.
        labels_b: Index into `class_names`.
        points_nc: Points of all objects, in the ego frame, as `Sample.points_nc`.
        start_b: [B + 1] first point of each object.
    """

    class_names: tuple[str, ...]
    boxes_b9: FloatArray
    labels_b: NDArray[np.int64]
    points_nc: Float32Array
    start_b: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.labels_b)

    def points_of(self, index: int) -> Float32Array:
        """Returns one object's points."""
        return self.points_nc[self.start_b[index] : self.start_b[index + 1]]

    @classmethod
    def collect(
        cls,
        dataset: SampleDataset,
        indices: Iterable[int] | None = None,
        min_points: int = 5,
        progress: Progress | None = None,
    ) -> ObjectDatabase:
        """Cuts the annotated objects out of a data set's frames.

        Args:
            dataset: Of which every sample used has boxes; not augmented.
            indices: Samples to use; None: all.
            min_points: Objects with fewer points are left out.
            progress: Told how many samples are done.

        Raises:
            DataError: A file cannot be used.
            SampleError: Samples have different classes, or none has boxes.
        """
        chosen = list(range(len(dataset)) if indices is None else indices)
        names: tuple[str, ...] | None = None
        boxes, labels, points = [], [], []
        for done, index in enumerate(chosen):
            sample = dataset[index]
            if sample.boxes is not None:
                if names is not None and sample.boxes.class_names != names:
                    raise SampleError("objects of one database must have the same classes")
                names = sample.boxes.class_names
                for box, label in zip(sample.boxes.boxes_b9, sample.boxes.labels_b, strict=True):
                    inside = points_in_box(sample.points_nc, box)
                    if inside.sum() >= min_points:
                        boxes.append(box)
                        labels.append(int(label))
                        points.append(sample.points_nc[inside])
            if progress is not None:
                progress(done + 1, len(chosen))
        if names is None:
            raise SampleError("no sample has boxes to cut objects from")
        counts = [0, *(len(part) for part in points)]
        return cls(
            names,
            np.array(boxes, dtype=np.float64).reshape(-1, 9),
            np.array(labels, dtype=np.int64),
            np.concatenate(points) if points else np.zeros((0, 5), dtype=np.float32),
            np.cumsum(counts, dtype=np.int64),
        )

    def save(self, path: str | Path) -> None:
        """Writes the database; an earlier one is replaced at the end."""
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}
        stream = io.BytesIO()
        np.savez(stream, format=np.array(_FORMAT), **arrays)
        write_atomically(Path(path), stream.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> ObjectDatabase:
        """Reads a database.

        Raises:
            DataError: It is missing, damaged or of another format.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                if int(stored["format"]) != _FORMAT:
                    raise DataError(path, "object database of another version; collect it again")
                values = {field.name: stored[field.name] for field in dataclasses.fields(cls)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(path, f"no object database: {type(error).__name__}: {error}") from error
        values["class_names"] = tuple(str(name) for name in values["class_names"])
        return cls(**values)


def footprints_overlap(box_7: FloatArray, boxes_b7: FloatArray) -> NDArray[np.bool_]:
    """Tells which boxes' footprints overlap one box's, seen from above (separating axes)."""
    boxes = np.atleast_2d(boxes_b7)
    if len(boxes) == 0:
        return np.zeros(0, dtype=bool)
    first = box_corners(box_7)[0, :4, :2]
    others = box_corners(boxes)[:, :4, :2]
    apart = np.zeros(len(boxes), dtype=bool)
    for yaws in (np.full(len(boxes), np.atleast_2d(box_7)[0, 6]), boxes[:, 6]):
        for turned in (yaws, yaws + np.pi / 2):
            axis = np.stack([np.cos(turned), np.sin(turned)], axis=1)
            low_high_first = first @ axis.T  # [4, B]
            low_high_other = np.einsum("bkc,bc->kb", others, axis)
            apart |= low_high_first.max(axis=0) <= low_high_other.min(axis=0)
            apart |= low_high_other.max(axis=0) <= low_high_first.min(axis=0)
    return ~apart


class PasteConfig(StrictModel):
    """How many objects are pasted.

    Attributes:
        per_class: Class name to the number of objects a frame shall have of it; frames with more keep theirs.
        margin_m: Space left between footprints.
        ego_radius_m: Nothing is pasted nearer to the ego origin than this: the vehicle is there.
        max_attempts: Objects tried a class and missing object.
    """

    per_class: dict[str, int]
    margin_m: float = pydantic.Field(default=0.2, ge=0)
    ego_radius_m: float = pydantic.Field(default=4.0, ge=0)
    max_attempts: int = pydantic.Field(default=5, gt=0)


class Paste:
    """Pastes objects into samples with boxes and points."""

    def __init__(self, database: ObjectDatabase, config: PasteConfig) -> None:
        """Creates the augmentation.

        Raises:
            SampleError: A class is not in the database.
        """
        for name in config.per_class:
            if name not in database.class_names:
                raise SampleError(f"no class '{name}' in the database" + nearest(name, database.class_names))
        self.database, self.config = database, config
        self._by_class = {
            name: np.flatnonzero(database.labels_b == database.class_names.index(name))
            for name in config.per_class
        }

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """Returns the sample with objects added; one without boxes or LiDAR as it is.

        Raises:
            SampleError: The sample's classes are not the database's, or its frame was already transformed.
        """
        boxes = sample.boxes
        if boxes is None or not sample.lidar_valid or "detection3d" not in sample.labels_present:
            return sample
        if boxes.class_names != self.database.class_names:
            raise SampleError("the sample's classes are not those of the object database")
        if not np.allclose(sample.ego_from_source_44, np.eye(4)):
            raise SampleError("paste objects before the ego frame is flipped, rotated or scaled")
        chosen = self._choose(boxes, random)
        if not chosen:
            return sample
        return self._add(sample, boxes, chosen)

    def _choose(self, boxes: BoxLabels, random: np.random.Generator) -> list[int]:
        taken = boxes.boxes_b9[:, :7]
        chosen: list[int] = []
        for name, wanted in self.config.per_class.items():
            candidates = self._by_class[name]
            missing = wanted - int((boxes.labels_b == boxes.class_names.index(name)).sum())
            if missing <= 0 or len(candidates) == 0:
                continue
            tries = random.permutation(candidates)[: missing * self.config.max_attempts]
            for index in tries:
                if missing == 0:
                    break
                box = self.database.boxes_b9[index, :7].copy()
                box[3:5] += 2 * self.config.margin_m
                away = np.hypot(box[0], box[1]) - np.hypot(box[3], box[4]) / 2
                if away < self.config.ego_radius_m or footprints_overlap(box, taken).any():
                    continue
                chosen.append(int(index))
                taken = np.concatenate([taken, self.database.boxes_b9[index : index + 1, :7]])
                missing -= 1
        return chosen

    def _add(self, sample: Sample, boxes: BoxLabels, chosen: list[int]) -> Sample:
        database = self.database
        hidden = np.zeros(len(sample.points_nc), dtype=bool)
        for index in chosen:
            hidden |= points_in_box(sample.points_nc, database.boxes_b9[index])
        parts = [database.points_of(index) for index in chosen]
        added = BoxLabels(
            np.concatenate([boxes.boxes_b9, database.boxes_b9[chosen]]),
            np.concatenate([boxes.labels_b, database.labels_b[chosen]]),
            np.concatenate([boxes.points_b, [len(part) for part in parts]]).astype(np.int64),
            boxes.class_names,
            np.concatenate([boxes.pitch_roll_b2, np.zeros((len(chosen), 2))]),
            (*boxes.tokens, *("pasted",) * len(chosen)),
        )
        foreground = sample.foreground_masks
        return dataclasses.replace(
            sample,
            points_nc=np.concatenate([sample.points_nc[~hidden], *parts]),
            boxes=added,
            foreground_masks=None if foreground is None else footprint_masks(added, foreground.grid),
        )
