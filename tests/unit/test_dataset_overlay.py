"""`mmmt data overlay`: pictures in which points, boxes and labels lie where the sample says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from mmmt_cli.data import data_app
from perception_core.configuration import ConfigurationError
from perception_core.geometry import project_points
from training.datasets.overlay import draw_from_above, draw_view
from training.datasets.sample import BoxLabels, CameraImages, Provenance, Sample

CAMERA_FROM_EGO = np.array([[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]])


def sample() -> Sample:
    points = np.zeros((1, 5), dtype=np.float32)
    points[0, :3] = 10, 2, 1
    box = np.array([[20.0, -4, 1, 4, 2, 2, 0.0, 0, 0]])
    return Sample(
        provenance=Provenance("test", "a"),
        cameras=CameraImages(
            names=("camera_front",),
            images_vhwc=np.full((1, 200, 400, 3), 90, dtype=np.uint8),
            valid_v=np.ones(1, dtype=bool),
            intrinsics_v33=np.array([[[300.0, 0, 200], [0, 300, 100], [0, 0, 1]]]),
            camera_from_ego_v44=CAMERA_FROM_EGO[None],
            image_from_original_v33=np.eye(3)[None],
            original_size_v2=np.array([[400, 200]]),
        ),
        points_nc=points,
        lidar_valid=True,
        boxes=BoxLabels(box, np.array([0]), np.array([-1]), ("car",)),
        labels_present=frozenset({"detection3d"}),
    )


def changed(image: np.ndarray) -> np.ndarray:
    """Where something was drawn, but for the caption."""
    drawn = (image != 90).any(axis=-1)
    drawn[:30, :150] = False
    return np.argwhere(drawn)


def test_a_point_is_drawn_where_it_projects() -> None:
    one = sample()
    column, row = project_points(
        [[10.0, 2, 1]], CAMERA_FROM_EGO, one.cameras.intrinsics_v33[0], (400, 200)
    ).pixels[0]  # type: ignore[union-attr]
    found = changed(draw_view(one, 0, boxes=False))
    assert len(found) > 0
    np.testing.assert_allclose(found.mean(axis=0), [row, column], atol=1)


def test_a_box_is_drawn_around_its_corners() -> None:
    found = changed(draw_view(sample(), 0, points=False))
    # The box is 18 to 22 m ahead, 3 to 5 m to the right: columns 200 + 300 * 3 / 22 to 200 + 300 * 5 / 18.
    assert found[:, 1].min() == pytest.approx(200 + 300 * 3 / 22, abs=2)
    assert found[:, 1].max() == pytest.approx(200 + 300 * 5 / 18, abs=2)


def test_from_above_x_is_up_and_y_is_left() -> None:
    with_point = draw_from_above(sample(), 400, reach_m=50)
    without = sample()
    without.points_nc = without.points_nc[:0]
    difference = np.argwhere((with_point != draw_from_above(without, 400, reach_m=50)).any(axis=-1))
    difference = difference[difference[:, 0] > 30]  # the caption tells the number of points
    np.testing.assert_allclose(difference.mean(axis=0), [200 - 10 * 4, 200 - 2 * 4], atol=1.5)


def write_rooms(root: Path) -> None:
    for folder, image in (
        ("img", np.full((48, 64, 3), 120, np.uint8)),
        ("seg", np.full((48, 64), 3, np.uint8)),
        ("normal_mask", np.full((48, 64, 3), 128, np.uint8)),
    ):
        (root / folder).mkdir(parents=True)
        for name in ("0001", "0002"):
            cv2.imwrite(str(root / folder / f"{name}.png"), image)
    (root / "depth").mkdir()
    for name in ("0001", "0002"):
        np.save(root / "depth" / f"{name}.npy", np.full((48, 64), 2.0, np.float32))


def test_the_command_writes_one_picture_a_sample(tmp_path: Path) -> None:
    write_rooms(tmp_path / "rooms")
    arguments = [
        "overlay",
        str(tmp_path / "rooms"),
        str(tmp_path / "out"),
        "--sample",
        "0",
        "--sample",
        "0002",
    ]
    result = CliRunner().invoke(data_app, [*arguments, "--view-width", "64"], catch_exceptions=False)
    assert result.exit_code == 0
    written = [Path(line) for line in result.output.split()]
    assert [path.name for path in written] == ["nyuv2_0001.png", "nyuv2_0002.png"]
    # Image, classes, depth and normals: two by two.
    assert cv2.imread(str(written[0])).shape == (48 * 2 + 6, 64 * 2 + 6, 3)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    write_rooms(tmp_path / "rooms")

    def run(*arguments: str) -> None:
        CliRunner().invoke(data_app, ["overlay", *arguments], catch_exceptions=False)

    rooms, out = str(tmp_path / "rooms"), str(tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"no sample '7'; there are 2, e\.g\. 0 or '0001'"):
        run(rooms, out, "--sample", "7")
    with pytest.raises(ConfigurationError, match="no known layout"):
        run(str(tmp_path), out)
    with pytest.raises(ConfigurationError, match="2 samples need a folder"):
        run(rooms, f"{out}.png", "--sample", "0", "--sample", "1")
    (tmp_path / "rooms" / "seg" / "0001.png").unlink()
    with pytest.raises(ConfigurationError, match=r"seg/0001\.png: file is missing"):
        run(rooms, out)
