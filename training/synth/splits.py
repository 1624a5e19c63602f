"""Which scenes of an image data set are for training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = ("train", "val", "test")

#: Towns of a split; beyond so many scenes, towns are used again with other traffic. No two splits share one.
TOWNS = {"train": 54, "val": 12, "test": 12}
_CYCLE = ("train", "train", "train", "val", "test")


@dataclass(frozen=True)
class SplitScene:
    """One scene.

    Attributes:
        index: In the data set.
        split: Of SPLITS.
        number: Among the scenes of its split.
        town: Number of its town among the split's.
        town_number: Number of its town among all.
    """

    index: int
    split: str
    number: int
    town: int
    town_number: int


def split_scenes(scenes: int) -> list[SplitScene]:
    """Divides scenes three to one to one; a single one is for validation, and a split that can have one has.

    Args:
        scenes: How many, at least one.
    """
    names = [_CYCLE[index % len(_CYCLE)] for index in range(scenes)]
    if scenes < len(_CYCLE):
        few = {1: ("val",), 2: ("train", "val"), 3: SPLITS, 4: ("train", "train", "val", "test")}
        names = list(few[scenes])
    first_town = {"train": 0, "val": TOWNS["train"], "test": TOWNS["train"] + TOWNS["val"]}
    taken = dict.fromkeys(SPLITS, 0)
    found = []
    for index, split in enumerate(names):
        number = taken[split]
        taken[split] += 1
        town = number % TOWNS[split]
        found.append(SplitScene(index, split, number, town, first_town[split] + town))
    return found
