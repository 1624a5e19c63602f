"""Draws a sample: LiDAR points and boxes in the images and from above, with masks, waypoints and dense
labels.

What it draws goes through the sample's own calibration, so a picture that looks right says that images,
points, boxes and labels belong together.
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import box_corners, project_box_edges, project_points
from training.datasets.box_frames import rotation_of
from training.datasets.sample import BoxLabels, DenseLabel, Sample

Image = NDArray[np.uint8]

_BACKGROUND = (18, 20, 24)
_TEXT = (230, 232, 236)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 6

#: Depth at which the colour scale of points and depth images ends.
_FAR_M = 60.0

#: Colours of the map layers in the view from above, muted so that points and boxes stand out.
_LAYER_COLOURS = (
    *((52, 58, 66), (120, 106, 40), (44, 78, 62), (130, 52, 52), (64, 60, 104), (150, 150, 150)),
    *((90, 60, 90), (60, 90, 90)),
)


def class_colour(index: int, count: int) -> tuple[int, int, int]:
    """Returns a colour per class, evenly spread over the colour circle and the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(index / max(count, 1), 0.65, 1.0)
    return int(255 * red), int(255 * green), int(255 * blue)


def _depth_colours(metres: NDArray[np.floating], far: float = _FAR_M) -> Image:
    """Maps depth to RGB: red near, blue far, by its logarithm so that near ranges keep their contrast."""
    near = 1 - np.log1p(np.clip(metres, 0, far)) / np.log1p(far)
    values = (np.clip(near, 0, 1) * 255).astype(np.uint8).reshape(-1, 1)
    return np.asarray(cv2.applyColorMap(values, cv2.COLORMAP_TURBO)[:, 0, ::-1], dtype=np.uint8)


def box_corners_with_tilt(boxes: BoxLabels) -> NDArray[np.float64]:
    """Returns the corners [B, 8, 3] of boxes with pitch and roll, in the order of `box_corners`."""
    upright = boxes.boxes_b9.copy()
    upright[:, 6] = 0
    local = box_corners(upright[:, :7]) - boxes.boxes_b9[:, None, :3]
    angles = np.concatenate([boxes.boxes_b9[:, 6:7], boxes.pitch_roll_b2], axis=1)
    corners: NDArray[np.float64] = (
        np.einsum("bij,bkj->bki", rotation_of(angles), local) + boxes.boxes_b9[:, None, :3]
    )
    return corners


def draw_view(sample: Sample, view: int, *, points: bool = True, boxes: bool = True) -> Image:
    """Draws points and boxes into one image."""
    cameras = sample.cameras
    assert cameras is not None
    image = cameras.images_vhwc[view].copy()
    camera_from_ego, intrinsics = cameras.camera_from_ego_v44[view], cameras.intrinsics_v33[view]
    scale = max(1, round(cameras.size[0] / 500))
    if points and len(sample.points_nc):
        # Only where the recorded image is: rotation and cropping leave borders that no camera saw.
        seen = project_points(sample.points_nc[:, :3], camera_from_ego, intrinsics, cameras.size)
        order = np.flatnonzero(seen.visible)
        order = order[np.argsort(-seen.depth[order])]
        colours = _depth_colours(seen.depth[order])
        for (column, row), colour in zip(seen.pixels[order], colours.tolist(), strict=True):
            cv2.circle(image, (round(column), round(row)), scale, colour, -1)
    if boxes and sample.boxes is not None:
        count = len(sample.boxes.class_names)
        for label, corners in zip(sample.boxes.labels_b, box_corners_with_tilt(sample.boxes), strict=True):
            edges = project_box_edges(corners, camera_from_ego, intrinsics, cameras.size)
            for start, end in edges:
                _line(image, start, end, class_colour(int(label), count), scale)
    _caption(image, cameras.names[view] + ("" if cameras.valid_v[view] else " (masked)"))
    return image


def _line(
    image: Image,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    colour: tuple[int, int, int],
    width: int,
) -> None:
    # OpenCV's coordinates are 16 bits wide in places: lines of boxes beside the camera reach far outside.
    inside, first, last = cv2.clipLine(
        (-4000, -4000, 8000 + image.shape[1], 8000 + image.shape[0]),
        tuple(int(v) for v in np.clip(np.round(start), -1e6, 1e6)),  # type: ignore[arg-type]
        tuple(int(v) for v in np.clip(np.round(end), -1e6, 1e6)),  # type: ignore[arg-type]
    )
    if inside:
        cv2.line(image, first, last, colour, width, cv2.LINE_AA)


def _caption(image: Image, text: str) -> None:
    scale = min(0.8, max(0.4, image.shape[1] / 1100))
    thickness = max(1, round(scale * 1.4))
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    cv2.rectangle(image, (0, 0), (width + 12, height + 12), _BACKGROUND, -1)
    cv2.putText(image, text, (6, height + 6), _FONT, scale, _TEXT, thickness, cv2.LINE_AA)


def draw_from_above(sample: Sample, size: int, reach_m: float = 52.0) -> Image:
    """Draws the ego frame's x-y plane, x up, y left: masks, points by height, boxes, the way driven.

    Args:
        sample: The sample.
        size: Pixels along a side.
        reach_m: Distance from the ego origin to the picture's border.
    """
    image = np.full((size, size, 3), _BACKGROUND, dtype=np.uint8)
    scale = size / (2 * reach_m)

    def pixels(xy: NDArray[np.floating]) -> NDArray[np.int64]:
        return np.round(np.stack([size / 2 - xy[..., 1] * scale, size / 2 - xy[..., 0] * scale], -1)).astype(
            np.int64
        )

    masks = sample.map_masks or sample.foreground_masks
    if masks is not None:
        centre = (np.arange(size) + 0.5 - size / 2) / scale
        x, y = np.meshgrid(-centre, -centre, indexing="ij")
        column = np.floor((x - masks.grid.x_min) / masks.grid.cell_size).astype(int)
        row = np.floor((y - masks.grid.y_min) / masks.grid.cell_size).astype(int)
        known = (column >= 0) & (column < masks.grid.columns) & (row >= 0) & (row < masks.grid.rows)
        for layer, mask in enumerate(masks.masks_khw):
            hit = known.copy()
            hit[known] = mask[row[known], column[known]]
            image[hit] = _LAYER_COLOURS[layer % len(_LAYER_COLOURS)]
    for radius in range(10, int(reach_m), 10):
        cv2.circle(image, (size // 2, size // 2), round(radius * scale), (40, 44, 50), 1, cv2.LINE_AA)
    place = pixels(sample.points_nc[:, :2])
    inside = ((place >= 0) & (place < size)).all(axis=1)
    height = np.clip((sample.points_nc[inside, 2] + 0.5) / 4.0, 0, 1)
    tint = cv2.applyColorMap((height * 255).astype(np.uint8).reshape(-1, 1), cv2.COLORMAP_VIRIDIS)
    if inside.any():
        column, row = place[inside].T
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):  # two pixels wide, one is hardly seen
            image[np.minimum(row + down, size - 1), np.minimum(column + right, size - 1)] = tint[:, 0, ::-1]
    if sample.boxes is not None:
        count = len(sample.boxes.class_names)
        for label, box in zip(sample.boxes.labels_b, sample.boxes.boxes_b9, strict=True):
            colour = class_colour(int(label), count)
            corners = pixels(box_corners(box[None, :7])[0, :4, :2])
            cv2.polylines(image, [corners.astype(np.int32)], True, colour, 1, cv2.LINE_AA)
            heading = box[:2] + np.array([np.cos(box[6]), np.sin(box[6])]) * box[3] / 2
            _arrow(image, pixels(box[:2]), pixels(heading), colour)
            if np.isfinite(box[7:]).all() and np.hypot(*box[7:]) > 0.5:
                _arrow(image, pixels(box[:2]), pixels(box[:2] + box[7:]), (255, 255, 255))
    if sample.control is not None:
        for waypoint in pixels(sample.control.waypoints_k2[sample.control.waypoint_valid_k]):
            cv2.circle(image, tuple(waypoint.tolist()), 3, (255, 90, 200), -1, cv2.LINE_AA)
    _arrow(image, pixels(np.zeros(2)), pixels(np.array([3.0, 0.0])), (255, 255, 255))
    _caption(image, f"ego frame, x up, {len(sample.points_nc)} points, rings every 10 m")
    return image


def _arrow(
    image: Image, start: NDArray[np.int64], end: NDArray[np.int64], colour: tuple[int, int, int]
) -> None:
    cv2.arrowedLine(image, tuple(start.tolist()), tuple(end.tolist()), colour, 1, cv2.LINE_AA, tipLength=0.3)


def draw_dense(sample: Sample, task: str, label: DenseLabel, view: int) -> Image:
    """Draws one dense label; black where it is not valid."""
    value, valid = label.value[view], label.valid[view]
    if task == "semantic_segmentation":
        count = max(len(sample.dense.semantic_classes), int(value[valid].max(initial=0)) + 1)
        table = np.zeros((256, 3), dtype=np.uint8)
        table[:count] = [class_colour(index, count) for index in range(count)]
        image = table[value]
    elif task == "depth":
        # Sparse depth is drawn with bigger pixels, else nothing of it is seen.
        if valid.mean() < 0.5:
            value, valid = _thickened(value)
        far = (
            float(np.percentile(value[valid], 99)) if valid.any() else _FAR_M
        )  # rooms are smaller than streets
        image = _depth_colours(value.ravel(), min(far, _FAR_M)).reshape(*value.shape, 3)
    elif task == "normals":
        # The colours one is used to: blue towards the viewer, green up.
        image = ((value * [1, -1, -1] + 1) * 127.5).clip(0, 255).astype(np.uint8)
    else:
        grey = (value.clip(0, 1) * 255).astype(np.uint8)
        image = np.repeat(grey[..., None], 3, axis=-1)
    result: Image = np.ascontiguousarray(np.where(valid[..., None], image, 0), dtype=np.uint8)
    _caption(result, task)
    return result


def _thickened(value: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    inverse_depth = np.where(value > 0, 1 / np.maximum(value, 1e-3), 0).astype(np.float32)
    spread = cv2.dilate(inverse_depth, np.ones((3, 3), np.uint8))
    valid = spread > 0
    return np.where(valid, 1 / np.maximum(spread, 1e-6), 0).astype(np.float32), valid


def view_rows(sample: Sample) -> list[list[int]]:
    """Arranges views as one would see them: looking ahead from left to right, looking back below."""
    cameras = sample.cameras
    if cameras is None:
        return []
    ahead = np.stack([np.linalg.inv(pose)[:3, 2] for pose in cameras.camera_from_ego_v44])
    azimuth = np.degrees(np.arctan2(ahead[:, 1], ahead[:, 0]))
    front = [int(view) for view in np.argsort(-azimuth) if abs(azimuth[view]) <= 90]
    back = [int(view) for view in np.argsort(azimuth % 360) if abs(azimuth[view]) > 90]
    return [row for row in (front, back) if row]


def draw_sample(sample: Sample, view_width: int = 800) -> Image:
    """Draws everything of a sample into one picture.

    Args:
        sample: The sample.
        view_width: Width in pixels of one camera's picture.

    Returns:
        uint8 RGB [h, w, 3].
    """
    rows: list[list[Image]] = []
    for views in view_rows(sample):
        rows.append([draw_view(sample, view) for view in views])
    for task, label in sample.dense.items():
        rows += [[draw_dense(sample, task, label, view) for view in views] for views in view_rows(sample)]
    rows = [[_to_width(image, view_width) for image in row] for row in rows]
    if len(rows) > 1 and all(len(row) == 1 for row in rows):  # one camera: its labels beside it
        images = [row[0] for row in rows]
        rows = [images[index : index + 2] for index in range(0, len(images), 2)]
    columns = max((len(row) for row in rows), default=1)
    if len(sample.points_nc) or sample.boxes is not None or sample.map_masks is not None:
        side = max(view_width, min(columns * view_width, 1100))
        rows.append([draw_from_above(sample, side)])
    return _stack([_beside(row) for row in rows])


def _to_width(image: Image, width: int) -> Image:
    height = round(image.shape[0] * width / image.shape[1])
    shrinks = width < image.shape[1]
    resized = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    )
    return np.asarray(resized, dtype=np.uint8)


def _beside(images: list[Image]) -> Image:
    height = max(image.shape[0] for image in images)
    parts = []
    for image in images:
        part = np.full((height, image.shape[1] + _GAP, 3), _BACKGROUND, dtype=np.uint8)
        part[: image.shape[0], : image.shape[1]] = image
        parts.append(part)
    return np.concatenate(parts, axis=1)[:, :-_GAP]


def _stack(rows: list[Image]) -> Image:
    width = max((row.shape[1] for row in rows), default=1)
    parts = []
    for row in rows:
        part = np.full((row.shape[0] + _GAP, width, 3), _BACKGROUND, dtype=np.uint8)
        left = (width - row.shape[1]) // 2
        part[: row.shape[0], left : left + row.shape[1]] = row
        parts.append(part)
    return np.concatenate(parts)[:-_GAP] if parts else np.zeros((1, 1, 3), dtype=np.uint8)
