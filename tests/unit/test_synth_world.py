"""Procedural worlds: towns hold together, nobody drives into anybody, sensors and truth agree."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.configuration import ConfigurationError
from perception_core.geometry import inverse, points_in_box, transform_points
from perception_core.labels import NUSCENES_DETECTION_CLASSES
from training.synth.world.curve import Curve, from_curvature, resampled
from training.synth.world.population import populate
from training.synth.world.presets import LAYOUTS, PRESETS, find_preset, find_scale
from training.synth.world.town import Town, make_town
from training.synth.world.world import make_world, stratified, town_of

pytest.importorskip("open3d", reason="Open3D casts the rays and is not installed")

from training.synth.camera import nuscenes_like_cameras
from training.synth.world.world import Moment, World

WIDTH, HEIGHT = 320, 180


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(PRESETS["standard"], seed=3, index=1, seconds=3.0)


@pytest.fixture(scope="module")
def moment(world: World) -> Moment:
    return world.at(1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_areas_of_a_town_lie_where_they_belong(layout: str) -> None:
    town = make_town(5, layout)
    drivable = shapely.union_all(town.areas["drivable_area"])
    walkways = shapely.union_all(town.areas["walkway"])
    assert all(polygon.is_valid for layer in town.areas.values() for polygon in layer)
    assert drivable.intersection(walkways).area < 0.01
    for layer in ("ped_crossing", "stop_line", "carpark_area", "bike_lane"):
        for polygon in town.areas[layer]:
            assert polygon.difference(drivable.buffer(0.02)).area < 0.02 * polygon.area, layer
    assert len(town.areas["ped_crossing"]) == len(town.areas["stop_line"]) == 4 * len(town.junctions)
    for lane in town.lanes:
        assert lane.area.buffer(0.1).contains(shapely.LineString(lane.curve.points_n2))
        if lane.ends_at is not None and not lane.bike:
            outgoing = [c for c in town.connectors if town.lanes[c.source] is lane]
            assert {c.turn for c in outgoing} >= {"straight"}
    for connector in town.connectors:
        source, target = town.lanes[connector.source], town.lanes[connector.target]
        np.testing.assert_allclose(connector.curve.points_n2[0], source.curve.points_n2[-1], atol=1e-6)
        np.testing.assert_allclose(connector.curve.points_n2[-1], target.curve.points_n2[0], atol=1e-6)


def test_right_hand_traffic() -> None:
    town = make_town(5, "junctions")
    for lane in (lane for lane in town.lanes if lane.road == 0):
        middle = lane.curve.at(lane.curve.length / 2)
        arc = town.main.curve.nearest_arc(middle)
        towards_centre = town.main.curve.at(arc) - middle
        heading = float(lane.curve.heading(lane.curve.length / 2))
        # the road's centre line is on the driver's left
        assert np.cos(heading) * towards_centre[1] - np.sin(heading) * towards_centre[0] > 0


@given(st.lists(st.floats(-0.02, 0.02), min_size=20, max_size=80), st.floats(-3, 3))
@settings(max_examples=15)
def test_curves_know_their_geometry(curvature: list[float], heading: float) -> None:
    smooth = np.convolve(np.array(curvature), np.ones(9) / 9, mode="same")
    curve = from_curvature([3.0, -2.0], heading, smooth)
    assert curve.length == pytest.approx(0.5 * len(curvature), rel=1e-3)
    for arc in (0.0, curve.length / 2, curve.length):
        point = curve.at(arc)
        left = curve.at(arc, 1.0) - point
        direction = np.array([np.cos(curve.heading(arc)), np.sin(curve.heading(arc))])
        assert np.linalg.norm(left) == pytest.approx(1.0)
        assert left @ direction == pytest.approx(0.0, abs=1e-9)
        assert direction[0] * left[1] - direction[1] * left[0] > 0
    straight_on = curve.at(0.0) - 5.0 * (curve.at(0.0) - curve.at(-1.0))
    np.testing.assert_allclose(curve.at(-5.0), straight_on, atol=1e-6)


def test_resampling_keeps_the_ends() -> None:
    corner = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
    curve: Curve = resampled(corner, smooth_m=1.5)
    np.testing.assert_allclose(curve.points_n2[[0, -1]], corner[[0, -1]], atol=1e-9)
    assert np.abs(curve.curvature_n).max() < 1.0


def test_presets_are_found_by_name_and_refused_with_the_nearest() -> None:
    assert find_preset("standard").walkers == 1.0
    with pytest.raises(ConfigurationError, match="did you mean 'standard'"):
        find_preset("standart")
    with pytest.raises(ConfigurationError, match="did you mean 'tiny'"):
        find_scale("tiney")


def test_any_few_scenes_show_all_conditions() -> None:
    weights = PRESETS["standard"].conditions
    drawn = [stratified(weights, number, 7) for number in range(20)]
    assert {drawn.count(name) for name in weights} <= {3, 4, 5, 8, 7, 9}
    assert set(drawn[:8]) == set(weights)


def test_same_arguments_give_the_same_world(world: World) -> None:
    again = make_world(PRESETS["standard"], seed=3, index=1, seconds=3.0)
    assert [(a.label, a.size) for a in again.actors] == [(a.label, a.size) for a in world.actors]
    for time in (0.0, 2.0):
        for one, other in zip(world.actors, again.actors, strict=True):
            assert one.track.at(time).position_2.tolist() == other.track.at(time).position_2.tolist()
    assert world.conditions.name == again.conditions.name


#: Of the nuScenes detection benchmark, metres.
CLASS_RANGE = dict.fromkeys(("pedestrian", "motorcycle", "bicycle"), 40.0) | dict.fromkeys(
    ("traffic_cone", "barrier"), 30.0
)


@pytest.mark.parametrize("index", range(3))
def test_every_class_is_near_the_beginning(index: int) -> None:
    town = town_of(PRESETS["standard"], 7, index)
    population = populate(town, PRESETS["standard"], index, 0.2)
    ego = population.ego.state(0.1).position_2
    near = {
        actor.label
        for actor in population.actors
        if np.linalg.norm(actor.track.at(0.1).position_2 - ego) < CLASS_RANGE.get(actor.label, 50.0) - 3.0
    }
    assert near == set(NUSCENES_DETECTION_CLASSES)


def test_nobody_touches_anybody(world: World) -> None:
    for time in (0.0, 1.3, 2.9):
        shapes = []
        centre, yaw = world.ego.centre(time)
        for position, heading, (length, width) in [
            (centre, yaw, (4.08, 1.73)),
            *((a.track.at(time).position_2, a.track.at(time).yaw, a.size[:2]) for a in world.actors),
        ]:
            outline = shapely.box(-length / 2, -width / 2, length / 2, width / 2)
            turned = shapely.affinity.rotate(outline, heading, origin=(0, 0), use_radians=True)
            shapes.append(shapely.affinity.translate(turned, *position))
        tree = shapely.STRtree(shapes)
        pairs = tree.query(shapes, predicate="intersects")
        overlap = [shapes[i].intersection(shapes[j]).area for i, j in pairs.T.tolist() if i < j]
        assert max(overlap, default=0.0) < 0.15


def test_vehicles_keep_to_the_street_and_walkers_off_it(world: World) -> None:
    town: Town = world.town
    drivable = shapely.union_all(town.areas["drivable_area"])
    crossings = shapely.union_all(town.areas["ped_crossing"]).buffer(1.5)
    lot = town.lot
    driveway = town.main.strip(
        (lot.start_arc + lot.end_arc) / 2 - 5, (lot.start_arc + lot.end_arc) / 2 + 5, -lot.near, 0
    )
    kerb = drivable.buffer(-1.0).difference(driveway)
    for actor in world.actors:
        position = shapely.Point(actor.track.at(1.5).position_2)
        if not shapely.box(5, 5, town.extent[0] - 5, town.extent[1] - 5).contains(position):
            continue
        if actor.track.parked:
            continue
        if actor.label == "pedestrian":
            assert not kerb.contains(position) or crossings.contains(position), position
        else:
            assert drivable.buffer(0.3).contains(position), actor.label


def test_ego_moves_as_its_state_says(world: World) -> None:
    step = 1e-3
    for time in (0.3, 1.0, 2.2):
        before, now, after = (world.ego_state(t) for t in (time - step, time, time + step))
        speed = np.linalg.norm(after.position_2 - before.position_2) / (2 * step)
        assert speed == pytest.approx(now.speed, abs=0.02)
        assert (after.speed - before.speed) / (2 * step) == pytest.approx(now.acceleration, abs=0.05)
        assert (after.yaw - before.yaw) / (2 * step) == pytest.approx(now.yaw_rate, abs=0.02)


def test_points_lie_in_the_boxes_of_what_they_hit(world: World) -> None:
    sweep = world.sweep(world.lidar(400), 1.0)
    assert sweep.points_nc.dtype == np.float32
    assert set(np.unique(sweep.points_nc[:, 4])) <= set(range(32))
    world_from_lidar = world.world_from_ego(1.0) @ world.lidar().ego_from_lidar
    points = transform_points(world_from_lidar, sweep.points_nc[:, :3])
    inside = total = 0
    for instance in np.unique(sweep.instance_n[sweep.instance_n >= 0]):
        actor = world.actors[instance]
        motion = actor.track.at(1.0)
        local = transform_points(inverse(world.pose_of(motion)), points[sweep.instance_n == instance])
        # what moves is measured up to a twentieth of a second earlier
        grown = np.array(actor.size) + 0.1
        grown[0] += motion.speed * 0.1
        inside += int(points_in_box(local, (0, 0, actor.size[2] / 2, *grown, 0)).sum())
        total += len(local)
    assert total > 300
    assert inside / total > 0.98


def test_depth_agrees_with_lidar_points(world: World, moment: Moment) -> None:
    """LiDAR points of one instant, projected, against the rendered depth."""
    camera = nuscenes_like_cameras(WIDTH, HEIGHT)[0]
    view = world.render(camera, moment, picture=False)
    still = world.sweep(world.lidar(1084), 1.0, [moment])
    world_from_lidar = world.world_from_ego(1.0) @ world.lidar().ego_from_lidar
    fixed = still.instance_n < 0
    points = transform_points(
        inverse(moment.world_from_ego @ camera.ego_from_camera),
        transform_points(world_from_lidar, still.points_nc[fixed, :3]),
    )
    points = points[points[:, 2] > 2]
    pixels = (points @ camera.matrix_33.T)[:, :2] / points[:, 2:]
    columns, rows = np.round(pixels).astype(int).T
    seen = (columns >= 0) & (columns < WIDTH) & (rows >= 0) & (rows < HEIGHT)
    depth = view.depth_hw[rows[seen], columns[seen]]
    error = np.abs(depth - points[seen, 2])
    assert seen.sum() > 1500
    assert np.median(error) < 0.08
    assert np.percentile(error / points[seen, 2], 80) < 0.05


def test_by_products_agree_with_each_other(world: World, moment: Moment) -> None:
    camera = nuscenes_like_cameras(WIDTH, HEIGHT)[0]
    view = world.render(camera, moment)
    assert view.image_hwc.shape == (HEIGHT, WIDTH, 3)
    assert view.image_hwc.std() > 15
    sky = view.semantic_hw == 10
    assert np.isinf(view.depth_hw[sky]).all()
    assert np.isfinite(view.depth_hw[~sky]).all()
    assert np.allclose(np.linalg.norm(view.normal_hwc[~sky], axis=-1), 1.0, atol=1e-4)
    # what is seen faces the camera
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = np.stack([columns, rows, np.ones_like(columns)], axis=-1) @ np.linalg.inv(camera.matrix_33).T
    assert ((view.normal_hwc * rays).sum(axis=-1)[~sky] < 1e-3).all()
    road = (view.semantic_hw == 0) & (view.depth_hw < 30)
    assert road.sum() > 0.1 * road.size
    assert (view.normal_hwc[road][:, 1] < -0.99).all()  # up is -y of the camera
    labelled = view.instance_hw >= 0
    assert labelled.any()
    for keypoint in view.keypoints:
        assert 0 <= keypoint.pixel[0] < WIDTH
        assert keypoint.instance in moment.poses
    assert any(k.visible for k in view.keypoints)
    assert 0.001 < view.edge_hw.mean() < 0.3


def test_visibility_follows_occlusion(world: World, moment: Moment) -> None:
    cameras = nuscenes_like_cameras(WIDTH, HEIGHT)
    share = world.visibility(moment, cameras)
    assert set(share) == set(moment.poses)
    counted = np.zeros(len(world.actors))
    for camera in cameras:
        view = world.render(camera, moment, picture=False, keypoints=False)
        counted += np.bincount(view.instance_hw[view.instance_hw >= 0], minlength=len(world.actors))
    near = [
        i for i in share if np.linalg.norm(moment.motions[i].position_2 - moment.world_from_ego[:2, 3]) < 25
    ]
    seen = [i for i in near if counted[i] > 60]
    hidden = [i for i in near if counted[i] == 0]
    assert np.mean([share[i] for i in seen]) > 0.5
    assert np.mean([share[i] for i in hidden] or [0.0]) < 0.05


def test_signals_never_let_both_roads_go(world: World) -> None:
    for time in np.arange(0.0, 60.0, 0.2):
        assert "red" in {world.signals.state(0, main, float(time)) for main in (True, False)}


def test_slopes_tilt_what_stands_on_them() -> None:
    sloped = make_world(PRESETS["easy"], seed=3, index=0, seconds=0.2, slope_m=3.0)
    tilts = [np.degrees(np.arccos(sloped.pose_of(a.track.at(0.0))[2, 2])) for a in sloped.actors]
    assert max(tilts) > 1.5
    pose = sloped.world_from_ego(0.1)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    camera = nuscenes_like_cameras(160, 90)[0]
    view = sloped.render(camera, sloped.at(0.1), picture=False)
    assert (view.semantic_hw == 0).mean() > 0.1
