"""The generated street: what is annotated is what the sensors see, and the same seed gives the same drive."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from perception_core.geometry import box_corners, inverse, points_in_box, transform_points
from training.bags.message_types import interface_folder
from training.synth import layout, models
from training.synth.mesh import NO_INSTANCE, Material, Mesh, box, cylinder, ellipsoid, merged
from training.synth.recording import (
    GROUND_TRUTH_OBJECTS,
    DriveOptions,
    Moment,
    annotate,
    content_key,
    ensure_demo_recording,
    write_recording,
)
from training.synth.street import EgoDrive, make_street

pytest.importorskip("open3d", reason="Open3D casts the rays and is not installed")

from training.synth.camera import CameraRenderer, nuscenes_like_cameras
from training.synth.lidar import nuscenes_like_lidar, sweep
from training.synth.scene import Scene, points_per_instance

SMALL = DriveOptions(seconds=0.2, seed=3, width=160, height=90)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(make_street(3, 1.0), 0.5)


def volume(mesh: Mesh) -> float:
    """Signed volume: positive where triangles face outward."""
    a, b, c = (mesh.vertices_n3[mesh.triangles_m3[:, corner]] for corner in range(3))
    return float(np.einsum("nc,nc->n", a, np.cross(b, c)).sum() / 6)


def test_solids_are_closed_and_face_outward() -> None:
    red = (1.0, 0.0, 0.0)
    assert volume(box((1, 2, 3), (2, 3, 4), red, Material.METAL, yaw=0.3)) == pytest.approx(24.0)
    cylinder_volume = volume(cylinder((0, 0, 1), (0, 0, 3), 0.5, red, Material.METAL, sides=64))
    assert cylinder_volume == pytest.approx(2 * np.pi * 0.25, rel=0.01)
    assert volume(ellipsoid((5, 5, 5), (1, 2, 3), red, Material.METAL, rings=40)) == pytest.approx(
        8 * np.pi, rel=0.01
    )


@pytest.mark.parametrize(
    ("mesh", "size"),
    [
        (models.car((4.4, 1.8, 1.5), (1, 0, 0)), (4.4, 1.8, 1.5)),
        (models.van_or_truck((7.5, 2.4, 3.3), (1, 0, 0), (1, 1, 1)), (7.5, 2.4, 3.3)),
        (models.bus((12.0, 2.55, 3.1), (1, 0, 0)), (12.0, 2.55, 3.1)),
        (models.pedestrian((0.68, 0.66, 1.75), 0.8, (1, 0, 0), (0, 0, 1), (1, 1, 1)), (0.68, 0.66, 1.75)),
        (models.bicycle((1.75, 0.62, 1.75), 0.5, (1, 0, 0), (0, 0, 1), (1, 1, 1)), (1.75, 0.62, 1.75)),
        (models.traffic_cone((0.42, 0.42, 0.75)), (0.42, 0.42, 0.75)),
    ],
)
def test_models_fill_their_boxes(mesh: Mesh, size: tuple[float, float, float]) -> None:
    low, high = mesh.vertices_n3.min(axis=0), mesh.vertices_n3.max(axis=0)
    assert low[2] >= -0.01
    np.testing.assert_array_less(high - low, np.array(size) + 0.16)
    np.testing.assert_array_less(np.array(size) * 0.7, high - low)


def test_drive_is_what_its_velocity_says() -> None:
    ego, step = EgoDrive(), 1e-5
    for time_s in (0.0, 1.7, 6.3):
        moved = (ego.position(time_s + step) - ego.position(time_s - step)) / (2 * step)
        np.testing.assert_allclose(moved, ego.velocity(time_s), atol=1e-6)
        turned = (ego.yaw(time_s + step) - ego.yaw(time_s - step)) / (2 * step)
        assert turned == pytest.approx(ego.yaw_rate(time_s), abs=1e-6)


def test_nobody_drives_through_anybody() -> None:
    street = make_street(5, 10.0)
    for time_s in (0.0, 4.0, 9.0):
        boxes = []
        pose = street.ego.world_from_ego(time_s)
        boxes.append([*(pose @ [1.3, 0, 0.8, 1])[:3], 4.1, 1.75, 1.5, street.ego.yaw(time_s)])
        for actor in street.actors:
            if actor.label in ("car", "truck", "bus", "bicycle"):
                state = actor.state(time_s)
                boxes.append([*state.position_3, *actor.size, state.yaw])
        corners = box_corners(np.array(boxes))[:, :4, :2]
        low, high = corners.min(axis=1), corners.max(axis=1)
        overlap = (low[:, None] < high[None]).all(axis=2) & (low[None] < high[:, None]).all(axis=2)
        assert not np.argwhere(np.triu(overlap, 1)).tolist()


def test_ground_is_raised_beside_the_street_only() -> None:
    assert layout.ground_height(20.0, 0.0) == 0.0
    assert layout.ground_height(20.0, layout.CURB + 1) == layout.CURB_HEIGHT
    assert layout.ground_height(layout.FIRST_SIDE_STREET_X, layout.CURB + 1) == 0.0


def test_points_of_an_actor_lie_in_its_annotated_box(scene: Scene) -> None:
    street = make_street(3, 1.0)
    pose = street.ego.world_from_ego(0.5)
    lidar = nuscenes_like_lidar()
    measured = sweep(lidar, scene, pose, np.random.default_rng(0))
    assert 20_000 < len(measured.points_nc) < 34_700
    assert set(np.unique(measured.points_nc[:, 4])) == set(range(32))
    assert measured.points_nc[:, 3].min() >= 0
    assert measured.points_nc[:, 3].max() <= 255
    counts = points_per_instance(measured.instance_n)
    boxes = annotate(scene, pose, counts)
    in_ego = transform_points(lidar.ego_from_lidar, measured.points_nc[:, :3])
    assert len(boxes) > 15
    assert {"car", "pedestrian"} <= {label for label, _, _ in boxes}
    # every actor's points are inside its box, give or take the range noise
    grown = [(*box_7[:3], *(np.array(box_7[3:6]) + 0.25), box_7[6]) for _, box_7, _ in boxes]
    inside = np.any([points_in_box(in_ego, box_7) for box_7 in grown], axis=0)
    of_actors = (measured.instance_n != NO_INSTANCE) & (np.hypot(in_ego[:, 0], in_ego[:, 1]) < 70)
    assert inside[of_actors].mean() > 0.98
    # the street lies at height zero
    near = (np.abs(in_ego[:, 0]) < 15) & (np.abs(in_ego[:, 1]) < 3) & ~of_actors
    assert abs(np.median(in_ego[near, 2])) < 0.03


def test_camera_and_lidar_agree_where_things_are(scene: Scene) -> None:
    """Depth along pixel rays matches LiDAR points projected into the camera."""
    street = make_street(3, 1.0)
    pose = street.ego.world_from_ego(0.5)
    camera = nuscenes_like_cameras(320, 180)[0]
    lidar = nuscenes_like_lidar()
    points = sweep(lidar, scene, pose, np.random.default_rng(0)).points_nc[:, :3]
    in_camera = transform_points(inverse(camera.ego_from_camera) @ lidar.ego_from_lidar, points)
    in_camera = in_camera[in_camera[:, 2] > 2]
    pixels = in_camera @ camera.matrix_33.T
    pixels = np.round(pixels[:, :2] / pixels[:, 2:]).astype(int)
    seen = (pixels >= 0).all(axis=1) & (pixels < [320, 180]).all(axis=1)
    rays = np.empty((320 * 180, 6), dtype=np.float32)
    rays[:, :3] = (pose @ camera.ego_from_camera)[:3, 3]
    rays[:, 3:] = camera.directions() @ pose[:3, :3].T
    distance = scene.cast(rays).distance_n.reshape(180, 320)
    measured = np.linalg.norm(in_camera[seen], axis=1)
    error = np.abs(distance[pixels[seen, 1], pixels[seen, 0]] - measured) / measured
    assert np.median(error) < 0.02


def test_picture_shows_sky_above_and_street_below(scene: Scene) -> None:
    street = make_street(3, 1.0)
    camera = nuscenes_like_cameras(160, 90)[0]
    image = CameraRenderer(camera).render(scene, street.ego.world_from_ego(0.5), seed=1)
    assert image.shape == (90, 160, 3)
    assert image.std() > 25
    top, bottom = image[:8, 60:100].mean(axis=(0, 1)), image[-12:, 60:100].mean(axis=(0, 1))
    assert top[2] > top[0]  # blue
    assert np.ptp(bottom) < 12  # grey
    assert top.mean() > bottom.mean()


def test_same_options_give_the_same_bag_and_it_is_complete(tmp_path: Path) -> None:
    from perception_nodes.recordings import open_recording
    from perception_nodes.recordings.rosbag2 import Rosbag2Recording

    done: list[tuple[int, int]] = []
    first = write_recording(tmp_path / "a", SMALL, lambda *at: done.append(at), processes=1)
    second = write_recording(tmp_path / "b", SMALL, processes=1)
    assert done == [(1, 2), (2, 2)]
    one, other = open_recording(first), open_recording(second)
    assert isinstance(one, Rosbag2Recording)
    assert one.rig_name == "synthetic"
    assert [(i.topic, i.time_ns, i.data) for i in one.messages()] == [  # type: ignore[union-attr]
        (i.topic, i.time_ns, i.data)  # type: ignore[union-attr]
        for i in other.messages()
    ]
    assert {topic.count for topic in one.topics.values() if "/sensors/" in topic.name} == {2}
    assert len(one.static_transforms()) == 7
    (front,) = list(one.decoded("/sensors/camera_front/image/compressed", 1))
    assert cv2.imdecode(front.data, cv2.IMREAD_COLOR).shape == (90, 160, 3)
    if interface_folder() is not None:
        (truth,) = list(one.decoded(GROUND_TRUTH_OBJECTS, 1))
        assert truth.header.frame_id == "base_link"
        assert len(truth.objects) > 15
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(FileExistsError):
        write_recording(first, SMALL, processes=1)


def test_interrupted_generation_leaves_nothing(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        write_recording(tmp_path / "a", SMALL, interrupt, processes=1)
    assert list(tmp_path.iterdir()) == []
    # what a killed process could not remove is removed by the next one
    left = tmp_path / ".a.999999999.x"
    left.mkdir()
    with pytest.raises(StopError):
        write_recording(tmp_path / "a", SMALL, interrupt, processes=1)
    assert not left.exists()


def test_cache_is_found_again_and_keyed_by_content(tmp_path: Path) -> None:
    options = DriveOptions(seconds=0.1, seed=3, width=64, height=36)
    folder = ensure_demo_recording(tmp_path, options=options, processes=1)
    stamp = (folder / "metadata.yaml").stat().st_mtime_ns
    assert ensure_demo_recording(tmp_path, options=options, processes=1) == folder
    assert (folder / "metadata.yaml").stat().st_mtime_ns == stamp
    assert content_key(options) != content_key(DriveOptions(seconds=0.1, seed=4, width=64, height=36))


def test_merging_nothing_gives_nothing() -> None:
    assert len(merged([]).triangles_m3) == 0
    assert Moment(0, np.zeros((0, 5), np.float32), {}, []).boxes == []
