"""What a monocular model's heads publish, and the fused list of objects, as messages."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmmt_msgs.msg import DetectedObject, DetectedObjectArray, SensorStamp, TensorAnnouncement
from mono_fixtures import SMALL

from perception_core.backends.example_inputs import example_frame
from perception_core.bundle_writer import create_seeded_model
from perception_core.configuration import ConfigurationError
from perception_core.control.controller import ControllerOptions
from perception_core.geometry import rotation_from_quaternion
from perception_core.models.tag.decoding import rotation_of_angles
from perception_nodes.decoders.boxes import angles_to_quaternion
from perception_nodes.decoders.decoder import make_decoder
from perception_nodes.nodes.control_conversions import detection_output, fused_message


class RecordingNode:
    """Stands where a ROS node does and keeps what is published; a ROS graph has no part in these tests."""

    def __init__(self, listeners: int = 1) -> None:
        self.messages: dict[str, list[Any]] = {}
        self.listeners = listeners
        camera = SimpleNamespace(frame="CAM_FRONT")
        self.process_context = SimpleNamespace(rig=SimpleNamespace(cameras={"camera_front": camera}))

    def create_publisher(self, message_type: type, topic: str, qos: Any) -> Any:
        kept = self.messages.setdefault(topic, [])

        def publish(message: Any) -> None:
            assert isinstance(message, message_type)
            kept.append(message)

        return SimpleNamespace(publish=publish, get_subscription_count=lambda: self.listeners)


@pytest.fixture(scope="module")
def model():
    return create_seeded_model("tag_micro", 0, **SMALL["tag_micro"])


@pytest.fixture(scope="module")
def outputs(model):
    with torch.inference_mode():
        return model(example_frame(model.bundle_input()))


def bundle_of(model, **decoder_options: Any):
    specs = model.component_specs()
    if decoder_options:
        head = specs["depth_head"]
        specs["depth_head"] = head.model_copy(update={"decoder_options": decoder_options})
    return SimpleNamespace(path=Path("bundle"), spec=SimpleNamespace(components=specs, labels=model.labels()))


def frame(camera: bool = True) -> TensorAnnouncement:
    announcement = TensorAnnouncement(
        trace_id=5,
        sensors=[
            SensorStamp(modality="lidar", valid=True),
            SensorStamp(modality="camera_front", valid=camera),
        ],
    )
    announcement.header.frame_id = "base_link"
    announcement.header.stamp.sec = 12
    return announcement


def publish(model, outputs, head: str, camera: bool = True, listeners: int = 1) -> dict[str, list[Any]]:
    node = RecordingNode(listeners)
    decoder = make_decoder(node, bundle_of(model), head)  # type: ignore[arg-type]
    decoder.publish(frame(camera), outputs)
    decoder.publish_views(frame(camera), outputs)
    return node.messages


def test_segmentation_is_an_image_of_classes(model, outputs) -> None:
    messages = publish(model, outputs, "semantic_segmentation_head")
    (image,) = messages["tasks/semantic_segmentation/image"]
    assert (image.encoding, image.height, image.width, image.step) == ("mono8", 32, 64, 64)
    assert image.header.frame_id == "CAM_FRONT"
    assert image.header.stamp.sec == 12
    classes = np.frombuffer(bytes(image.data), dtype=np.uint8)
    assert classes.max() < 19
    (picture,) = messages["tasks/semantic_segmentation/picture"]
    assert (picture.encoding, picture.step, len(picture.data)) == ("rgb8", 3 * 64, 32 * 64 * 3)


def test_depth_is_an_image_and_points_in_the_ego_frame(model, outputs) -> None:
    messages = publish(model, outputs, "depth_head")
    (image,) = messages["tasks/depth/image"]
    assert (image.encoding, image.step) == ("32FC1", 4 * 64)
    depth = np.frombuffer(bytes(image.data), dtype=np.float32)
    assert (depth[np.isfinite(depth)] > 0).all()
    (cloud,) = messages["tasks/depth/points"]
    assert cloud.header.frame_id == "base_link"
    assert (cloud.height, cloud.width, cloud.point_step) == (8, 16, 12)
    points = np.frombuffer(bytes(cloud.data), dtype=np.float32).reshape(-1, 3)
    expected = outputs["depth_points_nc"].numpy()
    known = np.isfinite(points).all(axis=1)
    assert known.any()
    np.testing.assert_array_equal(points[known], expected[known])


def test_a_masked_camera_publishes_no_picture(model, outputs) -> None:
    for head in ("semantic_segmentation_head", "depth_head"):
        assert not any(publish(model, outputs, head, camera=False).values())


def test_what_nobody_looks_at_is_not_made(model, outputs) -> None:
    messages = publish(model, outputs, "depth_head", listeners=0)
    assert [len(kept) for kept in messages.values() if kept] == [1]


def test_options_that_are_missing_are_named(model) -> None:
    with pytest.raises(ConfigurationError, match=r"depth.*lacks \['height', 'width'\]"):
        make_decoder(RecordingNode(), bundle_of(model, camera="camera_front"), "depth_head")  # type: ignore[arg-type]


def test_tilted_boxes_keep_their_rotation(model) -> None:
    boxes = torch.tensor([[10.0, 1.0, 0.8, 4.2, 1.8, 1.6, 0.7, 0.0, 0.0]])
    said = {
        "mono_detection_boxes_q9": boxes,
        "mono_detection_scores_q": torch.tensor([0.9]),
        "mono_detection_labels_q": torch.tensor([1]),
        "mono_detection_tilt_q2": torch.tensor([[0.1, -0.2]]),
    }
    messages = publish(model, said, "mono_detection3d_head")
    (array,) = messages["tasks/mono_detection3d/objects"]
    (found,) = array.objects
    assert found.label == "truck"
    assert not found.has_velocity
    q = found.pose.orientation
    rotation = rotation_from_quaternion([q.x, q.y, q.z, q.w])
    expected = rotation_of_angles(torch.tensor([[0.7, 0.1, -0.2]], dtype=torch.float64))[0]
    np.testing.assert_allclose(rotation, expected, atol=1e-6)
    upright = angles_to_quaternion(0.7, 0.0, 0.0)
    assert (upright.x, upright.y) == (0.0, 0.0)
    assert upright.z == pytest.approx(math.sin(0.35))


# -- fusion --------------------------------------------------------------------------------------------------


def objects(task: str, *places: tuple[float, float], lidar: bool = True, score: float = 0.5):
    message = DetectedObjectArray(
        trace_id=7,
        task=task,
        sensors=[
            SensorStamp(modality="lidar", valid=lidar, received_ns=10),
            SensorStamp(modality="camera_front", valid=True, received_ns=20),
        ],
    )
    for x, y in places:
        item = DetectedObject(label=f"{task} car", score=score)
        item.pose.position.x, item.pose.position.y = x, y
        item.pose.orientation.w = 1.0
        item.size.x, item.size.y, item.size.z = 4.2, 1.8, 1.6
        message.objects.append(item)
    return message


OPTIONS = ControllerOptions(
    required_tasks=("detection3d",), detection_tasks=("mono_detection3d", "detection3d")
)


def test_both_models_objects_become_one_list() -> None:
    bev = objects("detection3d", (30.0, 0.0))
    mono = objects("mono_detection3d", (32.0, 0.2), (15.0, 5.0))
    fused = fused_message({"mono_detection3d": mono, "detection3d": bev}, OPTIONS)
    assert fused.task == "fused"
    assert fused.trace_id == 7
    assert [(item.label, item.pose.position.x) for item in fused.objects] == [
        ("detection3d car", 30.0),
        ("mono_detection3d car", 15.0),
    ]
    assert fused.objects[0].score == pytest.approx(0.75)


def test_without_lidar_nothing_is_explained_away() -> None:
    bev = objects("detection3d", (30.0, 0.0), lidar=False)
    mono = objects("mono_detection3d", (32.0, 0.2), lidar=False)
    assert len(fused_message({"detection3d": bev, "mono_detection3d": mono}, OPTIONS).objects) == 2


def test_one_model_alone_is_the_list() -> None:
    mono = objects("mono_detection3d", (32.0, 0.2))
    assert len(fused_message({"mono_detection3d": mono}, OPTIONS).objects) == 1


def test_an_output_rests_on_its_own_sensors_only() -> None:
    mono = objects("mono_detection3d", (32.0, 0.2))
    output = detection_output(mono, "mono_detection3d", 1000, 0.3, frozenset({"camera_front"}))
    assert output.alive == {"camera_front"}
    assert output.newest_sensor_ns == 20
    assert detection_output(mono, "mono_detection3d", 1000, 0.3).alive == {"lidar", "camera_front"}
