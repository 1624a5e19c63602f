"""Augmentations one after the other, the same for a seed, an epoch and a sample whichever worker makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from training.datasets.dataset import SampleDataset
from training.datasets.sample import Sample

#: An augmentation: takes a sample and random numbers, gives a new sample.
Augmentation = Callable[[Sample, np.random.Generator], Sample]


class AugmentedDataset(SampleDataset):
    """A data set whose samples pass through augmentations."""

    def __init__(self, dataset: SampleDataset, augmentations: Sequence[Augmentation], seed: int = 0) -> None:
        """Wraps a data set.

        Args:
            dataset: The data set.
            augmentations: Applied in this order; paste before the BEV is moved.
            seed: Of all random numbers.
        """
        self.dataset, self.augmentations, self.seed = dataset, tuple(augmentations), seed
        self.name = dataset.name
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draws anew; call it before the loader starts its workers."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def labels_of(self, index: int) -> frozenset[str]:
        """Those of the data set; a flip of front and back may drop control."""
        return self.dataset.labels_of(index)

    def token(self, index: int) -> str:
        """Returns the data set's token."""
        return self.dataset.token(index)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        random = np.random.default_rng([self.seed, self._epoch, index % len(self)])
        for augmentation in self.augmentations:
            sample = augmentation(sample, random)
        return sample
