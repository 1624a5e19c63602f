"""Camera pictures with everything that is known about each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import inverse, transform_points
from training.synth.appearance import Painter
from training.synth.camera import Camera
from training.synth.mesh import NO_INSTANCE, Material, Semantic
from training.synth.noise import lattice
from training.synth.scene import Hits, RayScene
from training.synth.shading import develop, shade, sky
from training.synth.world.actors import Size
from training.synth.world.ground import Ground
from training.synth.world.weather import Conditions

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

#: Names of the keypoints of vehicles and of people, in the order of `keypoints_of`.
VEHICLE_KEYPOINTS = (
    *("front_left_wheel", "front_right_wheel", "rear_left_wheel", "rear_right_wheel"),
    *("front_left_roof", "front_right_roof", "rear_left_roof", "rear_right_roof"),
)
PERSON_KEYPOINTS = ("head", "neck", "left_shoulder", "right_shoulder", "pelvis", "left_foot", "right_foot")


@dataclass(frozen=True)
class Keypoint:
    """A named point of an object in a picture.

    Attributes:
        instance: Of the object.
        name: One of VEHICLE_KEYPOINTS or PERSON_KEYPOINTS.
        pixel: Column and row.
        visible: In the picture and not hidden by another object.
    """

    instance: int
    name: str
    pixel: tuple[float, float]
    visible: bool


@dataclass(frozen=True, eq=False)
class View:
    """What one camera sees at one moment. What is not asked for is not computed.

    Attributes:
        image_hwc: uint8 RGB.
        depth_hw: float32 metres along the optical axis, inf for the sky.
        hits: What each pixel's ray met.
        camera: Whose view it is.
        world_from_ego: 4x4 pose of the vehicle.
        ground: Tells the ground's classes.
        keypoints: Of the actors in view.
    """

    image_hwc: NDArray[np.uint8]
    depth_hw: Float32Array
    hits: Hits
    camera: Camera
    world_from_ego: FloatArray
    ground: Ground
    keypoints: list[Keypoint]

    @cached_property
    def normal_hwc(self) -> Float32Array:
        """float32 unit surface normals in the camera frame, 0 for the sky."""
        rotation = self.world_from_ego[:3, :3] @ self.camera.ego_from_camera[:3, :3]
        normal = np.zeros((self.depth_hw.size, 3), dtype=np.float32)
        normal[self.hits.hit] = (rotation.T.astype(np.float32) @ self.hits.normal_3h).T
        return normal.reshape(*self.depth_hw.shape, 3)

    @cached_property
    def semantic_hw(self) -> NDArray[np.uint8]:
        """uint8 `Semantic` (training ids of Cityscapes, 255 for everything else)."""
        semantic = np.full(self.depth_hw.size, int(Semantic.SKY), dtype=np.uint8)
        semantic[self.hits.hit] = ground_classes(self.hits, self.ground)
        return semantic.reshape(self.depth_hw.shape)

    @cached_property
    def instance_hw(self) -> NDArray[np.int32]:
        """int32 actor index or -1."""
        instance = np.full(self.depth_hw.size, NO_INSTANCE, dtype=np.int32)
        instance[self.hits.hit] = self.hits.instance_h
        return instance.reshape(self.depth_hw.shape)

    @cached_property
    def edge_hw(self) -> NDArray[np.bool_]:
        """bool, occlusion edges: the nearer side of a jump in depth."""
        return occlusion_edges(self._points(), self.normal_hwc)

    def _points(self) -> Float32Array:
        """Returns points [H, W, 3] in the camera frame."""
        matrix = self.camera.matrix_33
        columns, rows = np.meshgrid(np.arange(self.camera.width), np.arange(self.camera.height))
        x = (columns - matrix[0, 2]) / matrix[0, 0]
        y = (rows - matrix[1, 2]) / matrix[1, 1]
        finite = np.where(np.isfinite(self.depth_hw), self.depth_hw, np.float32(1e5))
        return np.stack([x * finite, y * finite, finite], axis=-1).astype(np.float32)


class ViewRenderer:
    """Renders one camera; what depends on the camera alone is computed once."""

    def __init__(self, camera: Camera) -> None:
        """Prepares a camera's rays."""
        self.camera = camera
        self._directions = camera.directions()
        rotation = camera.ego_from_camera[:3, :3]
        self._axis_share = (self._directions @ rotation[:, 2]).astype(np.float32)
        rows, columns = np.divmod(
            np.arange(camera.width * camera.height, dtype=np.int32), np.int32(camera.width)
        )
        self._grain = 2 * (lattice(columns, rows, 17) + lattice(columns, rows, 18) - 1)

    def render(
        self,
        scene: RayScene,
        world_from_ego: FloatArray,
        conditions: Conditions,
        ground: Ground,
        seed: int,
        *,
        picture: bool = True,
    ) -> View:
        """Renders the scene; keypoints are left empty.

        Args:
            scene: The world at one moment.
            world_from_ego: 4x4 pose of the vehicle.
            conditions: Hour and weather.
            ground: Paint and classes of the ground.
            seed: Of the sensor noise and the rain.
            picture: Without, the image stays black and only geometry is returned.
        """
        camera = self.camera
        rays = np.empty((len(self._directions), 6), dtype=np.float32)
        rays[:, :3] = (world_from_ego @ camera.ego_from_camera)[:3, 3]
        rays[:, 3:] = self._directions @ world_from_ego[:3, :3].T
        hits = scene.cast(rays)
        shape = (camera.height, camera.width)
        image = np.zeros((*shape, 3), dtype=np.uint8)
        if picture:
            image = self._picture(scene, rays, hits, conditions, ground.paint, seed)
        depth = (hits.distance_n * self._axis_share).reshape(shape)
        return View(image, depth, hits, camera, world_from_ego, ground, [])

    def _picture(
        self,
        scene: RayScene,
        rays: Float32Array,
        hits: Hits,
        conditions: Conditions,
        paint: Painter,
        seed: int,
    ) -> NDArray[np.uint8]:
        light = conditions.lighting
        radiance_3n = np.empty((3, len(rays)), dtype=np.float32)
        missed = np.ones(len(rays), dtype=bool)
        missed[hits.hit] = False
        radiance_3n[:, missed] = sky(np.ascontiguousarray(rays[missed, 3:].T), light)
        radiance_3n[:, hits.hit] = shade(scene, hits, light, paint)
        # the same grain turned to another place is as good as new
        values_3n = develop(radiance_3n, np.roll(self._grain, seed * 7919 % len(self._grain)), light)
        image = np.ascontiguousarray(values_3n.T).reshape(self.camera.height, self.camera.width, 3)
        return with_rain(image, conditions.rain, seed) if conditions.rain > 0 else image


def ground_classes(hits: Hits, ground: Ground) -> NDArray[np.uint8]:
    """Returns the semantic classes of hits, the ground's by what is painted where."""
    semantic = hits.semantic_h.copy()
    at = np.flatnonzero(hits.material_h == Material.GROUND)
    semantic[at] = ground.semantic(hits.position_3h[0, at], hits.position_3h[1, at])
    return semantic


def occlusion_edges(points_hwc: Float32Array, normal_hwc: Float32Array) -> NDArray[np.bool_]:
    """Marks pixels that hide what is behind their neighbour.

    A neighbour lies behind where it is off the pixel's own tangent plane, away from the viewer, by more than
    15 cm and 1.5 % of its distance.
    """
    edges = np.zeros(points_hwc.shape[:2], dtype=bool)
    for axis in (0, 1):
        for first, second in (
            (np.s_[:-1], np.s_[1:]),
            (np.s_[1:], np.s_[:-1]),
        ):
            here = first if axis == 0 else (slice(None), first)
            there = second if axis == 0 else (slice(None), second)
            point, normal = points_hwc[here], normal_hwc[here]
            off = -((points_hwc[there] - point) * normal).sum(axis=-1)
            limit = 0.15 + 0.015 * point[..., 2]
            edges[here] |= (off > limit) & (point[..., 2] < 9e4)
    return edges


def with_rain(image_hwc: NDArray[np.uint8], rain: float, seed: int) -> NDArray[np.uint8]:
    """Draws falling drops as short bright streaks, and takes contrast away as wet air does."""
    height, width = image_hwc.shape[:2]
    generator = np.random.default_rng([seed, 404])
    streaks = np.zeros((height, width), dtype=np.float32)
    count = int(rain * 0.0016 * height * width)
    streaks[generator.integers(0, height, count), generator.integers(0, width, count)] = generator.uniform(
        0.3, 1.0, count
    )
    length = max(5, height // 26)
    kernel = np.zeros((length, length), dtype=np.float32)
    cv2.line(kernel, (length // 2, 0), (length // 2 + length // 8, length - 1), (1.0,))
    streaks = np.asarray(cv2.filter2D(streaks, -1, kernel / np.sqrt(length)), dtype=np.float32)
    mixed = image_hwc.astype(np.float32)
    veil = np.float32(0.10 * rain)
    mixed = mixed * (1 - veil) + 168.0 * veil
    mixed += (205.0 - mixed) * np.clip(streaks * 0.55, 0.0, 0.5)[..., None]
    result: NDArray[np.uint8] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return result


def keypoints_of(label: str, size: Size) -> tuple[tuple[str, ...], FloatArray]:
    """Returns the names and places [K, 3] of an object's keypoints around its ground point."""
    length, width, height = size
    if label == "pedestrian":
        points = [
            (0.0, 0.0, 0.95 * height),
            (0.0, 0.0, 0.83 * height),
            (0.0, 0.22, 0.80 * height),
            (0.0, -0.22, 0.80 * height),
            (0.0, 0.0, 0.5 * height),
            (0.0, 0.09, 0.05),
            (0.0, -0.09, 0.05),
        ]
        return PERSON_KEYPOINTS, np.array(points)
    if label in ("traffic_cone", "barrier"):
        return (), np.zeros((0, 3))
    wheels = [(x * 0.31 * length, y * width / 2, 0.3) for x in (1, -1) for y in (1, -1)]
    roof = [(x * 0.25 * length, y * 0.38 * width, 0.97 * height) for x in (1, -1) for y in (1, -1)]
    return VEHICLE_KEYPOINTS, np.array(wheels + roof)


def project_keypoints(
    view: View,
    camera: Camera,
    world_from_ego: FloatArray,
    instance: int,
    names: tuple[str, ...],
    points_k3: FloatArray,
) -> list[Keypoint]:
    """Projects an object's keypoints (world frame) into a view; only those inside the picture."""
    camera_from_world = inverse(world_from_ego @ camera.ego_from_camera)
    in_camera = transform_points(camera_from_world, points_k3)
    found = []
    for name, (x, y, z) in zip(names, in_camera, strict=True):
        if z < 0.5:
            continue
        column = camera.matrix_33[0, 0] * x / z + camera.matrix_33[0, 2]
        row = camera.matrix_33[1, 1] * y / z + camera.matrix_33[1, 2]
        u, v = round(float(column)), round(float(row))
        if not (0 <= u < camera.width and 0 <= v < camera.height):
            continue
        # keypoints lie inside their object, so its own surface does not hide them
        own = view.instance_hw[v, u] == instance
        visible = bool(own or view.depth_hw[v, u] > z - 0.25)
        found.append(Keypoint(instance, name, (float(column), float(row)), visible))
    return found
