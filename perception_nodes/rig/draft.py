"""Guesses a rig from what a bag holds, and says of each guess what it rests on and how sure it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from perception_core.calibration import CalibrationError, CameraCalibration, FrameTree
from perception_core.configuration import ConfigurationError
from perception_core.geometry import FloatArray, transform_points
from perception_core.pointcloud import INTENSITY_FIELDS
from perception_nodes.fusion.image_decoding import RAW_ENCODINGS
from perception_nodes.rig.bag_survey import (
    COMPRESSED,
    IMAGE,
    BagSurvey,
    CloudFacts,
    ImageFacts,
    InfoFacts,
    OdometryFacts,
    TopicFacts,
)

Certainty = Literal["sure", "likely", "guess", "CHECK"]

#: Names of vehicle frames; the first that fits wins. base_footprint lies on the ground by its definition (REP
#: 120).
EGO_FRAMES = (
    "base_footprint",
    "base_link",
    "ego_vehicle",
    "ego",
    "vehicle",
    "base",
    "car",
    "body",
    "imu_link",
)

#: Parts of topics and frames that do not tell one camera from another.
_GENERIC = re.compile(
    r"^(sensors?|sensing|cam(era)?s?|image|images|img|raw|color|colour|mono|rect|rectified|compressed|rgb|"
    r"node|usb|optical|frame|link|ros|hw|device|stream|video|drivers?|v\d)$"
)
_LOOKS_AHEAD_RAD = np.deg2rad(35)
_OTHER_CLOCK_S = 0.5


@dataclass(frozen=True)
class Value:
    """One value of the rig with its reason.

    Attributes:
        value: What goes into the file.
        certainty: `sure`: the bag says so; `likely`: by convention; `guess`; `CHECK`: needs a person.
        reason: What it rests on.
    """

    value: Any
    certainty: Certainty = "sure"
    reason: str = ""


@dataclass
class SensorDraft:
    """One sensor's section.

    Attributes:
        modality: Its name.
        keys: Values by key, in order of writing.
        azimuth_rad: Viewing direction of a camera, 0 ahead, positive left; None where it is not known.
    """

    modality: str
    keys: dict[str, Value] = field(default_factory=dict)
    azimuth_rad: float | None = None


@dataclass
class RigDraft:
    """A drafted rig.

    Attributes:
        name: Name of the rig.
        survey: What it was drafted from.
        ego_frame: Frame of the vehicle.
        lidar: The LiDAR's section.
        cameras: The cameras' sections, front first.
        odometry: Odometry section, None where the bag has none.
        notes: What was left out or does not fit, one line each.
    """

    name: str
    survey: BagSurvey
    ego_frame: Value
    lidar: SensorDraft | None
    cameras: list[SensorDraft]
    odometry: dict[str, Value] | None
    notes: list[str]


def draft_rig(survey: BagSurvey) -> RigDraft:
    """Drafts a rig.

    Raises:
        ConfigurationError: The bag has neither a LiDAR nor a camera the stack could use; says what it has
            instead.
    """
    notes = list(survey.problems)
    cloud = _choose_cloud(survey.clouds, notes)
    paired = _pair_cameras(survey.images, survey.infos, notes)
    if cloud is None and not paired:
        raise ConfigurationError(_nothing_to_use(survey, notes))
    sensor_frames = [cloud.frame] if cloud else []
    sensor_frames += [image.frame or info.frame for image, info in paired]
    ego = _choose_ego_frame(survey.tree, sensor_frames, survey.odometries)
    reference = cloud if cloud is not None else paired[0][0]
    lidar = _draft_lidar(cloud, survey.tree, ego.value, notes) if cloud is not None else None
    cameras = _draft_cameras(paired, survey.tree, ego.value, reference, notes)
    name = re.sub(r"\W+", "_", survey.name.lower()).strip("_") or "drafted"
    return RigDraft(
        name=name,
        survey=survey,
        ego_frame=ego,
        lidar=lidar,
        cameras=cameras,
        odometry=_draft_odometry(survey.odometries, ego.value, notes),
        notes=notes,
    )


def _nothing_to_use(survey: BagSurvey, notes: Sequence[str]) -> str:
    listing = "; ".join(f"{name} ({kind})" for name, (kind, _) in sorted(survey.topics.items()))
    why = f"; {'; '.join(notes)}" if notes else ""
    return (
        f"{survey.path}: no LiDAR (sensor_msgs/msg/PointCloud2 with x, y, z) and no camera (Image or "
        f"CompressedImage with a CameraInfo) to make a rig of{why}. Its topics: {listing or 'none'}"
    )


# -- LiDAR ---------------------------------------------------------------------------------------------------


def _choose_cloud(clouds: Sequence[CloudFacts], notes: list[str]) -> CloudFacts | None:
    usable = [cloud for cloud in clouds if not cloud.problem]
    notes += [f"left out {cloud.name}: {cloud.problem}" for cloud in clouds if cloud.problem]
    if not usable:
        return None
    chosen = max(usable, key=lambda cloud: (cloud.points, "lidar" in cloud.name.lower(), cloud.name))
    notes += [
        f"left out {cloud.name}: {cloud.points} points a sweep, {chosen.name} has {chosen.points}"
        for cloud in usable
        if cloud is not chosen
    ]
    return chosen


def _draft_lidar(cloud: CloudFacts, tree: FrameTree, ego_frame: str, notes: list[str]) -> SensorDraft:
    draft = SensorDraft("lidar")
    keys = draft.keys
    keys["topic"] = Value(
        cloud.name, "sure", f"{_rate(cloud)}, {cloud.points} points a sweep, fields {', '.join(cloud.fields)}"
    )
    keys["frame"] = Value(
        cloud.frame, "sure" if cloud.frame in tree else "CHECK", _frame_reason(cloud.frame, tree)
    )
    intensity = next((name for name in INTENSITY_FIELDS if name in cloud.fields), None)
    if intensity is not None:
        keys["intensity_field"] = Value(intensity, "likely", "by its name")
        highest = max((float(points[:, 3].max()) for points in cloud.samples if len(points)), default=0.0)
        scale = next((limit for limit in (1.0, 255.0, 65535.0) if highest <= limit * 1.001), highest)
        keys["intensity_scale"] = Value(scale, "likely", f"the highest value seen is {highest:g}")
    else:
        notes.append(f"{cloud.name} has no intensity field; networks get zero")
    keys["min_range_m"] = Value(1.0, "guess", "points nearer than this are taken for the vehicle itself")
    keys["max_delay_s"] = Value(_limit(cloud), "guess", "a little more than one period")
    beams = f"{cloud.beams} beams" if cloud.beams else "number of beams not known"
    trusted = (
        30.0 if cloud.beams is not None and cloud.beams <= 16 else 45.0 if (cloud.beams or 32) <= 40 else 60.0
    )
    keys["trusted_range_m"] = Value(
        trusted, "guess", f"{beams}; how far it may be relied on alone is for you to say"
    )
    ground = _ground_height(cloud, tree, ego_frame)
    if ground is not None and abs(ground) > 0.3:
        notes.append(
            f"the ground seems to lie at z = {ground:.1f} m of '{ego_frame}'; it should lie at 0: "
            "choose another ego_frame or correct the LiDAR's height"
        )
    return draft


def _ground_height(cloud: CloudFacts, tree: FrameTree, ego_frame: str) -> float | None:
    """Returns the most frequent height of the points around the vehicle, None where the pose is not known."""
    try:
        ego_from_lidar = tree.lookup(ego_frame, cloud.frame)
    except CalibrationError:
        return None
    points = np.concatenate([transform_points(ego_from_lidar, sample[:, :3]) for sample in cloud.samples])
    distance = np.hypot(points[:, 0], points[:, 1])
    heights = points[(distance > 3) & (distance < 20) & (np.abs(points[:, 2]) < 4), 2]
    if len(heights) < 200:
        return None
    counts, edges = np.histogram(heights, bins=80, range=(-4, 4))
    return float(edges[counts.argmax()] + 0.05)


# -- cameras -------------------------------------------------------------------------------------------------


def _pair_cameras(
    images: Sequence[ImageFacts], infos: Sequence[InfoFacts], notes: list[str]
) -> list[tuple[ImageFacts, InfoFacts]]:
    """Finds the CameraInfo of each image topic and, of several topics of one camera, the best."""
    by_info: dict[str, list[tuple[ImageFacts, InfoFacts]]] = {}
    for image in images:
        if image.message_type == IMAGE and image.encoding not in RAW_ENCODINGS:
            image.problem = f"encoding {image.encoding} is no colour or grey image"
        if not image.problem and re.search(
            r"depth|disparity|segmentation|semantic|mask|label|debug", image.name.lower()
        ):
            image.problem = "by its name no camera image"
        if image.problem:
            notes.append(f"left out {image.name}: {image.problem}")
            continue
        info = _info_of(image, infos)
        if info is None:
            notes.append(f"left out {image.name}: no CameraInfo belongs to it")
            continue
        by_info.setdefault(info.name, []).append((image, info))
    pairs = []
    for candidates in by_info.values():
        best = min(candidates, key=lambda pair: _preference(pair[0]))
        pairs.append(best)
        notes += [
            f"left out {image.name}: {best[0].name} is the same camera"
            for image, _ in candidates
            if image is not best[0]
        ]
    return pairs


def _info_of(image: ImageFacts, infos: Sequence[InfoFacts]) -> InfoFacts | None:
    """The CameraInfo whose folder the image topic lies in, the deepest; else the one of the same frame."""
    inside = [info for info in infos if image.name.startswith(info.name.rsplit("/", 1)[0] + "/")]
    named = [
        info
        for info in inside
        if info.name.count("/") > 1 and image.name.count("/") - info.name.count("/") <= 2
    ]
    same_frame = [info for info in infos if info.frame and info.frame == image.frame]
    for candidates in ([info for info in named if info in same_frame], named, same_frame):
        if candidates:
            return max(candidates, key=lambda info: info.name.count("/"))
    return None


def _preference(image: ImageFacts) -> tuple[bool, bool, bool, str]:
    """Compressed before raw (a tenth of the data), colour before grey, rectified before raw."""
    name = image.name.lower()
    return (
        image.message_type != COMPRESSED,
        "mono" in name or "mono" in image.encoding,
        "rect" not in name,
        image.name,
    )


def _draft_cameras(
    pairs: Sequence[tuple[ImageFacts, InfoFacts]],
    tree: FrameTree,
    ego_frame: str,
    reference: TopicFacts,
    notes: list[str],
) -> list[SensorDraft]:
    drafts = []
    names: dict[str, str] = {}
    for image, info in pairs:
        modality = _camera_name(image)
        number = 2
        while modality in names:
            modality = f"{_camera_name(image)}_{number}"
            number += 1
        names[modality] = image.name
        drafts.append(_draft_camera(modality, image, info, tree, ego_frame, reference, notes))

    def order(draft: SensorDraft) -> tuple[bool, float, float, str]:
        azimuth = draft.azimuth_rad
        if azimuth is None:
            return True, 0.0, 0.0, draft.modality
        return False, round(abs(azimuth) / np.deg2rad(15)), azimuth, draft.modality

    return sorted(drafts, key=order)


def _camera_name(image: ImageFacts) -> str:
    """Name from the parts of the topic, else of the frame, that tell cameras apart."""
    for text in (image.name, image.frame):
        words = [word for part in text.lower().split("/") for word in re.split(r"[\W_]+", part)]
        telling = [word for word in words if word and not _GENERIC.match(word)]
        if telling:
            return "camera_" + "_".join(dict.fromkeys(telling))
    return "camera_1"


def _draft_camera(
    modality: str,
    image: ImageFacts,
    info: InfoFacts,
    tree: FrameTree,
    ego_frame: str,
    reference: TopicFacts,
    notes: list[str],
) -> SensorDraft:
    draft = SensorDraft(modality)
    keys = draft.keys
    size = f"{image.size[0]}x{image.size[1]}" if image.size else "size not known"
    keys["topic"] = Value(image.name, "sure", f"{_rate(image)}, {size} {image.encoding}")
    keys["type"] = Value(image.message_type)
    keys["camera_info_topic"] = Value(
        info.name, "sure" if info.frame == image.frame else "likely", "nearest by topic and frame"
    )
    frame = image.frame or info.frame
    keys["frame"], pose = _optical_frame(frame, tree, ego_frame)
    try:
        rectified = any("rect" in part for part in image.name.split("/")[-2:])
        calibration = CameraCalibration.from_camera_info(info.info, rectified)
    except CalibrationError as error:
        notes.append(f"{modality} will be masked: {info.name}: {error}")
    else:
        if image.size is None or image.size == calibration.size:
            keys["expected_size"] = Value(list(calibration.size), "sure", "size in CameraInfo")
        else:
            notes.append(
                f"{modality} will be masked: its images are {size} but {info.name} is for "
                f"{calibration.width}x{calibration.height}"
            )
    difference = image.delay_s - reference.delay_s
    if image is not reference and abs(difference) > _OTHER_CLOCK_S:
        keys["offset_s"] = Value(
            round(difference, 3),
            "guess",
            f"recorded {image.delay_s:.3f} s after their stamps, {reference.name} {reference.delay_s:.3f} s "
            "after its own: another clock",
        )
    keys["max_delay_s"] = Value(_limit(image), "guess", "a little more than one period")
    ahead = False
    if pose is not None:
        axis = pose[:3, 2]
        draft.azimuth_rad = float(np.arctan2(axis[1], axis[0]))
        ahead = abs(draft.azimuth_rad) < _LOOKS_AHEAD_RAD
        looks = f"looks {round(np.rad2deg(draft.azimuth_rad)) + 0:+d} degrees from ahead (positive left)"
    else:
        looks = "where it looks is not known"
    keys["trusted_range_m"] = Value(30.0 if ahead else 0.0, "guess", looks)
    return draft


def _optical_frame(frame: str, tree: FrameTree, ego_frame: str) -> tuple[Value, FloatArray | None]:
    """Returns the camera's optical frame, that of the header or one beside it, and its pose."""

    def pose_of(name: str) -> FloatArray | None:
        try:
            return tree.lookup(ego_frame, name)
        except CalibrationError:
            return None

    def is_upright(pose: FloatArray) -> bool:
        return bool(
            abs(pose[2, 2]) < 0.8 and pose[2, 1] < -0.5
        )  # looks sideways, not up, and its y axis points down

    pose = pose_of(frame)
    if pose is None:
        return Value(frame, "CHECK", _frame_reason(frame, tree)), None
    if is_upright(pose):
        return Value(
            frame, "sure", "in the image's header; z points forward as an optical frame's does"
        ), pose
    stem = re.sub(r"(_link|_frame)$", "", frame)
    for candidate in sorted(tree.frames):
        if candidate != frame and candidate.startswith(stem) and "optical" in candidate:
            other = pose_of(candidate)
            if other is not None and is_upright(other):
                return Value(
                    candidate,
                    "likely",
                    f"'{frame}' in the image's header is not an optical frame (z forward)",
                ), other
    return Value(
        frame,
        "CHECK",
        "in the image's header, but its z axis does not point forward, y down: no optical frame",
    ), pose


# -- the rest ------------------------------------------------------------------------------------------------


def _choose_ego_frame(
    tree: FrameTree, sensor_frames: Sequence[str], odometries: Sequence[OdometryFacts]
) -> Value:
    """The frame that most sensors are connected with and that is called like a vehicle."""

    def connected(frame: str) -> int:
        count = 0
        for sensor in sensor_frames:
            try:
                tree.lookup(frame, sensor)
                count += 1
            except CalibrationError:
                continue
        return count

    most = max((connected(frame) for frame in tree.frames), default=0)
    if most == 0:
        for odometry in odometries:
            if odometry.child_frame:
                return Value(
                    odometry.child_frame,
                    "CHECK",
                    f"frame of {odometry.name}; no sensor is connected with any frame",
                )
        return Value(
            "base_link", "CHECK", "the usual name; the bag's /tf_static connects no sensor with anything"
        )
    candidates = [frame for frame in sorted(tree.frames) if connected(frame) == most]
    share = f"{most} of {len(sensor_frames)} sensors are connected with it"
    by_name = {re.sub(r"^.*/", "", frame.lower()): frame for frame in candidates}
    for name in EGO_FRAMES:
        if name in by_name:
            return Value(by_name[name], "likely", f"by its name; {share}")
    for odometry in odometries:
        if odometry.child_frame in candidates:
            return Value(odometry.child_frame, "likely", f"{odometry.name} moves it; {share}")
    roots = [frame for frame in tree.roots() if frame in candidates]
    chosen = roots[0] if roots else candidates[0]
    return Value(chosen, "CHECK", f"root of the frames; {share}")


def _draft_odometry(
    odometries: Sequence[OdometryFacts], ego_frame: str, notes: list[str]
) -> dict[str, Value] | None:
    if not odometries:
        notes.append(
            "no odometry: the stack takes the vehicle's speed for unknown and control does not drive"
        )
        return None
    chosen = max(
        odometries, key=lambda item: (item.child_frame == ego_frame, len(item.stamps_ns), item.count or 0)
    )
    notes += [
        f"left out {item.name}: {chosen.name} was preferred" for item in odometries if item is not chosen
    ]
    if chosen.child_frame == ego_frame:
        certainty: Certainty = "sure"
        reason = f"{_rate(chosen)}, its twist is in '{ego_frame}'"
    else:
        certainty = "CHECK"
        reason = f"{_rate(chosen)}, its twist is in '{chosen.child_frame}', not in the ego frame"
    period = chosen.period_s or 0.1
    return {
        "topic": Value(chosen.name, certainty, reason),
        "max_delay_s": Value(round(max(0.3, 3 * period), 2), "guess", "three periods or 0.3 s"),
    }


def _rate(facts: TopicFacts) -> str:
    count = "" if facts.count is None else f"{facts.count} messages"
    rate = f"{1 / facts.period_s:.1f} Hz" if facts.period_s else ""
    return " at ".join(part for part in (count, rate) if part) or "rate not known"


def _limit(facts: TopicFacts) -> float:
    return round(min(0.5, max(0.05, 1.3 * (facts.period_s or 0.1))), 2)


def _frame_reason(frame: str, tree: FrameTree) -> str:
    if not frame:
        return "the header names no frame"
    return (
        "in the header"
        if frame in tree
        else "in the header, but /tf_static does not know it: write a calibration file"
    )
