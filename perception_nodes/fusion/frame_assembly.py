"""Turns the messages chosen for a frame into its tensors; whatever cannot be used is masked and said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_core import geometry
from perception_core.bundle import BundleInput, ImageInput, MonoInput
from perception_core.calibration import CalibrationError, ImageRectifier
from perception_core.geometry import FloatArray
from perception_core.pointcloud import PointCloudError, PointField, decode_point_cloud, prepare_points
from perception_core.rig import Rig
from perception_nodes.fusion.calibration_book import CalibrationBook
from perception_nodes.fusion.frame_synchronizer import SensorMessage
from perception_nodes.fusion.image_decoding import ImageError, decode_compressed, decode_raw

LIDAR = "lidar"

#: Pose a masked camera gets: at the ego origin, looking ahead. Its image is not used, but networks invert
#: these matrices.
_PLACEHOLDER_POSE: FloatArray = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class EgoMotion:
    """The vehicle's motion in its own frame.

    Attributes:
        stamp_ns: ROS time.
        speed: Metres a second along x.
        yaw_rate: Radians a second, positive left.
    """

    stamp_ns: int
    speed: float
    yaw_rate: float


@dataclass(frozen=True)
class AssemblyFault:
    """Something that kept a sensor out of a frame.

    Attributes:
        kind: Short stable name.
        modality: The sensor.
        message: What is wrong and what to do.
    """

    kind: str
    modality: str
    message: str


@dataclass
class AssembledFrame:
    """A frame's tensors.

    Attributes:
        tensors: By graph name, see FRAME_TENSORS; empty for a dropped frame.
        valid: Modalities the frame contains.
        faults: Why others are missing.
        rejected: Modalities whose message was refused now for the first time.
        drop_reason: Why no frame may go out, or empty.
    """

    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    valid: set[str] = field(default_factory=set)
    faults: list[AssemblyFault] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    drop_reason: str = ""


@dataclass(frozen=True)
class _PreparedImage:
    """One message's image in every size that is wanted of it."""

    rectifiers: tuple[ImageRectifier, ...]
    pixels_hwc: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class _Refusal:
    """A message that was refused for good keeps saying why without being decoded again."""

    kind: str
    message: str


def image_sizes(needs: BundleInput, camera: str) -> tuple[ImageInput, ...]:
    """Returns the sizes a bundle wants a camera's image in: that of all cameras, then a monocular model's."""
    sizes = () if needs.image is None else (needs.image,)
    if needs.mono is not None and needs.mono.camera == camera:
        sizes = (*sizes, ImageInput(height=needs.mono.height, width=needs.mono.width))
    return sizes


def _placeholder_intrinsics(size: ImageInput) -> FloatArray:
    return np.array([[size.width, 0.0, size.width / 2], [0.0, size.width, size.height / 2], [0.0, 0.0, 1.0]])


class FrameAssembler:
    """Decodes and transforms the messages of one frame; images on a small pool of threads."""

    def __init__(
        self,
        rig: Rig,
        needs: BundleInput,
        book: CalibrationBook,
        *,
        decode_threads: int = 2,
        compensate_ego_motion: bool = True,
        time_stretch: float = 1.0,
    ) -> None:
        """Creates the assembler.

        Args:
            rig: The vehicle.
            needs: What the bundle takes.
            book: Where calibrations are looked up.
            decode_threads: Threads that decode images; 1: the caller's.
            compensate_ego_motion: Move each camera by what the vehicle drove between the image's and the
                frame's stamp.
            time_stretch: Seconds between two stamps for each second the vehicle drove between them.
        """
        self._rig = rig
        self._needs = needs
        self._book = book
        self._compensate = compensate_ego_motion
        self._time_stretch = time_stretch
        self._pool = (
            ThreadPoolExecutor(decode_threads, "decode") if decode_threads > 1 and rig.cameras else None
        )

    @staticmethod
    def used_modalities(rig: Rig, needs: BundleInput) -> tuple[str, ...]:
        """Returns the rig's modalities whose data the bundle takes."""
        lidar = (LIDAR,) if rig.lidar is not None and needs.max_points > 0 else ()
        return lidar + tuple(name for name in rig.cameras if image_sizes(needs, name))

    def close(self) -> None:
        """Ends the decoding threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def assemble(
        self, stamp_ns: int, selection: Mapping[str, SensorMessage], motion: EgoMotion | None
    ) -> AssembledFrame:
        """Builds one frame.

        Args:
            stamp_ns: The frame's stamp.
            selection: Chosen message by modality.
            motion: The vehicle's motion where it is fresh.
        """
        frame = AssembledFrame()
        cameras = [name for name in self._rig.cameras if name in selection and image_sizes(self._needs, name)]
        messages = [selection[name] for name in cameras]
        # Both forms are lazy iterators of results; the pool's works while this thread prepares the sweep.
        images = (map if self._pool is None else self._pool.map)(self._prepare_image, messages)
        points = self._prepare_sweep(frame, selection.get(LIDAR))
        if frame.drop_reason:
            return frame
        prepared = dict(zip(cameras, images, strict=True))

        frame.tensors["points_nc"] = points
        frame.tensors["lidar_valid"] = np.array([LIDAR in frame.valid])
        frame.tensors["ego_motion_c"] = np.array(
            [motion.speed, motion.yaw_rate, 1.0] if motion is not None else [0.0, 0.0, 0.0], dtype=np.float32
        )
        placed = self._place_cameras(frame, stamp_ns, selection, prepared, motion)
        if self._needs.image is not None:
            self._fill_views(frame, placed)
        if self._needs.mono is not None:
            self._fill_mono(frame, self._needs.mono, placed)
        if not frame.valid:
            frame.tensors.clear()
            frame.drop_reason = "no_valid_sensor"
        return frame

    # -- LiDAR -----------------------------------------------------------------------------------------------

    def _prepare_sweep(self, frame: AssembledFrame, message: SensorMessage | None) -> NDArray[np.float32]:
        nothing = np.zeros((0, 5), dtype=np.float32)
        lidar = self._rig.lidar
        if message is None or lidar is None or self._needs.max_points == 0:
            return nothing
        cloud = message.content
        try:
            ego_from_lidar = self._book.ego_from_lidar(cloud.header.frame_id)
        except CalibrationError as error:
            self._refuse(frame, message, "no_calibration", f"sweeps are dropped: {error}")
            frame.drop_reason = "no_calibration"
            return nothing
        try:
            points = decode_point_cloud(
                cloud.data,
                fields=[PointField(f.name, f.offset, f.datatype, f.count) for f in cloud.fields],
                width=cloud.width,
                height=cloud.height,
                point_step=cloud.point_step,
                row_step=cloud.row_step,
                is_bigendian=cloud.is_bigendian,
                stamp_s=cloud.header.stamp.sec + cloud.header.stamp.nanosec * 1e-9,
                intensity_field=lidar.intensity_field,
            )
        except PointCloudError as error:
            self._refuse(frame, message, "bad_points", f"sweep refused, LiDAR masked: {error}")
            return nothing
        result = prepare_points(
            points,
            ego_from_lidar,
            min_range_m=lidar.min_range_m,
            intensity_scale=lidar.intensity_scale,
            max_points=self._needs.max_points,
        )
        if len(result) == 0:
            # A LiDAR that sees nothing at all is blind; a frame that called it valid would let the vehicle
            # trust it.
            self._refuse(
                frame,
                message,
                "empty_cloud",
                f"sweep of {cloud.width}x{cloud.height} points has none that is finite and beyond "
                f"{lidar.min_range_m:g} m, LiDAR masked",
            )
            return nothing
        frame.valid.add(LIDAR)
        return result

    # -- cameras ---------------------------------------------------------------------------------------------

    def _prepare_image(self, message: SensorMessage) -> _PreparedImage | _Refusal:
        """Decodes and resizes one image; runs on a thread of the pool."""
        known = message.prepared
        if isinstance(known, _Refusal):
            return known
        try:
            rectifiers = tuple(
                self._book.rectifier(message.modality, size)
                for size in image_sizes(self._needs, message.modality)
            )
        except CalibrationError as error:
            return _Refusal("no_calibration", f"camera masked: {error}")
        if isinstance(known, _PreparedImage) and known.rectifiers == rectifiers:
            return known
        image, calibration = message.content, rectifiers[0].calibration
        reduction = min(rectifier.reduction for rectifier in rectifiers)
        try:
            if hasattr(image, "encoding"):
                pixels = decode_raw(
                    image.data,
                    encoding=image.encoding,
                    width=image.width,
                    height=image.height,
                    step=image.step,
                    is_bigendian=bool(image.is_bigendian),
                    expected_size=calibration.size,
                )
            else:
                pixels = decode_compressed(image.data, reduction, calibration.size)
            message.prepared = _PreparedImage(
                rectifiers, tuple(rectifier.apply(pixels) for rectifier in rectifiers)
            )
        except ImageError as error:
            message.prepared = _Refusal("bad_image", f"image refused, camera masked: {error}")
        return message.prepared  # type: ignore[no-any-return]

    def _place_cameras(
        self,
        frame: AssembledFrame,
        stamp_ns: int,
        selection: Mapping[str, SensorMessage],
        prepared: Mapping[str, _PreparedImage | _Refusal],
        motion: EgoMotion | None,
    ) -> dict[str, tuple[_PreparedImage, FloatArray]]:
        """Returns image and pose of every camera that can be used; says why of the others."""
        placed: dict[str, tuple[_PreparedImage, FloatArray]] = {}
        for name, image in prepared.items():
            message = selection[name]
            if isinstance(image, _Refusal):
                self._refuse(frame, message, image.kind, image.message)
                continue
            try:
                camera_from_ego = self._book.camera_from_ego(name, message.content.header.frame_id)
            except CalibrationError as error:
                self._refuse(frame, message, "no_calibration", f"camera masked: {error}")
                continue
            if motion is not None and self._compensate:
                elapsed_s = (stamp_ns - message.stamp_ns) * 1e-9 / self._time_stretch
                # the ego frame at the frame's stamp, seen from where the vehicle was when the image was taken
                camera_from_ego = camera_from_ego @ geometry.planar_motion(
                    motion.speed, motion.yaw_rate, elapsed_s
                )
            placed[name] = (image, camera_from_ego)
            frame.valid.add(name)
        return placed

    def _fill_views(
        self, frame: AssembledFrame, placed: Mapping[str, tuple[_PreparedImage, FloatArray]]
    ) -> None:
        """Fills the tensors of all cameras, masked where one is not there."""
        target = self._needs.image
        assert target is not None
        views: Sequence[str] = list(self._rig.cameras)
        images_vhwc = np.zeros((len(views), target.height, target.width, 3), dtype=np.uint8)
        valid_v = np.zeros(len(views), dtype=bool)
        intrinsics_v33 = np.zeros((len(views), 3, 3), dtype=np.float32)
        camera_from_ego_v44 = np.zeros((len(views), 4, 4), dtype=np.float32)
        for view, name in enumerate(views):
            intrinsics_v33[view] = _placeholder_intrinsics(target)
            camera_from_ego_v44[view] = _PLACEHOLDER_POSE
            if name in placed:
                image, camera_from_ego_v44[view] = placed[name]
                images_vhwc[view] = image.pixels_hwc[0]
                valid_v[view] = True
                intrinsics_v33[view] = image.rectifiers[0].intrinsics_33
        frame.tensors["images_vhwc"] = images_vhwc
        frame.tensors["camera_valid_v"] = valid_v
        frame.tensors["intrinsics_v33"] = intrinsics_v33
        frame.tensors["camera_from_ego_v44"] = camera_from_ego_v44

    @staticmethod
    def _fill_mono(
        frame: AssembledFrame, mono: MonoInput, placed: Mapping[str, tuple[_PreparedImage, FloatArray]]
    ) -> None:
        """Fills the tensors of the one camera the bundle takes by itself."""
        image_hwc = np.zeros((mono.height, mono.width, 3), dtype=np.uint8)
        intrinsics, pose = _placeholder_intrinsics(mono), _PLACEHOLDER_POSE
        if mono.camera in placed:
            image, pose = placed[mono.camera]
            image_hwc, intrinsics = image.pixels_hwc[-1], image.rectifiers[-1].intrinsics_33
        frame.tensors["mono_image_hwc"] = np.ascontiguousarray(image_hwc)
        frame.tensors["mono_valid"] = np.array([mono.camera in placed])
        frame.tensors["mono_intrinsics_33"] = intrinsics.astype(np.float32)
        frame.tensors["mono_camera_from_ego_44"] = pose.astype(np.float32)

    def _refuse(self, frame: AssembledFrame, message: SensorMessage, kind: str, text: str) -> None:
        frame.faults.append(AssemblyFault(kind, message.modality, text))
        if not message.refused:  # one message may be tried for several frames
            message.refused = True
            frame.rejected.append(message.modality)
