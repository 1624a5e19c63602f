"""Image data sets that are not here: small trees in exactly their layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.bundle import ImageInput
from perception_core.geometry import project_points, quaternion_from_rotation
from training.datasets.batch import collate
from training.datasets.box_frames import angles_of, rotation_of
from training.datasets.camvid import CamVid
from training.datasets.cityscapes import CITYSCAPES_TASKS, Cityscapes
from training.datasets.cityscapes_adashare import CityscapesAdaShare
from training.datasets.files import DataError, read_image
from training.datasets.frame_input import FrameInput
from training.datasets.nyuv2 import NYU_13_CLASSES, NYU_40_CLASSES, NyuV2
from training.datasets.opening import open_dataset
from training.datasets.overlay import box_corners_with_tilt, draw_sample
from training.datasets.sample import SampleError
from training.datasets.taskonomy import Taskonomy

SIZE = (64, 32)  # width, height
RANDOM = np.random.default_rng(0)


def write_png(path: Path, image: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.asarray(image)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def picture() -> np.ndarray:
    return RANDOM.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


# -- Cityscapes ----------------------------------------------------------------------------------------------

CAMERA = {
    "extrinsic": {
        "baseline": 0.21, "pitch": 0.038, "roll": 0.01, "x": 1.7, "y": 0.1, "yaw": -0.0195, "z": 1.22
    },
    "intrinsic": {"fx": 70.0, "fy": 70.0, "u0": 32.0, "v0": 16.0},
}  # fmt: skip
BOX = {"center": [12.0, -1.0, 0.8], "dimensions": [4.2, 1.8, 1.6], "angles": (0.3, 0.05, -0.02)}


def iso_camera() -> np.ndarray:
    """Camera from vehicle with the vehicle's axes, as csCalibration.pdf composes it."""
    e = CAMERA["extrinsic"]
    vehicle_from_camera = np.eye(4)
    vehicle_from_camera[:3, :3] = rotation_of([[e["yaw"], e["pitch"], e["roll"]]])[0]
    vehicle_from_camera[:3, 3] = e["x"], e["y"], e["z"]
    return np.linalg.inv(vehicle_from_camera)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    for split, city, number in (("train", "aachen", 0), ("train", "bochum", 1), ("val", "lindau", 2)):
        name = f"{city}_000000_{number:06d}"

        def place(folder: str, ending: str, split: str = split, city: str = city, name: str = name) -> Path:
            path = tmp_path / folder / split / city / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        write_png(place("leftImg8bit", "_leftImg8bit.png"), picture())
        ids = np.full((SIZE[1], SIZE[0]), 7, dtype=np.uint8)  # road
        ids[:8], ids[:, :5] = 23, 0  # sky, unlabelled
        write_png(place("gtFine", "_gtFine_labelIds.png"), ids)
        disparity = np.full((SIZE[1], SIZE[0]), int(2.0 * 256) + 1, dtype=np.uint16)
        disparity[:8] = 0
        write_png(place("disparity", "_disparity.png"), disparity)
        place("camera", "_camera.json").write_text(json.dumps(CAMERA))
        x, y, z, w = quaternion_from_rotation(rotation_of([BOX["angles"]])[0])
        objects = [
            {
                "2d": {"modal": [1, 2, 3, 4], "amodal": [1, 2, 3, 4]},
                "3d": {
                    "center": BOX["center"], "dimensions": BOX["dimensions"], "rotation": [w, x, y, z],
                    "type": "car", "format": "CRS_ISO8855",
                },
                "occlusion": 0.0, "truncation": 0.0, "instanceId": 26001, "label": label, "score": 1.0,
            }
            for label in ("car", "caravan")
        ]  # fmt: skip
        sensor = {
            **CAMERA["intrinsic"], "sensor_T_ISO_8855": iso_camera()[:3].tolist(), "baseline": 0.21
        }  # fmt: skip
        place("gtBbox3d", "_gtBbox3d.json").write_text(
            json.dumps({"imgWidth": 64, "imgHeight": 32, "sensor": sensor, "objects": objects, "ignore": []})
        )
    return tmp_path


def test_cityscapes_gives_classes_depth_and_boxes(cityscapes: Path) -> None:
    data = Cityscapes(cityscapes)
    assert [data.token(index) for index in range(len(data))] == [
        *("aachen_000000_000000", "bochum_000000_000001")
    ]
    sample = data[1]
    assert sample.labels_present == set(CITYSCAPES_TASKS)
    semantic, depth, boxes = sample.dense.semantic_segmentation, sample.dense.depth, sample.boxes
    assert semantic is not None
    assert sample.dense.semantic_classes[0] == "road"
    assert sample.dense.semantic_classes[10] == "sky"
    assert (semantic.value[0, 8:, 5:] == 0).all()
    assert (semantic.value[0, :8, 5:] == 10).all()
    assert not semantic.valid[0, :, :5].any()
    assert depth is not None
    np.testing.assert_allclose(depth.value[0, 8:], 0.21 * 70 / 2.0, rtol=1e-6)
    assert not depth.valid[0, :8].any()
    assert boxes is not None
    assert boxes.tokens == ("26001",)
    np.testing.assert_allclose(boxes.boxes_b9[0, :7], [12, -1, 0.8, 4.2, 1.8, 1.6, 0.3], atol=1e-9)
    np.testing.assert_allclose(boxes.pitch_roll_b2, [[0.05, -0.02]], atol=1e-9)
    assert np.isnan(boxes.boxes_b9[0, 7:]).all()


def test_cityscapes_boxes_project_as_its_own_scripts_do(cityscapes: Path) -> None:
    from cityscapesscripts.helpers.box3dImageTransform import Box3dImageTransform, Camera

    sample = Cityscapes(cityscapes)[0]
    assert sample.cameras is not None
    assert sample.boxes is not None
    camera = Camera(70.0, 70.0, 32.0, 16.0, iso_camera()[:3].tolist(), *SIZE)
    x, y, z, w = quaternion_from_rotation(rotation_of([BOX["angles"]])[0])
    truth = Box3dImageTransform(camera)
    truth.initialize_box(BOX["dimensions"], [w, x, y, z], BOX["center"])
    expected = np.array(list(truth.get_vertices_2d().values()))
    corners = box_corners_with_tilt(sample.boxes)[0]
    found = project_points(
        corners, sample.cameras.camera_from_ego_v44[0], sample.cameras.intrinsics_v33[0], SIZE
    ).pixels
    distance = np.linalg.norm(expected[:, None] - found[None], axis=-1)
    assert distance.min(axis=1).max() < 1e-6


def test_both_calibrations_of_cityscapes_agree(cityscapes: Path) -> None:
    """camera.json and the sensor in gtBbox3d say the same pose."""
    by_boxes = Cityscapes(cityscapes, tasks=("mono_detection3d",))[0].cameras
    by_camera = Cityscapes(cityscapes, tasks=("depth",))[0].cameras
    assert by_boxes is not None
    assert by_camera is not None
    np.testing.assert_allclose(by_boxes.camera_from_ego_v44, by_camera.camera_from_ego_v44, atol=1e-9)


def test_cityscapes_says_what_is_missing(cityscapes: Path) -> None:
    with pytest.raises(DataError, match=r"trian: holds no .*; did you mean 'train'"):
        Cityscapes(cityscapes, "trian")
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        Cityscapes(cityscapes, tasks=("depht",))
    path = cityscapes / "disparity/train/aachen/aachen_000000_000000_disparity.png"
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(DataError, match=r"_disparity\.png: PNG of \d+ bytes is cut off"):
        Cityscapes(cityscapes)[0]
    path.unlink()
    with pytest.raises(DataError, match="file is missing"):
        Cityscapes(cityscapes)[0]
    (cityscapes / "gtBbox3d/train/bochum/bochum_000000_000001_gtBbox3d.json").write_text('{"objects": []}')
    with pytest.raises(DataError, match=r"no boxes of Cityscapes-3D: KeyError: 'sensor'"):
        Cityscapes(cityscapes)[1]


def test_labels_are_resized_with_their_image(cityscapes: Path) -> None:
    small = Cityscapes(cityscapes, frame_input=FrameInput(image=ImageInput(height=12, width=32)))[0]
    semantic = small.dense.semantic_segmentation
    assert semantic is not None
    assert semantic.value.shape == (1, 12, 32)
    assert (semantic.value[0, :, 4:] == 0).all()  # the upper rows, with the sky, are cropped
    tall = Cityscapes(cityscapes, frame_input=FrameInput(image=ImageInput(height=48, width=64)))[0]
    padded = tall.dense.semantic_segmentation
    assert padded is not None
    assert not padded.valid[0, :16].any()  # rows added at the top
    assert (padded.value[0, 16:24, 6:] == 10).all()


def test_preprocessed_cityscapes(tmp_path: Path) -> None:
    names = ["image", "depth", "label2", "label7", "label19"]
    image = RANDOM.random((16, 32, 3)).astype(np.float32)
    arrays = [
        image,
        np.full((16, 32, 1), 0.02, dtype=np.float64),
        *(np.full((16, 32), value, dtype=np.float32) for value in (1, 6, 18)),
    ]
    arrays[4][:2] = -1
    for name, array in zip(names, arrays, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    groups = {"train": [[f"{name}.npy" for name in names]]}
    (tmp_path / "cityscape.json").write_text(json.dumps(groups))
    sample = CityscapesAdaShare(tmp_path)[0]
    semantic, depth = sample.dense.semantic_segmentation, sample.dense.depth
    assert semantic is not None
    assert depth is not None
    assert sample.cameras is not None
    np.testing.assert_array_equal(sample.cameras.images_vhwc[0], np.round(image * 255))
    assert not semantic.valid[0, :2].any()
    assert (semantic.value[0, 2:] == 18).all()
    assert depth.valid.all()
    assert sample.dense.depth_unit == "relative_inverse"
    seven = CityscapesAdaShare(tmp_path, classes=7)[0].dense
    assert seven.semantic_segmentation is not None
    assert seven.semantic_classes[6] == "vehicle"
    assert (seven.semantic_segmentation.value == 6).all()
    with pytest.raises(DataError, match=r"has no part 'test'; valid are: train"):
        CityscapesAdaShare(tmp_path, "test")
    np.save(tmp_path / "label19.npy", np.full((16, 32), 19.0))
    with pytest.raises(DataError, match=r"label outside -1..18"):
        CityscapesAdaShare(tmp_path)[0]


# -- NYUv2, Taskonomy, CamVid --------------------------------------------------------------------------------


def write_nyu(root: Path) -> None:
    for folder in ("img", "seg", "depth", "normal_mask"):
        (root / folder).mkdir()
    write_png(root / "img/0001.png", picture())
    seg = np.full((SIZE[1], SIZE[0]), NYU_40_CLASSES.index("desk"), dtype=np.uint8)
    seg[:4] = 255
    write_png(root / "seg/0001.png", seg)
    depth = np.full((SIZE[1], SIZE[0]), 2.5, dtype=np.float32)
    depth[0, 0] = 0
    np.save(root / "depth/0001.npy", depth)
    normal = np.full((SIZE[1], SIZE[0], 3), 255, dtype=np.uint8)
    normal[4:] = (128, 0, 128)  # towards the viewer: forward is negative
    normal[10:] = (128, 128, 255)  # up: the floor
    write_png(root / "normal_mask/0001.png", normal)


def test_nyuv2(tmp_path: Path) -> None:
    write_nyu(tmp_path)
    for classes, name in ((40, "desk"), (13, "table")):
        sample = NyuV2(tmp_path, classes=classes)[0]
        semantic, normals = sample.dense.semantic_segmentation, sample.dense.normals
        assert semantic is not None
        assert (semantic.value[0, 4:] == sample.dense.semantic_classes.index(name)).all()
        assert not semantic.valid[0, :4].any()
    assert normals is not None
    assert not normals.valid[0, :4].any()
    np.testing.assert_allclose(normals.value[0, 6, 6], [0, 0, -1], atol=0.01)
    np.testing.assert_allclose(normals.value[0, 12, 6], [0, -1, 0], atol=0.01)
    depth = sample.dense.depth
    assert depth is not None
    assert not depth.valid[0, 0, 0]
    assert depth.value[0, 1, 1] == 2.5
    (tmp_path / "nyu_v2_3task.json").write_text(
        json.dumps({"test": [["img/0001.png", "seg/0001.png", "normal_mask/0001.png", "depth/0001.npy"]]})
    )
    assert len(NyuV2(tmp_path, "test")) == 1
    with pytest.raises(DataError, match="has no part 'train'"):
        NyuV2(tmp_path, "train")
    np.save(tmp_path / "depth/0001.npy", np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"0001\.npy: array has the shape \(3, 3\), expected 32 x 64"):
        NyuV2(tmp_path, "test")[0]


def test_every_class_of_40_has_a_whole() -> None:
    assert len(NYU_40_CLASSES) == len(set(NYU_40_CLASSES)) == 40
    assert len(NYU_13_CLASSES) == 13


def write_taskonomy(root: Path) -> None:
    height, width = SIZE[1], SIZE[0]
    ending = "point_0_view_1_domain"
    names = [
        f"allensville_{task}/{ending}_{task}.png"
        for task in ("rgb", "segmentsemantic", "normal", "depth_zbuffer", "keypoints2d", "edge_texture")
    ]
    depth = np.full((height, width), 1024, dtype=np.uint16)
    depth[:4] = 65535
    segmentation = np.full((height, width), 4, dtype=np.uint8)
    segmentation[:, :3] = 0
    images = [
        picture(),
        segmentation,
        np.tile(np.uint8([128, 128, 255]), (height, width, 1)),
        depth,
        np.full((height, width), round(2**16 * 0.0025), dtype=np.uint16),
        np.full((height, width), round(2**16 * 0.08), dtype=np.uint16),
    ]
    for name, image in zip(names, images, strict=True):
        write_png(root / name, image)
    (root / "taskonomy.json").write_text(json.dumps({"train": [names]}))


def test_taskonomy_gives_five_tasks(tmp_path: Path) -> None:
    write_taskonomy(tmp_path)
    sample = Taskonomy(tmp_path)[0]
    assert sample.labels_present == {"semantic_segmentation", "normals", "depth", "keypoints", "edges"}
    values = dict(sample.dense.items())
    assert (values["semantic_segmentation"].value[0, :, 3:] == 3).all()
    assert not values["semantic_segmentation"].valid[0, :, :3].any()
    np.testing.assert_allclose(values["depth"].value[0, 4:], 2.0)
    assert not values["depth"].valid[0, :4].any()
    assert not values["normals"].valid[0, :4].any()
    np.testing.assert_allclose(values["normals"].value[0, 10, 10], [0, 0, -1], atol=0.01)
    np.testing.assert_allclose(values["keypoints"].value, 0.5, atol=0.01)
    np.testing.assert_allclose(values["edges"].value, 1.0, atol=0.01)
    assert draw_sample(sample, 100).shape[2] == 3
    write_png(tmp_path / json.loads((tmp_path / "taskonomy.json").read_text())["train"][0][3], picture())
    with pytest.raises(DataError, match="depth must be one channel of 16 bits"):
        Taskonomy(tmp_path)[0]


def write_camvid(root: Path) -> None:
    for number in range(2):
        write_png(root / "train" / f"0001TP_{number:06d}.png", picture())
        label = np.full((SIZE[1], SIZE[0]), 3, dtype=np.uint8)
        label[:3] = 11
        write_png(root / "trainannot" / f"0001TP_{number:06d}.png", label)


def test_camvid(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    sample = CamVid(tmp_path)[1]
    semantic = sample.dense.semantic_segmentation
    assert semantic is not None
    assert not semantic.valid[0, :3].any()
    assert (semantic.value[0, 3:] == 3).all()
    assert sample.provenance.scene == "0001TP"
    write_png(tmp_path / "trainannot/0001TP_000000.png", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(DataError, match="label image is 4x4 but its picture is 64x32"):
        CamVid(tmp_path)[0]
    (tmp_path / "trainannot/0001TP_000000.png").unlink()
    with pytest.raises(DataError, match="annotation of an image is missing"):
        CamVid(tmp_path)


def test_layouts_are_recognized(tmp_path: Path) -> None:
    for name, write in (("nyuv2", write_nyu), ("taskonomy", write_taskonomy), ("camvid", write_camvid)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        opened = open_dataset(tmp_path / name, FrameInput(image=None))
        assert opened.name == name
        assert opened.labels_of(0) == opened[0].labels_present
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no known layout.*nuscenes: v1\.0-\*/scene\.json"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(DataError, match="unknown kind of data set 'camvit'; did you mean 'camvid'"):
        open_dataset(tmp_path / "camvid", kind="camvit")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_different_classes_do_not_share_a_batch(tmp_path: Path) -> None:
    for name, write in (("nyuv2", write_nyu), ("camvid", write_camvid)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    with pytest.raises(SampleError, match=r"same semantic classes: nyuv2 0001 has .*batches of their own"):
        collate([NyuV2(tmp_path / "nyuv2")[0], CamVid(tmp_path / "camvid")[0]])


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_every_cut_of_an_image_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    assert cv2.imwrite(str(path), picture())
    content = path.read_bytes()
    for length in range(0, len(content) - 1, max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"image\.(jpg|png): "):
            read_image(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match="image is 64x32, expected 100x50 pixels"):
        read_image(path, (100, 50))


@settings(max_examples=40)
@given(st.tuples(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1)))
def test_angles_and_rotations_invert_each_other(angles: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(angles_of(rotation_of([angles]))[0], angles, atol=1e-6)
