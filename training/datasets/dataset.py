"""What every data set here is: typed samples by index, and which labels each has before it is read."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch.utils.data import Dataset

from training.datasets.sample import Sample


class SampleDataset(Dataset[Sample], ABC):
    """A data set of `Sample`s. Reading the same index gives the same sample, in any process.

    Attributes:
        name: Kind of the data set, as in `Provenance.dataset`.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Reads a sample.

        Raises:
            DataError: One of its files cannot be used.
            IndexError: There is no such sample.
        """

    @abstractmethod
    def labels_of(self, index: int) -> frozenset[str]:
        """Returns the tasks a sample has labels of, without reading it: samplers plan with this."""

    @abstractmethod
    def token(self, index: int) -> str:
        """Returns what names a sample within the data set, without reading it."""


def checked_index(index: int, length: int) -> int:
    """Returns the index counted from the front.

    Raises:
        IndexError: It lies outside; ends iteration over a data set.
    """
    if not -length <= index < length:
        raise IndexError(f"sample {index} of {length}")
    return index % length
