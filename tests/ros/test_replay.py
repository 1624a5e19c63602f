"""The real replay node over DDS: what is published, when, with which stamps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_fixtures import START_NS, ForeignVehicle, cut_bag, write_foreign_bag
from mmmt_msgs.msg import DetectedObjectArray
from nav_msgs.msg import Odometry
from replay_fixtures import CAMERAS, RECORDINGS, Ears, listening, process_context, replaying, rig_of
from rosbags.typesys import get_types_from_msg
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Bool
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from perception_core.rig import LidarSensor, Rig
from training.bags.writer import BagWriter

VEHICLE = ForeignVehicle(cameras=3, size=(160, 90))
FOREIGN_RIG = Rig(name="foreign", lidar=LidarSensor(topic=VEHICLE.lidar_topic))
#: A busy machine may take long to start two participants; nothing here depends on how long.
PATIENCE_S = 90.0


def foreign_topics(vehicle: ForeignVehicle = VEHICLE) -> dict[str, Any]:
    """Classes of a foreign bag's topics, with those that say how the replay goes."""
    wanted: dict[str, Any] = {vehicle.lidar_topic: PointCloud2, vehicle.odometry_topic: Odometry}
    for camera in vehicle.camera_names:
        wanted[vehicle.image_topic(camera)] = Image if vehicle.image == "raw" else CompressedImage
        wanted[vehicle.info_topic(camera)] = CameraInfo
    return wanted | {"replay/finished": Bool, "/tf_static": TFMessage, "/clock": Clock}


LATCHED = ("replay/finished", "/tf_static")


def wait_for_end(ears: Ears) -> bool:
    """Waits until the recording was played and says whether to its end."""
    ears.wait_for(lambda: ears.heard["replay/finished"], PATIENCE_S, "the end of the recording")
    time.sleep(0.3)  # what was published last may still be under way
    return bool(ears.heard["replay/finished"][0][1].data)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_plays_on_its_own_topics_with_new_stamps(tmp_path: Path, storage: Any) -> None:
    folder = write_foreign_bag(tmp_path / "bag", VEHICLE, storage, sweeps=6, points=500)
    begin = time.time_ns()
    with (
        listening(foreign_topics(), latched=LATCHED) as ears,
        replaying(FOREIGN_RIG, tmp_path, recording=str(folder)),
    ):
        assert wait_for_end(ears)
    assert len(ears.heard[VEHICLE.lidar_topic]) == 6
    assert len(ears.heard[VEHICLE.odometry_topic]) == 30
    for camera in VEHICLE.camera_names:
        assert len(ears.heard[VEHICLE.image_topic(camera)]) == 6
        assert len(ears.heard[VEHICLE.info_topic(camera)]) == 6
    for topic in (VEHICLE.lidar_topic, VEHICLE.image_topic("left"), VEHICLE.odometry_topic):
        stamps = ears.stamps(topic)
        assert begin < stamps[0] < stamps[-1] < time.time_ns()
        assert stamps == sorted(stamps)
    # a sweep was recorded 2 ms after its stamp and is published as old as that, never younger
    received = [at for at, _ in ears.heard[VEHICLE.lidar_topic]]
    ages = np.array(received) - np.array(ears.stamps(VEHICLE.lidar_topic))
    assert ages.min() >= 2_000_000
    (transforms,) = [message.transforms for _, message in ears.heard["/tf_static"]]
    assert {t.child_frame_id for t in transforms} == {child for _, child, _ in VEHICLE.transforms()}
    cloud = ears.heard[VEHICLE.lidar_topic][0][1]
    assert (cloud.point_step, [f.name for f in cloud.fields][-1]) == (32, "time_offset")


def test_looping_never_jumps_back_and_clock_neither(tmp_path: Path) -> None:
    folder = write_foreign_bag(tmp_path / "bag", VEHICLE, sweeps=4, points=50)
    with (
        listening(foreign_topics(), latched=LATCHED) as ears,
        replaying(FOREIGN_RIG, tmp_path, recording=str(folder), loop=3, stamps="recorded"),
    ):
        assert wait_for_end(ears)
    stamps = ears.stamps(VEHICLE.lidar_topic)
    assert len(stamps) == 12
    assert stamps[0] == START_NS
    assert min(np.diff(stamps)) >= 99_000_000
    clock = [message.clock.sec * 10**9 + message.clock.nanosec for _, message in ears.heard["/clock"]]
    assert clock == sorted(clock)
    # the clock shows recorded time and is there before the message it belongs to
    assert START_NS - 10**9 < clock[0] < START_NS + 10**9
    assert clock[-1] >= stamps[-1]


def test_recorded_stamps_stay_as_they_are(tmp_path: Path) -> None:
    vehicle = ForeignVehicle(cameras=3, size=(64, 48), image="raw", clock_offset_s=3600.0)
    folder = write_foreign_bag(tmp_path / "bag", vehicle, sweeps=3, points=50)
    with (
        listening(foreign_topics(vehicle), latched=LATCHED) as ears,
        replaying(FOREIGN_RIG, tmp_path, recording=str(folder), stamps="recorded", rate=2.0),
    ):
        assert wait_for_end(ears)
    expected = [START_NS - 3600 * 10**9 + index * 100_000_000 for index in range(3)]
    assert ears.stamps(vehicle.lidar_topic) == expected
    assert ears.stamps(vehicle.image_topic("left")) == expected
    # /clock is on the messages' clock, not on the recorder's
    clock = ears.heard["/clock"][0][1].clock
    assert abs(clock.sec - expected[0] // 10**9) <= 1


def test_pause_holds_the_recording(tmp_path: Path) -> None:
    folder = write_foreign_bag(tmp_path / "bag", VEHICLE, sweeps=4, points=50)
    with (
        listening(foreign_topics(), latched=LATCHED) as ears,
        replaying(FOREIGN_RIG, tmp_path, recording=str(folder), paused=True),
    ):
        client = ears.node.create_client(SetBool, "replay/pause")
        assert client.wait_for_service(timeout_sec=PATIENCE_S)
        ears.wait_for(lambda: ears.heard["/clock"], PATIENCE_S, "the clock")
        time.sleep(1.0)
        assert not ears.heard[VEHICLE.lidar_topic]
        released = time.time_ns()
        future = client.call_async(SetBool.Request(data=False))
        ears.wait_for(future.done, PATIENCE_S, "the answer of replay/pause")
        assert future.result().success
        assert wait_for_end(ears)
    stamps = ears.stamps(VEHICLE.lidar_topic)
    assert len(stamps) == 4
    assert stamps[0] > released - 10_000_000


def test_cut_bag_plays_to_the_cut_with_one_error(tmp_path: Path) -> None:
    vehicle = ForeignVehicle(cameras=3, size=(320, 200), image="raw")
    folder = cut_bag(write_foreign_bag(tmp_path / "bag", vehicle, sweeps=10, points=500), 0.5)
    with (
        listening(foreign_topics(vehicle), latched=LATCHED) as ears,
        replaying(FOREIGN_RIG, tmp_path, recording=str(folder)),
    ):
        assert wait_for_end(ears) is False
        assert 2 <= len(ears.heard[vehicle.lidar_topic]) <= 7
        faults = [fault for fault in ears.faults if "late" not in fault]
        assert len(faults) == 1
        assert "cut off" in faults[0]
        assert ears.heard["/tf_static"]


def test_corrupt_and_unknown_messages_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    with BagWriter(folder) as bag:
        make = bag.messages
        bag._store.register(get_types_from_msg("std_msgs/Header header\nfloat32 x", "weird_msgs/msg/Thing"))
        good = make.structured_point_cloud(START_NS, "lidar", np.zeros(3, dtype=[("x", "<f4")]))
        for index in range(6):
            at_ns = START_NS + index * 50_000_000
            bag.write(VEHICLE.lidar_topic, good, at_ns)
            bag.write_bytes("/broken", "sensor_msgs/msg/PointCloud2", b"\0\1\0\0\1\2", at_ns)
            bag.write_bytes("/weird", "weird_msgs/msg/Thing", b"\0\1\0\0" + bytes(20), at_ns)
    with (
        listening({VEHICLE.lidar_topic: PointCloud2, "replay/finished": Bool}, latched=LATCHED) as ears,
        replaying(FOREIGN_RIG, tmp_path, recording=str(folder)),
    ):
        assert wait_for_end(ears)
        assert len(ears.heard[VEHICLE.lidar_topic]) == 6
        assert any("corrupt_message /broken" in fault for fault in ears.faults)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"recording": "/no/such/place"}, "does not exist"),
        ({}, "'recording' is empty"),
        ({"recording": ".", "rate": 0.0}, "'rate' must be"),
        ({"recording": ".", "rate": float("nan")}, "'rate' must be"),
        ({"recording": ".", "stamps": "invented"}, "'stamps' must be"),
        ({"recording": "."}, "no known kind"),
    ],
)
def test_wrong_parameters_fail_the_transition_with_one_message(
    tmp_path: Path, parameters: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    import rclpy
    from rclpy.lifecycle import TransitionCallbackReturn

    from perception_nodes.nodes.replay import ReplayNode

    if parameters.get("recording") == ".":
        parameters = parameters | {"recording": str(tmp_path)}
    rclpy.init()
    try:
        node = ReplayNode(process_context(FOREIGN_RIG, tmp_path, **parameters))
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        node.destroy_node()
    finally:
        rclpy.shutdown()
    assert capfd.readouterr().err.count(words) == 1


def test_nuscenes_frame_reaches_every_topic_of_the_rig(tmp_path: Path) -> None:
    folder = RECORDINGS / "nuscenes_frame"
    if not folder.is_dir():
        pytest.skip(f"real recording {folder} is not on this machine")
    wanted: dict[str, Any] = {
        "/sensors/lidar/points": PointCloud2,
        "/odom": Odometry,
        "ground_truth/objects": DetectedObjectArray,
        "ground_truth/markers": MarkerArray,
        "/tf_static": TFMessage,
        "replay/finished": Bool,
    }
    rig = rig_of()
    for camera in rig.cameras.values():
        wanted |= {camera.topic: CompressedImage, camera.info_topic(): CameraInfo}
    with (
        listening(wanted, latched=LATCHED) as ears,
        replaying(rig, tmp_path, recording=str(folder), duration=2, rate=0.5),
    ):
        assert wait_for_end(ears)
    assert len(ears.heard["/sensors/lidar/points"]) == 10
    assert ears.heard["/sensors/lidar/points"][0][1].width == 34688
    for camera in rig.cameras.values():
        assert len(ears.heard[camera.topic]) == 10
        assert len(ears.heard[camera.info_topic()]) == 10
    # the bytes of the file, not another encoding of it
    (file,) = folder.glob("*CAM_FRONT__*.jpg")
    front = ears.heard[rig.cameras["camera_front"].topic][0][1]
    assert (bytes(front.data), front.format) == (file.read_bytes(), "jpeg")
    truth = ears.heard["ground_truth/objects"][0][1]
    assert (len(truth.objects), truth.header.frame_id, truth.task) == (69, "base_link", "ground_truth")
    assert len(ears.heard["ground_truth/markers"][0][1].markers) == 70
    assert 5.0 < ears.heard["/odom"][0][1].twist.twist.linear.x < 14.0
    (transforms,) = [message.transforms for _, message in ears.heard["/tf_static"]]
    assert {t.header.frame_id for t in transforms} == {"base_link"}
    assert len(transforms) == 1 + len(CAMERAS)
