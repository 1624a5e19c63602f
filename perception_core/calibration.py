"""Camera intrinsics, sensor poses and the mapping from a driver's image to the network's input image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import pydantic
from numpy.typing import ArrayLike, NDArray

from perception_core import geometry
from perception_core.bundle import ImageInput
from perception_core.configuration import ConfigurationFile, StrictModel, nearest
from perception_core.geometry import FloatArray

UInt8Array = NDArray[np.uint8]

#: Distortion models of sensor_msgs/CameraInfo and the numbers of coefficients OpenCV takes for them.
DISTORTION_MODELS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}


class CalibrationError(ValueError):
    """A calibration is missing or cannot be right; the message says whose and why."""


class CameraInfoLike(Protocol):
    """What is read of a sensor_msgs/CameraInfo, whichever library made it."""

    width: int
    height: int
    distortion_model: str
    d: Any
    k: Any
    p: Any
    binning_x: int
    binning_y: int
    roi: Any


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """Intrinsics of one camera. Pixel centres lie at whole numbers.

    Attributes:
        intrinsics_33: Camera matrix in pixels of the driver's image.
        width: Pixels.
        height: Pixels.
        distortion_model: Key of `DISTORTION_MODELS`.
        distortion: Its coefficients; empty or zero for a rectified image.
    """

    intrinsics_33: FloatArray
    width: int
    height: int
    distortion_model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what no camera can have.

        Raises:
            CalibrationError: A value is missing, not finite or not possible.
        """
        matrix = np.asarray(self.intrinsics_33, dtype=np.float64)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise CalibrationError(f"camera matrix must be 3x3 and finite, got {matrix.tolist()}")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise CalibrationError(
                "camera is not calibrated: the focal lengths in its matrix K are not positive "
                f"({matrix[0, 0]:g}, {matrix[1, 1]:g})"
            )
        if np.abs(matrix[2] - [0, 0, 1]).max() > 1e-6:
            raise CalibrationError(
                f"the last row of the camera matrix must be 0 0 1, got {matrix[2].tolist()}"
            )
        if self.width <= 0 or self.height <= 0:
            raise CalibrationError(f"image size must be positive, got {self.width}x{self.height}")
        if not np.isfinite(self.distortion).all():
            raise CalibrationError(f"distortion is not finite: {list(self.distortion)}")
        if self.is_distorted:
            if self.distortion_model not in DISTORTION_MODELS:
                raise CalibrationError(
                    f"unknown distortion model '{self.distortion_model}'"
                    + nearest(self.distortion_model, DISTORTION_MODELS)
                )
            if len(self.distortion) not in DISTORTION_MODELS[self.distortion_model]:
                raise CalibrationError(
                    f"distortion model {self.distortion_model} takes "
                    f"{' or '.join(map(str, DISTORTION_MODELS[self.distortion_model]))} coefficients, "
                    f"got {len(self.distortion)}"
                )
        object.__setattr__(self, "intrinsics_33", matrix)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    @property
    def is_distorted(self) -> bool:
        """Whether images have to be undistorted."""
        return any(value != 0 for value in self.distortion)

    @classmethod
    def from_camera_info(cls, info: CameraInfoLike, rectified: bool = False) -> CameraCalibration:
        """Reads a sensor_msgs/CameraInfo; region of interest and binning are accounted for.

        Args:
            info: The message.
            rectified: The images are already rectified (topic `image_rect…`): their matrix is P and they have
                no distortion.

        Raises:
            CalibrationError: The message does not hold a usable calibration.
        """
        projection = np.asarray(info.p, dtype=np.float64)
        if rectified and projection.size == 12 and projection.reshape(3, 4)[0, 0] > 0:
            matrix = projection.reshape(3, 4)[:, :3].copy()
            distortion: tuple[float, ...] = ()
        else:
            matrix = np.asarray(info.k, dtype=np.float64).reshape(-1)
            if matrix.size != 9:
                raise CalibrationError(f"CameraInfo.k has {matrix.size} values instead of 9")
            matrix = matrix.reshape(3, 3).copy()
            distortion = () if rectified else tuple(float(value) for value in info.d)
        width, height = int(info.width), int(info.height)
        roi = info.roi
        if roi is not None and roi.width and roi.height:
            matrix[0, 2] -= roi.x_offset
            matrix[1, 2] -= roi.y_offset
            width, height = int(roi.width), int(roi.height)
        for axis, binning in enumerate((int(info.binning_x), int(info.binning_y))):
            if binning > 1:
                matrix[axis, :2] /= binning
                matrix[axis, 2] = (matrix[axis, 2] + 0.5) / binning - 0.5
        width //= max(int(info.binning_x), 1)
        height //= max(int(info.binning_y), 1)
        model = info.distortion_model or "plumb_bob"
        if model == "fisheye":  # some drivers' name of the same model
            model = "equidistant"
        return cls(matrix, width, height, model, distortion)


@dataclass(frozen=True)
class ImageResize:
    """Maps a source image to a network input: scaled to its width, aspect kept, aligned at the bottom.

    What is too high is cropped from the top, where the sky is; what is too low is padded with black rows at
    the top. Training and vehicle use this same class.

    Attributes:
        source_size: Width and height of the source image.
        target: Size of the network's input.
    """

    source_size: tuple[int, int]
    target: ImageInput

    @property
    def scaled_size(self) -> tuple[int, int]:
        """Width and height after scaling, before cropping or padding."""
        width, height = self.source_size
        return self.target.width, max(1, round(height * self.target.width / width))

    @property
    def rows_cropped(self) -> int:
        """Rows cut off at the top after scaling; negative: rows of padding added there."""
        return self.scaled_size[1] - self.target.height

    def intrinsics(self, intrinsics_33: ArrayLike) -> FloatArray:
        """Returns the camera matrix of the target image for the source image's camera matrix."""
        result = np.array(intrinsics_33, dtype=np.float64)
        for axis in (0, 1):
            scale = self.scaled_size[axis] / self.source_size[axis]
            result[axis, :2] *= scale
            result[axis, 2] = (result[axis, 2] + 0.5) * scale - 0.5  # pixel centres lie at whole numbers
        result[1, 2] -= self.rows_cropped
        return result

    def reduction(self) -> int:
        """Returns by how much (1, 2, 4, 8) a decoder may shrink the source, staying exact and big enough."""
        width, height = self.source_size
        for factor in (8, 4, 2):
            if (
                width % factor == 0
                and height % factor == 0
                and width // factor >= self.scaled_size[0]
                and height // factor >= self.scaled_size[1]
            ):
                return factor
        return 1

    def apply(self, image_hwc: NDArray[Any], interpolation: int | None = None) -> NDArray[Any]:
        """Resizes an image [h, w] or [h, w, C] that is the source or the source shrunk by `reduction`.

        Args:
            image_hwc: The image.
            interpolation: OpenCV's; None: area averaging when shrinking, linear when enlarging. Use
                cv2.INTER_NEAREST for labels.

        Returns:
            [target height, target width] or [.., C] of the same dtype.

        Raises:
            ValueError: The image has another aspect than the source.
        """
        height, width = image_hwc.shape[:2]
        factor = self.source_size[0] / width
        if abs(self.source_size[1] / height - factor) > 1e-6:
            raise ValueError(
                f"image of {width}x{height} is no reduction of {self.source_size[0]}x{self.source_size[1]}"
            )
        if interpolation is None:
            interpolation = cv2.INTER_AREA if self.scaled_size[0] < width else cv2.INTER_LINEAR
        scaled = image_hwc
        if (width, height) != self.scaled_size:
            scaled = cv2.resize(image_hwc, self.scaled_size, interpolation=interpolation)
        cropped = self.rows_cropped
        if cropped >= 0:
            return scaled[cropped:]
        result = np.zeros((self.target.height, *scaled.shape[1:]), dtype=scaled.dtype)
        result[-cropped:] = scaled
        return result


class ImageRectifier:
    """Turns one camera's images into network inputs without distortion.

    Attributes:
        resize: The mapping of sizes.
        intrinsics_33: Camera matrix of the result.
        reduction: By how much a JPEG decoder may shrink the image before `apply`.
    """

    def __init__(self, calibration: CameraCalibration, target: ImageInput) -> None:
        """Prepares the mapping for one camera and one input size."""
        self.calibration = calibration
        self.resize = ImageResize(calibration.size, target)
        self.intrinsics_33 = self.resize.intrinsics(calibration.intrinsics_33)
        self.reduction = self.resize.reduction()
        self._maps: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

    def apply(self, image_hwc: UInt8Array) -> UInt8Array:
        """Returns the image [target height, target width, C]; the input may be shrunk by `reduction`."""
        if not self.calibration.is_distorted:
            return self.resize.apply(image_hwc)
        factor = round(self.calibration.width / image_hwc.shape[1])
        if factor not in self._maps:
            self._maps[factor] = self._undistortion_maps(factor)
        return np.asarray(cv2.remap(image_hwc, *self._maps[factor], cv2.INTER_LINEAR), dtype=np.uint8)

    def _undistortion_maps(self, factor: int) -> tuple[NDArray[Any], NDArray[Any]]:
        matrix = self.calibration.intrinsics_33.copy()
        matrix[:2, :2] /= factor
        matrix[:2, 2] = (matrix[:2, 2] + 0.5) / factor - 0.5
        size = (self.resize.target.width, self.resize.target.height)
        distortion = np.asarray(self.calibration.distortion)
        if self.calibration.distortion_model == "equidistant":
            return cv2.fisheye.initUndistortRectifyMap(
                matrix, distortion, np.eye(3), self.intrinsics_33, size, cv2.CV_16SC2
            )
        return cv2.initUndistortRectifyMap(
            matrix, distortion, np.eye(3), self.intrinsics_33, size, cv2.CV_16SC2
        )


class FrameTree:
    """Static transforms between named frames, as /tf_static gives them; may hold several trees at once."""

    def __init__(self) -> None:
        """Creates an empty tree."""
        self._parents: dict[str, tuple[str, FloatArray]] = {}
        self._frames: set[str] = set()
        self.version = 0

    def __contains__(self, frame: str) -> bool:
        """Whether a frame is known."""
        return _frame_name(frame) in self._frames

    @property
    def frames(self) -> frozenset[str]:
        """All known frames."""
        return frozenset(self._frames)

    def roots(self) -> list[str]:
        """Frames without a parent, one for each separate tree."""
        return sorted(self._frames - self._parents.keys())

    def add(self, parent: str, child: str, parent_from_child: ArrayLike) -> None:
        """Adds or replaces the transform of `child` in `parent`.

        Raises:
            CalibrationError: It is not a rigid transform, or it would make a circle.
        """
        parent, child = _frame_name(parent), _frame_name(child)
        transform = np.array(parent_from_child, dtype=np.float64)
        if not parent or not child:
            raise CalibrationError(f"a transform needs two frame names, got '{parent}' -> '{child}'")
        if not geometry.is_rigid(transform):
            raise CalibrationError(f"transform '{parent}' -> '{child}' is not rigid: {transform.tolist()}")
        if child in self._path_to_root(parent):
            raise CalibrationError(f"transform '{parent}' -> '{child}' closes a circle of frames")
        known = self._parents.get(child)
        if known is not None and known[0] == parent and np.array_equal(known[1], transform):
            return
        self._parents[child] = (parent, transform)
        self._frames |= {parent, child}
        self.version += 1

    def lookup(self, target: str, source: str) -> FloatArray:
        """Returns `target_from_source`, through any chain of transforms.

        Raises:
            CalibrationError: A frame is unknown or both are in separate trees.
        """
        target, source = _frame_name(target), _frame_name(source)
        if target == source:
            return np.eye(4)
        for frame in (source, target):
            if frame not in self._frames:
                known = nearest(frame, self._frames) or "; no transform is known at all"
                raise CalibrationError(f"frame '{frame}' is not known{known}")
        to_target, to_source = self._path_to_root(target), self._path_to_root(source)
        if to_target[-1] != to_source[-1]:
            raise CalibrationError(
                f"frames '{target}' and '{source}' are not connected: the first belongs to the tree of "
                f"'{to_target[-1]}', the second to the tree of '{to_source[-1]}'"
            )
        return geometry.compose(geometry.inverse(self._root_from(target)), self._root_from(source))

    def _path_to_root(self, frame: str) -> list[str]:
        path = [frame]
        while path[-1] in self._parents:
            path.append(self._parents[path[-1]][0])
        return path

    def _root_from(self, frame: str) -> FloatArray:
        result = np.eye(4)
        while frame in self._parents:
            frame, transform = self._parents[frame]
            result = transform @ result
        return result


def _frame_name(frame: str) -> str:
    """Frame names of ROS 1 recordings start with a slash that ROS 2 dropped."""
    return frame.lstrip("/")


class FramePose(StrictModel):
    """Pose of a frame in its parent frame: translation and rotation, or one matrix `parent_from_frame`.

    Attributes:
        parent: Parent frame.
        translation: x, y, z in metres.
        rotation_xyzw: Quaternion.
        matrix: 4x4, instead of the other two.
    """

    parent: str
    translation: tuple[float, float, float] | None = None
    rotation_xyzw: tuple[float, float, float, float] | None = None
    matrix: tuple[tuple[float, float, float, float], ...] | None = None

    @pydantic.model_validator(mode="after")
    def _one_form(self) -> FramePose:
        if (self.matrix is None) == (self.translation is None and self.rotation_xyzw is None):
            raise ValueError("give either 'matrix' or 'translation' and 'rotation_xyzw'")
        if self.matrix is None and (self.translation is None or self.rotation_xyzw is None):
            raise ValueError("'translation' and 'rotation_xyzw' belong together")
        if not geometry.is_rigid(self.parent_from_frame()):
            raise ValueError("not a rigid transform")
        return self

    def parent_from_frame(self) -> FloatArray:
        """Returns the 4x4 transform."""
        if self.matrix is not None:
            return np.array(self.matrix, dtype=np.float64)
        assert self.translation is not None and self.rotation_xyzw is not None
        return geometry.transform_from_quaternion(self.translation, self.rotation_xyzw)


class CameraIntrinsics(StrictModel):
    """Intrinsics of one camera in a calibration file; the fields are those of `CameraCalibration`."""

    width: int
    height: int
    intrinsics: tuple[tuple[float, float, float], ...]
    distortion_model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()

    @pydantic.model_validator(mode="after")
    def _is_possible(self) -> CameraIntrinsics:
        self.calibration()
        return self

    def calibration(self) -> CameraCalibration:
        """Returns the checked calibration."""
        return CameraCalibration(
            np.array(self.intrinsics), self.width, self.height, self.distortion_model, self.distortion
        )


class CalibrationFile(StrictModel):
    """A calibration file that a rig names.

    Attributes:
        frames: Pose of each frame by its name.
        cameras: Intrinsics by modality name.
    """

    format: Literal[1] = 1
    frames: dict[str, FramePose] = {}
    cameras: dict[str, CameraIntrinsics] = {}

    def frame_tree(self) -> FrameTree:
        """Returns the frames as a tree.

        Raises:
            CalibrationError: The frames form a circle.
        """
        tree = FrameTree()
        for name, pose in self.frames.items():
            tree.add(pose.parent, name, pose.parent_from_frame())
        return tree

    def camera_calibrations(self) -> Mapping[str, CameraCalibration]:
        """Returns the cameras' intrinsics by modality name."""
        return {name: camera.calibration() for name, camera in self.cameras.items()}


def load_calibration(path: str | Path) -> CalibrationFile:
    """Reads a calibration file.

    Raises:
        ConfigurationError: The file cannot be read or is wrong; names file and line.
    """
    file = ConfigurationFile.read(path)
    calibration = file.validate(CalibrationFile)
    try:
        calibration.frame_tree()
    except CalibrationError as error:
        raise file.error(("frames",), str(error)) from error
    return calibration
