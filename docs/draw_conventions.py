"""Draws conventions.png with the project's own geometry: frames from above, in an image, and along time."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from perception_core.geometry import (
    FloatArray,
    box_corners,
    inverse,
    planar_motion,
    project_box_edges,
    project_points,
    rotation_about_z,
    transform_of,
)

INK, FAINT, RED, GREEN, BLUE, ORANGE, PURPLE = (
    *("#22262b", "#b9bfc7", "#d1383d", "#2f8f4e", "#2b6cb0", "#d9822b", "#7b4fb3"),
)
BOX = np.array([13.0, 3.5, 0.9, 4.6, 1.9, 1.8, 0.5, 4.0, 2.2])
SPEED, YAW_RATE = 7.0, -0.18
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
EGO_FROM_CAMERA = transform_of(OPTICAL, [1.7, 0.0, 1.5])
EGO_FROM_LIDAR = transform_of(rotation_about_z(-np.pi / 2), [0.94, 0.0, 1.84])
INTRINSICS, IMAGE = np.array([[180.0, 0, 160], [0, 180.0, 80], [0, 0, 1]]), (320, 180)


def on_page(points: FloatArray) -> FloatArray:
    """Ego x up, y left, as one sees the road from above."""
    return np.stack([-points[..., 1], points[..., 0]], axis=-1)


def arrow(axes: Axes, start: FloatArray, end: FloatArray, colour: str, text: str = "") -> None:
    """Draws an arrow with a word at its tip."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0})
    if text:
        direction = (end - start) / np.linalg.norm(end - start)
        axes.text(*(end + 0.7 * direction), text, color=colour, ha="center", va="center", fontsize=9)


def frame(axes: Axes, pose: FloatArray, length: float, names: tuple[str, str, str]) -> None:
    """Draws the axes of a frame that lie in the ground plane."""
    origin = on_page(pose[:3, 3])
    for axis, (colour, name) in enumerate(zip((RED, GREEN, BLUE), names, strict=True)):
        tip = on_page(pose[:3, 3] + pose[:3, axis] * length)
        if np.linalg.norm(tip - origin) > 0.5 * length:
            arrow(axes, origin, tip, colour, name)


def draw_from_above(axes: Axes) -> None:
    """Draws frames, a box, the way driven and the corner of the BEV grid in the ground plane."""
    axes.add_patch(Rectangle((-0.9, -1.0), 1.8, 4.3, facecolor="#eef1f5", edgecolor=INK, lw=1))
    frame(axes, np.eye(4), 3.6, ("x", "y", "z"))
    axes.text(1.4, 1.6, "ego frame: rear axle,\non the ground", fontsize=8, color=INK, va="center")
    corners = on_page(box_corners(BOX)[0, :4])
    axes.add_patch(Polygon(corners, facecolor="#fbe9d7", edgecolor=ORANGE, lw=1.6))
    centre = BOX[:3]
    heading = np.add(centre, [np.cos(BOX[6]) * 3.4, np.sin(BOX[6]) * 3.4, 0])
    arrow(axes, on_page(centre), on_page(heading), ORANGE)
    axes.plot(*on_page(np.array([centre, np.add(centre, [3.4, 0, 0])])).T, color=FAINT, ls="--", lw=1)
    turn = np.linspace(0, BOX[6], 20)
    arc = centre + 2.7 * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    axes.plot(*on_page(arc).T, color=ORANGE, lw=1)
    axes.text(
        *on_page(np.add(centre, [3.6, -0.4, 0])),
        "yaw 0.5 rad\nfrom +x, left",
        fontsize=8,
        color=ORANGE,
        ha="left",
    )
    velocity = np.add(centre, [*BOX[7:], 0])
    arrow(axes, on_page(centre), on_page(velocity), PURPLE, "velocity")
    times = np.arange(1, 5) * 0.5
    way = np.array([planar_motion(SPEED, YAW_RATE, time)[:3, 3] for time in times])
    axes.scatter(*on_page(way).T, color=PURPLE, s=22, zorder=3)
    axes.text(
        *on_page(np.add(way[-1], [0.9, -0.3, 0])),
        "waypoints every 0.5 s",
        fontsize=8,
        color=PURPLE,
        ha="center",
    )
    corner = np.array([-6.0, -9.0, 0])
    for row in range(3):
        for column in range(3):
            place = on_page(np.add(corner, [1.6 * column, 1.6 * row, 0]))
            axes.add_patch(
                Rectangle((place[0] - 1.6, place[1]), 1.6, 1.6, fill=row == column == 0,
                          facecolor="#dbe7f5", edgecolor=FAINT, lw=0.8)
            )  # fmt: skip
    axes.text(
        *on_page(np.add(corner, [0.8, 0.8, 0])), "0, 0", fontsize=7, ha="center", va="center", color=BLUE
    )
    arrow(axes, on_page(corner), on_page(np.add(corner, [5.9, 0, 0])), RED, "columns")
    arrow(axes, on_page(corner), on_page(np.add(corner, [0, 6.2, 0])), GREEN, "rows")
    axes.text(
        *on_page(np.add(corner, [-1.0, 2.5, 0])),
        "BEV grid (its corner)",
        fontsize=8,
        color=INK,
        ha="center",
        va="top",
    )
    place = np.array([-4.0, 8.0, 0])
    lidar = EGO_FROM_LIDAR.copy()
    lidar[:3, 3] = place
    frame(axes, lidar, 2.4, ("x", "y", "z"))
    axes.text(
        *on_page(np.add(place, [-1.0, 0, 0])),
        "LiDAR\n(nuScenes)",
        fontsize=8,
        color=INK,
        ha="center",
        va="top",
    )
    camera = EGO_FROM_CAMERA.copy()
    camera[:3, 3] = np.add(place, [7.5, 0, 0])
    frame(axes, camera, 2.4, ("x", "y", "z"))
    axes.text(
        *on_page(np.add(place, [6.5, 0, 0])),
        "front camera\n(y down)",
        fontsize=8,
        color=INK,
        ha="center",
        va="top",
    )
    axes.set(xlim=(-12, 13), ylim=(-8.5, 18.5), aspect="equal", title="from above")


def draw_image(axes: Axes) -> None:
    """Draws the same box and way as the front camera sees them."""
    camera_from_ego = inverse(EGO_FROM_CAMERA)
    grid = [(x, y, 0.0) for x in range(5, 41, 5) for y in range(-9, 10, 3)]
    seen = project_points(np.array(grid), camera_from_ego, INTRINSICS, IMAGE)
    axes.scatter(*seen.pixels[seen.visible].T, s=5, color=FAINT)
    corners = box_corners(BOX)[0]
    for start, end in project_box_edges(corners, camera_from_ego, INTRINSICS, IMAGE):
        axes.plot([start[0], end[0]], [start[1], end[1]], color=ORANGE, lw=1.4)
    times = np.arange(1, 9) * 0.25
    way = np.array([planar_motion(SPEED, YAW_RATE, time)[:3, 3] for time in times])
    marks = project_points(way, camera_from_ego, INTRINSICS, IMAGE)
    axes.scatter(*marks.pixels[marks.visible].T, s=14, color=PURPLE)
    axes.add_patch(Rectangle((-0.5, -0.5), *IMAGE, fill=False, edgecolor=INK))
    arrow(axes, np.array([0.0, 0]), np.array([70.0, 0]), RED)
    arrow(axes, np.array([0.0, 0]), np.array([0, 55.0]), GREEN)
    axes.text(50, 11, "column", color=RED, fontsize=9, va="center")
    axes.text(6, 48, "row", color=GREEN, fontsize=9, va="center")
    axes.text(12, 26, "(0, 0) is the centre of the first pixel", fontsize=8, color=INK, va="center")
    axes.set(
        xlim=(-8, IMAGE[0] + 4), ylim=(IMAGE[1] + 4, -8), aspect="equal", title="in the front camera's image"
    )


def draw_time(axes: Axes) -> None:
    """Draws when sensors measure, relative to the stamp."""
    for time in (-0.15, -0.10, -0.05):
        axes.plot([time, time], [0, 0.55], color=FAINT, lw=3)
    axes.plot([0, 0], [0, 0.8], color=BLUE, lw=3)
    axes.text(
        -0.1,
        0.68,
        "earlier sweeps: point time < 0,\nmoved into the frame",
        fontsize=8,
        ha="center",
        color=INK,
    )
    axes.text(0.004, 0.86, "stamp: the LiDAR's sweep, time 0", fontsize=8, color=BLUE)
    for name, time in (("left", -0.043), ("front", -0.035), ("back", -0.010)):
        axes.plot([time], [0.2], marker="^", color=GREEN, ms=7)
        axes.text(time, 0.3 if name != "front" else 0.07, name, fontsize=7, ha="center", color=GREEN)
    axes.text(
        0.004,
        0.2,
        "cameras expose when they do:\ncamera_from_ego holds the motion",
        fontsize=8,
        color=GREEN,
        va="center",
    )
    axes.axhline(0, color=INK, lw=1)
    axes.set(xlim=(-0.17, 0.09), ylim=(-0.06, 1.05), yticks=[], xlabel="seconds", title="in time")
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def main() -> None:
    """Writes the picture beside this script, or where the first argument says."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("conventions.png")
    figure = plt.figure(figsize=(11, 7.6), facecolor="white")
    layout = figure.add_gridspec(2, 2, width_ratios=(1.0, 1.05), height_ratios=(1.35, 1))
    above, image, time = (
        figure.add_subplot(layout[:, 0]), figure.add_subplot(layout[0, 1]), figure.add_subplot(layout[1, 1])
    )  # fmt: skip
    draw_from_above(above)
    draw_image(image)
    for axes in (above, image):
        axes.set_axis_off()
    draw_time(time)
    figure.tight_layout()
    figure.savefig(out, dpi=95)


if __name__ == "__main__":
    main()
