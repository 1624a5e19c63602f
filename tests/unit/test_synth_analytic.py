"""The analytic ray-caster agrees with Open3D: to 2 mm on the same solids, roughly on detailed meshes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.synth.mesh import NO_INSTANCE, Material, Semantic, box
from training.synth.world.analytic import AnalyticScene, torch_sweep
from training.synth.world.presets import PRESETS
from training.synth.world.solids import Solids, solids_of
from training.synth.world.world import Moment, World, make_world

pytest.importorskip("open3d", reason="Open3D casts the rays and is not installed")

from training.synth.scene import CompiledMesh, MeshScene

#: Both casters compute in single precision, on coordinates of some hundred metres.
TOLERANCE_M = 2e-3


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(PRESETS["easy"], seed=2, index=0, seconds=0.5)


@pytest.fixture(scope="module")
def moment(world: World) -> Moment:
    return world.at(0.2)


def lidar_rays(world: World, moment: Moment, columns: int) -> np.ndarray:
    lidar = world.lidar(columns)
    pose = moment.world_from_ego @ lidar.ego_from_lidar
    directions = lidar.directions() @ pose[:3, :3].T
    rays = np.empty((len(directions), 6), dtype=np.float32)
    rays[:, :3] = pose[:3, 3]
    rays[:, 3:] = directions
    return rays


def test_same_solids_give_the_same_hits(world: World, moment: Moment) -> None:
    solids = solids_of(world, moment)
    plate = box((250, 250, -1.0), (2000, 2000, 1.0), (0.1, 0.1, 0.1), Material.GROUND)
    mesh = MeshScene([CompiledMesh(solids.mesh(sides=256)), CompiledMesh(plate)])
    analytic = AnalyticScene(solids)
    rays = lidar_rays(world, moment, 120)
    one, other = mesh.cast(rays), analytic.cast(rays)
    near = (one.distance_n < 100) & (other.distance_n < 100)
    assert near.mean() > 0.6
    # rays that graze an edge may pass on different sides of it
    error = np.abs(one.distance_n[near] - other.distance_n[near])
    assert (error < TOLERANCE_M).mean() > 0.995
    instance = {"mesh": np.full(len(rays), -9), "analytic": np.full(len(rays), -9)}
    instance["mesh"][one.hit], instance["analytic"][other.hit] = one.instance_h, other.instance_h
    assert (instance["mesh"] == instance["analytic"])[near].mean() > 0.995
    assert (one.instance_h >= 0).sum() > 100
    normals = {}
    for name, hits in (("mesh", one), ("analytic", other)):
        normals[name] = np.zeros((len(rays), 3))
        normals[name][hits.hit] = hits.normal_3h.T
    cosine = (normals["mesh"] * normals["analytic"]).sum(axis=1)[near]
    assert (cosine > 0.99).mean() > 0.99


def test_solids_stand_for_the_detailed_world(world: World, moment: Moment) -> None:
    """Boxes for cars, cylinders for crowns: the median ray agrees to 2 cm, and 85 of 100 to half a metre."""
    analytic = AnalyticScene.of(world, moment)
    rays = lidar_rays(world, moment, 240)
    one, other = moment.scene.cast(rays), analytic.cast(rays)
    near = (one.distance_n < 60) & (other.distance_n < 60)
    error = np.abs(one.distance_n[near] - other.distance_n[near])
    assert near.mean() > 0.5
    assert np.median(error) < 0.02
    assert (error < 0.5).mean() > 0.85


def test_curbs_are_there(world: World, moment: Moment) -> None:
    analytic = AnalyticScene.of(world, moment)
    road = world.town.main
    for lateral, height in ((0.0, 0.0), (road.section.curb + 1.5, 0.13)):
        x, y = road.curve.at(world.town.start_arc + 4.0, lateral)
        rays = np.array([[x, y, 0.4, 0, 0, -1]], dtype=np.float32)
        assert analytic.cast(rays).distance_n[0] == pytest.approx(0.4 - height, abs=1e-3)


def test_from_inside_and_beside_a_box() -> None:
    kind = np.array([[0.5, 0.5, 0.5, Material.METAL, Semantic.CAR, 4]])
    none = np.zeros((0, 3))
    solids = Solids(
        np.array([[10.0, 0.0, 1.0]]),
        np.array([[1.0, 2.0, 1.0]]),
        np.array([np.pi / 2]),
        kind,
        none,
        np.zeros(0),
        np.zeros(0),
        np.zeros((0, 6)),
    )
    scene = AnalyticScene(solids)
    rays = np.array(
        [[0, 0, 1, 1, 0, 0], [10, 0, 1, 1, 0, 0], [0, 1.5, 1, 1, 0, 0], [0, 0, 1, -1, 0, 0]], dtype=np.float32
    )
    hits = scene.cast(rays)
    # turned by a quarter, the box is 4 m along x and 2 m along y
    np.testing.assert_allclose(hits.distance_n, [8.0, 2.0, np.inf, np.inf], atol=1e-5)
    assert hits.instance_h.tolist() == [4, 4]
    np.testing.assert_allclose(hits.normal_3h[:, 0], [-1, 0, 0], atol=1e-6)
    assert scene.in_shadow(
        np.array([[0.0], [0.0], [1.0]], np.float32),
        np.zeros((3, 1), np.float32),
        np.array([1, 0, 0], np.float32),
    ).tolist() == [True]
    assert len(scene.cast(np.zeros((0, 6), np.float32)).hit) == 0


def test_world_without_solids_is_ground_and_sky() -> None:
    empty = Solids(
        *(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 6))),
        *(np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, 6))),
    )
    rays = np.array([[0, 0, 2, 0, 0, -1], [0, 0, 2, 0, 0, 1]], dtype=np.float32)
    hits = AnalyticScene(empty).cast(rays)
    assert hits.distance_n.tolist() == [2.0, np.inf]
    assert hits.instance_h.tolist() == [NO_INSTANCE]


def test_sweep_in_torch_sees_actors(world: World, moment: Moment) -> None:
    scene = AnalyticScene.of(world, moment)
    generator = torch.Generator().manual_seed(1)
    pose = torch.from_numpy(moment.world_from_ego)
    points, instance = torch_sweep(scene, world.lidar(60), pose, generator)
    assert points.shape[1] == 5
    assert len(points) == len(instance) > 800
    assert (instance >= 0).sum() > 20
    assert points[:, 4].max() < 32
    again, _ = torch_sweep(scene, world.lidar(60), pose, torch.Generator().manual_seed(1))
    assert torch.equal(points, again)


def test_slopes_are_refused(world: World, moment: Moment) -> None:
    sloped = make_world(PRESETS["easy"], seed=2, index=0, seconds=0.1, slope_m=2.0)
    with pytest.raises(ValueError, match="flat ground only"):
        solids_of(sloped, moment)


@pytest.mark.gpu
def test_device_does_not_matter(world: World, moment: Moment) -> None:
    rays = lidar_rays(world, moment, 60)
    here, there = (
        AnalyticScene.of(world, moment).cast(rays),
        AnalyticScene.of(world, moment, "cuda").cast(rays),
    )
    finite = np.isfinite(here.distance_n) & np.isfinite(there.distance_n)
    assert (np.abs(here.distance_n - there.distance_n)[finite] < TOLERANCE_M).mean() > 0.999
