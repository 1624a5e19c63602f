"""Late fusion of two models' objects into one list.

The primary model (the BEV model, which has the LiDAR) measures ranges; the secondary one (monocular) guesses
them from one image, with an error that grows with the range and lies almost wholly along the line of sight,
while its bearings are good. So an object of the secondary model is taken for one of the primary model's
where both lie in the same direction and their ranges differ by no more than that error. What is the same
object is listed once, where the primary model measured it. Everything else of either model stays: fusion
never makes an object vanish that nobody else reports.

Nobody is matched twice: of two guesses near one measured object, the better fitting one is it, the other one
remains an object of its own. That is the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perception_core.control.sight_distance import Footprint
from perception_core.geometry import inverse, planar_motion, transform_points


@dataclass(frozen=True)
class FusionOptions:
    """When two objects are the same one.

    Attributes:
        range_fraction: Error of the secondary model's range, as a share of the range.
        range_m: Error of its range beside that.
        lateral_m: Error across the line of sight, beyond the mean of both objects' half extents across it:
            less than what lies between the centres of two cars side by side.
    """

    range_fraction: float = 0.15
    range_m: float = 1.0
    lateral_m: float = 0.5

    def __post_init__(self) -> None:
        values = (self.range_fraction, self.range_m, self.lateral_m)
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"tolerances must be finite and not negative, got {values}")


@dataclass(frozen=True)
class FusionObject:
    """An object on its way through fusion.

    Attributes:
        footprint: Where it stands, ego frame.
        label: Class name.
        score: 0..1.
        sources: Tasks that saw it, the one that measured it first.
    """

    footprint: Footprint
    label: str
    score: float
    sources: tuple[str, ...]


def explained_by(
    primary: Sequence[Footprint],
    secondary: Sequence[Footprint],
    options: FusionOptions | None = None,
) -> tuple[int | None, ...]:
    """Says for each secondary object which primary one it is, None where it is none of them.

    Pairs are formed best first, each object in at most one. The result does not depend on the order of the
    objects, but for exact ties.

    Args:
        primary: Measured objects, ego frame.
        secondary: Guessed objects, same frame and time.
        options: Tolerances.
    """
    options = options or FusionOptions()
    pairs = []
    for second, guess in enumerate(secondary):
        for first, measured in enumerate(primary):
            distance = _mismatch(measured, guess, options)
            if distance is not None:
                pairs.append((distance, first, second))
    found: list[int | None] = [None] * len(secondary)
    taken: set[int] = set()
    for _, first, second in sorted(pairs):
        if found[second] is None and first not in taken:
            found[second] = first
            taken.add(first)
    return tuple(found)


def unexplained(
    primary: Sequence[Footprint],
    secondary: Sequence[Footprint],
    options: FusionOptions | None = None,
) -> tuple[Footprint, ...]:
    """Returns the secondary objects that are none of the primary ones; see `explained_by`."""
    matches = explained_by(primary, secondary, options)
    return tuple(item for item, match in zip(secondary, matches, strict=True) if match is None)


def _mismatch(measured: Footprint, guess: Footprint, options: FusionOptions) -> float | None:
    """Returns how badly two objects fit, 0..sqrt(2), or None where they cannot be the same."""
    if not (measured.is_finite() and guess.is_finite()):
        return None
    range_m = math.hypot(measured.x, measured.y)
    # Unit vector of the line of sight; an object in the origin has none, and is compared by distance alone.
    along_x, along_y = (measured.x / range_m, measured.y / range_m) if range_m > 1e-6 else (1.0, 0.0)
    dx, dy = guess.x - measured.x, guess.y - measured.y
    along, across = dx * along_x + dy * along_y, abs(dx * along_y - dy * along_x)
    bearing = math.atan2(along_y, along_x)
    range_limit = options.range_fraction * range_m + options.range_m
    extents = _half_extent_across(measured, bearing) + _half_extent_across(guess, bearing)
    lateral_limit = options.lateral_m + extents / 2
    if abs(along) > range_limit or across > lateral_limit:
        return None
    return math.hypot(
        along / range_limit if range_limit > 0 else 0.0, across / lateral_limit if lateral_limit > 0 else 0.0
    )


def _half_extent_across(footprint: Footprint, bearing: float) -> float:
    """Returns half of the object's extent across the line of sight."""
    turn = footprint.yaw - bearing
    return (abs(footprint.length * math.sin(turn)) + abs(footprint.width * math.cos(turn))) / 2


def fuse_objects(
    primary: Sequence[FusionObject],
    secondary: Sequence[FusionObject],
    options: FusionOptions | None = None,
) -> list[FusionObject]:
    """Makes one list of both models' objects, best first.

    A primary object that the secondary model sees too keeps its place, size and label; its score becomes
    1 - (1 - a) (1 - b), the probability that not both are wrong if they err independently. Unmatched
    objects of either model are kept as they are. Without primary objects the secondary ones are the list.

    Args:
        primary: Of the model that measures ranges.
        secondary: Of the one that guesses them, same frame and time.
        options: Tolerances.
    """
    matches = explained_by(
        [item.footprint for item in primary], [item.footprint for item in secondary], options
    )
    seconds = {first: second for second, first in enumerate(matches) if first is not None}
    fused = []
    for index, item in enumerate(primary):
        if index not in seconds:
            fused.append(item)
            continue
        other = secondary[seconds[index]]
        score = 1.0 - (1.0 - item.score) * (1.0 - other.score)
        fused.append(FusionObject(item.footprint, item.label, score, (*item.sources, *other.sources)))
    fused += [item for item, match in zip(secondary, matches, strict=True) if match is None]
    return sorted(fused, key=lambda item: -item.score)


def footprints_later(
    footprints: Sequence[Footprint], speed_mps: float, yaw_rate_rps: float, later_s: float
) -> list[Footprint]:
    """Returns standing objects in the ego frame of a later time, for a vehicle that keeps its motion.

    Args:
        footprints: In the ego frame of some time.
        speed_mps: Of the vehicle.
        yaw_rate_rps: Of the vehicle, positive left.
        later_s: Seconds after that time, negative for before.
    """
    if not footprints:
        return []
    later_from_then = inverse(planar_motion(speed_mps, yaw_rate_rps, later_s))
    centres = transform_points(later_from_then, [[item.x, item.y, 0.0] for item in footprints])
    turn = yaw_rate_rps * later_s
    return [
        Footprint(float(centre[0]), float(centre[1]), item.length, item.width, item.yaw - turn)
        for centre, item in zip(centres, footprints, strict=True)
    ]
