"""Augmentation keeps calibration: where a point was seen before, the moved point is seen after."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.bundle import ImageInput
from perception_core.geometry import (
    box_corners,
    points_in_box,
    project_points,
    rotation_about_z,
    transform_points,
)
from perception_core.ops.bev_grid import BevGrid
from training.augmentation.bev import (
    BevAugmentation,
    BevAugmentationConfig,
    ego_transform,
    transform_ego,
    warp_masks,
)
from training.augmentation.image import (
    ImageAugmentation,
    ImageAugmentationConfig,
    image_transform,
    mirror_world,
    transform_image,
    transform_view_images,
)
from training.augmentation.paste import ObjectDatabase, Paste, PasteConfig, footprints_overlap
from training.augmentation.pipeline import AugmentedDataset
from training.datasets.dataset import SampleDataset
from training.datasets.files import DataError
from training.datasets.foreground import footprint_masks
from training.datasets.overlay import box_corners_with_tilt
from training.datasets.sample import (
    BevMasks,
    BoxLabels,
    CameraImages,
    ControlTargets,
    DenseLabel,
    DenseLabels,
    Provenance,
    Sample,
    SampleError,
)

GRID = BevGrid(x_min=-32, x_max=32, y_min=-32, y_max=32, cell_size=0.5)
WIDTH, HEIGHT = 96, 64
CAMERA_FROM_EGO = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, 1.5], [1, 0, 0, -0.8], [0, 0, 0, 1]])
BOXES = np.array(
    [
        [12.0, 2.0, 1.0, 4.5, 1.9, 1.8, 0.4, 3.0, 1.0],
        [18.0, -4.0, 1.5, 8.0, 2.5, 3.0, -2.2, -1.0, 0.0],
        [8.0, -1.0, 0.9, 0.6, 0.6, 1.8, 1.0, np.nan, np.nan],
    ]
)


def make_sample(seed: int = 0) -> Sample:
    random = np.random.default_rng(seed)
    inside = np.concatenate(
        [
            (random.uniform(-0.49, 0.49, (30, 3)) * box[3:6]) @ rotation_about_z(box[6]).T + box[:3]
            for box in BOXES
        ]
    )
    around = random.uniform([-30, -30, -2], [30, 30, 3], (400, 3))
    points = np.zeros((len(inside) + len(around), 5), dtype=np.float32)
    points[:, :3] = np.concatenate([inside, around])
    points[:, 3] = random.random(len(points))
    boxes = BoxLabels(
        BOXES.copy(), np.array([0, 1, 2]), np.full(3, 30), ("car", "bus", "pedestrian"),
        pitch_roll_b2=np.array([[0.1, 0.05], [0.0, 0.0], [-0.08, 0.02]]),
    )  # fmt: skip
    x, y = np.meshgrid(np.arange(GRID.columns), np.arange(GRID.rows))
    # Circles are smooth enough to compare after a rotation of cells.
    masks = np.stack([(x - 40) ** 2 + (y - 70) ** 2 < 900, (x - 90) ** 2 + (y - 40) ** 2 < 600])
    valid = random.random((1, HEIGHT, WIDTH)) > 0.1
    normal = random.normal(size=(1, HEIGHT, WIDTH, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return Sample(
        provenance=Provenance("test", str(seed)),
        cameras=CameraImages(
            names=("camera_front",),
            images_vhwc=random.integers(0, 255, (1, HEIGHT, WIDTH, 3), dtype=np.uint8),
            valid_v=np.ones(1, dtype=bool),
            intrinsics_v33=np.array([[[70.0, 0, 47], [0, 72, 31], [0, 0, 1]]]),
            camera_from_ego_v44=CAMERA_FROM_EGO[None].copy(),
            image_from_original_v33=np.eye(3)[None],
            original_size_v2=np.array([[WIDTH, HEIGHT]]),
        ),
        points_nc=points,
        lidar_valid=True,
        ego_motion_c=np.array([5.0, 0.1, 1.0], dtype=np.float32),
        boxes=boxes,
        map_masks=BevMasks(masks, ("drivable_area", "divider"), GRID),
        foreground_masks=footprint_masks(boxes, GRID),
        control=ControlTargets(0.1, 5.0, np.array([[2.5, 0.1], [5.0, 0.4]]), np.array([True, True])),
        dense=DenseLabels(
            semantic_segmentation=DenseLabel(np.where(valid, 3, 255).astype(np.uint8), valid),
            depth=DenseLabel((valid * 7.0).astype(np.float32), valid),
            normals=DenseLabel((normal * valid[..., None]).astype(np.float32), valid),
        ),
        labels_present=frozenset(
            {
                *("detection3d", "map_segmentation", "foreground_segmentation", "control"),
                *("semantic_segmentation", "depth", "normals"),
            }
        ),
    )


SAMPLE = make_sample()

image_transforms = st.builds(
    image_transform,
    st.sampled_from([(96, 64), (64, 48), (120, 80)]),
    scale=st.floats(0.4, 2.0),
    crop=st.tuples(st.floats(-20, 40), st.floats(-20, 30)),
    flip=st.booleans(),
    rotate_deg=st.floats(-180, 180),
)
ego_transforms = st.builds(
    ego_transform,
    rotate_rad=st.floats(-np.pi, np.pi),
    scale=st.floats(0.8, 1.25),
    flip_x=st.booleans(),
    flip_y=st.booleans(),
    shift=st.tuples(*[st.floats(-2, 2)] * 3),
)


def pixels_of(sample: Sample, points_n3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cameras = sample.cameras
    assert cameras is not None
    seen = project_points(points_n3, cameras.camera_from_ego_v44[0], cameras.intrinsics_v33[0], cameras.size)
    return seen.pixels, seen.depth


POINTS = np.array([[10.0, 1.0, 0.5], [6.0, -2.0, 1.0], [25.0, 4.0, 2.0], [15.0, 0.0, -0.5]])


# -- images --------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(image_transforms)
def test_a_projected_point_follows_its_pixel(transform: object) -> None:
    before, _ = pixels_of(SAMPLE, POINTS)
    moved = transform_view_images(SAMPLE, [transform])  # type: ignore[list-item]
    after, depth = pixels_of(moved, POINTS)
    matrix = transform.target_from_source_33  # type: ignore[attr-defined]
    expected = before @ matrix[:2, :2].T + matrix[:2, 2]
    np.testing.assert_allclose(after, expected, atol=1e-8)
    np.testing.assert_allclose(depth, pixels_of(SAMPLE, POINTS)[1])
    assert moved.cameras is not None
    np.testing.assert_allclose(moved.cameras.image_from_original_v33[0], matrix, atol=1e-12)


@settings(max_examples=20)
@given(image_transforms, st.tuples(st.floats(25, 70), st.floats(20, 45)))
def test_the_picture_moves_as_its_map_says(transform: object, place: tuple[float, float]) -> None:
    """A blob's centre of mass, after the transform, lies where the map puts its centre."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    blob = np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 18).astype(np.float32)
    moved = np.asarray(transform_image(blob, transform), dtype=np.float64)  # type: ignore[arg-type]
    matrix = transform.target_from_source_33  # type: ignore[attr-defined]
    expected = matrix[:2] @ [*place, 1]
    height, width = moved.shape
    reach = 16 * np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    if not (reach < expected[0] < width - reach and reach < expected[1] < height - reach):
        return  # cut off by the border, or too near to it
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    centre = [(moved * x).sum() / moved.sum(), (moved * y).sum() / moved.sum()]
    np.testing.assert_allclose(centre, expected, atol=0.1)


@pytest.mark.parametrize("interpolation", ["scale", "opencv"])
def test_scaling_agrees_with_opencv_resize(interpolation: str) -> None:
    """Pixel centres at whole numbers: the same pixels as cv2.resize, which other code scales with."""
    smooth = cv2.GaussianBlur(make_sample().cameras.images_vhwc[0], (0, 0), 4)  # type: ignore[union-attr]
    resized = cv2.resize(smooth, (144, 96), interpolation=cv2.INTER_LINEAR)
    moved = transform_image(smooth, image_transform((144, 96), scale=1.5))
    inner = (slice(3, -3), slice(3, -3))
    assert np.abs(resized[inner].astype(int) - np.asarray(moved)[inner].astype(int)).max() <= 2


def test_flipping_twice_is_nothing() -> None:
    flip = image_transform((WIDTH, HEIGHT), flip=True)
    twice = transform_view_images(transform_view_images(SAMPLE, [flip]), [flip])
    assert twice.cameras is not None
    assert SAMPLE.cameras is not None
    np.testing.assert_array_equal(twice.cameras.images_vhwc, SAMPLE.cameras.images_vhwc)
    for task, label in SAMPLE.dense.items():
        again = getattr(twice.dense, task)
        np.testing.assert_allclose(again.value, label.value, atol=1e-6)
        np.testing.assert_array_equal(again.valid, label.valid)


def test_normals_turn_with_the_picture() -> None:
    normals = SAMPLE.dense.normals
    assert normals is not None
    flipped = transform_view_images(SAMPLE, [image_transform((WIDTH, HEIGHT), flip=True)]).dense.normals
    assert flipped is not None
    expected = normals.value[0, 20, WIDTH - 1 - 30] * [-1, 1, 1]
    np.testing.assert_allclose(flipped.value[0, 20, 30], expected, atol=1e-6)
    # A quarter turn counter-clockwise: what pointed right points up.
    square = image_transform((WIDTH, HEIGHT), rotate_deg=90)
    turned = transform_view_images(SAMPLE, [square]).dense.normals
    assert turned is not None
    column, row = np.round(square.target_from_source_33[:2] @ [50, 30, 1]).astype(int)
    x, y, z = normals.value[0, 30, 50]
    np.testing.assert_allclose(turned.value[0, row, column], [y, -x, z], atol=1e-5)


def test_a_border_without_picture_has_no_labels() -> None:
    shrunk = transform_view_images(SAMPLE, [image_transform((WIDTH, HEIGHT), scale=0.5)])
    for task, label in shrunk.dense.items():
        assert not label.valid[0, HEIGHT // 2 + 2 :].any(), task
    semantic = shrunk.dense.semantic_segmentation
    assert semantic is not None
    assert (semantic.value[~semantic.valid] == 255).all()


def test_drawn_image_augmentation_reaches_its_size() -> None:
    config = ImageAugmentationConfig(
        size=ImageInput(height=32, width=48), scale=(0.5, 0.9), flip_probability=0.5, rotate_deg=5
    )
    random = np.random.default_rng(3)
    for _ in range(5):
        moved = ImageAugmentation(config)(SAMPLE, random)
        assert moved.cameras is not None
        assert moved.cameras.images_vhwc.shape == (1, 32, 48, 3)
        before, _ = pixels_of(SAMPLE, POINTS)
        matrix = moved.cameras.image_from_original_v33[0]
        np.testing.assert_allclose(pixels_of(moved, POINTS)[0], before @ matrix[:2, :2].T + matrix[:2, 2])
    with pytest.raises(ValueError, match="range of positive"):
        ImageAugmentationConfig(scale=(0.0, 1.0))


# -- the ego frame -------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(ego_transforms)
def test_a_moved_point_is_seen_where_it_was(transform: np.ndarray) -> None:
    moved = transform_ego(SAMPLE, transform)
    before, _ = pixels_of(SAMPLE, POINTS)
    after, depth = pixels_of(moved, transform_points(transform, POINTS))
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(depth, pixels_of(SAMPLE, POINTS)[1], atol=1e-8)


@settings(max_examples=20)
@given(ego_transforms)
def test_boxes_contain_the_same_points(transform: np.ndarray) -> None:
    upright = dataclasses.replace(
        SAMPLE,
        boxes=dataclasses.replace(SAMPLE.boxes, pitch_roll_b2=np.zeros((3, 2))),  # type: ignore[type-var]
    )
    moved = transform_ego(upright, transform)
    assert moved.boxes is not None
    for before, after in zip(BOXES, moved.boxes.boxes_b9, strict=True):
        # A hair larger: points on the surface may fall to either side in float32.
        slack = np.array([0, 0, 0, 1e-4, 1e-4, 1e-4, 0, 0, 0])
        inner, outer = (
            points_in_box(SAMPLE.points_nc, before - slack), points_in_box(SAMPLE.points_nc, before + slack)
        )  # fmt: skip
        found = points_in_box(moved.points_nc, after)
        assert found[inner].all()
        assert not found[~outer].any()


@settings(max_examples=20)
@given(ego_transforms)
def test_tilted_boxes_and_velocities_move_with_the_world(transform: np.ndarray) -> None:
    moved = transform_ego(SAMPLE, transform).boxes
    assert moved is not None
    assert SAMPLE.boxes is not None
    before = transform_points(transform, box_corners_with_tilt(SAMPLE.boxes))
    after = box_corners_with_tilt(moved)
    for old, new in zip(before, after, strict=True):  # corners may change their order
        distance = np.linalg.norm(old[:, None] - new[None], axis=-1)
        assert distance.min(axis=1).max() < 1e-6
    tip = transform_points(transform, [[12 + 3.0, 2 + 1.0, 1.0]]) - transform_points(
        transform, [[12, 2.0, 1.0]]
    )
    np.testing.assert_allclose(moved.boxes_b9[0, 7:], tip[0, :2], atol=1e-9)
    assert np.isnan(moved.boxes_b9[2, 7:]).all()
    # The front stays the front.
    heading = transform[:2, :2] @ [np.cos(BOXES[1, 6]), np.sin(BOXES[1, 6])]
    cosine = heading @ [np.cos(moved.boxes_b9[1, 6]), np.sin(moved.boxes_b9[1, 6])]
    assert cosine == pytest.approx(np.linalg.norm(heading), rel=1e-6)


@settings(max_examples=20)
@given(ego_transforms)
def test_masks_move_with_the_world(transform: np.ndarray) -> None:
    """A disc stays a disc around the moved centre, but for cells at its rim."""
    masks = SAMPLE.map_masks
    assert masks is not None
    warped = warp_masks(masks, transform)
    scale = np.sqrt(abs(np.linalg.det(transform[:2, :2])))
    x = GRID.x_min + (np.arange(GRID.columns) + 0.5) * GRID.cell_size
    y = GRID.y_min + (np.arange(GRID.rows) + 0.5) * GRID.cell_size
    cell = np.stack(np.meshgrid(x, y), axis=-1)
    centre = transform_points(transform, [[x[40], y[70], 0.0]])[0, :2]
    distance = np.linalg.norm(cell - centre, axis=-1) / scale
    radius = 30 * GRID.cell_size
    assert warped.masks_khw[0][distance < radius - GRID.cell_size].all()
    assert not warped.masks_khw[0][distance > radius + GRID.cell_size].any()


def test_footprints_are_drawn_anew() -> None:
    transform = ego_transform(rotate_rad=0.5, scale=1.1)
    moved = transform_ego(SAMPLE, transform)
    assert moved.boxes is not None
    assert moved.foreground_masks is not None
    expected = footprint_masks(moved.boxes, GRID)
    np.testing.assert_array_equal(moved.foreground_masks.masks_khw, expected.masks_khw)


def test_a_smaller_grid_is_cut_from_a_larger_one() -> None:
    """Its corners have masks although they were turned in from outside of the small grid."""
    small = BevGrid(x_min=-10, x_max=10, y_min=-10, y_max=10, cell_size=0.5)
    everything = BevMasks(np.ones((1, GRID.rows, GRID.columns), dtype=bool), ("drivable_area",), GRID)
    sample = dataclasses.replace(SAMPLE, map_masks=everything)
    moved = transform_ego(sample, ego_transform(rotate_rad=np.pi / 4), small)
    assert moved.map_masks is not None
    assert moved.map_masks.grid == small
    assert moved.map_masks.masks_khw.all()
    assert moved.foreground_masks is not None
    assert moved.foreground_masks.grid == small


def test_the_way_driven_moves_with_the_world() -> None:
    mirrored = transform_ego(SAMPLE, ego_transform(flip_y=True, scale=1.2))
    assert mirrored.control is not None
    np.testing.assert_allclose(mirrored.control.waypoints_k2, [[3.0, -0.12], [6.0, -0.48]])
    assert mirrored.control.steering_rad == pytest.approx(-0.1)
    assert mirrored.control.speed_mps == pytest.approx(6.0)
    np.testing.assert_allclose(mirrored.ego_motion_c, [6.0, -0.1, 1.0], rtol=1e-6)
    backwards = transform_ego(SAMPLE, ego_transform(flip_x=True))
    assert backwards.control is None
    assert "control" not in backwards.labels_present


def test_only_similarities_are_admitted() -> None:
    with pytest.raises(SampleError, match="evenly"):
        transform_ego(SAMPLE, np.diag([1.0, 2.0, 1.0, 1.0]))
    with pytest.raises(SampleError, match="upright"):
        transform_ego(SAMPLE, np.diag([1.0, -1.0, -1.0, 1.0]))


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_drawn_bev_augmentation_can_be_undone(seed: int) -> None:
    config = BevAugmentationConfig(
        rotate_deg=22.5, scale=(0.9, 1.1), flip_x_probability=0.5, flip_y_probability=0.5
    )
    moved = BevAugmentation(config)(SAMPLE, np.random.default_rng(seed))
    back = transform_ego(moved, np.linalg.inv(moved.ego_from_source_44))
    np.testing.assert_allclose(back.points_nc, SAMPLE.points_nc, atol=1e-4)
    assert back.boxes is not None
    np.testing.assert_allclose(
        box_corners(back.boxes.boxes_b9).mean(axis=1), box_corners(BOXES).mean(axis=1), atol=1e-6
    )
    np.testing.assert_allclose(back.ego_from_source_44, np.eye(4), atol=1e-9)


def test_a_mirrored_world_could_have_been_recorded() -> None:
    mirrored = mirror_world(SAMPLE)
    cameras = mirrored.cameras
    assert cameras is not None
    rotation = cameras.camera_from_ego_v44[0, :3, :3]
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    assert cameras.intrinsics_v33[0, 0, 0] > 0
    before, _ = pixels_of(SAMPLE, POINTS)
    after, _ = pixels_of(mirrored, POINTS * [1, -1, 1])
    np.testing.assert_allclose(after, np.stack([WIDTH - 1 - before[:, 0], before[:, 1]], axis=1), atol=1e-9)


# -- paste ---------------------------------------------------------------------------------------------------


class OneSample(SampleDataset):
    name = "one"

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def labels_of(self, index: int) -> frozenset[str]:
        return self.samples[index].labels_present

    def token(self, index: int) -> str:
        return self.samples[index].provenance.token


def database() -> ObjectDatabase:
    return ObjectDatabase.collect(OneSample(SAMPLE), min_points=5)


def emptied(sample: Sample) -> Sample:
    return dataclasses.replace(sample, boxes=BoxLabels.empty(("car", "bus", "pedestrian")))


def test_pasted_objects_bring_their_points_and_hide_others() -> None:
    paste = Paste(database(), PasteConfig(per_class={"car": 1, "pedestrian": 1}))
    scene = emptied(make_sample(seed=5))
    pasted = paste(scene, np.random.default_rng(0))
    assert pasted.boxes is not None
    assert sorted(pasted.boxes.labels_b.tolist()) == [0, 2]
    for box, count in zip(pasted.boxes.boxes_b9, pasted.boxes.points_b, strict=True):
        assert points_in_box(pasted.points_nc, box).sum() == count
    assert pasted.foreground_masks is not None
    assert pasted.foreground_masks.masks_khw[0].any()
    assert len(scene.points_nc) == len(make_sample(seed=5).points_nc)  # the scene itself is not changed


def test_nothing_is_pasted_onto_others() -> None:
    paste = Paste(database(), PasteConfig(per_class={"car": 5, "bus": 5}))
    pasted = paste(SAMPLE, np.random.default_rng(0))  # every place is taken by the object itself
    assert pasted is SAMPLE
    shifted = SAMPLE.boxes.boxes_b9.copy()  # type: ignore[union-attr]
    shifted[:, :2] += [0.0, 1.5]
    busy = dataclasses.replace(SAMPLE, boxes=dataclasses.replace(SAMPLE.boxes, boxes_b9=shifted))  # type: ignore[type-var]
    assert paste(busy, np.random.default_rng(0)) is busy


def test_pasting_comes_before_moving() -> None:
    paste = Paste(database(), PasteConfig(per_class={"car": 1}))
    with pytest.raises(SampleError, match="before the ego frame"):
        paste(transform_ego(SAMPLE, ego_transform(scale=1.1)), np.random.default_rng(0))
    with pytest.raises(SampleError, match="did you mean 'car'"):
        Paste(database(), PasteConfig(per_class={"cars": 1}))


def test_a_database_survives_a_file(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    made = database()
    made.save(path)
    read = ObjectDatabase.load(path)
    assert len(read) == 3
    np.testing.assert_array_equal(read.points_of(1), made.points_of(1))
    assert read.class_names == made.class_names
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"objects\.npz: no object database"):
        ObjectDatabase.load(path)


@settings(max_examples=20)
@given(
    st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-np.pi, np.pi)),
    st.tuples(st.floats(0.5, 5), st.floats(0.5, 3)),
)
def test_overlap_agrees_with_shapely(place: tuple[float, float, float], size: tuple[float, float]) -> None:
    from shapely.geometry import Polygon

    first = np.array([0.0, 0, 0, 3, 2, 1, 0.3])
    second = np.array([place[0], place[1], 0, size[0], size[1], 1, place[2]])
    area = Polygon(box_corners(first)[0, :4, :2]).intersection(Polygon(box_corners(second)[0, :4, :2])).area
    found = bool(footprints_overlap(first, second[None])[0])
    if area > 1e-9:
        assert found
    elif Polygon(box_corners(first)[0, :4, :2]).distance(Polygon(box_corners(second)[0, :4, :2])) > 1e-9:
        assert not found


# -- the pipeline --------------------------------------------------------------------------------------------


def test_draws_depend_on_seed_epoch_and_sample_alone() -> None:
    augmentations = [
        Paste(database(), PasteConfig(per_class={"car": 2})),
        BevAugmentation(BevAugmentationConfig(rotate_deg=20, scale=(0.9, 1.1), flip_y_probability=0.5)),
        ImageAugmentation(ImageAugmentationConfig(scale=(0.8, 1.2), flip_probability=0.5)),
    ]
    dataset = AugmentedDataset(OneSample(emptied(make_sample(1)), make_sample(2)), augmentations, seed=4)
    first, again = dataset[0], dataset[0]
    np.testing.assert_array_equal(first.points_nc, again.points_nc)
    assert not np.allclose(first.ego_from_source_44, dataset[1].ego_from_source_44)
    dataset.set_epoch(1)
    assert not np.allclose(first.ego_from_source_44, dataset[0].ego_from_source_44)
