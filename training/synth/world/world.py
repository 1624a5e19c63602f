"""Worlds: make one, step to any time, and look at it with cameras and LiDAR.

    world = make_world(find_preset("standard"), seed=7, index=0, seconds=20.0)
    moment = world.at(3.5)                       # everybody where they are 3.5 s into the drive
    view = world.render(camera, moment)          # image, depth, normals, semantic, instance, edges, keypoints
    sweep = world.sweep(world.lidar(), 3.5)      # a turn of the LiDAR that ends then

Frames: the map frame of the town (x, y in the plane, z up, metres); the ego frame of nuScenes (origin on the
ground below the rear axle, x forward, y left, z up); LiDAR and cameras as on the nuScenes vehicle. Poses are
4x4 matrices named target_from_source. An actor's instance is its index in `World.actors`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import inverse, transform_points
from training.synth import layout, models
from training.synth.camera import Camera
from training.synth.lidar import Lidar, nuscenes_like_lidar
from training.synth.mesh import Mesh, merged
from training.synth.scene import CompiledMesh, MeshScene, RayScene
from training.synth.world.actors import Actor, Motion, upright_pose
from training.synth.world.ego import EgoDrive, EgoState
from training.synth.world.ground import Ground, ground_mesh
from training.synth.world.population import Population, populate
from training.synth.world.presets import Preset
from training.synth.world.scenery import Scenery, make_scenery
from training.synth.world.sweeps import SLICE_TIMES, WorldSweep, sweep_slices
from training.synth.world.town import Town, make_town
from training.synth.world.views import View, ViewRenderer, keypoints_of, project_keypoints
from training.synth.world.weather import Conditions, make_conditions

FloatArray = NDArray[np.float64]

#: Who moves farther away than this from the ego vehicle is not there; people and cyclists are a few pixels.
VIEW_DISTANCE_M, SMALL_VIEW_DISTANCE_M = 125.0, 75.0
_SMALL = frozenset({"pedestrian", "bicycle"})
_VISIBILITY_SAMPLES = 48


@dataclass(frozen=True)
class Moment:
    """The world at one time.

    Attributes:
        time_s: Since the drive's beginning.
        scene: What rays can hit.
        world_from_ego: 4x4 pose of the ego vehicle.
        poses: 4x4 pose (ground point under the centre) of each actor in reach, by instance.
        motions: Their motion, by instance.
    """

    time_s: float
    scene: RayScene
    world_from_ego: FloatArray
    poses: dict[int, FloatArray]
    motions: dict[int, Motion]


@dataclass(frozen=True)
class Exposure:
    """How cameras see an actor, as shares 0..1 of its surface that faces them.

    Attributes:
        framed: Within a picture, hidden or not.
        seen: Within a picture and not hidden.
    """

    framed: float
    seen: float


class World:
    """A town with everybody in it, an hour, a weather and a drive."""

    def __init__(
        self,
        town: Town,
        preset: Preset,
        conditions: Conditions,
        population: Population,
        seed: int,
    ) -> None:
        """Puts the parts together; use `make_world`.

        Args:
            town: The vector map.
            preset: How hard the world is.
            conditions: Hour and weather.
            population: Everybody.
            seed: Of sensor noise.
        """
        self.town = town
        self.preset = preset
        self.conditions = conditions
        self.actors: tuple[Actor, ...] = population.actors
        self.ego: EgoDrive = population.ego
        self.signals = population.signals
        self.seed = seed
        self._renderers: dict[bytes, ViewRenderer] = {}
        self._signals_shown: dict[tuple[int, str], Mesh] = {}

    @cached_property
    def ground(self) -> Ground:
        """Surface and paint of the ground."""
        return Ground(self.town)

    @cached_property
    def scenery(self) -> Scenery:
        """Buildings, trees and posts."""
        return make_scenery(self.town)

    @cached_property
    def _standing(self) -> CompiledMesh:
        parked = [
            self.actors[instance].mesh_at(0.0).placed(pose, instance)
            for instance, pose in self._parked[0].items()
        ]
        return CompiledMesh(merged([ground_mesh(self.town), *self.scenery.meshes, *parked]))

    @cached_property
    def _parked(self) -> tuple[dict[int, FloatArray], dict[int, Motion]]:
        """Poses and motions of those who never move."""
        motions = {
            instance: actor.track.at(0.0) for instance, actor in enumerate(self.actors) if actor.track.parked
        }
        return {instance: self.pose_of(motion) for instance, motion in motions.items()}, motions

    # -- where things are ------------------------------------------------------------------------------------

    def pose_of(self, motion: Motion) -> FloatArray:
        """Returns the 4x4 pose of something on the ground."""
        x, y = (float(value) for value in motion.position_2)
        return upright_pose(np.array([x, y, self.ground.height_at(x, y)]), motion.yaw, self._slope(x, y))

    def _slope(self, x: float, y: float) -> tuple[float, float]:
        if self.town.slope_m == 0.0:
            return (0.0, 0.0)
        xs, ys = np.array([x + 1.0, x - 1.0, x, x]), np.array([y, y, y + 1.0, y - 1.0])
        east, west, north, south = self.town.height(xs, ys)
        return (float(east - west) / 2, float(north - south) / 2)

    def world_from_ego(self, time_s: float) -> FloatArray:
        """Returns the pose of the ego frame."""
        state = self.ego_state(time_s)
        x, y = (float(value) for value in state.position_2)
        height = float(self.town.height(np.array(x), np.array(y)))
        return upright_pose(np.array([x, y, height]), state.yaw, self._slope(x, y))

    def ego_state(self, time_s: float) -> EgoState:
        """Returns speed, acceleration, yaw rate and steering of the ego vehicle."""
        return self.ego.state(time_s)

    def at(self, time_s: float, threads: int = 1) -> Moment:
        """Steps to a time.

        Args:
            time_s: Any within the seconds the world was made for; the order does not matter.
            threads: Threads of one ray cast; 0: all cores.
        """
        pose = self.world_from_ego(time_s)
        parked_poses, parked_motions = self._parked
        poses, motions = dict(parked_poses), dict(parked_motions)
        moving: list[Mesh] = []
        for instance, actor in enumerate(self.actors):
            if instance in parked_poses:
                continue
            motion = actor.track.at(time_s)
            limit = SMALL_VIEW_DISTANCE_M if actor.label in _SMALL else VIEW_DISTANCE_M
            if math.hypot(motion.position_2[0] - pose[0, 3], motion.position_2[1] - pose[1, 3]) > limit:
                continue
            poses[instance], motions[instance] = self.pose_of(motion), motion
            moving.append(actor.mesh_at(motion.travelled_m).placed(poses[instance], instance))
        moving += self._signal_meshes(time_s)
        scene = MeshScene([self._standing, CompiledMesh(merged(moving))], threads)
        return Moment(time_s, scene, pose, poses, motions)

    @cached_property
    def _signal_places(self) -> list[tuple[int, bool, tuple[float, float, float], float]]:
        """Lists junction, whether it is for the main road, place and heading of every signal."""
        places = []
        for number, junction in enumerate(self.town.junctions):
            side = self.town.roads[junction.side]
            for road, arc, stop, main in (
                (self.town.main, junction.main_arc, junction.main_stop, True),
                (side, junction.side_arc, junction.side_stop, False),
            ):
                for direction in (1, -1):
                    lateral = -direction * (road.section.curb + 0.55)
                    x, y = road.curve.at(arc - direction * (stop - 0.3), lateral).tolist()
                    yaw = float(road.curve.heading(arc)) + (0.0 if direction > 0 else np.pi)
                    base = float(self.town.height(np.array(x), np.array(y))) + layout.CURB_HEIGHT
                    places.append((number, main, (x, y, base), yaw))
        return places

    def _signal_meshes(self, time_s: float) -> list[Mesh]:
        meshes = []
        for place, (junction, main, position, yaw) in enumerate(self._signal_places):
            key = (place, self.signals.state(junction, main, time_s))
            if key not in self._signals_shown:
                self._signals_shown[key] = models.traffic_light(key[1]).moved(position, yaw)
            meshes.append(self._signals_shown[key])
        return meshes

    # -- what sensors see ------------------------------------------------------------------------------------

    def lidar(self, columns: int = 1084) -> Lidar:
        """Returns the LiDAR with the preset's noise, and more losses in rain."""
        return replace(
            nuscenes_like_lidar(),
            columns=columns,
            range_noise_m=self.preset.range_noise_m,
            random_loss=min(0.9, self.preset.dropout + 0.08 * self.conditions.rain),
            max_range_m=100.0 - 35.0 * self.conditions.rain,
        )

    def render(self, camera: Camera, moment: Moment, *, picture: bool = True, keypoints: bool = True) -> View:
        """Looks through a camera.

        Args:
            camera: Mounted on the ego vehicle; any pose and intrinsics.
            moment: From `at`.
            picture: Without, only geometry and masks are made.
            keypoints: Whether to list the keypoints of the actors in view.
        """
        size = f"{camera.modality} {camera.width} {camera.height}".encode()
        key = size + camera.ego_from_camera.tobytes() + camera.matrix_33.tobytes()
        if key not in self._renderers:
            self._renderers[key] = ViewRenderer(camera)
        seed = (self.seed * 1009 + round(moment.time_s * 1e3) * 31 + sum(camera.modality.encode())) % 2**31
        view = self._renderers[key].render(
            moment.scene, moment.world_from_ego, self.conditions, self.ground, seed, picture=picture
        )
        if not keypoints:
            return view
        seen = np.unique(view.instance_hw[view.instance_hw >= 0])
        found = []
        for instance in seen.tolist():
            actor = self.actors[instance]
            names, points = keypoints_of(actor.label, actor.size)
            if names:
                in_world = transform_points(moment.poses[instance], points)
                found += project_keypoints(view, camera, moment.world_from_ego, instance, names, in_world)
        return replace(view, keypoints=found)

    def sweep(self, lidar: Lidar, time_s: float, moments: list[Moment] | None = None) -> WorldSweep:
        """Turns the LiDAR once; the turn ends at `time_s`, and points are given in the frame it has then.

        While it turns the ego vehicle and everybody else move, unless the preset says otherwise.

        Args:
            lidar: From `lidar`.
            time_s: End of the turn.
            moments: From `slices`; None: they are made.
        """
        return sweep_slices(self, lidar, time_s, moments or self.slices(time_s))

    def slices(self, time_s: float, fine: bool = True) -> list[Moment]:
        """Returns the moments of the turn that ends at `time_s`, one for each camera it passes.

        Args:
            time_s: End of the turn.
            fine: Whether everybody moves between the six parts of the turn, or the middle stands for all.
        """
        if not self.preset.rolling_sweep:
            return [self.at(time_s)]
        if not fine:
            return [self.at(time_s + SLICE_TIMES[2])]
        return [self.at(time_s + offset) for offset in SLICE_TIMES]

    def visibility(self, moment: Moment, cameras: tuple[Camera, ...]) -> dict[int, float]:
        """Returns the share of each actor in reach that the cameras see, 0..1; see `exposure`."""
        return {instance: share.seen for instance, share in self.exposure(moment, cameras).items()}

    def exposure(self, moment: Moment, cameras: tuple[Camera, ...]) -> dict[int, Exposure]:
        """Returns how much of each actor in reach lies in the cameras' pictures and how much they see.

        Points on the actor's surface that face a camera count; they are seen where a ray towards them ends on
        the actor and they lie within the picture.
        """
        instances = list(moment.poses)
        if not instances:
            return {}
        samples = [_surface_samples(self.actors[i], i, moment.motions[i].travelled_m) for i in instances]
        points = np.concatenate(
            [transform_points(moment.poses[i], p) for i, (p, _) in zip(instances, samples, strict=True)]
        )
        normals = np.concatenate(
            [n @ moment.poses[i][:3, :3].T for i, (_, n) in zip(instances, samples, strict=True)]
        )
        owner = np.repeat(instances, [len(p) for p, _ in samples])
        facing, framed, seen = (np.zeros(len(points), dtype=bool) for _ in range(3))
        for camera in cameras:
            world_from_camera = moment.world_from_ego @ camera.ego_from_camera
            towards = points - world_from_camera[:3, 3]
            faces = (towards * normals).sum(axis=1) < 0
            facing |= faces
            in_camera = transform_points(inverse(world_from_camera), points)
            with np.errstate(divide="ignore", invalid="ignore"):
                pixels = (in_camera @ camera.matrix_33.T)[:, :2] / in_camera[:, 2:]
            inside = (in_camera[:, 2] > 0.3) & (pixels >= -0.5).all(axis=1)
            inside &= (pixels < [camera.width - 0.5, camera.height - 0.5]).all(axis=1)
            framed |= faces & inside
            candidates = np.flatnonzero(faces & inside & ~seen)
            if not len(candidates):
                continue
            rays = np.empty((len(candidates), 6), dtype=np.float32)
            rays[:, :3] = world_from_camera[:3, 3]
            rays[:, 3:] = towards[candidates] / np.linalg.norm(towards[candidates], axis=1, keepdims=True)
            hits = moment.scene.cast(rays)
            first = np.full(len(candidates), -2, dtype=np.int64)
            first[hits.hit] = hits.instance_h
            seen[candidates] |= first == owner[candidates]
        result = {}
        for instance in instances:
            own = owner == instance
            total = max(1, int(facing[own].sum()))
            result[instance] = Exposure(float(framed[own].sum() / total), float(seen[own].sum() / total))
        return result


def _surface_samples(actor: Actor, instance: int, travelled_m: float) -> tuple[FloatArray, FloatArray]:
    """Returns points [N, 3] on an actor's surface and their normals, around its ground point."""
    mesh = actor.mesh_at(travelled_m)
    a, b, c = (mesh.vertices_n3[mesh.triangles_m3[:, corner]] for corner in range(3))
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal, axis=1)
    generator = np.random.default_rng([instance, 505])
    chosen = generator.choice(len(area), _VISIBILITY_SAMPLES, p=area / area.sum())
    return (a[chosen] + b[chosen] + c[chosen]) / 3, normal[chosen] / area[chosen, None]


def stratified(weights: dict[str, float], number: int, seed: int) -> str:
    """Chooses a key so that any few consecutive numbers already show the weights' shares.

    Args:
        weights: By key.
        number: Counts the choices.
        seed: Where the sequence begins.
    """
    keys = sorted(weights)
    shares = np.cumsum([weights[key] for key in keys]) / sum(weights.values())
    start = np.random.default_rng([seed, 606]).random()
    # multiples of the golden ratio fill the unit interval evenly
    position = (start + number * 0.6180339887498949) % 1.0
    return keys[int(np.searchsorted(shares, position, side="right").clip(0, len(keys) - 1))]


def make_world(
    preset: Preset,
    seed: int,
    index: int = 0,
    seconds: float = 20.0,
    town_number: int | None = None,
    slope_m: float | None = None,
) -> World:
    """Makes a world; the same arguments always give the same.

    Args:
        preset: From `presets.find_preset`, or one's own.
        seed: Of a whole data set.
        index: Of the scene in it.
        seconds: How long everybody moves.
        town_number: Scenes may share a town; None: a town of its own.
        slope_m: Amplitude of the terrain; None: the preset's.
    """
    town_number = index if town_number is None else town_number
    town = town_of(preset, seed, town_number, slope_m)
    scene_seed = int(np.random.default_rng([seed, index, 707]).integers(2**31))
    generator = np.random.default_rng([scene_seed, 808])
    conditions = make_conditions(stratified(preset.conditions, index, seed), generator, preset.image_noise)
    return World(town, preset, conditions, populate(town, preset, scene_seed, seconds), scene_seed)


def town_of(preset: Preset, seed: int, town_number: int, slope_m: float | None = None) -> Town:
    """Makes the town of that number in a data set."""
    town_seed = int(np.random.default_rng([seed, town_number, 909]).integers(2**31))
    layout_name = stratified(preset.layouts, town_number, seed + 1)
    return make_town(town_seed, layout_name, preset.slope_m if slope_m is None else slope_m)
