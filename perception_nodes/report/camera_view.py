"""The cameras of a frame with projected boxes, laid out as they stand on the vehicle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from perception_core.geometry import box_corners, project_box_edges
from perception_nodes.report.bev_view import MAX_BOXES
from perception_nodes.report.frame_scene import FrameScene, SceneCamera, SceneObject
from perception_nodes.report.raster import jpeg_address
from perception_nodes.report.svg import drawing, number

_PIXELS_WIDE = 720
_BLANK = (1600, 900)


def camera_view(camera: SceneCamera, scene: FrameScene) -> str:
    """Draws one camera's picture with the boxes of the scene as lines.

    Returns:
        One SVG element; groups cam-truth and cam-detections hold the boxes.
    """
    width, height = _BLANK if camera.image_hwc is None else camera.image_hwc.shape[1::-1]
    parts: list[str] = []
    if camera.image_hwc is None:
        parts.append(f'<rect class="no-picture" width="{width}" height="{height}"/>')
        middle = f'x="{width / 2}" y="{height / 2}" font-size="{width / 22:.0f}"'
        parts.append(f'<text class="no-picture-label middle" {middle}>not in this frame</text>')
    else:
        address = jpeg_address(camera.image_hwc, _PIXELS_WIDE)
        parts.append(f'<image href="{address}" width="{width}" height="{height}"/>')
    stroke = width / 460
    if scene.ground_truth:
        boxes = _boxes(scene.ground_truth, camera, (width, height), stroke)
        parts.append(f'<g class="cam-truth">{"".join(boxes)}</g>')
    for detections in scene.objects.values():
        best = sorted(detections, key=lambda item: -item.score)[:MAX_BOXES]
        parts.append(
            f'<g class="cam-detections">{"".join(_boxes(best, camera, (width, height), stroke))}</g>'
        )
    return drawing(width, height, parts, f"{camera.name} with boxes")


def camera_title(name: str) -> str:
    """`camera_front_left` to `front left`."""
    return name.removeprefix("camera_").replace("_", " ")


def mosaic(cameras: Sequence[SceneCamera]) -> list[list[SceneCamera]]:
    """Arranges cameras in rows: those that look forward above the others, each row from left to right.

    Where the vehicle looks back, left and right stay as the vehicle has them (back left, back, back right),
    as is usual for six cameras. Cameras without calibration come last, in the rig's order.
    """
    placed: list[tuple[float, SceneCamera]] = []
    unplaced: list[SceneCamera] = []
    for camera in cameras:
        heading = viewing_direction(camera)
        if heading is None:
            unplaced.append(camera)
        else:
            placed.append((heading, camera))
    if not cameras:
        return []
    if len(cameras) <= 2:
        return [[camera for _, camera in sorted(placed, key=lambda item: -item[0])] + unplaced]
    forward = [item for item in placed if math.cos(item[0]) > 0.17]
    backward = [item for item in placed if math.cos(item[0]) <= 0.17]
    rows = [
        [camera for _, camera in sorted(forward, key=lambda item: -item[0])],
        [camera for _, camera in sorted(backward, key=lambda item: -math.sin(item[0]))],
        unplaced,
    ]
    return [row for row in rows if row]


def viewing_direction(camera: SceneCamera) -> float | None:
    """Heading of the optical axis in the ego frame, radians, 0 forward and positive left; None without
    calibration.
    """
    if camera.camera_from_ego is None:
        return None
    axis = camera.camera_from_ego[2, :3]  # the camera's z axis, expressed in the ego frame
    return math.atan2(float(axis[1]), float(axis[0]))


def _boxes(
    objects: Iterable[SceneObject], camera: SceneCamera, size: tuple[int, int], stroke: float
) -> list[str]:
    if camera.camera_from_ego is None or camera.intrinsics_33 is None:
        return []
    parts = []
    for item in objects:
        if not all(map(math.isfinite, item.box_7)):
            continue
        corners = box_corners(np.asarray(item.box_7))[0]
        segments = project_box_edges(
            corners, camera.camera_from_ego, camera.intrinsics_33, size, minimal_depth=0.5
        )
        if not len(segments) or np.abs(segments).max() > 20 * max(size):
            continue
        path = "".join(
            f"M{number(start[0])} {number(start[1])}L{number(end[0])} {number(end[1])}"
            for start, end in segments
        )
        opacity = number(0.35 + 0.65 * min(max(item.score, 0.0), 1.0))
        title = escape(f"{item.label} {item.score:.2f}")
        parts.append(
            f'<path d="{path}" style="stroke-width:{number(stroke)};opacity:{opacity}">'
            f"<title>{title}</title></path>"
        )
    return parts
