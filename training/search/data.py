"""Opens a folder's training and evaluation parts for a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perception_core.bundle import ImageInput
from perception_core.configuration import ConfigurationError, nearest
from training.datasets.dataset import SampleDataset
from training.datasets.files import DataError
from training.datasets.frame_input import FrameInput
from training.datasets.opening import LAYOUTS
from training.search.tasks.batches import DatasetBatches, require_labels
from training.search.tasks.task import DenseTask, DepthLossName, dense_task

_Open = Callable[[Path, str, FrameInput, tuple[str, ...]], SampleDataset]


def _cityscapes(path: Path, part: str, frame_input: FrameInput, tasks: tuple[str, ...]) -> SampleDataset:
    from training.datasets.cityscapes import Cityscapes

    return Cityscapes(path, part, tasks, frame_input)


def _cityscapes_adashare(
    path: Path, part: str, frame_input: FrameInput, tasks: tuple[str, ...]
) -> SampleDataset:
    from training.datasets.cityscapes_adashare import CityscapesAdaShare

    return CityscapesAdaShare(path, part, frame_input=frame_input)


def _nyuv2(path: Path, part: str, frame_input: FrameInput, tasks: tuple[str, ...]) -> SampleDataset:
    from training.datasets.nyuv2 import NyuV2

    return NyuV2(path, part, frame_input=frame_input)


def _taskonomy(path: Path, part: str, frame_input: FrameInput, tasks: tuple[str, ...]) -> SampleDataset:
    from training.datasets.taskonomy import Taskonomy

    return Taskonomy(path, part, frame_input)


def _camvid(path: Path, part: str, frame_input: FrameInput, tasks: tuple[str, ...]) -> SampleDataset:
    from training.datasets.camvid import CamVid

    return CamVid(path, part, frame_input)


#: Data sets of single images with dense labels, by their names in LAYOUTS.
_OPENERS: Mapping[str, _Open] = {
    "cityscapes": _cityscapes,
    "cityscapes_adashare": _cityscapes_adashare,
    "taskonomy": _taskonomy,
    "nyuv2": _nyuv2,
    "camvid": _camvid,
}


def open_part(
    path: Path, part: str, tasks: Sequence[str], image_size: tuple[int, int], kind: str | None = None
) -> SampleDataset:
    """Opens one part of a data set of images with dense labels.

    Args:
        path: Its folder.
        part: E.g. train, val or test.
        tasks: Whose labels must be there.
        image_size: Height and width of the images.
        kind: Name of the layout; None: found by the folder's content.

    Raises:
        ConfigurationError: The folder or its labels do not serve.
    """
    if kind is None:
        kind = next((name for name in _OPENERS if path.is_dir() and LAYOUTS[name].fits(path)), None)
        if kind is None:
            raise ConfigurationError(
                f"{path}: no data set of images with dense labels; known are {', '.join(_OPENERS)}"
            )
    if kind not in _OPENERS:
        raise ConfigurationError(f"a search cannot use data sets of kind '{kind}'" + nearest(kind, _OPENERS))
    frame_input = FrameInput(image=ImageInput(height=image_size[0], width=image_size[1]))
    try:
        dataset = _OPENERS[kind](path, part, frame_input, tuple(tasks))
    except (DataError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    require_labels(dataset, tasks)
    return dataset


@dataclass(frozen=True)
class FolderSources:
    """Opens batches of a folder's parts; picklable.

    Attributes:
        path: Folder of the data set.
        tasks: Names.
        image_size: Height and width.
        train_part, judged_part: What is trained on and what is judged by.
        batch_size: Samples a batch.
        seed: Of the order.
        kind: See `open_part`.
    """

    path: Path
    tasks: tuple[str, ...]
    image_size: tuple[int, int]
    train_part: str = "train"
    judged_part: str = "val"
    batch_size: int = 8
    seed: int = 0
    kind: str | None = None

    def __call__(self) -> tuple[DatasetBatches, DatasetBatches]:
        """Returns what is trained on and what is judged by.

        Raises:
            ConfigurationError: See `open_part`.
        """
        return self._batches(self.train_part), self._batches(self.judged_part)

    def _batches(self, part: str) -> DatasetBatches:
        dataset = open_part(self.path, part, self.tasks, self.image_size, self.kind)
        size = min(self.batch_size, len(dataset))
        return DatasetBatches(dataset, self.tasks, size, self.seed)

    def dense_tasks(self, depth_loss: DepthLossName = "l1") -> tuple[DenseTask, ...]:
        """Returns the tasks, with the class names the data set has.

        Raises:
            ConfigurationError: See `open_part`.
        """
        dataset = open_part(self.path, self.train_part, self.tasks, self.image_size, self.kind)
        classes = dataset[0].dense.semantic_classes
        return tuple(dense_task(name, classes, depth_loss) for name in self.tasks)
