"""Several data sets as one, and a sampler of batches that keeps their shares and every task supplied.

A sample's `labels_present`, in a batch `Batch.present`, says which losses to take; samples of different data
sets may only share a batch where images and grids have one size, so batches may be drawn from one data set
each.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import pydantic
from torch.utils.data import Sampler

from perception_core.configuration import StrictModel, nearest
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.sample import TASKS, Sample


class MixedDataset(SampleDataset):
    """Data sets one after the other under one index.

    Attributes:
        datasets: The data sets.
        first: [number of data sets + 1] index of the first sample of each.
    """

    name = "mixed"

    def __init__(self, datasets: Sequence[SampleDataset]) -> None:
        """Joins data sets.

        Raises:
            ValueError: There are none, or one is empty.
        """
        if not datasets or any(len(dataset) == 0 for dataset in datasets):
            raise ValueError("a mixture needs data sets that all have samples")
        self.datasets = tuple(datasets)
        self.first = (0, *accumulate(len(dataset) for dataset in datasets))

    def __len__(self) -> int:
        return self.first[-1]

    def _place(self, index: int) -> tuple[SampleDataset, int]:
        index = checked_index(index, len(self))
        number = bisect.bisect_right(self.first, index) - 1
        return self.datasets[number], index - self.first[number]

    def labels_of(self, index: int) -> frozenset[str]:
        """Those of the sample's own data set."""
        dataset, own = self._place(index)
        return dataset.labels_of(own)

    def token(self, index: int) -> str:
        """Returns the data set's name and its token."""
        dataset, own = self._place(index)
        return f"{dataset.name}:{dataset.token(own)}"

    def __getitem__(self, index: int) -> Sample:
        dataset, own = self._place(index)
        return dataset[own]


class MixingConfig(StrictModel):
    """How batches are drawn.

    Attributes:
        batch_size: Samples a batch.
        shares: Relative number of samples of each data set; None: as many as it has.
        tasks: Where given, each batch holds at least one sample with a label of each task.
        one_dataset_a_batch: Never mix data sets within a batch.
        seed: Of all draws.
    """

    batch_size: int = pydantic.Field(gt=0)
    shares: tuple[float, ...] | None = None
    tasks: tuple[str, ...] = ()
    one_dataset_a_batch: bool = False
    seed: int = 0

    @pydantic.model_validator(mode="after")
    def _is_possible(self) -> MixingConfig:
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"unknown task '{task}'" + nearest(task, TASKS))
        if self.tasks and self.one_dataset_a_batch:
            raise ValueError("a batch of one data set cannot promise every task; leave out 'tasks'")
        if len(self.tasks) > self.batch_size:
            raise ValueError(f"{len(self.tasks)} tasks cannot each have a sample in {self.batch_size}")
        return self


class MixingSampler(Sampler[list[int]]):
    """Yields batches of indices of a mixture, a whole pass an epoch; give it to a DataLoader as
    `batch_sampler`.

    A data set whose share is larger than its size is gone through again, in a new order; the same seed and
    epoch give the same batches.
    """

    def __init__(self, dataset: MixedDataset, config: MixingConfig) -> None:
        """Plans the sampler.

        Raises:
            ValueError: Shares do not fit the data sets, or a task has no label anywhere.
        """
        self.dataset, self.config = dataset, config
        sizes = [len(part) for part in dataset.datasets]
        shares = config.shares or tuple(float(size) for size in sizes)
        if len(shares) != len(sizes) or min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"{len(sizes)} data sets need as many shares, none negative, got {shares}")
        self._shares = np.array(shares) / sum(shares)
        labels = [dataset.labels_of(index) for index in range(len(dataset))] if config.tasks else []
        self._with_label = {
            task: np.array([index for index, has in enumerate(labels) if task in has], dtype=np.int64)
            for task in config.tasks
        }
        for task, indices in self._with_label.items():
            if len(indices) == 0:
                raise ValueError(f"no sample has a label of '{task}'")
        self._labels = labels
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draws anew."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset) // self.config.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.config.seed, self._epoch])
        streams = [
            _endless(self.dataset.first[number], len(part), random)
            for number, part in enumerate(self.dataset.datasets)
        ]
        for _ in range(len(self)):
            if self.config.one_dataset_a_batch:
                number = int(random.choice(len(streams), p=self._shares))
                yield [next(streams[number]) for _ in range(self.config.batch_size)]
                continue
            numbers = random.choice(len(streams), size=self.config.batch_size, p=self._shares)
            yield self._supplied([next(streams[int(number)]) for number in numbers], random)

    def _supplied(self, batch: list[int], random: np.random.Generator) -> list[int]:
        """Replaces samples so that every task has a label, taking those whose labels others have as well."""
        for task in self.config.tasks:
            if any(task in self._labels[index] for index in batch):
                continue
            for place in random.permutation(len(batch)):
                others = [self._labels[index] for number, index in enumerate(batch) if number != place]
                needed = [t for t in self.config.tasks if t in self._labels[batch[place]]]
                if all(any(t in labels for labels in others) for t in needed):
                    batch[place] = int(random.choice(self._with_label[task]))
                    break
        return batch


def _endless(first: int, size: int, random: np.random.Generator) -> Iterator[int]:
    while True:
        for index in random.permutation(size):
            yield first + int(index)
