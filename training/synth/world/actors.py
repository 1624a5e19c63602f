"""Annotated road users and obstacles: what they look like, and where they are at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import rotation_about_z, transform_of
from training.synth import models, work_vehicles
from training.synth.mesh import Mesh, Semantic
from training.synth.street import PAINTS, SHIRTS, SKINS, TROUSERS
from training.synth.world.curve import Curve

FloatArray = NDArray[np.float64]
Size = tuple[float, float, float]

#: Below this speed a vehicle stands.
STANDING_SPEED = 0.3


@dataclass(frozen=True)
class Motion:
    """Where something is at one time, in the plane.

    Attributes:
        position_2: Metres.
        yaw: Radians.
        speed: Metres a second along the heading.
        travelled_m: Distance since the start; legs move with it.
    """

    position_2: FloatArray
    yaw: float
    speed: float
    travelled_m: float


class Track(Protocol):
    """How something moves."""

    @property
    def parked(self) -> bool:
        """Whether it never moves at all."""
        ...

    def at(self, time_s: float) -> Motion:
        """Returns where it is."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Stays where it is."""

    position_2: tuple[float, float]
    yaw: float
    parked: bool = True

    def at(self, time_s: float) -> Motion:
        """Returns the one place."""
        return Motion(np.array(self.position_2), self.yaw, 0.0, 0.0)


@dataclass(frozen=True)
class AlongCurve:
    """Follows a curve.

    Attributes:
        curve: The path of the object's centre.
        times_t: Seconds, even spacing.
        arcs_t: Arc length at those times.
        behind_m: How far behind that it is (trailers).
    """

    curve: Curve
    times_t: FloatArray
    arcs_t: FloatArray
    behind_m: float = 0.0
    parked: bool = False

    def at(self, time_s: float) -> Motion:
        """Returns where it is; before and after the simulated time it keeps its speed."""
        step = self.times_t[1] - self.times_t[0]
        index = int(np.clip(np.floor((time_s - self.times_t[0]) / step), 0, len(self.times_t) - 2))
        speed = float((self.arcs_t[index + 1] - self.arcs_t[index]) / step)
        arc = float(self.arcs_t[index] + speed * (time_s - self.times_t[index])) - self.behind_m
        return Motion(self.curve.at(arc), float(self.curve.heading(arc)), speed, arc - float(self.arcs_t[0]))


@dataclass(frozen=True)
class Actor:
    """An annotated object.

    Attributes:
        label: Detection class.
        category: nuScenes category.
        size: Length, width, height in metres.
        mesh_at: Mesh around the origin as a function of the distance travelled.
        track: Its motion.
        rider: For cycles, whether somebody sits on them.
    """

    label: str
    category: str
    size: Size
    mesh_at: Callable[[float], Mesh]
    track: Track
    rider: bool = False

    def attribute(self, time_s: float) -> str | None:
        """Returns its nuScenes attribute at a time; None for classes without."""
        if self.label in ("barrier", "traffic_cone"):
            return None
        if self.label in ("bicycle", "motorcycle"):
            return "cycle.with_rider" if self.rider else "cycle.without_rider"
        moving = self.track.at(time_s).speed > STANDING_SPEED
        if self.label == "pedestrian":
            return "pedestrian.moving" if moving else "pedestrian.standing"
        if self.track.parked:
            return "vehicle.parked"
        return "vehicle.moving" if moving else "vehicle.stopped"


def upright_pose(position_3: FloatArray, yaw: float, slope_2: tuple[float, float] = (0.0, 0.0)) -> FloatArray:
    """Returns the 4x4 pose of something that stands on ground with a slope.

    Args:
        position_3: Metres.
        yaw: Radians, seen from above.
        slope_2: Rise of the ground in x and y, metres per metre.
    """
    if slope_2 == (0.0, 0.0):
        return transform_of(rotation_about_z(yaw), position_3)
    up = np.array([-slope_2[0], -slope_2[1], 1.0])
    up /= np.linalg.norm(up)
    left = np.cross(up, [np.cos(yaw), np.sin(yaw), 0.0])
    left /= np.linalg.norm(left)
    return transform_of(np.column_stack([np.cross(left, up), left, up]), position_3)


# -- what they look like -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """An actor without a track."""

    label: str
    category: str
    size: Size
    mesh_at: Callable[[float], Mesh]
    rider: bool = False

    def on(self, track: Track) -> Actor:
        """Gives it a track."""
        return Actor(self.label, self.category, self.size, self.mesh_at, track, self.rider)


def _still(mesh: Mesh) -> Callable[[float], Mesh]:
    return lambda travelled: mesh


_STRIDES = 16


def _stride(travelled: float, step: float, phase: float) -> int:
    """Returns the leg position as one of _STRIDES steps, so that meshes repeat and can be kept."""
    return int(np.round((travelled / step + phase) * _STRIDES)) % _STRIDES


def _paint(generator: np.random.Generator) -> tuple[float, float, float]:
    paint = PAINTS[generator.integers(len(PAINTS))] * generator.uniform(0.8, 1.15)
    red, green, blue = np.minimum(paint, 0.72)
    return float(red), float(green), float(blue)


def car(generator: np.random.Generator) -> Looks:
    """A passenger car or a van."""
    if generator.random() < 0.13:
        size = (
            float(generator.uniform(5.0, 5.8)),
            float(generator.uniform(1.95, 2.1)),
            float(generator.uniform(2.0, 2.4)),
        )
        return Looks("car", "vehicle.car", size, _still(work_vehicles.van(size, _paint(generator))))
    size = (
        float(generator.uniform(3.9, 4.9)),
        float(generator.uniform(1.74, 1.95)),
        float(generator.uniform(1.42, 1.75)),
    )
    mesh = models.car(size, _paint(generator)).labelled(Semantic.CAR)
    return Looks("car", "vehicle.car", size, _still(mesh))


def truck(generator: np.random.Generator) -> Looks:
    """A lorry."""
    size = (float(generator.uniform(6.4, 8.4)), 2.45, float(generator.uniform(2.9, 3.6)))
    cargo = np.array((0.72, 0.72, 0.7)) * generator.uniform(0.6, 1.0)
    mesh = models.van_or_truck(size, _paint(generator), cargo).labelled(Semantic.TRUCK)
    return Looks("truck", "vehicle.truck", size, _still(mesh))


def bus(generator: np.random.Generator) -> Looks:
    """A city bus."""
    size = (float(generator.uniform(10.5, 12.2)), 2.55, float(generator.uniform(3.0, 3.4)))
    paint = np.array([(0.55, 0.03, 0.03), (0.05, 0.2, 0.45), (0.55, 0.42, 0.05), (0.1, 0.35, 0.2)])
    mesh = models.bus(size, paint[generator.integers(len(paint))]).labelled(Semantic.BUS)
    return Looks("bus", "vehicle.bus.rigid", size, _still(mesh))


def trailer(generator: np.random.Generator) -> Looks:
    """A box trailer."""
    size = (float(generator.uniform(8.0, 11.5)), 2.5, float(generator.uniform(3.3, 3.9)))
    cargo = PAINTS[generator.integers(len(PAINTS))] * 0.5 + 0.3
    return Looks("trailer", "vehicle.trailer", size, _still(work_vehicles.trailer(size, cargo)))


def construction_vehicle(generator: np.random.Generator) -> Looks:
    """An excavator."""
    size = (float(generator.uniform(6.0, 7.5)), float(generator.uniform(2.4, 2.8)), 3.1)
    paint = np.array([(0.75, 0.42, 0.02), (0.7, 0.22, 0.02), (0.72, 0.6, 0.1)])[generator.integers(3)]
    mesh = work_vehicles.excavator(size, paint)
    return Looks("construction_vehicle", "vehicle.construction", size, _still(mesh))


def motorcycle(generator: np.random.Generator, rider: bool) -> Looks:
    """A motorcycle, ridden or parked."""
    size = (
        float(generator.uniform(1.95, 2.25)),
        0.78,
        float(generator.uniform(1.6, 1.75)) if rider else 1.15,
    )
    clothes = (SHIRTS[generator.integers(len(SHIRTS))] * 0.5, _paint(generator)) if rider else None
    mesh = work_vehicles.motorcycle(size, _paint(generator), clothes)
    return Looks("motorcycle", "vehicle.motorcycle", size, _still(mesh), rider)


def bicycle(generator: np.random.Generator, rider: bool) -> Looks:
    """A bicycle, ridden or parked."""
    frame = _paint(generator)
    if not rider:
        return Looks("bicycle", "vehicle.bicycle", (1.74, 0.58, 1.08), _still(models.parked_bicycle(frame)))
    size = (1.75, 0.62, float(generator.uniform(1.68, 1.82)))
    shirt, skin = SHIRTS[generator.integers(len(SHIRTS))], SKINS[generator.integers(len(SKINS))]
    phase = float(generator.random())

    @lru_cache(maxsize=_STRIDES)
    def pose(step: int) -> Mesh:
        return models.bicycle(size, float(np.sin(2 * np.pi * step / _STRIDES)), frame, shirt, skin)

    return Looks("bicycle", "vehicle.bicycle", size, lambda metres: pose(_stride(metres, 4.4, phase)), True)


def pedestrian(generator: np.random.Generator, kind: str = "adult", walking: bool = True) -> Looks:
    """A person.

    Args:
        generator: Of clothes and height.
        kind: adult, child, construction_worker or police_officer.
        walking: Whether the legs move with the distance travelled.
    """
    height = float(generator.uniform(1.1, 1.4) if kind == "child" else generator.uniform(1.56, 1.9))
    size = (0.72, 0.68, height)
    shirt, trousers = SHIRTS[generator.integers(len(SHIRTS))], TROUSERS[generator.integers(len(TROUSERS))]
    if kind == "construction_worker":
        shirt = np.array((0.85, 0.35, 0.02))
    elif kind == "police_officer":
        shirt = np.array((0.02, 0.03, 0.1))
    skin, phase = SKINS[generator.integers(len(SKINS))], float(generator.random())

    @lru_cache(maxsize=_STRIDES)
    def pose(step: int) -> Mesh:
        stride = float(np.sin(2 * np.pi * step / _STRIDES)) if walking else 0.15
        return models.pedestrian(size, stride, shirt, trousers, skin).labelled(Semantic.PERSON)

    def mesh_at(travelled: float) -> Mesh:
        return pose(_stride(travelled, 1.4 * height / 1.75, phase) if walking else 0)

    return Looks("pedestrian", f"human.pedestrian.{kind}", size, mesh_at)


def traffic_cone(generator: np.random.Generator) -> Looks:
    """A cone."""
    size = (0.42, 0.42, float(generator.uniform(0.7, 0.95)))
    return Looks("traffic_cone", "movable_object.trafficcone", size, _still(models.traffic_cone(size)))


def barrier(generator: np.random.Generator) -> Looks:
    """A road-works barrier; its width is the longer side, as nuScenes has it."""
    if generator.random() < 0.5:
        size = (2.0, 0.5, 1.05)
        mesh = models.barrier(size)
    else:
        size = (2.0, 0.6, 0.95)
        mesh = work_vehicles.striped_barrier(size)
    turned = mesh.labelled(Semantic.FENCE).moved((0.0, 0.0, 0.0), np.pi / 2)
    size = (size[1], size[0], size[2])
    return Looks("barrier", "movable_object.barrier", size, _still(turned))
