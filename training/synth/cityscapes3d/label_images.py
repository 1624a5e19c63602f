"""Label and instance images as Cityscapes numbers them, and the disparity of its stereo pair."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from training.synth.mesh import NO_INSTANCE, Semantic
from training.synth.world.views import View

#: Names of Cityscapes' labels for actors whose triangles bear a nearby class of its training set.
_LABEL_OF_ACTOR = {"trailer": "trailer", "construction_vehicle": "dynamic"}
#: Label of every actor's box or main body; None: no label of Cityscapes has instances of it.
MAIN_LABELS: dict[str, str | None] = {
    "car": "car",
    "truck": "truck",
    "bus": "bus",
    "trailer": "trailer",
    "motorcycle": "motorcycle",
    "bicycle": "bicycle",
    "pedestrian": "person",
    "construction_vehicle": None,
    "barrier": None,
    "traffic_cone": None,
}
_INSTANCES_PER_LABEL = 1000
_DISPARITY_STEPS = 256


@cache
def _label_ids() -> dict[str, int]:
    from cityscapesscripts.helpers.labels import labels

    return {label.name: int(label.id) for label in labels if label.id >= 0}


@cache
def _with_instances() -> NDArray[np.bool_]:
    from cityscapesscripts.helpers.labels import labels

    table = np.zeros(256, dtype=bool)
    for label in labels:
        if label.id >= 0:
            table[label.id] = label.hasInstances
    return table


@cache
def _id_of_training_class() -> NDArray[np.uint8]:
    from cityscapesscripts.helpers.labels import labels

    table = np.full(256, _label_ids()["static"], dtype=np.uint8)
    for label in labels:
        if 0 <= label.trainId < 255:
            table[label.trainId] = label.id
    return table


@cache
def _colours() -> NDArray[np.uint8]:
    from cityscapesscripts.helpers.labels import labels

    table = np.zeros((256, 3), dtype=np.uint8)
    for label in labels:
        if label.id >= 0:
            table[label.id] = label.color
    return table


def label_ids(view: View, actor_labels: Mapping[int, str]) -> NDArray[np.uint8]:
    """Returns the label ids [H, W] of `_gtFine_labelIds.png`.

    Trailers are `trailer`, construction vehicles and obstacles that are nothing else `dynamic`, and what
    belongs to no class and to nobody is `static`; the evaluators leave these out.

    Args:
        view: A picture.
        actor_labels: Detection class by instance, of all instances in the picture.
    """
    ids = _id_of_training_class()[view.semantic_hw]
    ids[(view.semantic_hw == Semantic.OTHER) & (view.instance_hw != NO_INSTANCE)] = _label_ids()["dynamic"]
    for instance, label in actor_labels.items():
        if label in _LABEL_OF_ACTOR:
            ids[view.instance_hw == instance] = _label_ids()[_LABEL_OF_ACTOR[label]]
    return ids


def instance_ids(
    ids_hw: NDArray[np.uint8], instance_hw: NDArray[np.int32], actor_labels: Mapping[int, str]
) -> tuple[NDArray[np.uint16], dict[int, int]]:
    """Returns the image of `_gtFine_instanceIds.png` and the number each actor's main body has in it.

    Labels with instances are numbered label id * 1000 + a count within the picture; a cyclist is a `rider`
    and a `bicycle`. Everything else keeps its label id.

    Args:
        ids_hw: From `label_ids`.
        instance_hw: Actors, -1 for none.
        actor_labels: Detection class by instance, of all instances in the picture.

    Returns:
        uint16 [H, W], and the number by instance of those whose label has instances.
    """
    image = ids_hw.astype(np.uint16)
    counted = _with_instances()[ids_hw] & (instance_hw != NO_INSTANCE)
    keys = instance_hw[counted].astype(np.int64) * 256 + ids_hw[counted]
    there = {(int(key) // 256, int(key) % 256) for key in np.unique(keys)}
    mains = {
        (instance, _label_ids()[name])
        for instance, label in actor_labels.items()
        if (name := MAIN_LABELS[label]) is not None
    }
    taken: dict[int, int] = {}
    number: dict[tuple[int, int], int] = {}
    for instance, label_id in sorted(there | mains):
        number[instance, label_id] = label_id * _INSTANCES_PER_LABEL + taken.get(label_id, 0)
        taken[label_id] = taken.get(label_id, 0) + 1
    if there:
        known = np.array(sorted(instance * 256 + label_id for instance, label_id in there), dtype=np.int64)
        numbers = np.array([number[int(key) // 256, int(key) % 256] for key in known], dtype=np.uint16)
        image[counted] = numbers[np.searchsorted(known, keys)]
    return image, {instance: number[instance, label_id] for instance, label_id in sorted(mains)}


def coloured(ids_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the RGB image of `_gtFine_color.png`."""
    result: NDArray[np.uint8] = _colours()[ids_hw]
    return result


def disparity(depth_hw: NDArray[np.float32], focal_length: float, baseline_m: float) -> NDArray[np.uint16]:
    """Returns the image of `_disparity.png`: 256 d + 1 of the disparity d in pixels, 0 where there is none.

    There is none in the sky, and none nearer than 16 bits can say.

    Args:
        depth_hw: Metres along the optical axis, inf for the sky.
        focal_length: Pixels.
        baseline_m: Between the two cameras.
    """
    with np.errstate(divide="ignore"):
        steps = np.round(_DISPARITY_STEPS * baseline_m * focal_length / depth_hw.astype(np.float64)) + 1
    known = np.isfinite(depth_hw) & (depth_hw > 0) & (steps <= np.iinfo(np.uint16).max)
    return np.where(known, steps, 0).astype(np.uint16)
