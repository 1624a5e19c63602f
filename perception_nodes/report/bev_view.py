"""Bird's-eye view of a frame: map layers, LiDAR points, boxes and the planned path; the vehicle looks up the
page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from perception_core.rig import VehicleLimits
from perception_nodes.report.frame_scene import FrameScene, SceneMap, SceneObject
from perception_nodes.report.palette import layer_colours, rgb
from perception_nodes.report.raster import png_address
from perception_nodes.report.svg import Plot, drawing, number

_SIZE = 1000.0
#: Detections drawn at most, best first: more would hide everything else.
MAX_BOXES = 80
#: A cell belongs to a map layer from this probability.
LAYER_THRESHOLD = 0.4
_HEIGHT_RANGE = (-0.5, 3.5)
_HEIGHT_COLOURS = np.array(
    [[68, 84, 140], [57, 120, 158], [48, 150, 150], [72, 176, 120], [150, 190, 70], [224, 190, 60]],
    dtype=np.float64,
)


def bev_view(scene: FrameScene, vehicle: VehicleLimits, extent_m: float = 52.0) -> str:
    """Draws the view.

    Args:
        scene: The frame.
        vehicle: Its size.
        extent_m: Metres shown to each side of the vehicle.

    Returns:
        One SVG element with a group for each kind of content (classes bev-map, bev-points, bev-truth,
        bev-detections).
    """
    plot = Plot(0, 0, _SIZE, _SIZE, (-extent_m, extent_m), (-extent_m, extent_m))
    parts: list[str] = ['<rect class="bev-ground" width="1000" height="1000"/>']
    if scene.map is not None:
        parts.append(f'<g class="bev-map">{_map_image(scene.map, plot)}</g>')
    parts += _range_rings(plot, extent_m)
    if scene.points_n3 is not None and len(scene.points_n3):
        picture = png_address(_points_image(scene.points_n3, extent_m, 1200))
        parts.append(f'<g class="bev-points"><image href="{picture}" width="1000" height="1000"/></g>')
    if scene.path_xy is not None and len(scene.path_xy) > 1:
        points = " ".join(
            f"{number(u)},{number(v)}" for u, v in (_place(plot, x, y) for x, y in scene.path_xy)
        )
        parts.append(f'<polyline class="bev-path" points="{points}"/>')
    if scene.ground_truth:
        parts.append(f'<g class="bev-truth">{"".join(_boxes(scene.ground_truth, plot, extent_m))}</g>')
    for detections in scene.objects.values():
        best = sorted(detections, key=lambda item: -item.score)[:MAX_BOXES]
        parts.append(f'<g class="bev-detections">{"".join(_boxes(best, plot, extent_m))}</g>')
    parts.append(_vehicle(plot, vehicle))
    return drawing(_SIZE, _SIZE, parts, "bird's-eye view")


def _place(plot: Plot, x: float, y: float) -> tuple[float, float]:
    """Ego coordinates to the drawing: x (forward) up, y (left) to the left."""
    return plot.x(-y), plot.y(x)


def _range_rings(plot: Plot, extent_m: float) -> list[str]:
    centre_x, centre_y = _place(plot, 0, 0)
    parts = []
    for metres in range(10, int(extent_m * 1.45), 10):
        radius = metres / (2 * extent_m) * plot.width
        parts.append(
            f'<circle class="ring" cx="{number(centre_x)}" cy="{number(centre_y)}" r="{number(radius)}"/>'
        )
        if metres % 20 == 0 and metres < extent_m:
            parts.append(
                f'<text class="ring-label" x="{number(centre_x + 6)}" y="{number(centre_y - radius - 5)}">'
                f"{metres} m</text>"
            )
    return parts


def _points_image(points_n3: NDArray[np.float32], extent_m: float, size: int) -> NDArray[np.uint8]:
    """Points coloured by height, drawn lowest first so that objects stand out of the ground."""
    finite = np.isfinite(points_n3[:, :3]).all(axis=1) & (np.abs(points_n3[:, :2]) < extent_m).all(axis=1)
    points = points_n3[finite]
    points = points[np.argsort(points[:, 2], kind="stable")]
    scale = size / (2 * extent_m)
    rows = np.clip(((extent_m - points[:, 0]) * scale).astype(int), 0, size - 2)
    columns = np.clip(((extent_m - points[:, 1]) * scale).astype(int), 0, size - 2)
    low, high = _HEIGHT_RANGE
    level = np.clip((points[:, 2] - low) / (high - low), 0, 1) * (len(_HEIGHT_COLOURS) - 1)
    lower = np.minimum(level.astype(int), len(_HEIGHT_COLOURS) - 2)
    share = (level - lower)[:, None]
    colours = (_HEIGHT_COLOURS[lower] * (1 - share) + _HEIGHT_COLOURS[lower + 1] * share).astype(np.uint8)
    image = np.zeros((size, size, 4), dtype=np.uint8)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        image[rows + down, columns + right, :3] = colours
        image[rows + down, columns + right, 3] = 235
    return image


def _map_image(scene_map: SceneMap, plot: Plot) -> str:
    """One picture of all layers; rarer layers lie above common ones so that a divider is not lost under the
    road.
    """
    layers, rows, columns = scene_map.probability_khw.shape
    image = np.zeros((rows, columns, 4), dtype=np.uint8)
    colours = layer_colours(scene_map.layers)
    masks = [scene_map.probability_khw[index] >= LAYER_THRESHOLD for index in range(layers)]
    for index in sorted(range(layers), key=lambda item: -int(masks[item].sum())):
        image[masks[index], :3] = rgb(colours[scene_map.layers[index]])
        image[masks[index], 3] = 130
    # Rows run along +y and columns along +x; the page has +x upwards and +y to the left.
    picture = np.ascontiguousarray(np.transpose(image, (1, 0, 2))[::-1, ::-1])
    x0, y0 = scene_map.origin_xy
    left, top = _place(plot, x0 + columns * scene_map.resolution, y0 + rows * scene_map.resolution)
    right, bottom = _place(plot, x0, y0)
    return (
        f'<image href="{png_address(picture)}" x="{number(left)}" y="{number(top)}" '
        f'width="{number(right - left)}" height="{number(bottom - top)}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated"/>'
    )


def _boxes(objects: Iterable[SceneObject], plot: Plot, extent_m: float) -> list[str]:
    parts = []
    for item in objects:
        x, y, _, length, width, _, yaw = item.box_7
        if not all(map(math.isfinite, item.box_7)) or abs(x) > extent_m or abs(y) > extent_m:
            continue
        cosine, sine = math.cos(yaw), math.sin(yaw)

        def at(
            along: float, across: float, x: float = x, y: float = y, c: float = cosine, s: float = sine
        ) -> str:
            u, v = _place(plot, x + along * c - across * s, y + along * s + across * c)
            return f"{number(u)},{number(v)}"

        corners = [
            (length / 2, width / 2),
            (length / 2, -width / 2),
            (-length / 2, -width / 2),
            (-length / 2, width / 2),
        ]
        outline = " ".join(at(*corner) for corner in corners)
        speed = "" if item.velocity_2 is None else f"\n{math.hypot(*item.velocity_2):.1f} m/s"
        title = f"{item.label} {item.score:.2f}\n{length:.1f} × {width:.1f} m{speed}"
        opacity = number(0.35 + 0.65 * min(max(item.score, 0.0), 1.0))
        # The second line shows the heading: from the centre to the front.
        parts.append(
            f'<g style="opacity:{opacity}">'
            f'<polygon points="{outline}"><title>{_escaped(title)}</title></polygon>'
            f'<polyline points="{at(0, 0)} {at(length / 2, 0)}"/></g>'
        )
        if item.velocity_2 is not None and math.hypot(*item.velocity_2) > 0.5:
            u0, v0 = _place(plot, x, y)
            u1, v1 = _place(plot, x + item.velocity_2[0], y + item.velocity_2[1])
            parts.append(
                f'<line class="velocity" x1="{number(u0)}" y1="{number(v0)}" '
                f'x2="{number(u1)}" y2="{number(v1)}"/>'
            )
    return parts


def _vehicle(plot: Plot, vehicle: VehicleLimits) -> str:
    front, back = vehicle.front_overhang_m, -1.0
    half = vehicle.width_m / 2
    outline: Sequence[tuple[float, float]] = (
        (back, half), (front - 0.9, half), (front, half * 0.55),
        (front, -half * 0.55), (front - 0.9, -half), (back, -half),
    )  # fmt: skip
    points = " ".join(f"{number(u)},{number(v)}" for u, v in (_place(plot, x, y) for x, y in outline))
    return f'<polygon class="ego" points="{points}"><title>vehicle</title></polygon>'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
