"""Classes of the streets where NYUv2 and Taskonomy have those of rooms.

The files hold numbers only, so the data sets' class names stand beside them in `classes.json`, which the
loaders read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.synth.mesh import Semantic

#: Cityscapes' 19 training classes: `Semantic` without what belongs to none.
STREET_CLASSES = tuple(semantic.name.lower() for semantic in Semantic if semantic != Semantic.OTHER)

#: As many as NYUv2's coarse classes; each with the street classes it is made of.
COARSE_CLASSES: dict[str, tuple[str, ...]] = {
    "road": ("road",),
    "sidewalk": ("sidewalk",),
    "building": ("building",),
    "barrier": ("wall", "fence"),
    "object": ("pole", "traffic_light", "traffic_sign"),
    "vegetation": ("vegetation",),
    "terrain": ("terrain",),
    "sky": ("sky",),
    "person": ("person",),
    "rider": ("rider",),
    "car": ("car",),
    "large_vehicle": ("truck", "bus", "train"),
    "two_wheeler": ("motorcycle", "bicycle"),
}

#: As many as Taskonomy's: walls are fences, and there are no trains.
TASKONOMY_STREET_CLASSES = tuple(name for name in STREET_CLASSES if name not in ("wall", "train"))


def nyuv2_classes_json() -> dict[str, Any]:
    """Returns the content of `classes.json` beside nyu_v2_3task.json."""
    whole_of = {part: whole for whole, parts in COARSE_CLASSES.items() for part in parts}
    coarse = list(COARSE_CLASSES)
    return {
        "names": list(STREET_CLASSES),
        "coarse": {"names": coarse, "of": [coarse.index(whole_of[name]) for name in STREET_CLASSES]},
    }


def taskonomy_classes_json() -> dict[str, Any]:
    """Returns the content of `classes.json` beside taskonomy.json."""
    return {"names": list(TASKONOMY_STREET_CLASSES)}


def taskonomy_class_numbers(semantic_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the stored numbers: class + 1, and 0 where there is none."""
    table = np.zeros(256, dtype=np.uint8)
    for semantic in Semantic:
        name = {"wall": "fence", "train": "bus"}.get(semantic.name.lower(), semantic.name.lower())
        if name in TASKONOMY_STREET_CLASSES:
            table[int(semantic)] = TASKONOMY_STREET_CLASSES.index(name) + 1
    result: NDArray[np.uint8] = table[semantic_hw]
    return result
