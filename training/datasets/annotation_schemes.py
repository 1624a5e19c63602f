"""Disjoint annotation: each sample keeps the labels of some tasks only (FULLER, section 4.1 and Tab. 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pydantic

from perception_core.configuration import StrictModel, nearest
from training.datasets.dataset import SampleDataset
from training.datasets.sample import TASKS, Sample


class AnnotationScheme(StrictModel):
    """How labels are distributed over samples.

    Attributes:
        groups: Tasks that are annotated together; every sample gets the labels of one group.
        shares: Relative number of samples each group gets.
        always: Tasks every sample keeps: nobody annotates what a driver did.
    """

    groups: tuple[tuple[str, ...], ...]
    shares: tuple[float, ...]
    always: tuple[str, ...] = ("control",)

    @pydantic.model_validator(mode="after")
    def _is_possible(self) -> AnnotationScheme:
        if len(self.groups) != len(self.shares) or not self.groups:
            raise ValueError("every group needs a share")
        if min(self.shares) < 0 or sum(self.shares) <= 0:
            raise ValueError(f"shares must not be negative, got {self.shares}")
        for task in (*self.always, *(task for group in self.groups for task in group)):
            if task not in TASKS:
                raise ValueError(f"unknown task '{task}'" + nearest(task, TASKS))
        return self

    def assign(self, tokens: Sequence[str], seed: int) -> list[frozenset[str]]:
        """Returns the tasks each sample keeps.

        The shares are exact but for rounding, and which group a sample gets depends on its token and the seed
        alone, not on the order of the data set.
        """
        order = sorted(
            range(len(tokens)), key=lambda i: hashlib.sha256(f"{seed}:{tokens[i]}".encode()).digest()
        )
        kept: list[frozenset[str]] = [frozenset()] * len(tokens)
        first, share = 0, 0.0
        for group, part in zip(self.groups, self.shares, strict=True):
            share += part / sum(self.shares)
            last = round(share * len(tokens))
            for index in order[first:last]:
                kept[index] = frozenset(group) | frozenset(self.always)
            first = last
        return kept


_BOXES = ("detection3d", "foreground_segmentation", "mono_detection3d")
_MAP = ("map_segmentation",)

#: FULLER's three schemes: all labels; detection and map 3:1; both alike.
FULLER_SCHEMES: dict[str, AnnotationScheme] = {
    "full": AnnotationScheme(groups=(TASKS,), shares=(1.0,)),
    "disjoint-normal": AnnotationScheme(groups=(_BOXES, _MAP), shares=(3.0, 1.0)),
    "disjoint-balance": AnnotationScheme(groups=(_BOXES, _MAP), shares=(1.0, 1.0)),
}


def fuller_scheme(name: str) -> AnnotationScheme:
    """Returns a scheme of FULLER_SCHEMES.

    Raises:
        ValueError: There is no such scheme.
    """
    if name not in FULLER_SCHEMES:
        raise ValueError(f"no annotation scheme '{name}'" + nearest(name, FULLER_SCHEMES))
    return FULLER_SCHEMES[name]


class PartlyAnnotated(SampleDataset):
    """A data set as if only some labels of each sample had ever been made; the others are not handed out."""

    def __init__(self, dataset: SampleDataset, scheme: AnnotationScheme, seed: int = 0) -> None:
        """Wraps a data set."""
        self.dataset, self.name = dataset, dataset.name
        self._kept = scheme.assign([dataset.token(index) for index in range(len(dataset))], seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def labels_of(self, index: int) -> frozenset[str]:
        """Those of the data set that the scheme leaves."""
        return self.dataset.labels_of(index) & self._kept[index]

    def token(self, index: int) -> str:
        """Returns the data set's token."""
        return self.dataset.token(index)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index].keeping(self._kept[index % len(self)])
