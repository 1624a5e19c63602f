"""`mmmt data to-bag`: scenes of data sets as standard bags, read back with independent tools and our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from nuscenes_set_fixtures import POINTS, VERSION, write_nuscenes_set
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from mmmt_cli.data import data_app
from mmmt_cli.data_to_bag import write_bag
from perception_core.configuration import ConfigurationError
from perception_core.geometry import rotation_from_quaternion
from perception_core.rig import Rig, load_rig
from perception_nodes.recordings import open_recording
from perception_nodes.recordings.items import FaultItem, ObjectsItem, PointsItem, SerializedItem
from perception_nodes.rig.bag_survey import survey_bag
from perception_nodes.rig.draft import draft_rig
from perception_nodes.rig.writing import rig_text

runner = CliRunner()

CAMERAS = ("camera_front", "camera_back")
SWEEPS, IMAGES, ANNOTATED = 21, 2 * 11, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuscenes_set(tmp_path_factory.mktemp("nuscenes") / "set")


@pytest.fixture(scope="module")
def bag(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bags") / "scene-2"
    counts = write_bag(open_recording(data, scene="scene-0002"), out)
    assert not counts.faults
    return out


def messages(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Reads a bag with the public reader and the message types it carries itself."""
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((time_ns, message))
    return found


def stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def test_a_scene_has_everything_at_its_time(bag: Path) -> None:
    found = messages(bag)
    assert len(found["/sensors/lidar/points"]) == SWEEPS
    assert len(found["/odom"]) == SWEEPS
    assert len(found["/mmmt/ground_truth/markers"]) == ANNOTATED
    for name in CAMERAS:
        assert len(found[f"/sensors/{name}/image/compressed"]) == IMAGES // 2
        assert len(found[f"/sensors/{name}/image/camera_info"]) == IMAGES // 2
    assert len(found["/tf_static"]) == 1
    for topic, entries in found.items():
        times = [time_ns for time_ns, _ in entries]
        assert times == sorted(times)
        if topic not in ("/tf_static", "/mmmt/ground_truth/markers"):
            assert times == [stamp_ns(message) for _, message in entries], topic


def test_sweeps_images_and_calibration_are_those_of_the_data_set(bag: Path, data: Path) -> None:
    found = messages(bag)
    recording = open_recording(data, scene="scene-0002")
    sweeps = [item for item in recording.messages() if isinstance(item, PointsItem)]
    for item, (time_ns, cloud) in zip(sweeps, found["/sensors/lidar/points"], strict=True):
        assert time_ns == item.time_ns
        assert (cloud.header.frame_id, cloud.width) == ("LIDAR_TOP", POINTS)
        assert [field.name for field in cloud.fields] == ["x", "y", "z", "intensity", "ring"]
        layout = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity")] + [("ring", "<u2")])
        points = np.frombuffer(cloud.data.tobytes(), dtype=layout)
        np.testing.assert_array_equal(points["x"], item.points_nc[:, 0])
        np.testing.assert_array_equal(points["ring"], item.points_nc[:, 4])
    _, image = found["/sensors/camera_front/image/compressed"][0]
    file = sorted((data / "samples" / "CAM_FRONT").glob("scene1-*-0.jpg"))[0]
    assert image.data.tobytes() == file.read_bytes()
    assert image.format == "jpeg"
    _, info = found["/sensors/camera_front/image/camera_info"][0]
    assert (info.width, info.height, info.header.frame_id) == (100, 60, "CAM_FRONT")
    assert info.k.reshape(3, 3).tolist() == [[80.0, 0.0, 50.0], [0.0, 80.0, 30.0], [0.0, 0.0, 1.0]]
    _, tree = found["/tf_static"][0]
    transforms = {item.child_frame_id: item for item in tree.transforms}
    assert set(transforms) == {"LIDAR_TOP", "CAM_FRONT", "CAM_BACK"}
    assert {item.header.frame_id for item in tree.transforms} == {"base_link"}
    lidar = transforms["LIDAR_TOP"].transform
    assert (lidar.translation.x, lidar.translation.z) == pytest.approx((0.94, 1.84))
    q = lidar.rotation
    assert rotation_from_quaternion((q.x, q.y, q.z, q.w))[:, 1] == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


def test_boxes_and_motion_are_those_of_the_data_set(bag: Path, data: Path) -> None:
    found = messages(bag)
    recording = open_recording(data, scene="scene-0002")
    annotated = [item for item in recording.messages() if isinstance(item, ObjectsItem)]
    for item, (time_ns, array) in zip(annotated, found["/mmmt/ground_truth/markers"], strict=True):
        assert time_ns == item.time_ns
        clear, *boxes = array.markers
        assert clear.action == 3
        assert len(boxes) == len(item.objects) > 0
        for known, marker in zip(item.objects, boxes, strict=True):
            assert marker.header.frame_id == "base_link"
            place = marker.pose.position
            assert (place.x, place.y, place.z) == pytest.approx(known.box_7[:3])
            assert (marker.scale.x, marker.scale.y, marker.scale.z) == pytest.approx(known.box_7[3:6])
    # one colour a class
    colours = {
        (known.label, marker.color.r, marker.color.g, marker.color.b)
        for item, (_, array) in zip(annotated, found["/mmmt/ground_truth/markers"], strict=True)
        for known, marker in zip(item.objects, array.markers[1:], strict=True)
    }
    assert len(colours) == len({label for label, *_ in colours})
    _, odometry = found["/odom"][5]
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom", "base_link")
    assert odometry.twist.twist.linear.x == pytest.approx(5.0, rel=0.01)
    assert odometry.twist.twist.angular.z == pytest.approx(0.1, rel=0.01)


def test_the_bag_replays_and_a_rig_can_be_drafted(bag: Path, data: Path) -> None:
    recording = open_recording(bag)
    assert recording.rig_name == "synthetic"  # not the size of nuScenes' images
    played = list(recording.messages())
    assert not any(isinstance(item, FaultItem) for item in played)
    assert sum(isinstance(item, SerializedItem) for item in played) == len(played)
    assert recording.duration_s == pytest.approx(open_recording(data).duration_s, abs=0.1)
    assert {transform.child for transform in recording.static_transforms()} == {
        *("LIDAR_TOP", "CAM_FRONT", "CAM_BACK")
    }
    drafted = Rig.model_validate(yaml.safe_load(rig_text(draft_rig(survey_bag(bag)))))
    rig = load_rig(Path(__file__).parents[2] / "hw_configs" / "rigs" / "synthetic.yaml")
    assert drafted.ego_frame == rig.ego_frame
    assert drafted.lidar is not None
    assert rig.lidar is not None
    assert drafted.lidar.topic == rig.lidar.topic
    assert {name: camera.topic for name, camera in drafted.cameras.items()} == {
        name: rig.cameras[name].topic for name in CAMERAS
    }


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_a_single_file(data: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"part{suffix}"
    options = ["--duration", "0.3", *(["--compressed"] if suffix == ".mcap" else [])]
    done = runner.invoke(data_app, ["to-bag", str(data), "1", str(out), *options])
    assert done.exit_code == 0, done.output
    assert "6 sweeps" in done.output
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    recording = open_recording(out)
    topics = {item.topic for item in recording.messages() if isinstance(item, SerializedItem)}
    assert {"/sensors/lidar/points", "/odom", "/sensors/camera_back/image/compressed"} <= topics
    assert len(recording.static_transforms()) == 3
    assert "with rig synthetic" in done.output  # which one file cannot carry
    if suffix == ".mcap":
        assert len(messages(out)["/sensors/lidar/points"]) == 6


def test_from_the_middle(data: Path, tmp_path: Path) -> None:
    counts = write_bag(open_recording(data), tmp_path / "bag", start_s=0.5, duration_s=0.2)
    assert counts.items["sweeps"] == 4


def test_data_info_knows_the_bag(bag: Path) -> None:
    done = runner.invoke(data_app, ["info", str(bag)])
    assert done.exit_code == 0
    assert "rig: synthetic" in done.output
    assert "/sensors/camera_back/image/compressed" in done.output


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    root = write_nuscenes_set(tmp_path / "set", scenes=1, samples=2)
    sweep = sorted((root / "sweeps" / "LIDAR_TOP").glob("*.bin"))[0]
    sweep.write_bytes(sweep.read_bytes()[:-3])
    next((root / "samples" / "CAM_FRONT").glob("*.jpg")).unlink()
    done = runner.invoke(data_app, ["to-bag", str(root), str(tmp_path / "bag")])
    assert done.exit_code == 0, done.output
    assert f"left out: {sweep}" in done.output
    assert "CAM_FRONT" in done.output
    assert "10 sweeps" in done.output
    assert len(messages(tmp_path / "bag")["/sensors/lidar/points"]) == 10


def refused(*arguments: object) -> str:
    done = runner.invoke(data_app, ["to-bag", *map(str, arguments)])
    assert isinstance(done.exception, ConfigurationError), done.output
    return str(done.exception)


def test_what_cannot_become_a_bag_is_refused(bag: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    assert "no scene 'scene-0009'; there are: scene-0001, scene-0002" in refused(data, "scene-0009", out)
    assert "is a bag already" in refused(bag, out)
    assert "does not exist" in refused(tmp_path / "nothing", out)
    assert "cannot be compressed" in refused(data, tmp_path / "out.db3", "--compressed")
    assert "DATASET [SCENE] OUT" in refused(data, "1", out, "more")
    assert "no 'camera_back'" in refused(data, out, "--rig", "kitti")
    existing = tmp_path / "existing.mcap"
    existing.write_bytes(b"mine")
    assert "exists already" in refused(data, existing)
    assert existing.read_bytes() == b"mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["existing.mcap"]


def test_a_scene_without_any_readable_file_is_refused(tmp_path: Path) -> None:
    root = write_nuscenes_set(tmp_path / "set", scenes=1, samples=1)
    for file in (*root.rglob("*.bin"), *root.rglob("*.jpg")):
        file.unlink()
    assert "no sweep or image of it can be read; e.g." in refused(root, tmp_path / "out.mcap")
    assert not (tmp_path / "out.mcap").exists()


def test_kitti_drive(recordings: Path, tmp_path: Path) -> None:
    drive = recordings / "kitti_drive_2011_09_26"
    out = tmp_path / "kitti.mcap"
    done = runner.invoke(data_app, ["to-bag", str(drive), str(out), "--duration", "0.5"])
    assert done.exit_code == 0, done.output
    found = messages(out)
    assert {topic: len(entries) for topic, entries in found.items()} == {
        "/sensors/lidar/points": 5,
        "/sensors/camera_front/image/compressed": 5,
        "/sensors/camera_front/image/camera_info": 5,
        "/tf_static": 1,
    }
    _, image = found["/sensors/camera_front/image/compressed"][0]
    assert cv2.imdecode(image.data, cv2.IMREAD_COLOR).shape == (375, 1242, 3)
    assert [transform.child for transform in open_recording(out).static_transforms()] == [
        *("velodyne", "camera_left")
    ]
    drafted = draft_rig(survey_bag(out))
    assert "velodyne" in rig_text(drafted)


def test_annotated_frame(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "frame.mcap"
    done = runner.invoke(
        data_app, ["to-bag", str(recordings / "nuscenes_frame"), str(out), "--duration", "0.2"]
    )
    assert done.exit_code == 0, done.output
    found = messages(out)
    assert len(found["/sensors/camera_back_left/image/compressed"]) >= 1
    assert VERSION not in found
    _, array = found["/mmmt/ground_truth/markers"][0]
    assert len(array.markers) > 30
