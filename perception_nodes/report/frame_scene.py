"""One recorded frame, decoded: what the bird's-eye and camera views draw. All geometry in the ego frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SceneObject:
    """A box.

    Attributes:
        label: Class name.
        score: 0..1; 1 for ground truth.
        box_7: x y z of the centre, length width height in metres, yaw in radians.
        velocity_2: Metres a second, None where not known.
    """

    label: str
    score: float
    box_7: tuple[float, float, float, float, float, float, float]
    velocity_2: tuple[float, float] | None = None


@dataclass(frozen=True)
class SceneCamera:
    """A camera picture and its calibration; the latter None where none was recorded.

    Attributes:
        name: Modality.
        image_hwc: RGB, None where this camera was missing from the frame.
        camera_from_ego: 4x4.
        intrinsics_33: Pixels of `image_hwc`.
    """

    name: str
    image_hwc: NDArray[np.uint8] | None
    camera_from_ego: NDArray[np.float64] | None = None
    intrinsics_33: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class SceneMap:
    """Map layers as the task published them.

    Attributes:
        layers: Names.
        probability_khw: 0..1; rows along +y, columns along +x.
        resolution: Metres a cell.
        origin_xy: Ego coordinates of the corner of cell (0, 0).
    """

    layers: tuple[str, ...]
    probability_khw: NDArray[np.float32]
    resolution: float
    origin_xy: tuple[float, float]


@dataclass(frozen=True)
class FrameScene:
    """A frame.

    Attributes:
        trace_id: 0 where no task output belongs to it.
        time_s: Seconds since the recording began.
        points_n3: LiDAR points, None where the sweep is missing.
        cameras: In the rig's order.
        objects: Detections by task.
        ground_truth: Annotated objects, None where there are none.
        map: Map layers.
        path_xy: Planned path, [P, 2].
        notes: What could not be shown, and why.
    """

    trace_id: int
    time_s: float
    points_n3: NDArray[np.float32] | None = None
    cameras: tuple[SceneCamera, ...] = ()
    objects: dict[str, tuple[SceneObject, ...]] = field(default_factory=dict)
    ground_truth: tuple[SceneObject, ...] | None = None
    map: SceneMap | None = None
    path_xy: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()


def arc(steering_angle: float, wheelbase: float, length: float, steps: int = 40) -> NDArray[np.float64]:
    """Path [P, 2] of a kinematic single-track vehicle that keeps its steering angle, from the rear axle.

    Args:
        steering_angle: Radians, positive left.
        wheelbase: Metres.
        length: Metres along the path.
        steps: Points.
    """
    distance = np.linspace(0.0, max(length, 0.0), steps)
    curvature = np.tan(steering_angle) / wheelbase
    if abs(curvature) < 1e-6:
        return np.stack([distance, np.zeros_like(distance)], axis=1)
    heading = curvature * distance
    return np.stack([np.sin(heading) / curvature, (1 - np.cos(heading)) / curvature], axis=1)
