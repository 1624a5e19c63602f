"""Boxes of `_gtBbox3d.json`, as cityscapesscripts reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from perception_core.geometry import inverse, quaternion_from_rotation
from training.evaluation.cityscapes3d_detection import VehicleBox, amodal_box
from training.synth.camera import Camera
from training.synth.cityscapes3d.label_images import MAIN_LABELS
from training.synth.cityscapes3d.rig import sensor_json
from training.synth.world.world import Exposure, Moment, World

#: Farther away, and with fewer visible pixels, vehicles are regions to ignore instead of objects.
ANNOTATED_RANGE_M = 100.0
LEAST_PIXELS = 16
#: Labels that have boxes.
_BOXED = ("car", "truck", "bus", "trailer", "motorcycle", "bicycle")
#: What is no vehicle of the benchmark but looks like one.
_IGNORED = {"construction_vehicle": "dynamic"}
_DECIMALS = 6


@dataclass(frozen=True)
class Annotation:
    """What a picture's file says, and what of it the data set counts.

    Attributes:
        content: Of `_gtBbox3d.json`.
        boxes: Label and distance in metres of each object.
    """

    content: dict[str, Any]
    boxes: list[tuple[str, float]]


def annotate(
    world: World,
    moment: Moment,
    camera: Camera,
    instance_hw: NDArray[np.int32],
    instance_numbers: dict[int, int],
) -> Annotation:
    """Describes a picture's vehicles.

    Centre, dimensions and rotation are of the box in the vehicle frame (ISO 8855), tilted as the ground is
    that it stands on. `modal` is the rectangle around the visible pixels. `amodal` is what the official
    evaluator computes from the 3D box, which it clips to 2048 x 1024 pixels whatever the picture's size.
    Cyclists' boxes hold their riders.

    Args:
        world: The world.
        moment: When.
        camera: The left camera.
        instance_hw: Actors in the picture, -1 for none.
        instance_numbers: From `instance_ids`.
    """
    sensor = sensor_json(camera)
    places = find_objects(instance_hw + 1)
    counts = np.bincount(instance_hw[instance_hw >= 0].ravel(), minlength=len(places))
    exposure = world.exposure(moment, (camera,))
    objects: list[dict[str, Any]] = []
    ignored: list[dict[str, Any]] = []
    boxes: list[tuple[str, float]] = []
    for instance, place in enumerate(places):
        if place is None:
            continue
        actor = world.actors[instance]
        if actor.label not in _BOXED and actor.label not in _IGNORED:
            continue
        rows, columns = place
        modal = [
            float(columns.start),
            float(rows.start),
            float(columns.stop - 1 - columns.start),
            float(rows.stop - 1 - rows.start),
        ]
        box = _box_of(world, moment, instance)
        distance = float(np.hypot(box.centre[0], box.centre[1]))
        if actor.label in _IGNORED or distance > ANNOTATED_RANGE_M or counts[instance] < LEAST_PIXELS:
            label = _IGNORED.get(actor.label, box.label)
            ignored.append({"2d": modal, "label": label, "instanceId": instance_numbers.get(instance, -1)})
            continue
        objects.append(
            {
                "2d": {"modal": modal, "amodal": list(amodal_box(box, sensor))},
                "3d": {
                    "center": list(box.centre),
                    "dimensions": list(box.size),
                    "rotation": list(box.rotation_wxyz),
                    "type": actor.category,
                    "format": "CRS_ISO8855",
                },
                **_hidden(exposure[instance]),
                "instanceId": instance_numbers[instance],
                "label": box.label,
                # the official evaluator wants one on the truth too
                "score": 1.0,
            }
        )
        boxes.append((box.label, distance))
    content = {
        "imgWidth": camera.width,
        "imgHeight": camera.height,
        "sensor": sensor,
        "objects": objects,
        "ignore": ignored,
    }
    return Annotation(content, boxes)


def _box_of(world: World, moment: Moment, instance: int) -> VehicleBox:
    actor = world.actors[instance]
    ego_from_object = inverse(moment.world_from_ego) @ moment.poses[instance]
    centre = ego_from_object[:3, 3] + ego_from_object[:3, 2] * actor.size[2] / 2
    x, y, z, w = (float(value) for value in quaternion_from_rotation(ego_from_object[:3, :3]))
    cx, cy, cz = (round(float(value), _DECIMALS) for value in centre)
    length, width, height = (round(float(value), _DECIMALS) for value in actor.size)
    label = MAIN_LABELS[actor.label] or actor.label
    return VehicleBox(label, 1.0, (cx, cy, cz), (length, width, height), (w, x, y, z))


def _hidden(exposure: Exposure) -> dict[str, float]:
    """Returns the shares of the object outside of the picture and, of the rest, behind something."""
    hidden = 1.0 - exposure.seen / exposure.framed if exposure.framed > 0 else 0.0
    return {"occlusion": round(hidden, 3), "truncation": round(1.0 - exposure.framed, 3)}
