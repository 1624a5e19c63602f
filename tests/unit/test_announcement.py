"""Announcements inside a process: no detour over ROS, no consumer's fault felt by another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from mmmt_msgs.msg import TensorAnnouncement, TensorHandle

from perception_nodes.transport.announcement import Announcer, Listening
from perception_nodes.transport.identity import process_token


class RecordingNode:
    """Stands where a ROS node does and keeps what it is asked for; a ROS graph has no part in these tests."""

    def __init__(self) -> None:
        self.published: list[TensorAnnouncement] = []
        self.subscribed: list[str] = []
        self.errors: list[str] = []

    def create_publisher(self, message_type: type, topic: str, qos: Any) -> Any:
        return SimpleNamespace(publish=self.published.append, get_subscription_count=lambda: 0)

    def create_subscription(self, message_type: type, topic: str, callback: Any, qos: Any) -> str:
        self.subscribed.append(topic)
        return topic

    def destroy_subscription(self, topic: str) -> None:
        self.subscribed.remove(topic)

    def get_logger(self) -> Any:
        return SimpleNamespace(error=self.errors.append)


def context(process: str, run_id: str = "run") -> Any:
    where = {"sensor_fusion": "sensing", "camera_net": "perception", "lidar_net": "perception"}
    return SimpleNamespace(run_id=run_id, process=process, process_of=where.__getitem__, homes={})


def announcement(trace_id: int) -> TensorAnnouncement:
    return TensorAnnouncement(trace_id=trace_id, producer="camera_net")


@pytest.fixture
def node() -> Any:
    return RecordingNode()


def test_a_consumer_of_the_same_process_hears_at_once_and_others_over_ros(node: Any) -> None:
    heard: list[int] = []
    announcer = Announcer(node, context("perception"), "camera_net")
    listening = Listening(node, context("perception"), "camera_net", lambda a: heard.append(a.trace_id))
    assert announcer.get_subscription_count() == 1
    announcer.publish(announcement(1))
    assert heard == [1]
    assert [a.trace_id for a in node.published] == [1]
    assert node.subscribed == []
    listening.close()
    announcer.publish(announcement(2))
    assert heard == [1]
    assert announcer.get_subscription_count() == 0


def test_a_producer_of_another_process_is_heard_over_ros(node: Any) -> None:
    listening = Listening(node, context("perception"), "sensor_fusion", lambda a: None)
    assert node.subscribed == ["tensors/sensor_fusion"]
    listening.close()
    assert node.subscribed == []


def test_runs_and_producers_are_kept_apart(node: Any) -> None:
    heard: list[str] = []
    listenings = [
        Listening(node, context("perception", run), name, lambda a, key=(run, name): heard.append(str(key)))
        for run in ("first", "second")
        for name in ("camera_net", "lidar_net")
    ]
    Announcer(node, context("perception", "second"), "lidar_net").publish(announcement(1))
    assert heard == ["('second', 'lidar_net')"]
    for listening in listenings:
        listening.close()


def test_a_failing_consumer_costs_the_others_nothing(node: Any) -> None:
    def fails(_: TensorAnnouncement) -> None:
        raise RuntimeError("the device worker is closed")

    heard: list[int] = []
    listenings = [
        Listening(node, context("perception"), "camera_net", fails),
        Listening(node, context("perception"), "camera_net", lambda a: heard.append(a.trace_id)),
    ]
    Announcer(node, context("perception"), "camera_net").publish(announcement(7))
    assert heard == [7]
    assert len(node.published) == 1
    assert "the device worker is closed" in node.errors[0]
    for listening in listenings:
        listening.close()


@pytest.mark.parametrize("home", ["perception", "elsewhere"])
def test_a_producer_that_may_move_is_heard_once_wherever_it_is(node: Any, home: str) -> None:
    here = context("perception")
    here.homes = {"camera_net": ("perception", "elsewhere")}
    heard: list[int] = []
    listening = Listening(node, here, "camera_net", lambda a: heard.append(a.trace_id))
    assert node.subscribed == ["tensors/camera_net"]
    token = process_token() if home == "perception" else "other-process"
    message = announcement(1)
    message.tensors = [
        TensorHandle(name="x", transport="by_reference", handle=f"{token}/camera_net.0"),
        TensorHandle(name="x", transport="shared_memory", handle=f"host/{token}.1/1"),
    ]
    if home == "perception":
        Announcer(node, here, "camera_net").publish(message)
    listening._from_another_process(message)  # the middleware delivers it in any case
    assert heard == [1]
    listening.close()
    assert node.subscribed == []
    Announcer(node, here, "camera_net").publish(announcement(2))
    assert heard == [1]
