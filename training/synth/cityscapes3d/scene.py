"""One sequence: its pictures, labels, disparities, calibrations and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.box_frames import angles_of
from training.synth.cityscapes3d.annotations import Annotation, annotate
from training.synth.cityscapes3d.label_images import coloured, disparity, instance_ids, label_ids
from training.synth.cityscapes3d.plan import PlannedSequence, time_of
from training.synth.cityscapes3d.rig import BASELINE_M, camera_json, cityscapes_camera
from training.synth.image_scale import ImageScale
from training.synth.png import write_png
from training.synth.resumable import Step
from training.synth.world.world import World

#: Any fixed place will do; towns are so far apart.
_LATITUDE, _LONGITUDE, _BETWEEN_TOWNS_DEG = 48.78, 9.18, 0.02
_METRES_PER_DEGREE = 111_320.0
_TEMPERATURES = {"day": 21.0, "overcast": 15.0, "dusk": 12.0, "rain": 11.0}
#: Width of the evaluator's bins of distance.
DEPTH_BIN_M = 5


class SequenceWriter:
    """Renders a sequence and writes it."""

    def __init__(self, folder: Path, plan: PlannedSequence, world: World, scale: ImageScale) -> None:
        """Prepares the camera.

        Args:
            folder: Receives leftImg8bit, gtFine, disparity, camera, vehicle and gtBbox3d.
            plan: City, split and number.
            world: What is recorded.
            scale: How much.
        """
        self._folder, self._plan, self._world, self._scale = folder, plan, world, scale
        self._camera = cityscapes_camera(scale.image_width, scale.image_height)

    def write(self, progress: Step | None = None) -> dict[str, Any]:
        """Writes all files.

        Args:
            progress: Called after each picture.

        Returns:
            The sequence's record: split, images, and boxes by class and by 5 m of distance.
        """
        boxes: dict[str, dict[str, int]] = {}
        for keyframe in range(self._scale.keyframes):
            for label, distance in self._picture(keyframe).boxes:
                bins = boxes.setdefault(label, {})
                key = str(int(distance) // DEPTH_BIN_M * DEPTH_BIN_M)
                bins[key] = bins.get(key, 0) + 1
            if progress is not None:
                progress()
        images = [self._plan.image(keyframe) for keyframe in range(self._scale.keyframes)]
        ordered = {label: dict(sorted(bins.items())) for label, bins in sorted(boxes.items())}
        return {"split": self._plan.split, "images": images, "boxes": ordered}

    def _picture(self, keyframe: int) -> Annotation:
        world, camera, time = self._world, self._camera, time_of(keyframe)
        moment = world.at(time)
        view = world.render(camera, moment, keypoints=False)
        there = np.unique(view.instance_hw[view.instance_hw >= 0]).tolist()
        actor_labels = {instance: world.actors[instance].label for instance in there}
        ids = label_ids(view, actor_labels)
        instances, numbers = instance_ids(ids, view.instance_hw, actor_labels)
        annotation = annotate(world, moment, camera, view.instance_hw, numbers)
        stereo = disparity(view.depth_hw, float(camera.matrix_33[0, 0]), BASELINE_M)
        self._image("leftImg8bit", keyframe, "leftImg8bit", view.image_hwc)
        self._image("gtFine", keyframe, "gtFine_labelIds", ids)
        self._image("gtFine", keyframe, "gtFine_instanceIds", instances)
        self._image("gtFine", keyframe, "gtFine_color", coloured(ids))
        self._image("disparity", keyframe, "disparity", stereo)
        self._json("camera", keyframe, camera_json(camera))
        self._json("vehicle", keyframe, self._vehicle(time))
        self._json("gtBbox3d", keyframe, annotation.content)
        return annotation

    def _vehicle(self, time_s: float) -> dict[str, float]:
        """Returns the odometry; heading in degrees clockwise from north."""
        state = self._world.ego_state(time_s)
        pose = self._world.world_from_ego(time_s)
        yaw = float(angles_of(pose[:3, :3])[0, 0])
        latitude = _LATITUDE + float(pose[1, 3]) / _METRES_PER_DEGREE
        longitude = _LONGITUDE + self._plan.town_number * _BETWEEN_TOWNS_DEG
        longitude += float(pose[0, 3]) / (_METRES_PER_DEGREE * np.cos(np.radians(_LATITUDE)))
        return {
            "gpsHeading": round((90.0 - float(np.degrees(yaw))) % 360.0, 6),
            "gpsLatitude": round(latitude, 9),
            "gpsLongitude": round(float(longitude), 9),
            "outsideTemperature": _TEMPERATURES[self._world.conditions.name],
            "speed": round(state.speed, 6),
            "yawRate": round(state.yaw_rate, 6),
        }

    def _path(self, top: str, keyframe: int, ending: str) -> Path:
        folder = self._folder / top / self._plan.split / self._plan.city
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self._plan.image(keyframe)}_{ending}"

    def _image(self, top: str, keyframe: int, ending: str, image: NDArray[Any]) -> None:
        write_png(self._path(top, keyframe, f"{ending}.png"), image)

    def _json(self, top: str, keyframe: int, content: dict[str, Any]) -> None:
        path = self._path(top, keyframe, f"{top}.json")
        path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
