"""sensor_fusion as a real node: what goes in over DDS, what comes out, and that every sweep is accounted
for."""

from __future__ import annotations

import array
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from mmmt_msgs.msg import StageTiming
from sensor_fusion_fixtures import (
    EGO_FROM_OPTICAL,
    RIG_WITHOUT_CAMERAS,
    RIG_WITHOUT_LIDAR,
    SIZE,
    TEST_RIG,
    FusionBench,
    grid_of_points,
    jpeg,
)
from sensor_msgs.msg import Image, PointField

from perception_core.geometry import compose, inverse, planar_motion, transform_of


@pytest.fixture
def bench() -> Iterator[FusionBench]:
    with FusionBench() as bench:
        yield bench


def test_a_whole_frame_has_points_images_and_calibration_in_the_ego_frame(bench: FusionBench) -> None:
    bench.publish_odometry(4.0, 0.25)
    bench.publish_all()
    frame = bench.next_frame()
    assert frame.producer == "sensor_fusion"
    assert frame.header.frame_id == "ego"
    assert bench.valid(frame) == {"lidar": True, "camera_left": True, "camera_right": True}
    tensors = bench.tensors(frame)
    sent = grid_of_points()
    assert np.allclose(tensors["points_nc"][:, :3], sent[:, :3] + [1, 0, 2], atol=1e-5)
    assert np.allclose(tensors["points_nc"][:, 3], 0.5)
    image = bench.context.bundle.spec.input.image
    assert tensors["images_vhwc"].shape == (2, image.height, image.width, 3)
    assert np.abs(tensors["images_vhwc"][0, -1].mean(axis=0) - [200, 100, 50]).max() < 6
    scale = image.width / SIZE[0]
    assert np.isclose(tensors["intrinsics_v33"][0, 0, 0], 500 * scale)
    expected = inverse(transform_of(EGO_FROM_OPTICAL, [1.5, 0.5, 1.5]))
    # The image is 0.05 s older than the sweep, in which the vehicle drove 0.2 m.
    moved = compose(expected, planar_motion(4.0, 0.25, 0.05))
    assert np.allclose(tensors["camera_from_ego_v44"][0], moved, atol=1e-4)
    timing = bench.wait(lambda: bench.timings and bench.timings[0], "timing")
    assert timing.trace_id == frame.trace_id
    assert timing.queued_ns <= timing.started_ns <= timing.done_ns
    lidar = frame.sensors[0]
    assert lidar.received_ns == timing.queued_ns
    assert 0 < lidar.age_at_reception_ns < 60e9
    status = bench.finish()
    assert (status.frames_in, status.frames_out, status.frames_masked) == (1, 1, 0)
    assert status.modalities == ["lidar", "camera_left", "camera_right"]
    assert list(status.received) == [1, 1, 1]


def test_a_late_camera_is_masked_and_nothing_waits(bench: FusionBench) -> None:
    bench.publish_image("camera_left")
    bench.publish_image("camera_right", age_s=0.5)
    bench.publish_sweep()
    frame = bench.next_frame()
    assert bench.valid(frame) == {"lidar": True, "camera_left": True, "camera_right": False}
    tensors = bench.tensors(frame)
    assert not tensors["images_vhwc"][1].any()
    assert np.linalg.det(tensors["intrinsics_v33"][1]) > 0, "masked views stay invertible"
    right = frame.sensors[2]
    assert right.age_at_reception_ns > 0.4e9
    status = bench.finish()
    assert status.frames_masked == 1
    assert list(status.masked) == [0, 0, 1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (jpeg()[: len(jpeg()) // 2], "cut off"),
        (jpeg()[:100] + b"\xff\x07" * 500 + jpeg()[1100:], "corrupt"),
        (b"not an image", "cannot be decoded"),
        (b"", "empty"),
        (jpeg((320, 240)), "320x240"),
    ],
    ids=["truncated", "corrupt", "garbage", "empty", "wrong size"],
)
def test_an_unusable_image_masks_its_camera_with_one_fault(
    bench: FusionBench, content: bytes, words: str
) -> None:
    bench.publish_image("camera_left", content)
    bench.publish_image("camera_right")
    bench.publish_sweep()
    assert bench.valid(bench.next_frame()) == {"lidar": True, "camera_left": False, "camera_right": True}
    fault = bench.wait_for_fault("bad_image camera_left")
    assert words in fault.message
    assert list(bench.finish().rejected) == [0, 1, 0]


def test_points_that_are_not_finite_are_left_out(bench: FusionBench) -> None:
    points = grid_of_points(100)
    points[::2, 1] = np.nan
    points[1, 0] = np.inf
    bench.publish_sweep(points)
    tensors = bench.tensors(bench.next_frame())
    assert tensors["points_nc"].shape == (49, 5)
    assert np.isfinite(tensors["points_nc"]).all()


@pytest.mark.parametrize("points", [np.zeros((0, 4)), np.full((50, 4), np.nan)], ids=["zero-size", "all NaN"])
def test_a_blind_lidar_is_masked_but_the_cameras_go_on(bench: FusionBench, points: np.ndarray) -> None:
    bench.publish_image("camera_left")
    bench.publish_sweep(points)
    frame = bench.next_frame()
    assert bench.valid(frame) == {"lidar": False, "camera_left": True, "camera_right": False}
    assert bench.tensors(frame)["points_nc"].shape == (0, 5)
    bench.wait_for_fault("empty_cloud lidar")
    status = bench.finish()
    assert (status.frames_in, status.frames_out) == (1, 1)
    assert status.rejected[0] == 1


def test_wrong_point_fields_and_cut_off_clouds_are_refused(bench: FusionBench) -> None:
    bench.publish_image("camera_left")
    time.sleep(0.06)
    wrong = [
        PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate(("a", "b", "z", "i"))
    ]
    bench.publish_sweep(fields=wrong)
    assert not bench.valid(bench.next_frame())["lidar"]
    assert "no field 'x'" in bench.wait_for_fault("bad_points lidar").message
    bench.later(0.1)
    bench.publish_sweep(data=array.array("B", b"12345"))
    bench.wait(lambda: bench.node._account.snapshot().rejected["lidar"] == 2, "the second refusal")


def test_without_camera_info_a_camera_is_masked_until_it_comes() -> None:
    with FusionBench(calibrated=False) as bench:
        bench.calibrate(cameras=["camera_right"])
        bench.publish_all()
        assert bench.valid(bench.next_frame()) == {"lidar": True, "camera_left": False, "camera_right": True}
        assert (
            "no CameraInfo on /t/left/image/camera_info"
            in bench.wait_for_fault("no_calibration camera_left").message
        )
        bench.publish_info("camera_left")
        bench.later(0.2)
        bench.publish_all()
        assert all(bench.valid(bench.next_frame()).values())


def test_without_extrinsics_sweeps_are_dropped_until_they_come() -> None:
    with FusionBench(calibrated=False) as bench:
        bench.calibrate(transforms=False)
        bench.publish_sweep()
        assert "'roof' is not known" in bench.wait_for_fault("no_calibration lidar").message
        bench.publish_transforms()
        bench.later(0.1)
        bench.publish_sweep()
        assert bench.valid(bench.next_frame())["lidar"]
        status = bench.finish()
        assert status.frames_in == 2
        assert dict(zip(status.drop_reasons, status.drop_counts, strict=True)) == {"no_calibration": 1}


def test_stamps_that_jump_back_start_anew_and_small_steps_back_are_dropped(bench: FusionBench) -> None:
    bench.publish_all()
    first = bench.next_frame()
    bench.publish_sweep(age_s=0.5)
    bench.wait(lambda: bench.node._account.snapshot().drops == {"stale_stamp": 1}, "the stale sweep's drop")
    bench.publish_all(age_s=60.0)
    second = bench.next_frame()
    assert second.header.stamp.sec < first.header.stamp.sec - 50
    assert all(bench.valid(second).values())
    assert second.trace_id > first.trace_id
    bench.wait_for_fault("stamps_jumped_back lidar")
    bench.wait_for_fault("foreign_clock lidar")
    status = bench.finish()
    assert (status.frames_in, status.frames_out) == (3, 2)


def test_a_camera_that_stops_is_masked_and_named(bench: FusionBench) -> None:
    for _ in range(5):
        bench.later(0.1)
        bench.publish_image("camera_right")
        bench.publish_sweep()
        frame = bench.next_frame()
        assert bench.valid(frame) == {"lidar": True, "camera_left": False, "camera_right": True}
    assert "/t/left/image/compressed" in bench.wait_for_fault("silent camera_left").message
    status = bench.finish()
    assert (status.frames_in, status.frames_out, status.frames_masked) == (5, 5, 5)
    assert list(status.masked) == [0, 5, 0]


def test_cameras_go_on_when_the_lidar_stops() -> None:
    with FusionBench(fallback_after_s=1.5, fallback_max_rate_hz=100.0) as bench:
        time.sleep(1.6)  # so long nothing came from the LiDAR
        bench.publish_image("camera_left")
        bench.wait(lambda: bench.frames, "the first fallback frame")
        for number in range(1, 5):
            bench.later(0.2)
            bench.publish_image("camera_right")
            bench.publish_image("camera_left")  # the first camera that lives sets the pace
            frame = bench.wait(lambda n=number: len(bench.frames) > n and bench.frames[n], "a fallback frame")
            assert bench.valid(frame) == {"lidar": False, "camera_left": True, "camera_right": True}
            assert bench.tensors(frame)["points_nc"].shape == (0, 5)
        status = bench.finish()
        assert (status.frames_in, status.frames_out, status.frames_masked) == (0, 0, 0)
        assert status.frames_fallback == len(bench.frames) == 5


def test_a_slow_replay_masks_no_camera_and_starts_no_fallback() -> None:
    with FusionBench(fallback_after_s=0.3, time_stretch=100.0) as bench:
        bench.publish_image("camera_left")
        bench.publish_image("camera_right")
        bench.later(5.0)  # 50 ms of the drive: within the cameras' 100 ms
        time.sleep(0.5)  # longer than fallback_after_s
        bench.publish_image("camera_left")
        bench.publish_sweep()
        frame = bench.next_frame()
        assert bench.valid(frame) == {"lidar": True, "camera_left": True, "camera_right": True}
        status = bench.finish()
        assert (status.frames_in, status.frames_out, status.frames_masked) == (1, 1, 0)
        assert status.frames_fallback == 0


def test_a_rig_without_cameras() -> None:
    with FusionBench(RIG_WITHOUT_CAMERAS) as bench:
        bench.publish_sweep()
        frame = bench.next_frame()
        assert bench.valid(frame) == {"lidar": True}
        assert bench.tensors(frame)["images_vhwc"].shape[0] == 0
        bench.later(0.1)
        bench.publish_sweep(np.zeros((0, 4)))
        bench.wait(
            lambda: bench.node._account.snapshot().drops == {"no_valid_sensor": 1}, "the empty frame's drop"
        )


def test_a_rig_without_lidar_is_triggered_by_its_first_camera() -> None:
    with FusionBench(RIG_WITHOUT_LIDAR) as bench:
        bench.publish_image("camera_right")
        bench.publish_image("camera_left")
        frame = bench.next_frame()
        assert bench.valid(frame) == {"camera_left": True, "camera_right": True}
        assert bench.tensors(frame)["points_nc"].shape == (0, 5)
        status = bench.finish()
        assert (status.frames_in, status.frames_out, status.frames_masked) == (1, 1, 0)


def test_raw_images_with_padded_rows() -> None:
    cameras = {
        "camera_left": TEST_RIG.cameras["camera_left"].model_copy(update={"type": "sensor_msgs/msg/Image"})
    }
    with FusionBench(TEST_RIG.model_copy(update={"cameras": cameras})) as bench:
        pixels = np.zeros((SIZE[1], SIZE[0] * 3 + 64), dtype=np.uint8)
        pixels[:, : SIZE[0] * 3].reshape(SIZE[1], SIZE[0], 3)[:] = (10, 20, 30)
        image = Image(width=SIZE[0], height=SIZE[1], encoding="bgr8", step=pixels.shape[1])
        image.data = array.array("B", pixels.tobytes())
        bench.publish_raw_image("camera_left", image)
        bench.publish_sweep()
        frame = bench.next_frame()
        assert bench.valid(frame)["camera_left"]
        assert (bench.tensors(frame)["images_vhwc"][0, -1] == (30, 20, 10)).all()


def test_png_images() -> None:
    with FusionBench() as bench:
        image = np.full((SIZE[1], SIZE[0], 3), (1, 2, 3), dtype=np.uint8)
        bench.publish_image("camera_left", cv2.imencode(".png", image)[1].tobytes())
        bench.publish_sweep()
        frame = bench.next_frame()
        assert bench.valid(frame)["camera_left"]
        assert (bench.tensors(frame)["images_vhwc"][0, -1] == (3, 2, 1)).all()


def test_old_odometry_is_not_used(bench: FusionBench) -> None:
    bench.publish_odometry(4.0, 0.5, age_s=5.0)
    bench.publish_odometry(float("nan"))
    bench.wait_for_fault("bad_odometry")
    assert bench.node._motion.speed == 4.0
    bench.publish_all()
    assert bench.valid(bench.next_frame())["lidar"]
    assert bench.node._fresh_motion(bench.moment_ns) is None
    bench.publish_odometry(4.0, 0.5)
    assert bench.node._fresh_motion(bench.moment_ns).yaw_rate == 0.5


def test_a_full_stack_takes_the_newest_sweep_and_counts_the_others() -> None:
    # Nobody finishes the frames, so only one is admitted until its time is over.
    with FusionBench(max_in_flight=1, in_flight_timeout_s=20.0) as bench:
        bench.publish_sweep()
        first = bench.next_frame()
        for _ in range(8):
            bench.later(0.1)
            bench.publish_sweep()
        newest = bench.stamp()
        for head in bench.context.bundle.task_heads().values():
            bench.report(first.trace_id, head)
        assert bench.next_frame().header.stamp == newest
        account = bench.finish()
        assert (account.frames_in, account.frames_out) == (9, 2)
        assert dict(zip(account.drop_reasons, account.drop_counts, strict=True)) == {"busy": 7}


def test_a_component_that_fails_lets_the_next_frame_in() -> None:
    with FusionBench(max_in_flight=1, in_flight_timeout_s=20.0) as bench:
        bench.publish_sweep()
        first = bench.next_frame()
        bench.later(0.1)
        bench.publish_sweep()
        for stage in bench.context.bundle.consumers_of("sensor_fusion"):
            bench.report(first.trace_id, stage, StageTiming.OUTCOME_FAILED)
        bench.next_frame()


def test_a_node_starts_again_after_deactivation(bench: FusionBench) -> None:
    bench.publish_all()
    bench.next_frame()
    bench.finish()
    assert bench.node.trigger_activate().name == "SUCCESS"
    bench.wait_for_subscriptions()
    bench.later(0.1)
    bench.publish_sweep()
    assert bench.valid(bench.next_frame())["lidar"]
    assert bench.finish().frames_in == 2
