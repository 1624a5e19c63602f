"""Goes on over files that cannot be read, where that was asked for, and says which they are."""

from __future__ import annotations

import logging

from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError
from training.datasets.sample import Sample

logger = logging.getLogger(__name__)


class SkipUnreadable(SampleDataset):
    """A data set that gives the next readable sample in place of one with an unreadable file.

    Without this wrapper the first such file ends training, with its path. Every one met is logged once a
    process.

    Attributes:
        unreadable: Messages by index, of those this process met.
    """

    def __init__(self, dataset: SampleDataset, max_in_a_row: int = 10) -> None:
        """Wraps a data set.

        Args:
            dataset: The data set.
            max_in_a_row: More unreadable samples than this, one after the other, are a fault of the whole
                data set.
        """
        self.dataset, self.name = dataset, dataset.name
        self.max_in_a_row = max_in_a_row
        self.unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def labels_of(self, index: int) -> frozenset[str]:
        """As planned; a sample given in place of another may have others."""
        return self.dataset.labels_of(index)

    def token(self, index: int) -> str:
        """Returns the data set's token."""
        return self.dataset.token(index)

    def __getitem__(self, index: int) -> Sample:
        start = checked_index(index, len(self))
        last: DataError | None = None
        for step in range(min(self.max_in_a_row + 1, len(self))):
            tried = (start + step) % len(self)
            try:
                return self.dataset[tried]
            except DataError as error:
                last = error
                if tried not in self.unreadable:
                    self.unreadable[tried] = str(error)
                    logger.warning("sample %s skipped: %s", self.dataset.token(tried), error)
        assert last is not None
        raise DataError(last.path, f"{last.args[1]} (and so on: {self.max_in_a_row + 1} samples in a row)")
