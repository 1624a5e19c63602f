"""Which scenes a data set has: names, splits, towns and where those lie on the maps."""

from __future__ import annotations

from dataclasses import dataclass

from training.synth.nuscenes.vocabulary import LOCATIONS

#: Every fifth scene is for validation.
_VALIDATION_EVERY = 5
#: Towns of a data set; beyond so many scenes, towns are used again with other traffic.
_TRAINING_TOWNS, _VALIDATION_TOWNS = 48, 16
#: Distance of two towns' origins on a map; no town is larger.
TILE_M = 620.0
#: Scenes without CAN bus data in nuScenes: `NuScenesCanBus` refuses their names.
_WITHOUT_CAN_BUS = frozenset({*range(161, 169), *range(170, 177), *range(309, 315)})
_LARGEST_MINI = (8, 2)


@dataclass(frozen=True)
class PlannedScene:
    """One scene.

    Attributes:
        index: In the data set.
        name: As nuScenes names them.
        split: train or val.
        town_number: Which town it lies in.
        location: Which map that town lies on.
        origin: Where the town's origin lies on the map, metres.
    """

    index: int
    name: str
    split: str
    town_number: int
    location: str
    origin: tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """All scenes.

    Attributes:
        version: v1.0-mini where the scenes fit the names of that version, else v1.0-trainval.
        scenes: In order.
    """

    version: str
    scenes: tuple[PlannedScene, ...]

    def map_size(self, location: str) -> tuple[float, float]:
        """Returns the size in metres of a location's map; at least one tile."""
        origins = [scene.origin for scene in self.scenes if scene.location == location]
        width = max((x for x, _ in origins), default=0.0) + TILE_M
        height = max((y for _, y in origins), default=0.0) + TILE_M
        return width, height

    def splits(self) -> dict[str, list[str]]:
        """Returns the scene names of the splits, for `splits.json`."""
        train = [scene.name for scene in self.scenes if scene.split == "train"]
        val = [scene.name for scene in self.scenes if scene.split == "val"]
        return {"synth_train": train, "synth_val": val}


def make_plan(scenes: int) -> Plan:
    """Names the scenes and gives them towns.

    The names are taken from nuScenes' own splits, so that `train`, `val`, `mini_train` and `mini_val` of the
    devkit mean here what they say. Training and validation never share a town.

    Args:
        scenes: How many; a single one is for validation.

    Raises:
        ValueError: There are not so many names.
    """
    # the devkit takes seconds to import, and the rendering processes need only the classes above
    from nuscenes.utils import splits as nuscenes_splits

    is_val = [scenes == 1 or index % _VALIDATION_EVERY == _VALIDATION_EVERY - 1 for index in range(scenes)]
    if 1 < scenes < _VALIDATION_EVERY:
        is_val[-1] = True
    counts = (is_val.count(False), is_val.count(True))
    mini = counts[0] <= _LARGEST_MINI[0] and counts[1] <= _LARGEST_MINI[1]
    names = {
        False: _usable(nuscenes_splits.mini_train if mini else nuscenes_splits.train),
        True: _usable(nuscenes_splits.mini_val if mini else nuscenes_splits.val),
    }
    largest = (len(names[False]), len(names[True]))
    if counts[0] > largest[0] or counts[1] > largest[1]:
        raise ValueError(f"{scenes} scenes: nuScenes has names for {largest[0] + largest[1]} at most")
    taken = {False: 0, True: 0}
    drawn: list[tuple[int, str, bool, int]] = []
    for index, val in enumerate(is_val):
        number = taken[val]
        taken[val] += 1
        town = _TRAINING_TOWNS + number % _VALIDATION_TOWNS if val else number % _TRAINING_TOWNS
        drawn.append((index, names[val][number], val, town))
    return Plan("v1.0-mini" if mini else "v1.0-trainval", _placed(drawn))


def _usable(names: list[str]) -> list[str]:
    return [name for name in names if int(name[-4:]) not in _WITHOUT_CAN_BUS]


def _location(town: int) -> str:
    # validation's first town lies on the last map, where small data sets have none for training
    return LOCATIONS[(town + (3 if town >= _TRAINING_TOWNS else 0)) % len(LOCATIONS)]


def _placed(drawn: list[tuple[int, str, bool, int]]) -> tuple[PlannedScene, ...]:
    towns = sorted({town for *_, town in drawn})
    origins: dict[int, tuple[float, float]] = {}
    for location in LOCATIONS:
        here = [town for town in towns if _location(town) == location]
        columns = max(1, int(len(here) ** 0.5 + 0.999))
        for place, town in enumerate(here):
            row, column = divmod(place, columns)
            origins[town] = (column * TILE_M, row * TILE_M)
    return tuple(
        PlannedScene(index, name, "val" if val else "train", town, _location(town), origins[town])
        for index, name, val, town in drawn
    )
