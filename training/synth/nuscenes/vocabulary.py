"""The fixed tables of nuScenes v1.0, and names that its devkit expects."""

from __future__ import annotations

import hashlib
from typing import Any

Record = dict[str, Any]

#: The only places `NuScenesMap` knows.
LOCATIONS = ("boston-seaport", "singapore-onenorth", "singapore-queenstown", "singapore-hollandvillage")
LIDAR_CHANNEL = "LIDAR_TOP"
#: Channel of each camera modality.
CAMERA_CHANNELS = {
    "camera_front": "CAM_FRONT",
    "camera_front_right": "CAM_FRONT_RIGHT",
    "camera_front_left": "CAM_FRONT_LEFT",
    "camera_back": "CAM_BACK",
    "camera_back_left": "CAM_BACK_LEFT",
    "camera_back_right": "CAM_BACK_RIGHT",
}
#: Categories in the order of nuScenes' category table.
CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
ATTRIBUTES = {
    "vehicle.moving": "Vehicle is moving.",
    "vehicle.stopped": "Vehicle is currently stationary but has an intent to move.",
    "vehicle.parked": "Vehicle is stationary (usually for longer duration) with no immediate intent to move.",
    "cycle.with_rider": "There is a rider on the bicycle or motorcycle.",
    "cycle.without_rider": "There is NO rider on the bicycle or motorcycle.",
    "pedestrian.sitting_lying_down": "The human is sitting or lying down.",
    "pedestrian.standing": "The human is standing.",
    "pedestrian.moving": "The human is moving.",
}
#: Level names by token; a box belongs to the first whose limit its visible share is below.
VISIBILITY = {"1": ("v0-40", 0.4), "2": ("v40-60", 0.6), "3": ("v60-80", 0.8), "4": ("v80-100", 1.01)}


def token(*parts: object) -> str:
    """Returns the 32 hexadecimal digits that name a record; the same parts always give the same."""
    return hashlib.md5("/".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()


def visibility_token(share: float) -> str:
    """Returns the token of the level of a visible share 0..1."""
    return next(name for name, (_, limit) in VISIBILITY.items() if share < limit)


def fixed_tables() -> dict[str, list[Record]]:
    """Returns category, attribute, visibility and sensor."""
    cameras = [
        {"token": token("sensor", channel), "channel": channel, "modality": "camera"}
        for channel in CAMERA_CHANNELS.values()
    ]
    lidar = {"token": token("sensor", LIDAR_CHANNEL), "channel": LIDAR_CHANNEL, "modality": "lidar"}
    return {
        "category": [
            {"token": token("category", name), "name": name, "description": "", "index": index + 1}
            for index, name in enumerate(CATEGORIES)
        ],
        "attribute": [
            {"token": token("attribute", name), "name": name, "description": description}
            for name, description in ATTRIBUTES.items()
        ],
        "visibility": [
            {
                "token": name,
                "level": level,
                "description": f"visibility of whole object is in the range {level[1:]} %",
            }
            for name, (level, _) in VISIBILITY.items()
        ],
        "sensor": [*cameras, lidar],
    }
