"""Which sequences a data set has: cities, splits and the names of their pictures."""

from __future__ import annotations

from dataclasses import dataclass

from training.synth.splits import SPLITS, split_scenes

#: The cities of Cityscapes' splits, as its devkit and everybody's lists of files name them.
CITIES: dict[str, tuple[str, ...]] = {
    "train": (
        *("aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf", "erfurt", "hamburg"),
        *("hanover", "jena", "krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen"),
        *("ulm", "weimar", "zurich"),
    ),
    "val": ("frankfurt", "lindau", "munster"),
    "test": ("berlin", "bielefeld", "bonn", "leverkusen", "mainz", "munich"),
}

#: Pictures a second of Cityscapes' sequences; frame numbers count them.
FRAMES_PER_SECOND = 17
_KEYFRAMES_PER_SECOND = 2
_FIRST_KEYFRAME_S = 0.1


def frame_number(keyframe: int) -> int:
    """Returns the number of a keyframe's picture in its sequence, at 17 Hz; keyframes come at 2 Hz."""
    return round((_FIRST_KEYFRAME_S + keyframe / _KEYFRAMES_PER_SECOND) * FRAMES_PER_SECOND)


def time_of(keyframe: int) -> float:
    """Returns when a keyframe's picture is taken, seconds after the drive's beginning."""
    return frame_number(keyframe) / FRAMES_PER_SECOND


@dataclass(frozen=True)
class PlannedSequence:
    """One drive.

    Attributes:
        index: In the data set.
        split: train, val or test.
        city: Its folder.
        sequence: Number in the city.
        town_number: Which town is driven in.
    """

    index: int
    split: str
    city: str
    sequence: int
    town_number: int

    @property
    def name(self) -> str:
        """City and sequence, e.g. lindau_000003."""
        return f"{self.city}_{self.sequence:06d}"

    def image(self, keyframe: int) -> str:
        """Returns the beginning of the names of a picture's files, e.g. lindau_000003_000019."""
        return f"{self.name}_{frame_number(keyframe):06d}"


def make_plan(scenes: int) -> tuple[PlannedSequence, ...]:
    """Gives sequences cities; a town lies in one city, and splits share neither.

    Args:
        scenes: How many.
    """
    taken = {city: 0 for split in SPLITS for city in CITIES[split]}
    planned = []
    for scene in split_scenes(scenes):
        cities = CITIES[scene.split]
        city = cities[scene.town % len(cities)]
        planned.append(PlannedSequence(scene.index, scene.split, city, taken[city], scene.town_number))
        taken[city] += 1
    return tuple(planned)
