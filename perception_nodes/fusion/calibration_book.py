"""Collects what is known of each sensor's calibration, from wherever and whenever it comes."""

from __future__ import annotations

from pathlib import Path

from perception_core import geometry
from perception_core.bundle import ImageInput
from perception_core.calibration import (
    CalibrationError,
    CameraCalibration,
    CameraInfoLike,
    FrameTree,
    ImageRectifier,
    load_calibration,
)
from perception_core.geometry import FloatArray
from perception_core.rig import Rig


class CalibrationBook:
    """Answers, for each sensor, its pose and intrinsics, or raises CalibrationError saying what is missing.

    Writing and reading may happen on different threads: every update replaces a whole entry.
    """

    def __init__(self, rig: Rig, rig_path: Path, target: ImageInput | None) -> None:
        """Reads the rig's calibration file where it names one.

        Args:
            rig: The vehicle.
            rig_path: Where the rig was read from; its calibration file is relative to it.
            target: Size of the images of all cameras, None for a bundle that does not take them all.

        Raises:
            ConfigurationError: The calibration file is missing or wrong.
        """
        self._rig = rig
        self._target = target
        self._tree = FrameTree()
        self._cameras: dict[str, CameraCalibration] = {}
        self._camera_errors: dict[str, str] = {}
        self._camera_sources: dict[str, tuple[object, ...]] = {}
        self._rectifiers: dict[tuple[str, ImageInput], ImageRectifier] = {}
        self._poses: dict[tuple[str, str], tuple[int, FloatArray]] = {}
        source = rig.calibration
        if source.file is not None:
            file = load_calibration(rig_path.parent / source.file)
            if source.extrinsics == "file":
                self._tree = file.frame_tree()
            if source.intrinsics == "file":
                self._cameras.update(file.camera_calibrations())

    @property
    def listens_to_tf_static(self) -> bool:
        """Whether extrinsics come from /tf_static."""
        return self._rig.calibration.extrinsics == "tf_static"

    @property
    def listens_to_camera_info(self) -> bool:
        """Whether intrinsics come from CameraInfo."""
        return self._rig.calibration.intrinsics == "camera_info"

    def add_transform(
        self, parent: str, child: str, translation: tuple[float, ...], rotation: tuple[float, ...]
    ) -> None:
        """Takes one static transform (translation in metres, quaternion x y z w).

        Raises:
            CalibrationError: It is not a rigid transform or closes a circle.
        """
        try:
            transform = geometry.transform_from_quaternion(translation, rotation)
        except ValueError as error:
            raise CalibrationError(f"transform '{parent}' -> '{child}': {error}") from error
        self._tree.add(parent, child, transform)

    def add_camera_info(self, modality: str, info: CameraInfoLike) -> None:
        """Takes a camera's CameraInfo; one that says the same as the last costs next to nothing.

        Raises:
            CalibrationError: It holds no usable calibration; the camera stays as it was.
        """
        roi = info.roi
        source = (
            *(info.width, info.height, info.distortion_model, info.binning_x, info.binning_y),
            *(bytes(memoryview(info.k)), bytes(memoryview(info.p)), tuple(info.d)),
            *(roi.x_offset, roi.y_offset, roi.width, roi.height),
        )
        if self._camera_sources.get(modality) == source:
            if modality in self._camera_errors:
                raise CalibrationError(self._camera_errors[modality])
            return
        self._camera_sources[modality] = source
        # By convention of image_proc, topics of rectified images say so in their last parts.
        parts = self._rig.cameras[modality].topic.split("/")
        rectified = any("rect" in part for part in parts[-2:])
        try:
            self._cameras[modality] = CameraCalibration.from_camera_info(info, rectified)
        except CalibrationError as error:
            self._camera_errors[modality] = str(error)
            raise
        self._camera_errors.pop(modality, None)

    def ego_from_lidar(self, message_frame: str) -> FloatArray:
        """Returns the LiDAR's pose in the ego frame.

        Args:
            message_frame: Frame of the sweep's header, used where the rig names none.

        Raises:
            CalibrationError: Its frame is not connected with the ego frame.
        """
        assert self._rig.lidar is not None
        return self._pose(self._rig.ego_frame, self._rig.lidar.frame or message_frame)

    def camera_from_ego(self, modality: str, message_frame: str) -> FloatArray:
        """Returns the ego frame in a camera's optical frame.

        Args:
            modality: Camera.
            message_frame: Frame of the image's header, used where the rig names none.

        Raises:
            CalibrationError: Its frame is not connected with the ego frame.
        """
        return self._pose(self._rig.cameras[modality].frame or message_frame, self._rig.ego_frame)

    def rectifier(self, modality: str, target: ImageInput | None = None) -> ImageRectifier:
        """Returns the mapping from a camera's images to network inputs.

        Args:
            modality: Camera.
            target: Size wanted; None: that of the images of all cameras.

        Raises:
            CalibrationError: Its intrinsics are not known.
        """
        target = target or self._target
        assert target is not None
        known = self._rectifiers.get((modality, target))
        calibration = self._cameras.get(modality)
        if known is not None and known.calibration is calibration:
            return known
        camera = self._rig.cameras[modality]
        if calibration is None:
            if modality in self._camera_errors:
                raise CalibrationError(
                    f"CameraInfo on {camera.info_topic()}: {self._camera_errors[modality]}"
                )
            if self.listens_to_camera_info:
                raise CalibrationError(f"no CameraInfo on {camera.info_topic()} yet")
            raise CalibrationError(
                f"calibration file '{self._rig.calibration.file}' has no entry for it under 'cameras'"
            )
        if camera.expected_size is not None and calibration.size != tuple(camera.expected_size):
            raise CalibrationError(
                f"its calibration is for {calibration.width}x{calibration.height} images but the rig expects "
                f"{camera.expected_size[0]}x{camera.expected_size[1]}"
            )
        rectifier = self._rectifiers[modality, target] = ImageRectifier(calibration, target)
        return rectifier

    def _pose(self, target: str, source: str) -> FloatArray:
        version = self._tree.version
        known = self._poses.get((target, source))
        if known is not None and known[0] == version:
            return known[1]
        if not target or not source:
            raise CalibrationError("neither the rig nor the message's header names its frame")
        try:
            pose = self._tree.lookup(target, source)
        except CalibrationError as error:
            origin = topic_or_file(self._rig)
            raise CalibrationError(f"{error} ({origin})") from error
        self._poses[target, source] = (version, pose)
        return pose


def topic_or_file(rig: Rig) -> str:
    """Says where a rig's extrinsics come from, for messages."""
    return "from /tf_static" if rig.calibration.extrinsics == "tf_static" else f"from {rig.calibration.file}"
