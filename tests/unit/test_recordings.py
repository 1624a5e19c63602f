"""Readers of recordings: real ones where they are there, generated ones otherwise."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_fixtures import START_NS, ForeignVehicle, cut_bag, write_foreign_bag
from hypothesis import given
from hypothesis import strategies as st

from perception_core.geometry import (
    compose,
    inverse,
    points_in_box,
    quaternion_from_yaw,
    transform_from_quaternion,
    transform_points,
)
from perception_core.resources import find_named
from perception_core.rig import load_rig
from perception_nodes.recordings import RecordingError, cdr, open_recording
from perception_nodes.recordings.bag_types import BagTypes
from perception_nodes.recordings.image_files import ImageFileError, image_format, image_size
from perception_nodes.recordings.items import (
    FaultItem,
    ImageItem,
    ObjectsItem,
    OdometryItem,
    PointsItem,
    SerializedItem,
)
from perception_nodes.recordings.playback import PlayClock, Range, ReadAhead
from perception_nodes.recordings.rosbag2 import Rosbag2Recording, storage_files

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "recordings"


def real(name: str) -> Path:
    """A real recording, or the test is skipped."""
    if not (REAL / name).is_dir():
        pytest.skip(f"real recording {REAL / name} is not on this machine")
    return REAL / name


# -- stamps in serialized messages ---------------------------------------------------------------------------

stamps = st.integers(min_value=-(2**31) * 10**9, max_value=2**31 * 10**9 - 1)


@given(stamp=stamps, other=stamps, big=st.booleans(), body=st.binary(max_size=64))
def test_patched_stamp_reads_back_and_nothing_else_changes(
    stamp: int, other: int, big: bool, body: bytes
) -> None:
    blank = bytes([0, 0 if big else 1, 0, 0]) + bytes(8) + body
    written = cdr.write_stamp(blank, stamp)
    assert cdr.read_stamp(written) == stamp
    assert written[:4] == blank[:4]
    assert written[12:] == body
    assert cdr.write_stamp(written, other) == cdr.write_stamp(blank, other)


@given(stamp=st.integers(1, 2**31 * 10**9 - 1), shift=st.integers(-(10**17), 10**17))
def test_shifting_moves_stamps_but_leaves_unstamped_messages(stamp: int, shift: int) -> None:
    message = cdr.write_stamp(bytes([0, 1, 0, 0]) + bytes(20), stamp)
    if -(2**31) <= (stamp + shift) // 10**9 < 2**31:
        assert cdr.read_stamp(cdr.shift_stamp(message, shift)) == stamp + shift
    else:
        with pytest.raises(ValueError, match="does not fit"):
            cdr.shift_stamp(message, shift)
    unstamped = bytes([0, 1, 0, 0]) + bytes(20)
    assert cdr.shift_stamp(unstamped, shift) == unstamped


@pytest.mark.parametrize("data", [b"", b"\0\1\0\0", b"\0\1\0\0" + bytes(7)])
def test_too_short_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="too short"):
        cdr.read_stamp(data)


def test_nested_stamps_are_all_moved(tmp_path: Path) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ForeignVehicle(cameras=3), sweeps=1, points=10)
    recording = Rosbag2Recording(folder)
    types = BagTypes(recording.topics.values())
    message_type = "tf2_msgs/msg/TFMessage"
    assert not types.begins_with_header(message_type)
    from rosbags.rosbag2 import Reader

    with Reader(folder) as reader:
        connections = [c for c in reader.connections if c.topic == "/tf_static"]
        (data,) = [bytes(data) for _, _, data in reader.messages(connections)]
    shift = types.shifter(message_type)
    assert shift is not None
    moved = types.decode(shift(data, 1_500_000_000), message_type)
    assert len(moved.transforms) == len(ForeignVehicle(cameras=3).transforms())
    for transform in moved.transforms:
        stamp = transform.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == START_NS + 1_500_000_000
    assert types.shifter("std_msgs/msg/String") is None


# -- bags ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compressed", [False, True])
def test_bag_plays_every_message_in_order(tmp_path: Path, storage: Any, compressed: bool) -> None:
    vehicle = ForeignVehicle(cameras=3, image="png", size=(96, 64))
    folder = write_foreign_bag(tmp_path / "bag", vehicle, storage, sweeps=4, points=50, compressed=compressed)
    recording = open_recording(folder)
    assert isinstance(recording, Rosbag2Recording)
    assert recording.end_fault is None
    assert recording.rig_name is None
    items = list(recording.messages())
    assert all(isinstance(item, SerializedItem) for item in items)
    counts = {topic: sum(1 for i in items if i.topic == topic) for topic in {i.topic for i in items}}
    assert counts.pop(vehicle.odometry_topic) == 20
    assert set(counts.values()) == {4}
    assert len(counts) == 1 + 2 * 3
    times = [item.time_ns for item in items]
    assert times == sorted(times)
    # one period of the sensors closes the pass
    assert recording.duration_s == pytest.approx(0.38 + 0.38 / 3, abs=0.01)
    frames = {(t.parent, t.child) for t in recording.static_transforms()}
    assert ("roof_rack", "os_sensor") in frames
    assert len(frames) == 2 + 2 * 3
    late = list(recording.messages(start_s=0.2))
    assert {item.topic for item in late} == {item.topic for item in items}
    assert min(item.time_ns for item in late) >= START_NS + 200_000_000
    assert [i.data for i in late] == [i.data for i in items if i.time_ns >= START_NS + 200_000_000]


def test_single_file_of_a_bag_opens_too(tmp_path: Path) -> None:
    folder = write_foreign_bag(tmp_path / "bag", ForeignVehicle(cameras=3), sweeps=2, points=10)
    (file,) = storage_files(folder)
    assert len(list(open_recording(file).messages())) == len(list(open_recording(folder).messages()))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("without_metadata", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_cut_bag_plays_up_to_the_cut_with_one_fault(
    tmp_path: Path, storage: Any, without_metadata: bool, compressed: bool
) -> None:
    if compressed and storage == "sqlite3":
        pytest.skip("compressed sqlite3 needs its metadata, which a cut bag may lack")
    vehicle = ForeignVehicle(cameras=3, size=(320, 200), image="raw")
    folder = write_foreign_bag(
        tmp_path / "bag", vehicle, storage, sweeps=20, points=3000, compressed=compressed
    )
    whole = list(open_recording(folder).messages())
    cut_bag(folder, 0.5, without_metadata)
    recording = open_recording(folder)
    items = list(recording.messages())
    faults = [item for item in items if isinstance(item, FaultItem)]
    assert [fault.source for fault in faults] == ["cut_recording"]
    assert recording.end_fault is not None
    assert "cut off" in recording.end_fault
    assert items[-1] is faults[0]
    played = [item for item in items if isinstance(item, SerializedItem)]
    assert 0.2 * len(whole) < len(played) < 0.9 * len(whole)
    expected = {(i.topic, i.time_ns): i.data for i in whole}
    assert all(expected[i.topic, i.time_ns] == i.data for i in played)
    assert recording.static_transforms()


def test_damaged_chunk_is_left_out_and_the_rest_plays(tmp_path: Path) -> None:
    vehicle = ForeignVehicle(cameras=3, size=(320, 200), image="raw")
    folder = write_foreign_bag(tmp_path / "bag", vehicle, sweeps=20, points=3000, compressed=True)
    whole = len(list(open_recording(folder).messages()))
    (file,) = storage_files(folder)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0x5A for byte in data[middle : middle + 64])
    file.write_bytes(data)
    items = list(open_recording(folder).messages())
    played = [item for item in items if isinstance(item, SerializedItem)]
    assert any(isinstance(item, FaultItem) for item in items)
    assert 0.3 * whole < len(played) < whole
    assert len({(i.topic, i.time_ns) for i in played}) == len(played)
    # what lies behind the damage is there
    assert max(i.time_ns for i in played) > START_NS + 1_500_000_000


def test_stamps_on_another_clock_are_recognized(tmp_path: Path) -> None:
    vehicle = ForeignVehicle(cameras=3, clock_offset_s=86_400.0)
    folder = write_foreign_bag(tmp_path / "bag", vehicle, sweeps=3, points=10)
    assert open_recording(folder).clock_offset_ns == pytest.approx(86_400 * 10**9, abs=5_000_000)
    same = write_foreign_bag(tmp_path / "same", ForeignVehicle(cameras=3), sweeps=3, points=10)
    assert open_recording(same).clock_offset_ns == 0


@pytest.mark.parametrize("content", [{}, {"a.mcap": b""}, {"a.db3": b"SQLite"}, {"metadata.yaml": b"a: [1"}])
def test_what_is_no_recording_is_refused_with_what_is_supported(
    tmp_path: Path, content: dict[str, bytes]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    with pytest.raises(RecordingError, match=r"rosbag2"):
        open_recording(folder)


def test_missing_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="does not exist"):
        open_recording(tmp_path / "nothing")


# -- images --------------------------------------------------------------------------------------------------


@given(width=st.integers(1, 300), height=st.integers(1, 200), suffix=st.sampled_from([".jpg", ".png"]))
def test_size_and_format_of_image_files(width: int, height: int, suffix: str) -> None:
    data = cv2.imencode(suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes()
    assert image_format(data) == ("jpeg" if suffix == ".jpg" else "png")
    assert image_size(data) == (width, height)


@given(st.binary(max_size=40))
def test_damaged_image_headers_are_refused(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"):
        try:
            image_size(start + data)
        except ImageFileError:
            continue


# -- nuScenes frame ------------------------------------------------------------------------------------------


def test_nuscenes_frame_has_boxes_where_its_points_are() -> None:
    recording = open_recording(real("nuscenes_frame"))
    assert recording.endless
    items = list(itertools.takewhile(lambda i: i.time_ns < recording.start_ns + 10**9, recording.messages()))
    sweeps = [item for item in items if isinstance(item, PointsItem)]
    objects = [item for item in items if isinstance(item, ObjectsItem)]
    assert len(sweeps) == len(objects) == 5
    assert len([item for item in items if isinstance(item, ImageItem)]) == 30
    assert len(objects[0].objects) == 69
    # boxes are given by their centre: counting the points inside reproduces the annotation's own count
    (lidar,) = [t.parent_from_child for t in recording.static_transforms() if t.child == "LIDAR_TOP"]
    points = transform_points(lidar, sweeps[0].points_nc[:, :3])
    counted = [int(points_in_box(points, item.box_7).sum()) for item in objects[0].objects]
    annotated = [item.points or 0 for item in objects[0].objects]
    assert sum(a == b for a, b in zip(counted, annotated, strict=True)) >= 60
    assert abs(sum(counted) - sum(annotated)) < 0.05 * sum(annotated)


def test_nuscenes_frame_moves_as_its_exposures_say() -> None:
    recording = open_recording(real("nuscenes_frame"))
    odometry = [i for i in itertools.islice(recording.messages(), 60) if isinstance(i, OdometryItem)]
    # the vehicle drove at city speed; the pose of the odometry advances as its twist says
    assert 5.0 < odometry[0].velocity_3[0] < 14.0
    moved = inverse(odometry[0].world_from_ego) @ odometry[1].world_from_ego
    elapsed = (odometry[1].time_ns - odometry[0].time_ns) * 1e-9
    assert moved[0, 3] / elapsed == pytest.approx(odometry[0].velocity_3[0], rel=0.01)


def test_nuscenes_frame_keeps_offsets_between_sensors_and_starts_anywhere() -> None:
    recording = open_recording(real("nuscenes_frame"))
    items = [
        i for i in itertools.islice(recording.messages(3.33), 60) if isinstance(i, PointsItem | ImageItem)
    ]
    assert items[0].time_ns >= recording.start_ns + 3_330_000_000
    lidar = next(i.time_ns for i in items if isinstance(i, PointsItem))
    front = [i.time_ns for i in items if isinstance(i, ImageItem) and i.modality == "camera_front"]
    assert min(abs(lidar - time) for time in front) == pytest.approx(35_491_000, abs=1000)


def test_nuscenes_frame_with_damaged_files_goes_on(tmp_path: Path) -> None:
    folder = real("nuscenes_frame")
    copy = tmp_path / "frame"
    copy.mkdir()
    for file in folder.iterdir():
        if "CAM_BACK__" in file.name:
            (copy / file.name).write_bytes(b"not an image")
        elif "CAM_FRONT__" not in file.name:
            (copy / file.name).symlink_to(file)
    items = list(itertools.islice(open_recording(copy).messages(), 40))
    assert {i.source for i in items if isinstance(i, FaultItem)} == {
        "unreadable camera_front",
        "unreadable camera_back",
    }
    assert len({i.modality for i in items if isinstance(i, ImageItem)}) == 4
    (copy / "frame.json").unlink()
    (copy / "frame.json").write_text("{}")
    with pytest.raises(RecordingError, match=r"frame\.json"):
        open_recording(copy)


# -- KITTI ---------------------------------------------------------------------------------------------------


def test_kitti_drive_projects_its_points_into_the_picture() -> None:
    recording = open_recording(real("kitti_drive_2011_09_26"))
    assert recording.duration_s == pytest.approx(3.0)
    items = list(recording.messages(2.0))
    assert not [i for i in items if isinstance(i, OdometryItem | FaultItem)]
    sweeps = [i for i in items if isinstance(i, PointsItem)]
    assert len(sweeps) == 10
    intrinsics = recording.camera_intrinsics()["camera_front"]
    assert (intrinsics.width, intrinsics.height) == (1242, 375)
    mounts = {t.child: t.parent_from_child for t in recording.static_transforms()}
    points = sweeps[0].points_nc[:, :3].astype(float)
    in_camera = transform_points(compose(inverse(mounts["camera_left"]), mounts["velodyne"]), points)
    ahead = in_camera[in_camera[:, 2] > 1.0]
    pixels = ahead @ intrinsics.matrix_33.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    # by the definition in calib.yaml
    import yaml

    calibration = yaml.safe_load((REAL / "kitti_drive_2011_09_26" / "calib.yaml").read_text())
    chain = (
        np.array(calibration["P_rect"])
        @ np.array(calibration["R_rect"])
        @ np.array(calibration["T_cam_velo"])
    )
    expected = np.hstack([points[in_camera[:, 2] > 1.0], np.ones((len(ahead), 1))]) @ chain.T
    np.testing.assert_allclose(pixels, expected[:, :2] / expected[:, 2:], atol=0.02)
    # the road lies on the ground of the ego frame
    ground = transform_points(mounts["velodyne"], points)
    road = ground[(ground[:, 0] > 5) & (ground[:, 0] < 15) & (np.abs(ground[:, 1]) < 1.5)]
    assert abs(np.median(road[:, 2])) < 0.15


def test_kitti_drive_with_cut_and_missing_files(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    (drive / "velodyne").mkdir(parents=True)
    (drive / "image_02").mkdir()
    identity = np.eye(4).tolist()
    calibration = {
        "T_cam_velo": identity,
        "R_rect": identity,
        "P_rect": np.eye(4)[:3].tolist(),
        "rate_hz": 10,
    }
    (drive / "calib.yaml").write_text(json.dumps(calibration))
    (drive / "velodyne" / "000.bin").write_bytes(np.zeros((5, 4), np.float32).tobytes())
    (drive / "velodyne" / "001.bin").write_bytes(np.zeros((5, 4), np.float32).tobytes()[:-3])
    (drive / "velodyne" / "002.bin").write_bytes(b"")
    (drive / "image_02" / "000.png").write_bytes(b"\x89PN")
    items = list(open_recording(drive).messages())
    assert [type(item) for item in items] == [FaultItem, PointsItem, FaultItem, PointsItem]
    assert "cut off" in items[2].message  # type: ignore[union-attr]
    (drive / "calib.yaml").write_text("T_cam_velo: [1, 2]")
    with pytest.raises(RecordingError, match="T_cam_velo"):
        open_recording(drive)


# -- nuScenes folder -----------------------------------------------------------------------------------------


def write_nuscenes_folder(root: Path) -> Path:
    """A small data set in the nuScenes format: one scene, a turning vehicle, two sensors, one moving car."""
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [{"token": "s", "name": "scene-0001", "first_sample_token": "k0"}],
        "sensor": [
            {"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
            {"token": "cam", "channel": "CAM_FRONT", "modality": "camera"},
            {"token": "radar", "channel": "RADAR_FRONT", "modality": "radar"},
        ],
        "calibrated_sensor": [
            {"token": "cl", "sensor_token": "lidar", "translation": [0.9, 0, 1.8], "rotation": [1, 0, 0, 0]},
            {
                "token": "cc",
                "sensor_token": "cam",
                "translation": [1.7, 0, 1.5],
                "rotation": [0.5, -0.5, 0.5, -0.5],
                "camera_intrinsic": [[100, 0, 50], [0, 100, 30], [0, 0, 1]],
            },
            {"token": "cr", "sensor_token": "radar", "translation": [3, 0, 0.5], "rotation": [1, 0, 0, 0]},
        ],
        "sample": [],
        "sample_data": [],
        "ego_pose": [],
        "sample_annotation": [],
        "instance": [{"token": "i", "category_token": "c"}, {"token": "j", "category_token": "d"}],
        "category": [{"token": "c", "name": "vehicle.car"}, {"token": "d", "name": "animal"}],
    }
    (root / "samples").mkdir(parents=True)
    picture = cv2.imencode(".jpg", np.zeros((60, 100, 3), np.uint8))[1].tobytes()
    for index in range(11):
        micros = 1_000_000_000 + index * 50_000
        time_s = index * 0.05
        yaw = 0.2 * time_s
        # an arc at 6 m/s
        place = [6 / 0.2 * np.sin(yaw), 6 / 0.2 * (1 - np.cos(yaw)), 0.0]
        q = quaternion_from_yaw(yaw)
        key = index % 5 == 0
        if key:
            token = f"k{index // 5}"
            tables["sample"].append({"token": token, "scene_token": "s", "timestamp": micros})
            for name, instance in (("a", "i"), ("b", "j")):
                tables["sample_annotation"].append(
                    {
                        "token": f"{name}{token}",
                        "sample_token": token,
                        "instance_token": instance,
                        "translation": [20.0 + 10.0 * time_s, 2.0, 0.8],
                        "rotation": [1, 0, 0, 0],
                        "size": [1.9, 4.5, 1.6],
                        "prev": f"{name}k{index // 5 - 1}" if index else "",
                        "next": f"{name}k{index // 5 + 1}" if index < 10 else "",
                        "num_lidar_pts": 3,
                    }
                )
        sample = f"k{(index + 2) // 5}"
        for channel, calibrated, extension in (("LIDAR_TOP", "cl", "bin"), ("CAM_FRONT", "cc", "jpg")):
            name = f"samples/{channel}_{index}.{extension}"
            points = np.full((4, 5), index, np.float32).tobytes()
            (root / name).write_bytes(points if extension == "bin" else picture)
            tables["ego_pose"].append(
                {
                    "token": f"{channel}{index}",
                    "translation": place,
                    "rotation": [q[3], q[0], q[1], q[2]],
                    "timestamp": micros,
                }
            )
            tables["sample_data"].append(
                {
                    "token": f"d{channel}{index}",
                    "sample_token": sample,
                    "ego_pose_token": f"{channel}{index}",
                    "calibrated_sensor_token": calibrated,
                    "timestamp": micros,
                    "is_key_frame": key,
                    "filename": name,
                    "width": 100 if extension == "jpg" else 0,
                    "height": 60 if extension == "jpg" else 0,
                }
            )
    folder = root / "v1.0-test"
    folder.mkdir()
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return root


def test_nuscenes_folder(tmp_path: Path) -> None:
    root = write_nuscenes_folder(tmp_path / "set")
    recording = open_recording(root)
    assert (recording.kind, recording.name) == ("nuscenes", "scene-0001")
    assert recording.sensor_frames == {"camera_front": "CAM_FRONT", "lidar": "LIDAR_TOP"}
    items = list(recording.messages())
    assert not [i for i in items if isinstance(i, FaultItem)]
    assert len([i for i in items if isinstance(i, PointsItem)]) == 11
    assert len([i for i in items if isinstance(i, ImageItem)]) == 11
    assert [i.time_ns for i in items] == sorted(i.time_ns for i in items)
    odometry = [i for i in items if isinstance(i, OdometryItem)]
    # central differences of the arc: the twist is along the vehicle's own axis wherever it heads
    for item in odometry[1:-1]:
        assert item.velocity_3[0] == pytest.approx(6.0, abs=0.01)
        assert abs(item.velocity_3[1]) < 0.01
        assert item.yaw_rate == pytest.approx(0.2, abs=1e-6)
    objects = [i for i in items if isinstance(i, ObjectsItem)]
    assert [len(i.objects) for i in objects] == [1, 1, 1]  # the animal is no detection class
    last = objects[-1].objects[0]
    pose = transform_from_quaternion([30 * np.sin(0.1), 30 * (1 - np.cos(0.1)), 0], quaternion_from_yaw(0.1))
    expected = transform_points(inverse(pose), np.array([25.0, 2.0, 0.8]))
    np.testing.assert_allclose(last.box_7[:3], expected, atol=1e-9)
    assert last.box_7[3:6] == (4.5, 1.9, 1.6)
    assert last.box_7[6] == pytest.approx(-0.1)
    assert last.velocity_2 is not None
    np.testing.assert_allclose(last.velocity_2, [10 * np.cos(0.1), -10 * np.sin(0.1)], atol=1e-9)
    assert recording.camera_intrinsics()["camera_front"].width == 100


@pytest.mark.parametrize(
    ("size", "rig_name"), [((1600, 900), "nuscenes"), ((400, 225), "synthetic"), ((1600, 899), "synthetic")]
)
def test_rig_of_a_nuscenes_folder_accepts_its_images(
    tmp_path: Path, size: tuple[int, int], rig_name: str
) -> None:
    table = write_nuscenes_folder(tmp_path / "set") / "v1.0-test" / "sample_data.json"
    rows = json.loads(table.read_text())
    for row in rows:
        if row["width"]:
            row["width"], row["height"] = size
    table.write_text(json.dumps(rows))
    assert open_recording(tmp_path / "set").rig_name == rig_name
    rig = load_rig(find_named("rig", "hw_configs/rigs", rig_name))
    assert rig.cameras["camera_front"].expected_size in (None, size)


def test_nuscenes_folder_with_lost_files_and_unknown_scene(tmp_path: Path) -> None:
    root = write_nuscenes_folder(tmp_path / "set")
    (root / "samples" / "LIDAR_TOP_3.bin").unlink()
    (root / "samples" / "CAM_FRONT_4.jpg").write_bytes(b"")
    faults = [i.source for i in open_recording(root).messages() if isinstance(i, FaultItem)]
    assert sorted(faults) == ["unreadable camera_front", "unreadable lidar"]
    with pytest.raises(RecordingError, match="scene-0001"):
        open_recording(root, scene="scene-0815")
    (root / "v1.0-test" / "ego_pose.json").write_text("[")
    with pytest.raises(RecordingError, match="cannot be read"):
        open_recording(root)


# -- playing -------------------------------------------------------------------------------------------------


def drain(recording: Any, part: Range) -> list[Any]:
    """Everything a reader hands out, in order."""
    ahead = ReadAhead(recording, part, lambda item: type(item).__name__)
    found = []
    try:
        while (due := ahead.next(10.0)) is not None and due.item is not None:
            found.append(due)
    finally:
        ahead.stop()
    return found


def test_passes_follow_each_other_without_a_jump(tmp_path: Path) -> None:
    recording = open_recording(write_nuscenes_folder(tmp_path / "set"))
    once = drain(recording, Range())
    thrice = drain(recording, Range(passes=3))
    assert len(thrice) == 3 * len(once)
    elapsed = [due.elapsed_ns for due in thrice]
    assert elapsed == sorted(elapsed)
    # from the last sweep of one pass to the first of the next is one period, as within a pass
    sweeps = [due.elapsed_ns for due in thrice if isinstance(due.item, PointsItem)]
    np.testing.assert_allclose(np.diff(sweeps), 50_000_000, atol=1000)
    part = drain(recording, Range(start_s=0.1, duration_s=0.2))
    assert len([due for due in part if isinstance(due.item, PointsItem)]) == 4
    assert part[0].elapsed_ns == 0
    with pytest.raises(ValueError, match="behind the end"):
        Range(start_s=5.0).pass_ns(recording)


def test_endless_recording_ends_where_asked() -> None:
    recording = open_recording(real("nuscenes_frame"))
    sweeps = [d for d in drain(recording, Range(duration_s=2.0)) if isinstance(d.item, PointsItem)]
    assert len(sweeps) == 10


def test_pause_stops_recording_time() -> None:
    clock = PlayClock(rate=2.0, paused=True)
    clock.begin()
    assert clock.due_ns(0) is None
    assert clock.elapsed_ns() == 0
    clock.pause(False)
    first, second = clock.due_ns(0), clock.due_ns(1_000_000_000)
    assert first is not None
    assert second is not None
    assert second - first == 500_000_000
    clock.pause(True)
    held = clock.elapsed_ns()
    assert clock.elapsed_ns() == held
    clock.pause(False)
    again = clock.due_ns(0)
    assert again is not None
    assert again >= first
