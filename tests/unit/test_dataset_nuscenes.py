"""The nuScenes loader against a world that is known exactly."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nuscenes_tree_fixtures import (
    CAMERAS,
    INTRINSICS,
    LOCATION,
    OBJECTS,
    SPEED,
    STEERING_RATIO,
    VERSION,
    WHEELBASE,
    YAW_RATE,
    NuScenesTree,
    ego_from_camera,
    object_box,
    object_velocity,
    sweep_points_world,
    world_from_ego,
)

from perception_core.geometry import (
    inverse,
    planar_motion,
    points_in_box,
    project_points,
    rotation_about_z,
    transform_points,
    wrap_angle,
    yaw_of,
)
from perception_core.labels import NUSCENES_DETECTION_CLASSES
from training.datasets.batch import collate
from training.datasets.files import DataError
from training.datasets.frame_input import FrameInput
from training.datasets.loading import make_loader
from training.datasets.nuscenes import NUSCENES_TASKS, NuScenesConfig, NuScenesDataset
from training.datasets.nuscenes_index import NuScenesIndex, build_index, open_index
from training.datasets.sample import Sample


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return NuScenesTree(tmp_path_factory.mktemp("nuscenes")).write()


@pytest.fixture
def own_tree(tree: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tree, tmp_path / "copy"))


def dataset(root: Path, sweeps: int = 1, **config: Any) -> NuScenesDataset:
    settings = NuScenesConfig(**{"cache": root / "cache", "tasks": NUSCENES_TASKS, **config})
    return NuScenesDataset(root, config=settings, frame_input=FrameInput(sweeps=sweeps, max_points=None))


@pytest.fixture(scope="module")
def sample(tree: Path) -> Sample:
    return dataset(tree, sweeps=4)[2]


TIME_S = 1.0  # of sample 2


def test_points_are_in_the_ego_frame(sample: Sample) -> None:
    own = sample.points_nc[sample.points_nc[:, 4] == 0]
    truth = transform_points(inverse(world_from_ego(TIME_S)), sweep_points_world(TIME_S))
    truth = truth[np.linalg.norm(truth - [0.94, 0, 1.84], axis=1) >= 1.0]
    np.testing.assert_allclose(own[:, :3], truth, atol=1e-4)
    assert own[:, 3].min() == 0
    assert own[:, 3].max() == 1


def test_earlier_sweeps_are_moved_into_the_frame(sample: Sample) -> None:
    """Their points of what stands still fall onto the same objects; their times are negative."""
    assert sorted(set(np.round(sample.points_nc[:, 4].astype(float), 3))) == [-0.3, -0.2, -0.1, 0.0]
    assert sample.boxes is not None
    for box, token in zip(sample.boxes.boxes_b9, sample.boxes.tokens, strict=True):
        stands = np.hypot(*box[7:]) < 0.1
        assert points_in_box(sample.points_nc, box).sum() >= (160 if stands else 40), token


def test_boxes_are_where_their_points_are(sample: Sample) -> None:
    assert sample.boxes is not None
    own = sample.points_nc[sample.points_nc[:, 4] == 0]
    found = [int(points_in_box(own, box).sum()) for box in sample.boxes.boxes_b9]
    assert found == sample.boxes.points_b.tolist()
    assert min(found) >= 40
    names = [NUSCENES_DETECTION_CLASSES[label] for label in sample.boxes.labels_b]
    assert sorted(names) == ["bus", "car", "car", "pedestrian", "traffic_cone"]  # no animal


def test_boxes_have_heading_and_velocity_of_the_ego_frame(sample: Sample) -> None:
    assert sample.boxes is not None
    ego_from_world = inverse(world_from_ego(TIME_S))
    expected = []
    for index in range(len(OBJECTS) - 1):
        box = object_box(index, TIME_S)
        velocity = ego_from_world[:2, :2] @ object_velocity(index)
        heading = wrap_angle(box[6] - yaw_of(world_from_ego(TIME_S)))
        expected.append([*transform_points(ego_from_world, box[:3]), *box[3:6], heading, *velocity])
    order = np.argsort(np.array(expected)[:, 0])
    found = sample.boxes.boxes_b9[np.argsort(sample.boxes.boxes_b9[:, 0])]
    np.testing.assert_allclose(found, np.array(expected)[order], atol=1e-6)


def test_cameras_project_through_their_own_time(sample: Sample) -> None:
    """A point that stands still lands where the camera, at its exposure, saw it."""
    cameras = sample.cameras
    assert cameras is not None
    assert cameras.names[:2] == ("camera_front", "camera_front_right")
    point_world = transform_points(world_from_ego(TIME_S), [[12.0, 1.0, 1.0]])
    elapsed_s = CAMERAS["CAM_FRONT"][1]
    camera_from_world = inverse(world_from_ego(TIME_S + elapsed_s) @ ego_from_camera("CAM_FRONT"))
    original = project_points(point_world, camera_from_world, INTRINSICS, (160, 90)).pixels[0]
    found = project_points(
        [[12.0, 1.0, 1.0]], cameras.camera_from_ego_v44[0], cameras.intrinsics_v33[0], cameras.size
    ).pixels[0]
    expected = (cameras.image_from_original_v33[0] @ [*original, 1])[:2]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_ego_motion_and_control_targets_follow_the_arc(sample: Sample) -> None:
    np.testing.assert_allclose(sample.ego_motion_c, [SPEED, YAW_RATE, 1], atol=2e-3)
    control = sample.control
    assert control is not None
    assert control.waypoint_valid_k.tolist() == [True, True] + [False] * 6  # the scene ends a second later
    expected = [planar_motion(SPEED, YAW_RATE, time_s)[:2, 3] for time_s in (0.5, 1.0)]
    np.testing.assert_allclose(control.waypoints_k2[:2], expected, atol=5e-3)
    assert control.speed_mps == pytest.approx(SPEED, abs=5e-3)
    assert control.steering_rad == pytest.approx(np.arctan(WHEELBASE * YAW_RATE / SPEED), abs=1e-4)


def test_the_steering_ratio_is_found_from_the_can_bus(tree: Path) -> None:
    by_can_bus = dataset(tree, steering="can_bus")
    assert by_can_bus.fit_steering_ratio() == pytest.approx(STEERING_RATIO, rel=1e-3)
    control = by_can_bus[2].control
    assert control is not None
    assert control.steering_rad == pytest.approx(np.arctan(WHEELBASE * YAW_RATE / SPEED), abs=1e-3)


def test_map_masks_lie_around_the_vehicle(sample: Sample) -> None:
    """The road is a straight band through the start; where the arc has led by now is known."""
    masks = sample.map_masks
    assert masks is not None
    grid = masks.grid
    cell = torch.arange(grid.cells)
    centre = grid.cell_centre(cell).numpy().astype(float)
    start_from_ego = planar_motion(SPEED, YAW_RATE, TIME_S)
    at_start = transform_points(start_from_ego, np.concatenate([centre, np.zeros((len(centre), 1))], axis=1))
    for name, low, high in (("drivable_area", -6, 6), ("walkway", 6, 9)):
        drawn = masks.masks_khw[masks.class_names.index(name)].ravel()
        inside = (at_start[:, 1] >= low) & (at_start[:, 1] <= high) & (np.abs(at_start[:, 0]) <= 60)
        border = np.minimum(abs(at_start[:, 1] - low), abs(at_start[:, 1] - high)) < grid.cell_size
        border |= abs(abs(at_start[:, 0]) - 60) < grid.cell_size
        assert (drawn == inside)[~border].all(), name
    divider = masks.masks_khw[masks.class_names.index("divider")].ravel()
    assert np.abs(at_start[divider, 1]).max() < 2.5 * grid.cell_size  # the devkit draws it two cells wide
    assert masks.masks_khw[masks.class_names.index("ped_crossing")].any()
    assert not masks.masks_khw[masks.class_names.index("carpark_area")].any()


def test_foreground_masks_are_the_boxes_footprints(sample: Sample) -> None:
    masks, boxes = sample.foreground_masks, sample.boxes
    assert masks is not None
    assert boxes is not None
    for label, box in zip(boxes.labels_b, boxes.boxes_b9, strict=True):
        corners = rotation_about_z(box[6])[:2, :2] @ (0.45 * box[3:5]) + box[:2]
        column = int((corners[0] - masks.grid.x_min) / masks.grid.cell_size)
        row = int((corners[1] - masks.grid.y_min) / masks.grid.cell_size)
        near = masks.masks_khw[label, row - 1 : row + 2, column - 1 : column + 2]
        assert near.any()
    area = masks.masks_khw[NUSCENES_DETECTION_CLASSES.index("bus")].sum() * masks.grid.cell_size**2
    assert area == pytest.approx(11.0 * 2.9, rel=0.1)


def test_depth_agrees_with_projected_points(sample: Sample) -> None:
    depth, cameras = sample.dense.depth, sample.cameras
    assert depth is not None
    assert cameras is not None
    own = sample.points_nc[sample.points_nc[:, 4] == 0, :3]
    for view in range(len(cameras)):
        seen = project_points(
            own, cameras.camera_from_ego_v44[view], cameras.intrinsics_v33[view], cameras.size
        )
        pixel = np.round(seen.pixels[seen.visible]).astype(int)
        inside = (pixel[:, 0] < cameras.size[0]) & (pixel[:, 1] < cameras.size[1])
        pixel, metres = pixel[inside], seen.depth[seen.visible][inside]
        at_pixel = depth.value[view, pixel[:, 1], pixel[:, 0]]
        assert (at_pixel > 0).all()
        assert (at_pixel <= metres + 1e-3).all()  # the nearest is seen


def test_labels_are_known_before_reading(tree: Path) -> None:
    opened = dataset(tree)
    assert len(opened) == 5
    for index in (0, 4):
        assert opened[index].labels_present == opened.labels_of(index)
    assert "control" in opened.labels_of(0)
    assert "control" not in opened.labels_of(4)  # nothing was driven after it
    assert len(collate([opened[0], opened[4]])) == 2


def test_workers_read_the_same(tree: Path) -> None:
    opened = dataset(tree, sweeps=2)
    loader = make_loader(opened, 2, workers=1)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    own = collate([opened[0], opened[1]])
    assert torch.equal(own.points_nc, batches[0].points_nc)
    assert own.map_masks is not None
    assert batches[0].map_masks is not None
    assert torch.equal(own.map_masks.masks_bkhw, batches[0].map_masks.masks_bkhw)


def test_a_dataset_travels_to_a_spawned_worker_without_its_maps(tree: Path) -> None:
    opened = dataset(tree)
    opened[0]
    copy = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(copy[1].points_nc, opened[1].points_nc)


def test_drawn_masks_are_kept(tree: Path, tmp_path: Path) -> None:
    first = dataset(tree, cache=tmp_path, cache_masks=True)[1]
    opened = dataset(tree, cache=tmp_path, cache_masks=True)
    again = opened[1]
    assert first.map_masks is not None
    assert again.map_masks is not None
    np.testing.assert_array_equal(first.map_masks.masks_khw, again.map_masks.masks_khw)
    assert opened._masks._maps == {}  # the second did not open the map


# -- the index -----------------------------------------------------------------------------------------------


def test_the_index_is_made_again_when_a_table_changes(own_tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "index"
    first = open_index(own_tree, VERSION, cache)
    assert open_index(own_tree, VERSION, cache).fingerprint == first.fingerprint
    path = own_tree / VERSION / "scene.json"
    rows = json.loads(path.read_text())
    rows[0]["name"] = "scene-0002"
    path.write_text(json.dumps(rows))
    assert open_index(own_tree, VERSION, cache).scene_name.tolist() == [b"scene-0002"]


def test_a_damaged_cache_is_made_again(tree: Path, tmp_path: Path) -> None:
    open_index(tree, VERSION, tmp_path)
    (cached,) = (tmp_path / "nuscenes").glob("*.npz")
    cached.write_bytes(cached.read_bytes()[:500])
    assert NuScenesIndex.read(cached) is None
    assert len(open_index(tree, VERSION, tmp_path).sample_token) == 5
    assert NuScenesIndex.read(cached) is not None


def test_own_splits_are_known(tree: Path) -> None:
    assert len(dataset(tree, split="my_train")) == 5
    with pytest.raises(DataError, match="split 'val' has no scene"):
        dataset(tree, split="val")
    with pytest.raises(DataError, match=r"unknown split 'my_trian'; did you mean 'my_train'"):
        dataset(tree, split="my_trian")


# -- bad data ------------------------------------------------------------------------------------------------


def test_a_missing_table_is_named(own_tree: Path) -> None:
    (own_tree / VERSION / "ego_pose.json").unlink()
    with pytest.raises(DataError, match=r"ego_pose\.json: table is missing"):
        dataset(own_tree)


def test_contradicting_tables_are_told(own_tree: Path) -> None:
    path = own_tree / VERSION / "sample_annotation.json"
    rows = json.loads(path.read_text())
    rows[0]["instance_token"] = "nobody"
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"contradict each other.*nobody"):
        dataset(own_tree)


def test_an_empty_scene_is_named(own_tree: Path) -> None:
    path = own_tree / VERSION / "scene.json"
    rows = json.loads(path.read_text())
    rows.append(
        {**rows[0], "token": "empty", "name": "scene-0009", "first_sample_token": "", "nbr_samples": 0}
    )
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match="scene 'scene-0009' has no samples"):
        dataset(own_tree)


def test_a_set_without_annotations_has_no_box_labels_and_is_no_error(own_tree: Path) -> None:
    # As nuScenes' own test split: an empty table says that nobody looked, not that nobody was there.
    for table in ("sample_annotation", "instance"):
        (own_tree / VERSION / f"{table}.json").write_text("[]")
    sample = dataset(own_tree)[1]
    assert sample.boxes is None
    assert "detection3d" not in sample.labels_present
    assert len(sample.points_nc) > 1000


def test_a_truncated_image_is_named(own_tree: Path) -> None:
    path = own_tree / "samples" / "CAM_BACK" / "1.jpg"
    os.truncate(path, path.stat().st_size // 2)
    opened = dataset(own_tree)
    with pytest.raises(DataError, match=r"CAM_BACK/1\.jpg: JPEG of \d+ bytes is cut off"):
        opened[1]
    assert opened[0].cameras is not None


@pytest.mark.parametrize("points", [1000, 1001])
def test_a_sweep_of_four_columns_is_refused(own_tree: Path, points: int) -> None:
    """Also where its size happens to be a whole number of points of five columns."""
    path = own_tree / "samples" / "LIDAR_TOP" / "5.pcd.bin"
    random = np.random.default_rng(1)
    path.write_bytes(random.normal(0, 20, (points, 4)).astype(np.float32).tobytes())
    with pytest.raises(DataError, match=r"5\.pcd\.bin: .*its size fits .*4.* columns"):
        dataset(own_tree)[1]


def test_a_map_that_does_not_cover_the_pose_is_told(own_tree: Path) -> None:
    path = own_tree / "maps" / "expansion" / f"{LOCATION}.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "canvas_edge": [300.0, 300.0]}))
    with pytest.raises(DataError, match=r"300 x 300 m does not cover the ego pose \(500\.0, 600\.0\)"):
        dataset(own_tree)[0]
    moved = [{**node, "x": node["x"] - 400} for node in content["node"]]
    path.write_text(json.dumps({**content, "node": moved}))
    with pytest.raises(DataError, match="nothing around"):
        dataset(own_tree)[0]
    path.unlink()
    with pytest.raises(DataError, match="map expansion is missing"):
        dataset(own_tree)[0]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'control'"):
        NuScenesConfig(tasks=("controll",))


def test_the_devkit_builds_the_index_without_a_cache(tree: Path) -> None:
    index = build_index(tree, VERSION)
    assert index.scene_of(4) == 0
    assert index.annotation_points[:, 0].min() >= 40
