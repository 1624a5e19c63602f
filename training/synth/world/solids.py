"""The world reduced to boxes, upright cylinders and the ground: what the analytic ray-caster is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import rotation_about_z
from training.synth import layout
from training.synth.mesh import NO_INSTANCE, Material, Mesh, Semantic, box, cylinder, merged
from training.synth.world.actors import Actor
from training.synth.world.ground import STREET, Ground

if TYPE_CHECKING:
    from training.synth.world.world import Moment, World

FloatArray = NDArray[np.float64]

_SEMANTIC_OF_LABEL = {
    "car": Semantic.CAR,
    "truck": Semantic.TRUCK,
    "trailer": Semantic.TRUCK,
    "construction_vehicle": Semantic.TRUCK,
    "bus": Semantic.BUS,
    "motorcycle": Semantic.MOTORCYCLE,
    "bicycle": Semantic.BICYCLE,
    "pedestrian": Semantic.PERSON,
    "barrier": Semantic.FENCE,
    "traffic_cone": Semantic.OTHER,
}
#: Boxes that stand for a vehicle, as shares of its size: low and high corner.
_BODIES: dict[str, tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]] = {
    "car": (((-0.49, -0.49, 0.11), (0.49, 0.49, 0.51)), ((-0.34, -0.42, 0.51), (0.18, 0.42, 1.0))),
    "truck": (((0.22, -0.47, 0.16), (0.5, 0.47, 0.72)), ((-0.5, -0.5, 0.22), (0.25, 0.5, 1.0))),
    "trailer": (((-0.5, -0.5, 0.29), (0.5, 0.5, 1.0)), ((-0.42, -0.45, 0.0), (-0.12, 0.45, 0.29))),
    "construction_vehicle": (
        ((-0.5, -0.5, 0.0), (0.06, 0.5, 0.27)),
        ((-0.45, -0.43, 0.27), (0.02, 0.43, 0.66)),
        ((0.36, -0.3, 0.04), (0.5, 0.05, 0.4)),
    ),
    "bus": (((-0.5, -0.5, 0.1), (0.5, 0.5, 1.0)),),
    "motorcycle": (((-0.48, -0.2, 0.05), (0.48, 0.2, 0.55)),),
    "bicycle": (((-0.48, -0.06, 0.0), (0.48, 0.06, 0.5)),),
    "barrier": (((-0.3, -0.5, 0.0), (0.3, 0.5, 1.0)),),
}


@dataclass(frozen=True)
class Solids:
    """Boxes and upright cylinders, each row one solid.

    Attributes:
        box_centre_b3: Metres.
        box_half_b3: Half sizes.
        box_yaw_b: Radians.
        box_kind_b6: Colour (3), material, semantic, instance.
        cylinder_foot_c3: Centre of the lower face.
        cylinder_radius_c: Metres.
        cylinder_height_c: Metres.
        cylinder_kind_c6: As of boxes.
    """

    box_centre_b3: FloatArray
    box_half_b3: FloatArray
    box_yaw_b: FloatArray
    box_kind_b6: FloatArray
    cylinder_foot_c3: FloatArray
    cylinder_radius_c: FloatArray
    cylinder_height_c: FloatArray
    cylinder_kind_c6: FloatArray

    def mesh(self, sides: int = 64) -> Mesh:
        """Returns the same solids as triangles; cylinders get that many sides."""
        parts = []
        for centre, half, yaw, kind in zip(
            self.box_centre_b3, self.box_half_b3, self.box_yaw_b, self.box_kind_b6, strict=True
        ):
            bottom = centre - [0.0, 0.0, half[2]]
            size = (2 * half[0], 2 * half[1], 2 * half[2])
            parts.append(_kind(box(bottom, size, kind[:3], Material(int(kind[3])), yaw=float(yaw)), kind))
        for foot, radius, height, kind in zip(
            self.cylinder_foot_c3,
            self.cylinder_radius_c,
            self.cylinder_height_c,
            self.cylinder_kind_c6,
            strict=True,
        ):
            top = foot + np.array([0.0, 0.0, height])
            parts.append(
                _kind(cylinder(foot, top, float(radius), kind[:3], Material(int(kind[3])), sides=sides), kind)
            )
        return merged(parts)


def _kind(mesh: Mesh, kind: FloatArray) -> Mesh:
    return mesh.labelled(Semantic(int(kind[4]))).moved((0.0, 0.0, 0.0), 0.0, int(kind[5]))


class _Collector:
    def __init__(self) -> None:
        self._boxes: list[list[float]] = []
        self._cylinders: list[list[float]] = []

    def box(self, centre: FloatArray, half: FloatArray, yaw: float, kind: list[float]) -> None:
        self._boxes.append([*centre, *half, yaw, *kind])

    def cylinder(self, foot: FloatArray, radius: float, height: float, kind: list[float]) -> None:
        self._cylinders.append([*foot, radius, height, *kind])

    def solids(self) -> Solids:
        boxes = np.array(self._boxes, dtype=np.float64).reshape(-1, 13)
        cylinders = np.array(self._cylinders, dtype=np.float64).reshape(-1, 11)
        return Solids(
            boxes[:, :3],
            boxes[:, 3:6],
            boxes[:, 6],
            boxes[:, 7:],
            cylinders[:, :3],
            cylinders[:, 3],
            cylinders[:, 4],
            cylinders[:, 5:],
        )


def solids_of(world: World, moment: Moment) -> Solids:
    """Reduces a moment of a world to solids.

    Args:
        world: On flat ground.
        moment: From `World.at`.

    Raises:
        ValueError: The world has slopes.
    """
    if world.town.slope_m != 0.0:
        raise ValueError("the analytic ray-caster knows flat ground only; this world has slopes")
    collector = _Collector()
    scenery = world.scenery
    ground = layout.CURB_HEIGHT
    for building in scenery.buildings:
        length, depth, height = building.size_3
        centre = np.array([*building.position_2, ground + height / 2])
        kind = [*building.colour, Material.FACADE, Semantic.BUILDING, NO_INSTANCE]
        collector.box(centre, np.array([length, depth, height]) / 2, building.yaw, kind)
    for post in scenery.posts:
        foot = np.array([*post.position_2, ground])
        stem = [0.2, 0.2, 0.2, Material.METAL, Semantic.POLE, NO_INSTANCE]
        if post.crown_radius_m > 0:
            stem = [0.16, 0.11, 0.075, Material.BARK, Semantic.VEGETATION, NO_INSTANCE]
            crown = [0.1, 0.19, 0.045, Material.FOLIAGE, Semantic.VEGETATION, NO_INSTANCE]
            half = post.crown_radius_m * 0.9
            low = np.array([*post.position_2, ground + post.crown_height_m - half])
            collector.cylinder(low, post.crown_radius_m, 2 * half, crown)
        collector.cylinder(foot, post.radius_m, post.height_m, stem)
    for instance, pose in moment.poses.items():
        _add_actor(collector, world.actors[instance], pose, instance)
    return collector.solids()


def _add_actor(collector: _Collector, actor: Actor, pose: FloatArray, instance: int) -> None:
    size = np.array(actor.size)
    yaw = float(np.arctan2(pose[1, 0], pose[0, 0]))
    foot = pose[:3, 3]
    semantic = _SEMANTIC_OF_LABEL[actor.label]
    kind = [0.4, 0.4, 0.4, Material.CAR_PAINT, semantic, instance]
    for low, high in _BODIES.get(actor.label, ()):
        centre = (np.array(low) + np.array(high)) / 2 * size
        half = (np.array(high) - np.array(low)) / 2 * size
        collector.box(foot + rotation_about_z(yaw) @ centre, half, yaw, kind)
    clothes = [0.3, 0.3, 0.35, Material.CLOTH, Semantic.RIDER, instance]
    if actor.label == "pedestrian":
        clothes[4] = Semantic.PERSON
        collector.cylinder(foot, 0.22, size[2], clothes)
    elif actor.label == "traffic_cone":
        orange = [0.85, 0.18, 0.02, Material.SIGN, semantic, instance]
        collector.cylinder(foot, 0.13, 0.45 * size[2], orange)
        collector.cylinder(foot, 0.06, size[2], orange)
    elif actor.rider:
        saddle = 0.5 * size[2]
        collector.cylinder(foot + np.array([0.0, 0.0, saddle]), 0.2, size[2] - saddle, clothes)


def raised_cells(ground: Ground) -> NDArray[np.bool_]:
    """Tells for each cell of the painted ground whether it lies on the curb."""
    return ~np.isin(ground.surface_hw, STREET)
