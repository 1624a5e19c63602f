"""Facts about a rosbag2 that a rig can be drafted from; nothing in here guesses."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_core.calibration import CalibrationError, FrameTree
from perception_core.pointcloud import PointCloudError, PointField, decode_point_cloud
from perception_nodes.recordings import cdr
from perception_nodes.recordings.image_files import ImageFileError, image_format, image_size
from perception_nodes.recordings.items import SerializedItem
from perception_nodes.recordings.rosbag2 import Rosbag2Recording

POINTS = "sensor_msgs/msg/PointCloud2"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
SURVEYED_TYPES = (POINTS, IMAGE, COMPRESSED, CAMERA_INFO, ODOMETRY)

#: Enough to know rates and delays, and little enough that a long bag is not read whole.
_ENOUGH_MESSAGES = 60
_LONGEST_LOOK_NS = 60_000_000_000
_SWEEPS = 3


@dataclass
class TopicFacts:
    """What was seen of one topic.

    Attributes:
        name: Topic.
        message_type: ROS type.
        count: Messages in the bag, None where its index is gone.
        frame: Frame of the first header.
        stamps_ns: Header stamps of the first messages.
        delays_ns: Time of recording minus stamp of the same.
    """

    name: str
    message_type: str
    count: int | None
    frame: str = ""
    stamps_ns: list[int] = field(default_factory=list)
    delays_ns: list[int] = field(default_factory=list)

    @property
    def period_s(self) -> float | None:
        """Typical time between two stamps, None where fewer than three messages were seen."""
        steps = [b - a for a, b in zip(self.stamps_ns, self.stamps_ns[1:], strict=False) if b > a]
        return statistics.median(steps) * 1e-9 if len(steps) >= 2 else None

    @property
    def delay_s(self) -> float:
        """Typical time between stamp and recording; negative: stamps lie ahead of the recorder's clock."""
        return statistics.median(self.delays_ns) * 1e-9 if self.delays_ns else 0.0


@dataclass
class CloudFacts(TopicFacts):
    """A PointCloud2 topic.

    Attributes:
        points: Typical points a sweep.
        fields: Field names.
        samples: Decoded sweeps, [N, 5] each.
        problem: Why its sweeps cannot be read, empty if they can.
        beams: Number of different values of a ring field, None where there is none.
    """

    points: int = 0
    fields: tuple[str, ...] = ()
    samples: list[NDArray[np.float32]] = field(default_factory=list)
    problem: str = ""
    beams: int | None = None


@dataclass
class ImageFacts(TopicFacts):
    """An image topic.

    Attributes:
        encoding: Encoding of a raw image, format of a compressed one.
        size: Width and height, None where they are not known without decoding.
        problem: Why it is no camera image the stack can read, empty if it is.
    """

    encoding: str = ""
    size: tuple[int, int] | None = None
    problem: str = ""


@dataclass
class InfoFacts(TopicFacts):
    """A CameraInfo topic.

    Attributes:
        info: Its first message.
    """

    info: Any = None


@dataclass
class OdometryFacts(TopicFacts):
    """An odometry topic.

    Attributes:
        child_frame: Frame the twist is in.
    """

    child_frame: str = ""


@dataclass
class BagSurvey:
    """All of a bag that matters for a rig.

    Attributes:
        name: The bag.
        path: Where it is.
        description: One line about it.
        duration_s: Its length.
        topics: Every topic's type and count.
        clouds: PointCloud2 topics.
        images: Image topics of both types.
        infos: CameraInfo topics.
        odometries: Odometry topics.
        tree: Frames of /tf_static.
        problems: What of the bag could not be read.
    """

    name: str
    path: Path
    description: str
    duration_s: float
    topics: dict[str, tuple[str, int | None]]
    clouds: list[CloudFacts]
    images: list[ImageFacts]
    infos: list[InfoFacts]
    odometries: list[OdometryFacts]
    tree: FrameTree
    problems: list[str]


def survey_bag(path: str | Path) -> BagSurvey:
    """Reads the beginning of a bag.

    Args:
        path: A rosbag2 folder or a single .mcap or .db3 file.

    Raises:
        RecordingError: It is no rosbag2 or nothing of it can be read.
    """
    recording = Rosbag2Recording(path)
    problems: list[str] = []
    makers = {
        POINTS: CloudFacts,
        IMAGE: ImageFacts,
        COMPRESSED: ImageFacts,
        CAMERA_INFO: InfoFacts,
        ODOMETRY: OdometryFacts,
    }
    facts: dict[str, Any] = {
        topic.name: makers[topic.message_type](topic.name, topic.message_type, topic.count)
        for topic in recording.topics.values()
        if topic.message_type in makers
    }
    _read_stamps(recording, facts, problems)
    for entry in facts.values():
        _look_inside(recording, entry, problems)
    tree = FrameTree()
    for transform in recording.static_transforms():
        try:
            tree.add(transform.parent, transform.child, transform.parent_from_child)
        except CalibrationError as error:
            problems.append(str(error))
    heard = [entry for entry in facts.values() if entry.stamps_ns]
    problems += [
        f"topic {name} holds no message that can be read"
        for name, entry in facts.items()
        if not entry.stamps_ns
    ]
    return BagSurvey(
        name=recording.name,
        path=Path(path),
        description=recording.description,
        duration_s=recording.duration_s,
        topics={topic.name: (topic.message_type, topic.count) for topic in recording.topics.values()},
        clouds=[entry for entry in heard if isinstance(entry, CloudFacts)],
        images=[entry for entry in heard if isinstance(entry, ImageFacts)],
        infos=[entry for entry in heard if isinstance(entry, InfoFacts) and entry.info is not None],
        odometries=[entry for entry in heard if isinstance(entry, OdometryFacts)],
        tree=tree,
        problems=problems,
    )


def _read_stamps(recording: Rosbag2Recording, facts: dict[str, Any], problems: list[str]) -> None:
    """Collects stamps and times of recording, without decoding anything."""
    missing = set(facts)
    for item in recording.messages():
        if item.time_ns - recording.start_ns > _LONGEST_LOOK_NS or not missing:
            return
        if not isinstance(item, SerializedItem):
            problems.append(getattr(item, "message", str(item)))
            continue
        if item.topic not in facts:
            continue
        entry = facts[item.topic]
        if len(entry.stamps_ns) >= _ENOUGH_MESSAGES:
            missing.discard(item.topic)
            continue
        try:
            stamp_ns = cdr.read_stamp(item.data)
        except ValueError as error:
            problems.append(f"{item.topic}: {error}")
            continue
        entry.stamps_ns.append(stamp_ns)
        entry.delays_ns.append(item.time_ns - stamp_ns)


def _look_inside(recording: Rosbag2Recording, entry: Any, problems: list[str]) -> None:
    """Decodes the first messages of a topic."""
    try:
        messages = list(recording.decoded(entry.name, limit=_SWEEPS if isinstance(entry, CloudFacts) else 1))
    except Exception as error:  # rosbags raises many types for a message that does not fit its definition
        problems.append(f"{entry.name}: cannot be decoded: {type(error).__name__}: {error}")
        return
    if not messages:
        return
    first = messages[0]
    entry.frame = first.header.frame_id.lstrip("/")
    if isinstance(entry, CloudFacts):
        _look_at_sweeps(entry, messages)
    elif isinstance(entry, ImageFacts):
        _look_at_image(entry, first)
    elif isinstance(entry, InfoFacts):
        entry.info = first
    elif isinstance(entry, OdometryFacts):
        entry.child_frame = first.child_frame_id.lstrip("/")


def _look_at_sweeps(entry: CloudFacts, messages: list[Any]) -> None:
    entry.points = int(statistics.median(message.width * message.height for message in messages))
    entry.fields = tuple(item.name for item in messages[0].fields)
    for message in messages:
        fields = [PointField(item.name, item.offset, item.datatype, item.count) for item in message.fields]
        layout: dict[str, Any] = {
            "width": message.width,
            "height": message.height,
            "point_step": message.point_step,
            "row_step": message.row_step,
            "is_bigendian": message.is_bigendian,
        }
        try:
            entry.samples.append(decode_point_cloud(message.data, fields=fields, **layout))
            ring = next(
                (name for name in ("ring", "channel", "laser_id", "line") if name in entry.fields), None
            )
            if ring is not None and entry.beams is None:
                values = decode_point_cloud(message.data, fields=fields, intensity_field=ring, **layout)[:, 3]
                entry.beams = len(np.unique(values))
        except PointCloudError as error:
            entry.problem = str(error)


def _look_at_image(entry: ImageFacts, message: Any) -> None:
    if entry.message_type == IMAGE:
        entry.encoding, entry.size = message.encoding, (int(message.width), int(message.height))
        return
    entry.encoding = message.format
    data = bytes(memoryview(message.data))
    if "compressedDepth" in message.format:
        entry.problem = "a depth image"
        return
    try:
        image_format(data)
        entry.size = image_size(data)
    except ImageFileError as error:
        entry.problem = str(error)
