"""The submission file of nuScenes' detection task: boxes of a split in the world frame, by sample token.

Format: https://www.nuscenes.org/object-detection. Our boxes are in the ego frame at the LiDAR's stamp, which
in nuScenes is the ego pose of the sample's LIDAR_TOP.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from perception_core.atomic_write import write_atomically
from perception_core.boxes import Box3D
from perception_core.configuration import nearest
from perception_core.geometry import (
    compose,
    is_rigid,
    quaternion_from_rotation,
    quaternion_from_yaw,
    transform_from_quaternion,
)
from perception_core.labels import NUSCENES_DETECTION_CLASSES
from training.datasets.files import DataError, read_json
from training.evaluation.result import EvaluationError

if TYPE_CHECKING:
    from nuscenes import NuScenes

#: The task takes at most so many boxes of a sample.
MAX_BOXES = 500

#: Above this speed an object counts as moving.
_MOVING_MPS = 0.2
#: Attribute by class: (moving, at rest); the most frequent ones in nuScenes' training split.
_ATTRIBUTES: dict[str, tuple[str, str]] = {
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "barrier": ("", ""),
    "traffic_cone": ("", ""),
}
ATTRIBUTES = frozenset(name for pair in _ATTRIBUTES.values() for name in pair) | {
    "pedestrian.sitting_lying_down",
}

#: What a submission says of the data it is made from.
DEFAULT_META: dict[str, bool] = {
    "use_camera": True,
    "use_lidar": True,
    "use_radar": False,
    "use_map": False,
    "use_external": False,
}

Row = dict[str, Any]


def attribute_of(label: str, speed_mps: float) -> str:
    """Returns the attribute a box gets for its class and speed, as networks without an attribute head do.

    Raises:
        EvaluationError: There is no such class in the task.
    """
    if label not in _ATTRIBUTES:
        raise EvaluationError(
            f"'{label}' is no class of nuScenes' detection task" + nearest(label, _ATTRIBUTES)
        )
    moving, at_rest = _ATTRIBUTES[label]
    return moving if speed_mps > _MOVING_MPS else at_rest


def row_of(sample_token: str, box: Box3D, world_from_ego_44: ArrayLike, attribute: str | None = None) -> Row:
    """Returns a box as a submission has it.

    Args:
        sample_token: Sample it belongs to.
        box: In the ego frame; a velocity that is not known or not finite becomes 0.
        world_from_ego_44: Pose of the sample's LiDAR keyframe.
        attribute: None: `attribute_of` its class and speed.

    Raises:
        EvaluationError: The box is not finite or its class is not of the task.
    """
    numbers = (*box.centre, *box.size, box.yaw, box.score)
    if not np.isfinite(numbers).all():
        raise EvaluationError(f"sample {sample_token}: box of {box.label} is not finite: {numbers}")
    world_from_ego = np.asarray(world_from_ego_44, dtype=np.float64)
    pose = compose(world_from_ego, transform_from_quaternion(box.centre, quaternion_from_yaw(box.yaw)))
    x, y, z, w = (float(value) for value in quaternion_from_rotation(pose[:3, :3]))
    velocity = np.array([*(box.velocity or (0.0, 0.0)), 0.0])
    velocity = world_from_ego[:3, :3] @ np.where(np.isfinite(velocity), velocity, 0.0)
    length, width, height = box.size
    return {
        "sample_token": sample_token,
        "translation": [float(value) for value in pose[:3, 3]],
        "size": [float(width), float(length), float(height)],
        "rotation": [w, x, y, z],
        "velocity": [float(velocity[0]), float(velocity[1])],
        "detection_name": box.label,
        "detection_score": float(box.score),
        "attribute_name": attribute_of(box.label, math.hypot(velocity[0], velocity[1]))
        if attribute is None
        else attribute,
    }


@dataclass(eq=False)
class Submission:
    """Boxes of samples.

    Attributes:
        results: Boxes by sample token, each as `row_of` makes it; best first, at most MAX_BOXES.
        meta: What the boxes are made from.
    """

    results: dict[str, list[Row]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT_META))

    def add(self, sample_token: str, boxes: Iterable[Box3D], world_from_ego_44: ArrayLike) -> None:
        """Adds a sample's boxes; an empty list says that nothing was found.

        The best MAX_BOXES are kept; those with a score of 0 are left out, as the devkit takes 0 for the end
        of a list.

        Args:
            sample_token: Must not be there yet.
            boxes: In the ego frame.
            world_from_ego_44: Pose of the sample's LiDAR keyframe.

        Raises:
            EvaluationError: The sample was added before, its pose is no transform, or see `row_of`.
        """
        if not is_rigid(world_from_ego_44):
            raise EvaluationError(f"sample {sample_token}: its ego pose is no rigid transform")
        self._add_rows(
            sample_token, [row_of(sample_token, box, world_from_ego_44) for box in boxes if box.score > 0]
        )

    def _add_rows(self, sample_token: str, rows: Sequence[Row]) -> None:
        if sample_token in self.results:
            raise EvaluationError(f"sample {sample_token} was added twice")
        self.results[sample_token] = sorted(rows, key=lambda row: -row["detection_score"])[:MAX_BOXES]

    def merge(self, other: Submission) -> None:
        """Adds the samples of another submission.

        Raises:
            EvaluationError: A sample is in both.
        """
        for token, rows in other.results.items():
            self._add_rows(token, rows)

    def write(self, path: Path) -> None:
        """Writes the submission file."""
        content = {"meta": self.meta, "results": self.results}
        write_atomically(path, json.dumps(content, allow_nan=False).encode())

    @classmethod
    def read(cls, path: Path) -> Submission:
        """Reads a submission file.

        Raises:
            EvaluationError: It is missing or is no submission; says which box is wrong.
        """
        try:
            content = read_json(path)
        except DataError as error:
            raise EvaluationError(str(error)) from error
        if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
            raise EvaluationError(
                f"{path}: a submission is an object with 'meta' and 'results' (boxes by sample token)"
            )
        for token, rows in content["results"].items():
            if not isinstance(rows, list) or len(rows) > MAX_BOXES:
                raise EvaluationError(
                    f"{path}: sample {token} must have a list of at most {MAX_BOXES} boxes, "
                    f"has {len(rows) if isinstance(rows, list) else type(rows).__name__}"
                )
            for number, row in enumerate(rows):
                _check_row(f"{path}: sample {token}, box {number}", token, row)
        meta = content.get("meta")
        return cls(content["results"], dict(meta) if isinstance(meta, Mapping) else dict(DEFAULT_META))


def _check_row(where: str, token: str, row: Any) -> None:
    if not isinstance(row, dict):
        raise EvaluationError(f"{where}: is no object")
    for name, count in (("translation", 3), ("size", 3), ("rotation", 4), ("velocity", 2)):
        values = row.get(name)
        if not isinstance(values, list) or len(values) != count:
            raise EvaluationError(f"{where}: '{name}' must be a list of {count} numbers")
        if not all(isinstance(v, (int, float)) and (math.isfinite(v) or name == "velocity") for v in values):
            raise EvaluationError(f"{where}: '{name}' is not finite: {values}")
    label, attribute = row.get("detection_name"), row.get("attribute_name")
    if label not in NUSCENES_DETECTION_CLASSES:
        raise EvaluationError(
            f"{where}: unknown class '{label}'" + nearest(str(label), NUSCENES_DETECTION_CLASSES)
        )
    if attribute not in ATTRIBUTES:
        raise EvaluationError(
            f"{where}: unknown attribute '{attribute}'" + nearest(str(attribute), ATTRIBUTES)
        )
    score = row.get("detection_score")
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        raise EvaluationError(f"{where}: 'detection_score' must be a number, is {score}")
    if row.get("sample_token") != token:
        raise EvaluationError(f"{where}: its 'sample_token' is {row.get('sample_token')}")


def ground_truth_submission(nuscenes: NuScenes, sample_tokens: Iterable[str]) -> Submission:
    """Returns the annotations as a perfect network would submit them.

    Left out are boxes without a LiDAR or radar point, which the devkit takes out of the truth but would count
    as false among predictions.

    Args:
        nuscenes: The devkit's tables.
        sample_tokens: Samples.
    """
    from nuscenes.eval.detection.utils import category_to_detection_name

    attributes = {row["token"]: row["name"] for row in nuscenes.attribute}
    submission = Submission()
    for token in sample_tokens:
        rows = []
        for annotation_token in nuscenes.get("sample", token)["anns"]:
            annotation = nuscenes.get("sample_annotation", annotation_token)
            label = category_to_detection_name(annotation["category_name"])
            if label is None or annotation["num_lidar_pts"] + annotation["num_radar_pts"] == 0:
                continue
            velocity = np.nan_to_num(nuscenes.box_velocity(annotation_token)[:2])
            names = [attributes[attribute] for attribute in annotation["attribute_tokens"]]
            rows.append(
                {
                    "sample_token": token,
                    "translation": list(annotation["translation"]),
                    "size": list(annotation["size"]),
                    "rotation": list(annotation["rotation"]),
                    "velocity": [float(velocity[0]), float(velocity[1])],
                    "detection_name": label,
                    "detection_score": 1.0,
                    "attribute_name": names[0] if names else "",
                }
            )
        submission._add_rows(token, rows)
    return submission
