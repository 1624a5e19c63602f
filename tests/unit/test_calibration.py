"""Calibration: intrinsics, frames, image mapping and the file format; on a real nuScenes frame too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_core import geometry
from perception_core.bundle import ImageInput
from perception_core.calibration import (
    CalibrationError,
    CameraCalibration,
    FrameTree,
    ImageRectifier,
    ImageResize,
    load_calibration,
)
from perception_core.configuration import ConfigurationError

K = np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])
FRAME = Path(__file__).parents[3] / "shared" / "recordings" / "nuscenes_frame"


# -- image mapping -------------------------------------------------------------------------------------------


@given(
    st.integers(32, 2000),
    st.integers(32, 1500),
    st.integers(16, 512),
    st.integers(16, 512),
    st.floats(-1, 1),
    st.floats(-1, 1),
)
def test_resized_intrinsics_point_at_the_same_pixels(
    width: int, height: int, target_width: int, target_height: int, x: float, y: float
) -> None:
    resize = ImageResize((width, height), ImageInput(width=target_width, height=target_height))
    before = K @ [x, y, 1]
    after = resize.intrinsics(K) @ [x, y, 1]
    # Pixel centres lie at whole numbers, edges half a pixel further out.
    scale_x, scale_y = (
        scaled / source for scaled, source in zip(resize.scaled_size, (width, height), strict=True)
    )
    assert after[0] + 0.5 == pytest.approx((before[0] + 0.5) * scale_x, abs=1e-6)
    assert after[1] + 0.5 + resize.rows_cropped == pytest.approx((before[1] + 0.5) * scale_y, abs=1e-6)


@pytest.mark.parametrize("target", [(80, 40), (80, 60), (80, 90), (320, 240)])
@pytest.mark.parametrize("use_reduction", [False, True])
def test_a_mark_in_the_image_lands_where_the_intrinsics_say(
    target: tuple[int, int], use_reduction: bool
) -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[396:404, 196:204] = 255  # centre at pixel 199.5, 399.5
    resize = ImageResize((640, 480), ImageInput(width=target[0], height=target[1]))
    factor = resize.reduction() if use_reduction else 1
    small = image.reshape(480 // factor, factor, 640 // factor, factor, 3).mean(axis=(1, 3)).astype(np.uint8)
    result = resize.apply(small)
    assert result.shape == (target[1], target[0], 3)
    rows, columns = np.nonzero(result[..., 0] > 20)
    weights = result[rows, columns, 0].astype(float)
    expected = resize.intrinsics(K) @ np.linalg.inv(K) @ [199.5, 399.5, 1]
    assert np.average(columns, weights=weights) == pytest.approx(expected[0], abs=0.3)
    assert np.average(rows, weights=weights) == pytest.approx(expected[1], abs=0.3)


def test_what_is_cut_and_padded_is_the_top() -> None:
    image = np.arange(48, dtype=np.uint8)[:, None].repeat(64, 1)
    assert ImageResize((64, 48), ImageInput(width=64, height=40)).apply(image)[:, 0].tolist() == list(
        range(8, 48)
    )
    padded = ImageResize((64, 48), ImageInput(width=64, height=50)).apply(image)
    assert padded[:, 0].tolist() == [0, 0, *range(48)]


@pytest.mark.parametrize(
    ("source", "target", "reduction"),
    [
        ((1600, 900), (352, 128), 4),
        ((1600, 900), (800, 448), 2),
        ((1242, 375), (352, 128), 1),
        ((640, 480), (640, 480), 1),
    ],
)
def test_reduction_keeps_images_exact_and_large_enough(
    source: tuple[int, int], target: tuple[int, int], reduction: int
) -> None:
    assert ImageResize(source, ImageInput(width=target[0], height=target[1])).reduction() == reduction


def test_an_image_of_another_aspect_is_refused() -> None:
    with pytest.raises(ValueError, match="no reduction of"):
        ImageResize((640, 480), ImageInput(width=64, height=48)).apply(np.zeros((480, 600, 3), np.uint8))


@pytest.mark.parametrize(
    ("model", "distortion"),
    [("plumb_bob", (-0.3, 0.1, 0.001, -0.001, 0.0)), ("equidistant", (-0.02, 0.003, 0.0, 0.0))],
)
@pytest.mark.parametrize("reduction", [1, 2])
def test_distorted_images_come_out_as_a_pinhole_camera_saw_them(
    model: str, distortion: tuple[float, ...], reduction: int
) -> None:
    calibration = CameraCalibration(K, 640, 480, model, distortion)
    rectifier = ImageRectifier(calibration, ImageInput(width=320, height=160))
    for point in ([0.2, 0.25, 1.0], [-0.3, 0.1, 1.0], [0.1, 0.0, 1.0]):
        project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
        pixel = project(np.array([[point]]), np.zeros(3), np.zeros(3), K, np.array(distortion))[0].reshape(2)
        image = np.zeros((480, 640, 3), np.uint8)
        cv2.circle(
            image, tuple(np.round(pixel * 16).astype(int)), 5 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4
        )
        small = cv2.resize(image, (640 // reduction, 480 // reduction), interpolation=cv2.INTER_AREA)
        result = rectifier.apply(small)
        rows, columns = np.nonzero(result[..., 0] > 100)
        expected = rectifier.intrinsics_33 @ point
        assert columns.mean() == pytest.approx(expected[0], abs=0.7)
        assert rows.mean() == pytest.approx(expected[1], abs=0.7)


# -- intrinsics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"intrinsics_33": np.zeros((3, 3))}, "not calibrated"),
        ({"intrinsics_33": np.full((3, 3), np.nan)}, "finite"),
        ({"intrinsics_33": np.eye(4)}, "3x3"),
        ({"width": 0}, "positive"),
        ({"distortion": (0.1, 0.2)}, "4 or 5 coefficients, got 2"),
        ({"distortion": (0.1,) * 5, "distortion_model": "plumbob"}, "did you mean 'plumb_bob'"),
        ({"distortion": (float("inf"),) * 5}, "not finite"),
    ],
)
def test_impossible_intrinsics_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        CameraCalibration(**({"intrinsics_33": K, "width": 640, "height": 480} | changed))


def camera_info(**changed: Any) -> Any:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    values = {
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [0.1, 0, 0, 0, 0],
        "k": K.reshape(-1),
        "p": [400.0, 0, 310, 0, 0, 400, 230, 0, 0, 0, 1, 0],
        "binning_x": 0,
        "binning_y": 0,
        "roi": roi,
    }
    return SimpleNamespace(**(values | changed))


def test_camera_info_of_raw_and_rectified_images() -> None:
    raw = CameraCalibration.from_camera_info(camera_info())
    assert raw.is_distorted
    assert np.array_equal(raw.intrinsics_33, K)
    rectified = CameraCalibration.from_camera_info(camera_info(), rectified=True)
    assert not rectified.is_distorted
    assert rectified.intrinsics_33[0].tolist() == [400, 0, 310]


def test_camera_info_with_region_and_binning() -> None:
    roi = SimpleNamespace(x_offset=100, y_offset=40, width=400, height=300)
    calibration = CameraCalibration.from_camera_info(camera_info(roi=roi, binning_x=2, binning_y=2))
    assert calibration.size == (200, 150)
    assert calibration.intrinsics_33[0].tolist() == [250, 0, (319.5 - 100 + 0.5) / 2 - 0.5]


def test_uncalibrated_camera_info_is_refused() -> None:
    with pytest.raises(CalibrationError, match="not calibrated"):
        CameraCalibration.from_camera_info(camera_info(k=np.zeros(9), d=[]))


# -- frames --------------------------------------------------------------------------------------------------

poses = st.builds(
    geometry.transform_from_quaternion,
    st.tuples(*[st.floats(-5, 5)] * 3),
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
)


@given(st.lists(st.tuples(st.integers(0, 100), poses), min_size=1, max_size=8), st.data())
def test_lookups_through_any_tree_are_consistent(
    steps: list[tuple[int, np.ndarray]], data: st.DataObject
) -> None:
    tree, world = FrameTree(), {"f0": np.eye(4)}
    links = []
    for number, (parent, pose) in enumerate(steps, start=1):
        above = f"f{parent % number}"
        world[f"f{number}"] = world[above] @ pose
        links.append((above, f"f{number}", pose))
    for link in data.draw(st.permutations(links)):  # transforms come in any order
        tree.add(*link)
    target, source = (data.draw(st.sampled_from(sorted(world))) for _ in range(2))
    expected = geometry.compose(geometry.inverse(world[target]), world[source])
    assert np.allclose(tree.lookup(target, source), expected, atol=1e-8)
    assert tree.roots() == ["f0"]


def test_lookup_errors_name_what_is_there() -> None:
    tree = FrameTree()
    with pytest.raises(CalibrationError, match="no transform is known"):
        tree.lookup("base_link", "lidar")
    tree.add("base_link", "lidar_top", np.eye(4))
    tree.add("map", "odom", np.eye(4))
    with pytest.raises(CalibrationError, match="'lidar_tpo' is not known; did you mean 'lidar_top'"):
        tree.lookup("base_link", "lidar_tpo")
    with pytest.raises(CalibrationError, match=r"not connected: .* tree of 'base_link', .* tree of 'map'"):
        tree.lookup("base_link", "odom")
    assert tree.roots() == ["base_link", "map"]
    assert np.array_equal(tree.lookup("/base_link", "lidar_top"), np.eye(4)), (
        "a slash of ROS 1 does not matter"
    )


def test_wrong_transforms_are_refused_and_repeated_ones_change_nothing() -> None:
    tree = FrameTree()
    tree.add("a", "b", np.eye(4))
    tree.add("b", "c", np.eye(4))
    with pytest.raises(CalibrationError, match="circle"):
        tree.add("c", "a", np.eye(4))
    with pytest.raises(CalibrationError, match="not rigid"):
        tree.add("a", "d", np.zeros((4, 4)))
    version = tree.version
    tree.add("a", "b", np.eye(4))
    assert tree.version == version
    tree.add("a", "b", geometry.transform_of(None, [1, 0, 0]))
    assert tree.version > version
    assert tree.lookup("a", "c")[0, 3] == 1


# -- file ----------------------------------------------------------------------------------------------------

GOOD = """
format: 1
frames:
  lidar: {parent: base_link, translation: [1, 0, 1.8], rotation_xyzw: [0, 0, 0, 1]}
  camera: {parent: lidar, matrix: [[0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, -0.3], [0, 0, 0, 1]]}
cameras:
  camera_front: {width: 640, height: 480, intrinsics: [[500, 0, 320], [0, 500, 240], [0, 0, 1]]}
"""


def test_a_calibration_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(GOOD)
    calibration = load_calibration(path)
    assert np.allclose(calibration.frame_tree().lookup("base_link", "camera")[:3, 3], [1.5, 0, 1.5])
    assert calibration.camera_calibrations()["camera_front"].size == (640, 480)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rotation_xyzw: [0, 0, 0, 1]", "rotation_xyzw: [0, 0, 0, 0]", r":4: .*quaternion"),
        (", rotation_xyzw: [0, 0, 0, 1]", "", r":4: .*belong together"),
        ("[0, -1, 0, -0.3]", "[0, 1, 0, -0.3]", r":5: .*not a rigid transform"),
        ("parent: base_link", "parent: camera", r":3: .*circle"),
        ("[[500, 0, 320]", "[[0, 0, 320]", r":7: .*not calibrated"),
        ("width: 640", "widht: 640", r":7: .*unknown key 'widht'; did you mean 'width'"),
    ],
)
def test_a_wrong_calibration_file_names_the_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "calibration.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigurationError, match=words):
        load_calibration(path)


# -- a real frame --------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not FRAME.is_dir(), reason="the recording ../shared/recordings/nuscenes_frame is not there"
)
def test_boxes_points_and_cameras_of_a_real_frame_agree() -> None:
    frame = json.loads((FRAME / "frame.json").read_text())["data_list"][0]
    sweep = np.fromfile(FRAME / frame["lidar_points"]["lidar_path"], np.float32).reshape(-1, 5)
    tree = FrameTree()
    tree.add("base_link", "LIDAR_TOP", np.array(frame["lidar_points"]["lidar2ego"]))
    for channel, camera in frame["images"].items():
        tree.add("base_link", channel, np.array(camera["cam2ego"]))
    ego_from_lidar = tree.lookup("base_link", "LIDAR_TOP")

    counts = []
    seen = 0
    for instance in frame["instances"]:
        inside = geometry.points_in_box(sweep[:, :3], instance["bbox_3d"])
        counts.append((int(inside.sum()), instance["num_lidar_pts"]))
        points = geometry.transform_points(ego_from_lidar, sweep[inside, :3])
        for channel, camera in frame["images"].items():
            intrinsics = np.array(camera["cam2img"])
            # The vehicle drove 9.23 m/s straight on between the image and the sweep.
            moved = geometry.planar_motion(9.23, 0.0, frame["timestamp"] - camera["timestamp"])
            camera_from_ego = tree.lookup(channel, "base_link") @ moved
            ours = geometry.project_points(
                points, camera_from_ego, intrinsics, (1600, 900), minimal_depth=1.0
            )
            theirs = geometry.project_points(
                sweep[inside, :3], np.array(camera["lidar2cam"]), intrinsics, (1600, 900), minimal_depth=1.0
            )
            both = ours.visible & theirs.visible
            seen += int(both.sum())
            assert (ours.visible != theirs.visible).sum() <= 2
            if both.any():
                assert np.abs(ours.pixels - theirs.pixels)[both].max() < 2.0
    assert len(counts) == 69
    assert seen > 500
    exact = sum(abs(found - annotated) <= 2 for found, annotated in counts)
    assert exact >= 65, f"boxes whose points are as many as annotated: {exact} of 69"
