"""`mmmt rig draft` makes a rig of a bag it has never seen, and says so clearly where it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from foreign_bag_fixtures import OPTICAL, ForeignCamera, ForeignVehicle, six_cameras, three_cameras, write_bag
from typer.testing import CliRunner

from mmmt_cli.main import application, main
from mmmt_cli.rig import rig_app
from perception_core.configuration import ConfigurationError
from perception_core.rig import Rig, load_rig
from perception_nodes.rig.bag_survey import survey_bag
from perception_nodes.rig.draft import RigDraft, draft_rig
from perception_nodes.rig.writing import rig_text

runner = CliRunner()


def drafted(path: Path, vehicle: ForeignVehicle, storage: str = "mcap") -> tuple[Rig, RigDraft, str]:
    draft = draft_rig(survey_bag(write_bag(path / "bag", vehicle, storage)))  # type: ignore[arg-type]
    text = rig_text(draft)
    return Rig.model_validate(yaml.safe_load(text)), draft, text


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_three_png_cameras_and_a_lidar(tmp_path: Path, storage: str) -> None:
    rig, draft, text = drafted(tmp_path, three_cameras(), storage)
    assert rig.ego_frame == "base_link"
    assert rig.lidar is not None
    assert (rig.lidar.topic, rig.lidar.frame) == ("/velodyne/points_raw", "velo_link")
    assert (rig.lidar.intensity_field, rig.lidar.intensity_scale) == ("intensity", 255.0)
    assert list(rig.cameras) == ["camera_charlie", "camera_bravo", "camera_alpha"], (
        "front first, then right before left"
    )
    front = rig.cameras["camera_charlie"]
    assert front.topic == "/sensing/camera/charlie/image_raw/compressed"
    assert front.info_topic() == "/sensing/camera/charlie/camera_info"
    assert front.frame == "charlie_optical"
    assert front.expected_size == (320, 200)
    assert front.trusted_range_m > 0
    assert rig.cameras["camera_alpha"].trusted_range_m == 0
    assert 0.05 <= front.max_delay_s <= 0.1, "the period is 0.05 s"
    assert rig.odometry is not None
    assert rig.odometry.topic == "/localization/odometry"
    assert draft.notes == []
    assert "CHECK:" not in text


def test_six_jpeg_cameras_in_odd_frames(tmp_path: Path) -> None:
    rig, draft, _ = drafted(tmp_path, six_cameras())
    assert rig.ego_frame == "chassis", "root of the frames and frame of the odometry"
    directions = [round(float(np.rad2deg(camera.azimuth_rad or 0))) for camera in draft.cameras]
    assert directions[:3] == [0, -55, 55]
    assert sorted(np.abs(directions[3:])) == [110, 110, 180]
    assert len(rig.cameras) == 6
    assert rig.lidar is not None
    assert rig.lidar.intensity_field == ""
    assert any("no intensity" in note for note in draft.notes)


def test_the_largest_cloud_is_taken_and_the_other_named(tmp_path: Path) -> None:
    rig, draft, _ = drafted(tmp_path, three_cameras(second_lidar_topic="/bumper/points"))
    assert rig.lidar is not None
    assert rig.lidar.topic == "/velodyne/points_raw"
    assert any("left out /bumper/points" in note for note in draft.notes)


def test_intensity_up_to_one_is_not_scaled(tmp_path: Path) -> None:
    rig, _, _ = drafted(tmp_path, three_cameras(highest_intensity=0.99, intensity="reflectivity"))
    assert rig.lidar is not None
    assert (rig.lidar.intensity_field, rig.lidar.intensity_scale) == ("reflectivity", 1.0)


def test_several_topics_of_one_camera_and_depth_images(tmp_path: Path) -> None:
    info = "/front/camera_info"
    cameras = (
        ForeignCamera("/front/image_raw", info, "eye", image_format="bgr8"),
        ForeignCamera("/front/image_raw/compressed", None, "eye"),
        ForeignCamera("/front/depth/image", "/front/depth/camera_info", "eye", image_format="32FC1"),
        ForeignCamera("/lonely/image", None, "nowhere", image_format="bgr8"),
    )
    rig, draft, _ = drafted(tmp_path, ForeignVehicle(cameras=cameras))
    assert [camera.topic for camera in rig.cameras.values()] == ["/front/image_raw/compressed"]
    notes = "\n".join(draft.notes)
    assert "/front/image_raw: /front/image_raw/compressed is the same camera" in notes
    assert "/front/depth/image: encoding 32FC1" in notes
    assert "/lonely/image: no CameraInfo belongs to it" in notes


def test_an_optical_frame_beside_the_headers_frame_is_found(tmp_path: Path) -> None:
    vehicle = ForeignVehicle(
        cameras=(ForeignCamera("/front/image", "/front/camera_info", "front_link"),),
        extra_transforms={
            "front_link": ("base_link", np.eye(3), (1.5, 0.0, 1.5)),
            "front_optical_frame": ("front_link", OPTICAL, (0.0, 0.0, 0.0)),
        },
    )
    rig, draft, _ = drafted(tmp_path, vehicle)
    assert rig.cameras["camera_front"].frame == "front_optical_frame"
    assert abs(draft.cameras[0].azimuth_rad or 0) < 1e-6


def test_a_camera_on_another_clock_gets_an_offset(tmp_path: Path) -> None:
    vehicle = three_cameras()
    late = replace(vehicle.cameras[2], clock_offset_s=37.0)
    rig, _, text = drafted(tmp_path, replace(vehicle, cameras=(*vehicle.cameras[:2], late)))
    assert rig.cameras["camera_charlie"].offset_s == pytest.approx(37.0, abs=0.05)
    assert rig.cameras["camera_alpha"].offset_s == 0
    assert "another clock" in text


def test_without_transforms_a_person_is_asked(tmp_path: Path) -> None:
    rig, draft, text = drafted(tmp_path, three_cameras(tf_static=False))
    assert rig.ego_frame == "base_link"
    assert draft.ego_frame.certainty == "CHECK"
    assert "the bag has no /tf_static" in text
    assert all(camera.azimuth_rad is None for camera in draft.cameras)


def test_images_that_do_not_fit_their_calibration_are_named(tmp_path: Path) -> None:
    camera = ForeignCamera("/front/image", "/front/camera_info", "eye", info_size=(640, 400))
    rig, draft, _ = drafted(tmp_path, ForeignVehicle(cameras=(camera,)))
    assert rig.cameras["camera_front"].expected_size is None
    assert any("will be masked: its images are 320x200" in note for note in draft.notes)


def test_a_lidar_at_the_wrong_height_is_named(tmp_path: Path) -> None:
    vehicle = three_cameras(extra_transforms={"velo_link": ("base_link", np.eye(3), (1.0, 0.0, 0.0))})
    _, draft, _ = drafted(tmp_path, vehicle)
    assert any("ground seems to lie at z = -1.8" in note for note in draft.notes)


def test_a_bag_without_lidar_and_one_without_cameras(tmp_path: Path) -> None:
    rig, _, _ = drafted(tmp_path / "cameras", three_cameras(lidar_topic=None))
    assert rig.lidar is None
    assert rig.trigger == "camera_charlie"
    rig, draft, _ = drafted(tmp_path / "lidar", ForeignVehicle(odometry_topic=None))
    assert rig.cameras == {}
    assert rig.odometry is None
    assert any("no odometry" in note for note in draft.notes)


def test_a_bag_of_nothing_useful_is_refused_with_its_topics(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no LiDAR .* and no camera .*/rosout_like \(std_msgs/msg/String\)"
    ):
        drafted(tmp_path, ForeignVehicle(lidar_topic=None))


# -- command -------------------------------------------------------------------------------------------------


def test_draft_then_check(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", three_cameras())
    out = tmp_path / "rigs" / "mine.yaml"
    result = runner.invoke(rig_app, ["draft", str(bag), "--out", str(out), "--name", "mine"])
    assert result.exit_code == 0, result.output
    assert load_rig(out).name == "mine"
    check = runner.invoke(rig_app, ["check", str(out), "--bag", str(bag)])
    assert check.exit_code == 0, check.output
    assert "camera_charlie" in check.output
    other = write_bag(tmp_path / "other", six_cameras())
    check = runner.invoke(rig_app, ["check", str(out), "--bag", str(other)])
    assert check.exit_code == 1
    assert "the bag has no topic /velodyne/points_raw" in check.output
    again = runner.invoke(rig_app, ["draft", str(bag), "--out", str(out)])
    assert isinstance(again.exception, ConfigurationError)
    assert "--force" in str(again.exception)


def test_what_is_no_bag_is_one_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "not_a_bag").mkdir()
    for path, words in ((tmp_path / "missing", "no such file"), (tmp_path / "not_a_bag", "metadata.yaml")):
        monkeypatch.setattr("sys.argv", ["mmmt", "rig", "draft", str(path)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        assert exit_info.value.code == 2
        error = capsys.readouterr().err
        assert words in error
        assert "Traceback" not in error


@pytest.mark.parametrize("rig", ["nuscenes", "kitti", "synthetic"])
def test_shipped_rigs_are_fine(rig: str) -> None:
    result = runner.invoke(rig_app, ["check", rig])
    assert result.exit_code == 0, result.output


def test_the_command_is_listed() -> None:
    assert "rig" in runner.invoke(application, ["--help"]).output


def test_a_rig_that_cannot_drive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rig.yaml"
    path.write_text("name: x\nlidar: {topic: points}\ncameras:\n  camera_a: {topic: points}\n")
    result = runner.invoke(rig_app, ["check", str(path)])
    assert result.exit_code == 1
    for words in ("not absolute", "both listen to points", "trusted_range_m"):
        assert words in result.output
