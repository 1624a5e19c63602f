"""Batches of images with dense labels, by step: the same step gives the same batch, in any run.

A search that was killed asks for the step it stands at and goes on as if nothing had happened, which a
loader that only goes forward could not give.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from perception_core.configuration import ConfigurationError
from training.datasets.batch import Batch, collate
from training.datasets.dataset import SampleDataset
from training.datasets.sample import Sample
from training.search.tasks.task import DenseTarget

#: Of ImageNet, in 0..1, as backbones expect images.
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SearchBatch:
    """Images with labels of every task.

    Attributes:
        image_bchw: float32 (B, 3, H, W), normalized.
        targets: By task.
    """

    image_bchw: torch.Tensor
    targets: dict[str, DenseTarget]

    def to(self, device: torch.device | str) -> SearchBatch:
        """Returns it on a device."""
        return SearchBatch(
            self.image_bchw.to(device), {task: target.to(device) for task, target in self.targets.items()}
        )


class BatchSource(Protocol):
    """Gives batches by number."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks every batch has labels of."""
        ...

    def train_batch(self, step: int) -> SearchBatch:
        """Returns the batch of a training step; any step from 0."""
        ...

    def all_batches(self) -> Iterator[SearchBatch]:
        """Yields everything once, in order, for evaluation."""
        ...


def search_batch(batch: Batch, tasks: Sequence[str]) -> SearchBatch:
    """Takes the first view of a batch as image and its dense labels.

    Raises:
        ConfigurationError: There are no images, or no sample has a task's label.
    """
    if batch.cameras is None:
        raise ConfigurationError("the samples have no images; search needs images with dense labels")
    image = batch.cameras.images_bvhwc[:, 0].movedim(-1, 1).float() / 255.0
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    targets = {}
    for task in tasks:
        if task not in batch.dense:
            raise ConfigurationError(
                f"no sample of the batch has a label of task '{task}' (there are "
                f"{', '.join(batch.dense) or 'none'}); use another data set or leave the task out"
            )
        label = batch.dense[task]
        targets[task] = DenseTarget(label.value[:, 0], label.valid_bvhw[:, 0])
    return SearchBatch((image - mean) / std, targets)


class DatasetBatches:
    """Batches of a data set, shuffled anew each epoch.

    Args:
        dataset: Samples of one image size.
        tasks: Names; every sample must have the labels of all of them.
        batch_size: Samples a batch. A last batch that is not full is left out of training.
        seed: Of the order.
        keep: Samples kept decoded in memory.

    Raises:
        ConfigurationError: The data set is empty, too small, or labels of a task are missing.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        tasks: Sequence[str],
        batch_size: int = 8,
        seed: int = 0,
        keep: int = 2000,
    ) -> None:
        self._dataset, self._tasks, self._batch_size, self._seed = dataset, tuple(tasks), batch_size, seed
        self._keep = keep
        self._samples: OrderedDict[int, Sample] = OrderedDict()
        self._order: tuple[int, list[int]] | None = None
        require_labels(dataset, tasks)
        if len(dataset) < batch_size:
            raise ConfigurationError(
                f"the data set has {len(dataset)} samples, fewer than the {batch_size} of one batch"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks every batch has labels of."""
        return self._tasks

    def train_batch(self, step: int) -> SearchBatch:
        """Returns the batch of a training step."""
        epoch, within = divmod(step, len(self._dataset) // self._batch_size)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._order = (epoch, torch.randperm(len(self._dataset), generator=generator).tolist())
        start = within * self._batch_size
        return self._batch(self._order[1][start : start + self._batch_size])

    def all_batches(self) -> Iterator[SearchBatch]:
        """Yields every sample once, in order."""
        for start in range(0, len(self._dataset), self._batch_size):
            yield self._batch(range(start, min(start + self._batch_size, len(self._dataset))))

    def _batch(self, indices: Sequence[int]) -> SearchBatch:
        return search_batch(collate([self._sample(index) for index in indices]), self._tasks)

    def _sample(self, index: int) -> Sample:
        sample = self._samples.get(index)
        if sample is None:
            sample = self._dataset[index]
            if len(self._samples) < self._keep:
                self._samples[index] = sample
        return sample


def require_labels(dataset: SampleDataset, tasks: Sequence[str]) -> None:
    """Refuses a data set without the labels of a task.

    Raises:
        ConfigurationError: Names the tasks and the first sample that lacks each.
    """
    if len(dataset) == 0:
        raise ConfigurationError(f"data set '{dataset.name}' has no samples")
    lacking: dict[str, str] = {}
    for index in range(len(dataset)):
        for task in set(tasks) - dataset.labels_of(index):
            lacking.setdefault(task, dataset.token(index))
    if lacking:
        which = "; ".join(f"'{task}' of sample {token}" for task, token in sorted(lacking.items()))
        has = ", ".join(sorted(dataset.labels_of(0))) or "none"
        raise ConfigurationError(
            f"data set '{dataset.name}': labels are missing: {which}. Its first sample has {has}; leave the "
            "task out or take another data set"
        )


class TensorBatches:
    """Batches of tensors that are in memory already; what tests and small studies use.

    Args:
        image_nchw: All images, normalized.
        targets: All labels by task.
        batch_size: Samples a batch.
        seed: Of the order.
    """

    def __init__(
        self,
        image_nchw: torch.Tensor,
        targets: Mapping[str, DenseTarget],
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        self._whole = SearchBatch(image_nchw, dict(targets))
        self._batch_size, self._seed = min(batch_size, len(image_nchw)), seed

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks every batch has labels of."""
        return tuple(self._whole.targets)

    def train_batch(self, step: int) -> SearchBatch:
        """Returns the batch of a training step."""
        count = len(self._whole.image_bchw)
        epoch, within = divmod(step, count // self._batch_size)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        return self._pick(order[within * self._batch_size : (within + 1) * self._batch_size])

    def all_batches(self) -> Iterator[SearchBatch]:
        """Yields every sample once, in order."""
        for index in torch.arange(len(self._whole.image_bchw)).split(self._batch_size):
            yield self._pick(index)

    def _pick(self, index: torch.Tensor) -> SearchBatch:
        return SearchBatch(
            self._whole.image_bchw[index],
            {
                task: DenseTarget(target.value[index], target.valid_bhw[index])
                for task, target in self._whole.targets.items()
            },
        )
