"""What the image writers store, without rendering: plans, label numbers, encodings, folders that resume."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmmt_cli.data_synth import FORMATS, synth
from perception_core.configuration import ConfigurationError
from perception_core.geometry import is_rigid, project_points
from training.datasets.cityscapes import _OPTICAL_FROM_ISO, segmentation_classes
from training.datasets.files import DataError
from training.datasets.image_layouts import nominal_intrinsics, nyuv2_intrinsics
from training.datasets.single_view import read_class_names
from training.synth.adashare import labels
from training.synth.adashare.cameras import VIEW_YAWS_DEG, view_cameras
from training.synth.adashare.classes import (
    COARSE_CLASSES,
    STREET_CLASSES,
    TASKONOMY_STREET_CLASSES,
    nyuv2_classes_json,
    taskonomy_class_numbers,
)
from training.synth.adashare.dataset import AdaShareOptions, write_dataset
from training.synth.adashare.layouts import LAYOUTS
from training.synth.cityscapes3d.label_images import MAIN_LABELS, disparity, instance_ids, label_ids
from training.synth.cityscapes3d.plan import CITIES, frame_number, make_plan, time_of
from training.synth.cityscapes3d.rig import BASELINE_M, camera_json, cityscapes_camera, sensor_json
from training.synth.image_scale import ImageScale, find_image_scale
from training.synth.mesh import Semantic
from training.synth.resumable import SceneFolder, Step, render_all
from training.synth.splits import SPLITS, TOWNS, split_scenes
from training.synth.world.views import Keypoint, View

# -- which scenes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 300])
def test_splits_share_no_town_and_small_sets_have_validation(count: int) -> None:
    scenes = split_scenes(count)
    assert [scene.index for scene in scenes] == list(range(count))
    towns = {split: {s.town_number for s in scenes if s.split == split} for split in SPLITS}
    assert not towns["train"] & towns["val"]
    assert not (towns["train"] | towns["val"]) & towns["test"]
    assert towns["val"]
    assert bool(towns["train"]) == (count > 1)
    assert bool(towns["test"]) == (count > 2)


def test_sequences_are_named_as_cityscapes_names_them() -> None:
    from cityscapesscripts.helpers.csHelpers import getCsFileInfo

    plan = make_plan(300)
    names = [sequence.image(keyframe) for sequence in plan for keyframe in range(3)]
    assert len(names) == len(set(names))
    for sequence in plan:
        assert sequence.city in CITIES[sequence.split]
        found = getCsFileInfo(f"{sequence.image(2)}_gtFine_labelIds.png")
        assert (found.city, found.sequenceNb) == (sequence.city, f"{sequence.sequence:06d}")
        assert len(found.frameNb) == 6
    city_of_town: dict[int, str] = {}
    for sequence in plan:
        assert city_of_town.setdefault(sequence.town_number, sequence.city) == sequence.city
    assert all(TOWNS[split] % len(CITIES[split]) == 0 for split in SPLITS)


def test_keyframes_come_about_twice_a_second_on_the_cameras_own_clock() -> None:
    numbers = [frame_number(keyframe) for keyframe in range(40)]
    assert set(np.diff(numbers)) == {8, 9}
    assert time_of(39) == pytest.approx(0.1 + 39 / 2, abs=0.03)
    assert frame_number(0) > 0


# -- Cityscapes ----------------------------------------------------------------------------------------------


def view_of(semantic_hw: np.ndarray, instance_hw: np.ndarray) -> View:
    height, width = semantic_hw.shape
    return View(
        np.zeros((height, width, 3), np.uint8),
        np.ones((height, width), np.float32),
        np.zeros((height, width, 3), np.float32),
        semantic_hw.astype(np.uint8),
        instance_hw.astype(np.int32),
        np.zeros((height, width), bool),
        [],
    )


def test_label_and_instance_images_are_numbered_by_the_devkit() -> None:
    from cityscapesscripts.helpers.labels import name2label

    # road, sky, nobody's thing | car 3, bicycle 5 with its rider | trailer 7, excavator 8, cone 9 | car 10
    semantic = np.array(
        [
            [Semantic.ROAD, Semantic.SKY, Semantic.OTHER],
            [Semantic.CAR, Semantic.BICYCLE, Semantic.RIDER],
            [Semantic.TRUCK, Semantic.TRUCK, Semantic.OTHER],
            [Semantic.CAR, Semantic.PERSON, Semantic.FENCE],
        ]
    )
    instance = np.array([[-1, -1, -1], [3, 5, 5], [7, 8, 9], [10, 11, 12]])
    actors = {
        3: "car",
        5: "bicycle",
        7: "trailer",
        8: "construction_vehicle",
        9: "traffic_cone",
        10: "car",
        11: "pedestrian",
        12: "barrier",
    }
    view = view_of(semantic, instance)
    ids = label_ids(view, actors)
    names = [
        *("road", "sky", "static", "car", "bicycle", "rider"),
        *("trailer", "dynamic", "dynamic", "car", "person", "fence"),
    ]
    assert ids.ravel().tolist() == [name2label[name].id for name in names]
    assert ids.dtype == np.uint8
    image, numbers = instance_ids(ids, view.instance_hw, actors)
    assert image.dtype == np.uint16
    expected = [7, 23, 4, 26000, 33000, 25000, 30000, 5, 5, 26001, 24000, 13]
    assert image.ravel().tolist() == expected
    assert numbers == {3: 26000, 5: 33000, 7: 30000, 10: 26001, 11: 24000}


def test_a_picture_without_actors_has_no_instances() -> None:
    view = view_of(np.full((2, 2), Semantic.ROAD), np.full((2, 2), -1))
    image, numbers = instance_ids(label_ids(view, {}), view.instance_hw, {})
    assert (image == 7).all()
    assert numbers == {}


def test_every_detection_class_has_a_label() -> None:
    from cityscapesscripts.helpers.labels import name2label

    from perception_core.labels import NUSCENES_DETECTION_CLASSES

    assert set(MAIN_LABELS) == set(NUSCENES_DETECTION_CLASSES)
    assert all(name2label[name].hasInstances for name in MAIN_LABELS.values() if name)


@given(st.floats(0.3, 400.0), st.sampled_from([512, 1024, 2048]))
def test_disparity_says_the_depth_as_the_loader_reads_it(depth: float, width: int) -> None:
    focal = float(cityscapes_camera(width, width // 2).matrix_33[0, 0])
    (stored,) = disparity(np.full(1, depth, np.float32), focal, BASELINE_M).tolist()
    pixels = BASELINE_M * focal / depth
    if pixels * 256 > 65534.6:
        assert stored == 0
        return
    read = BASELINE_M * focal / ((stored - 1) / 256)
    # half a step of disparity
    assert abs(read - depth) <= depth * 0.51 / (256 * pixels - 0.5)
    assert disparity(np.full(1, np.inf, np.float32), focal, BASELINE_M).tolist() == [0]


@pytest.mark.parametrize("width", [512, 2048])
def test_the_files_calibrations_are_the_cameras(width: int) -> None:
    """A point through camera and pose, and through the sensor matrix of the box file."""
    camera = cityscapes_camera(width, width // 2)
    sensor = sensor_json(camera)
    matrix = np.array(sensor["sensor_T_ISO_8855"])
    camera_from_ego = np.linalg.inv(camera.ego_from_camera)
    np.testing.assert_allclose(_OPTICAL_FROM_ISO @ matrix, camera_from_ego[:3], atol=1e-12)
    assert is_rigid(np.vstack([matrix, [0, 0, 0, 1]]))
    intrinsic = camera_json(camera)["intrinsic"]
    assert {key: sensor[key] for key in intrinsic} == intrinsic
    pixels = project_points(
        [[30.0, 0.0, 0.0]], camera_from_ego, camera.matrix_33, (camera.width, camera.height)
    ).pixels[0]
    assert 0 < pixels[0] < camera.width
    assert camera.height / 2 < pixels[1] < camera.height  # the road ahead lies in the lower half
    # the pixel of a direction at another size is the same part of the picture
    full = cityscapes_camera(2048, 1024)
    other = project_points([[30.0, 0.0, 0.0]], camera_from_ego, full.matrix_33, (2048, 1024)).pixels[0]
    np.testing.assert_allclose((pixels + 0.5) / width, (other + 0.5) / 2048, atol=1e-9)


# -- AdaShare's layouts --------------------------------------------------------------------------------------


def test_street_classes_are_cityscapes_training_classes() -> None:
    assert tuple(name.replace(" ", "_") for name in segmentation_classes()[0]) == STREET_CLASSES
    assert [int(Semantic[name.upper()]) for name in STREET_CLASSES] == list(range(19))
    assert sorted(part for parts in COARSE_CLASSES.values() for part in parts) == sorted(STREET_CLASSES)
    assert (len(COARSE_CLASSES), len(TASKONOMY_STREET_CLASSES)) == (13, 17)
    coarse = nyuv2_classes_json()["coarse"]
    assert coarse["names"][coarse["of"][STREET_CLASSES.index("bus")]] == "large_vehicle"


def test_taskonomy_numbers_begin_at_one() -> None:
    semantic = np.array([[Semantic.ROAD, Semantic.WALL, Semantic.FENCE, Semantic.OTHER, Semantic.BICYCLE]])
    numbers = taskonomy_class_numbers(semantic.astype(np.uint8))[0].tolist()
    names = [TASKONOMY_STREET_CLASSES[number - 1] if number else "" for number in numbers]
    assert names == ["road", "fence", "fence", "", "bicycle"]


@given(st.floats(0.002, 119.9))
def test_depths_are_stored_to_a_millimetre_and_to_a_512th(depth: float) -> None:
    array = np.array([[depth, np.inf, 121.0]], dtype=np.float32)
    assert labels.metric_depth(array)[0].tolist() == pytest.approx([depth, 0, 0], abs=0.00052)
    stored = labels.taskonomy_depth(array)[0]
    assert stored[1:].tolist() == [65535, 65535]
    assert 0 < stored[0] < 64500
    assert stored[0] / 512 == pytest.approx(depth, abs=0.002)


@given(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_normals_come_back_from_colours(first: float, second: float) -> None:
    normal = np.array([np.sin(first), np.cos(first) * np.sin(second), -np.cos(first) * np.cos(second)])
    view = view_of(np.zeros((1, 2)), np.full((1, 2), -1))
    view.normal_hwc[:] = normal
    view.depth_hw[0, 1] = np.inf
    right, forward, up = labels.nyuv2_normals(view)[0, 0] / 127.5 - 1
    np.testing.assert_allclose([right, -up, forward], normal, atol=0.005)
    right, up, towards = labels.taskonomy_normals(view)[0, 0] / 127.5 - 1
    np.testing.assert_allclose([right, -up, -towards], normal, atol=0.005)
    assert labels.nyuv2_normals(view)[0, 1].tolist() == [255] * 3
    assert labels.taskonomy_normals(view)[0, 1].tolist() == [128] * 3


def test_edges_and_keypoints_fall_off_around_what_they_mark() -> None:
    edges = np.zeros((60, 80), dtype=bool)
    edges[30, 40] = True
    strength = labels.edge_strength(edges)
    assert strength[30, 40] == 1
    assert 0 < strength[30, 42] < strength[30, 41] < 1
    assert not labels.edge_strength(np.zeros((6, 8), bool)).any()
    seen, hidden = Keypoint(0, "head", (79.4, 0.2), True), Keypoint(0, "neck", (10.0, 10.0), False)
    strength = labels.keypoint_strength([seen, hidden], (60, 80))
    assert np.unravel_index(strength.argmax(), strength.shape) == (0, 79)
    assert strength[0, 79] > 0.7
    assert not strength[5:20, 5:20].any()
    assert labels.used_range(np.array([[0.0, 0.5, 1.0]], np.float32), 0.08).tolist() == [[0, 2621, 5243]]


def test_views_look_where_they_say() -> None:
    for intrinsics, size in ((nyuv2_intrinsics, (160, 120)), (nominal_intrinsics, (128, 128))):
        cameras = view_cameras(intrinsics(size), size, 4)
        for camera, yaw in zip(cameras, VIEW_YAWS_DEG, strict=True):
            axis = camera.ego_from_camera[:3, 2]
            assert np.degrees(np.arctan2(axis[1], axis[0])) % 360 == pytest.approx(yaw % 360)
            assert camera.ego_from_camera[:3, 1] @ [0, 0, -1] == pytest.approx(1)
        assert len({camera.modality for camera in cameras}) == 4


def test_a_shape_that_the_intrinsics_are_not_for_is_refused(tmp_path: Path) -> None:
    square = ImageScale(name="square", keyframes=1, image_width=64, image_height=64)
    with pytest.raises(ConfigurationError, match="4 to 3, not 64 x 64"):
        write_dataset(tmp_path / "d", AdaShareOptions(layout="nyuv2", scenes=1, scale=square))
    assert not (tmp_path / "d").exists()
    with pytest.raises(ConfigurationError, match="no scale 'tinny'; did you mean 'tiny'"):
        find_image_scale("tinny", LAYOUTS["nyuv2"].scales)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"names": "ab", "coarse": 3}', "no names of classes"),
        ("[]", "no names of classes"),
        ('{"names": []}', "1 to 254 names"),
        ('{"names": ["a", "b"], "coarse": {"names": ["c"], "of": [0]}}', "the coarse class of each"),
        ('{"names": ["a"], "coarse": {"names": ["c"], "of": [1]}}', r"numbered 0\.\.0"),
    ],
)
def test_damaged_class_names_are_refused(tmp_path: Path, content: str, message: str) -> None:
    assert read_class_names(tmp_path) is None
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match=rf"classes\.json: .*{message}"):
        read_class_names(tmp_path)


# -- folders that resume -------------------------------------------------------------------------------------


def write_scene(folder: Path, name: str, step: Step) -> None:
    """Stands for a renderer: two files, one of which readers look for."""
    state = SceneFolder(folder)
    workshop = state.workshop(name)
    for top in ("pictures", "labels"):
        (workshop / top).mkdir()
        (workshop / top / f"{name}.txt").write_text(f"{top} of {name}")
    step()
    state.finish(name, {"name": name}, last="pictures")


def test_a_scene_counts_when_it_is_whole(tmp_path: Path) -> None:
    state = SceneFolder(tmp_path / "data")
    state.claim({"seed": 1})
    counted = []
    render_all(functools.partial(write_scene, state.folder), ["a", "b"], 1, lambda: counted.append(1))
    assert len(counted) == 2
    assert [state.is_finished(name) for name in "abc"] == [True, True, False]
    assert state.content("b") == {"name": "b"}
    assert (state.folder / "pictures" / "a.txt").read_text() == "pictures of a"
    with pytest.raises(RuntimeError):
        render_all(functools.partial(write_scene, state.folder), ["c"], 1, fail)
    assert not state.is_finished("c")
    assert not (state.folder / "pictures" / "c.txt").exists()
    assert (state.folder / ".synth" / "unfinished" / "c").is_dir()
    state.claim({"seed": 1})
    assert not (state.folder / ".synth" / "unfinished").exists()
    state.publish("list.json", "[]")
    assert (state.folder / "list.json").read_text() == "[]"
    assert [path.name for path in state.folder.iterdir() if path.name.startswith(".")] == [".synth"]


def fail() -> None:
    raise RuntimeError("killed")


def test_what_readers_look_for_is_moved_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        moved.append(target.name if target.suffix == ".json" else target.parent.name)
        return replace(self, target)

    state = SceneFolder(tmp_path)
    state.claim({})
    monkeypatch.setattr(Path, "replace", watched)
    write_scene(tmp_path, "a", lambda: None)
    assert moved == ["labels", "pictures", "a.json"]


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigurationError, match="holds something else"):
        SceneFolder(tmp_path).claim({"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    begun = tmp_path / "begun"
    (begun / ".synth").mkdir(parents=True)  # killed at the very beginning
    SceneFolder(begun).claim({"seed": 1, "dataset": "nyuv2"})
    with pytest.raises(ConfigurationError, match=r"other options \(dataset, seed\)"):
        SceneFolder(begun).claim({"seed": 2})
    (begun / ".synth" / "options.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"options\.json: not readable"):
        SceneFolder(begun).claim({"seed": 1})


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_refuses_what_a_format_has_not(tmp_path: Path) -> None:
    assert set(FORMATS) == {"nuscenes", "cityscapes-3d", "nyuv2", "taskonomy"}
    arguments = {
        "scenes": 1,
        "seed": 0,
        "scale": "tiny",
        "preset": "easy",
        "camera_frames": 0,
        "slope_m": None,
        "processes": 1,
    }
    for changed, message in (
        ({"output_format": "cityscapes3d"}, "no format 'cityscapes3d'; did you mean 'cityscapes-3d'"),
        ({"output_format": "nyuv2", "camera_frames": 1}, "only nuScenes"),
        ({"output_format": "nuscenes", "slope_m": 2.0}, "flat"),
        ({"output_format": "taskonomy", "scale": "smal"}, "no scale 'smal'; did you mean 'small'"),
        ({"output_format": "cityscapes-3d", "preset": "eesy"}, "no preset 'eesy'; did you mean 'easy'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            synth(out=tmp_path / "d", **{**arguments, **changed})  # type: ignore[arg-type]
    assert not (tmp_path / "d").exists()


def test_scales_are_named_alike() -> None:
    from training.synth.cityscapes3d.dataset import SCALES

    for scales in (SCALES, *(layout.scales for layout in LAYOUTS.values())):
        assert list(scales) == ["tiny", "small", "full"] == [scale.name for scale in scales.values()]
    assert json.loads(SCALES["full"].model_dump_json())["image_width"] == 2048
