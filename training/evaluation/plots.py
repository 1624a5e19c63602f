"""Pictures of results: precision over recall, confusion, thresholds, and single frames from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perception_core.boxes import Box3D
from perception_core.geometry import box_corners
from training.datasets.sample import Sample
from training.evaluation.bev_maps import BevMapResult
from training.evaluation.cityscapes3d_detection import Cityscapes3dResult
from training.evaluation.control import ControlResult
from training.evaluation.nuscenes_detection import NuscenesDetectionResult
from training.evaluation.result import Result
from training.evaluation.semantic import SegmentationResult
from training.figures import COLOURS, new_figure, save_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRUTH, _PREDICTION = "#009E73", "#D55E00"
#: Map layers from above; the first ones are painted first.
_LAYER_COLOURS = {
    "drivable_area": "#C9D1D9",
    "carpark_area": "#B3A2C7",
    "walkway": "#F2C9A1",
    "ped_crossing": "#8DBBE8",
    "stop_line": "#D62728",
    "divider": "#6B5B00",
}
_OTHER_LAYER = "#8C8C8C"
#: Boxes below this score are not drawn.
_DRAWN_SCORE = 0.3


def plot_result(result: Result, folder: Path) -> list[Path]:
    """Writes the pictures there are for a kind of result; none for some.

    Args:
        result: Any result.
        folder: Written to, names begin with the task.

    Returns:
        The files.
    """
    if isinstance(result, NuscenesDetectionResult):
        return [_nuscenes_curves(result, folder / f"{result.task}_precision_recall.png")]
    if isinstance(result, Cityscapes3dResult):
        return [_cityscapes_curves(result, folder / f"{result.task}_precision_recall.png")]
    if isinstance(result, SegmentationResult) and result.pixels:
        return [_confusion(result, folder / f"{result.task}_confusion.png")]
    if isinstance(result, BevMapResult):
        return [_thresholds(result, folder / f"{result.task}_thresholds.png")]
    if isinstance(result, ControlResult) and result.displacement_m:
        return [_displacement(result, folder / f"{result.task}_displacement.png")]
    return []


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _nuscenes_curves(result: NuscenesDetectionResult, path: Path) -> Path:
    figure = new_figure(13, 5.6)
    grid = figure.subplots(2, 5, sharex=True, sharey=True)
    for axes, (name, curves) in zip(grid.ravel(), result.curves.items(), strict=True):
        for colour, (distance, curve) in zip(COLOURS, curves.items(), strict=False):
            axes.plot(curve.recall, curve.precision, color=colour, linewidth=1.4, label=f"{distance} m")
        count = result.truth_boxes[name]
        title = f"{_readable(name)}: AP {100 * result.class_ap[name]:.1f} %"
        axes.set_title(title if count else f"{_readable(name)}: no truth", fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.03)
        tidy(axes)
    grid[0, 0].legend(title="match within", fontsize=8, title_fontsize=8, loc="lower left")
    figure.supxlabel("recall", fontsize=10)
    figure.supylabel("precision", fontsize=10)
    figure.suptitle(
        f"3D detection on {result.samples} samples: mAP {100 * result.mean_ap:.1f} %, "
        f"NDS {100 * result.nds:.1f} %",
        fontsize=12,
    )
    return save_figure(figure, path)


def _cityscapes_curves(result: Cityscapes3dResult, path: Path) -> Path:
    figure = new_figure(7, 5)
    axes = figure.subplots()
    for colour, (name, curve) in zip(COLOURS, result.curves.items(), strict=False):
        order = np.argsort(curve["recall"], kind="stable")
        recall, precision = np.array(curve["recall"])[order], np.array(curve["precision"])[order]
        score = f"{name}: DS {100 * result.class_scores[name]:.1f} %"
        axes.plot(recall, precision, color=colour, marker="o", markersize=3, linewidth=1.3, label=score)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.03))
    axes.set_title(
        f"Cityscapes-3D on {result.images} images: Detection Score {100 * result.detection_score:.1f} %",
        fontsize=11,
    )
    axes.legend(fontsize=8)
    tidy(axes)
    return save_figure(figure, path)


def _confusion(result: SegmentationResult, path: Path) -> Path:
    names = list(result.class_iou)
    counts = np.array(result.confusion, dtype=np.float64)
    columns = [*names, "none of these"] if counts[:, -1].any() else names
    counts = counts[:, : len(columns)]
    rows = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)
    side = max(5.0, 0.42 * len(names) + 2.0)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), [_readable(name) for name in columns], rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), [_readable(name) for name in names], fontsize=8)
    for row, column in np.argwhere(np.nan_to_num(share) >= 0.01):
        value = share[row, column]
        colour = "white" if value > 0.6 else "black"
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(
        f"mIoU {100 * result.miou:.1f} %, pixel accuracy {100 * result.pixel_accuracy:.1f} %\n"
        "share of a true class's pixels, %",
        fontsize=10,
    )
    figure.colorbar(image, ax=axes, shrink=0.8)
    return save_figure(figure, path)


def _thresholds(result: BevMapResult, path: Path) -> Path:
    figure = new_figure(7, 4.6)
    axes = figure.subplots()
    styles = [(colour, style) for style in ("-", "--") for colour in COLOURS]
    for (colour, style), (name, values) in zip(styles, result.iou_at.items(), strict=False):
        if np.isnan(values).all():
            continue
        best = result.best_threshold[name]
        label = f"{_readable(name)}: {100 * result.class_iou[name]:.1f} %"
        axes.plot(result.thresholds, values, color=colour, linestyle=style, linewidth=1.4, label=label)
        axes.plot([best], [result.class_iou[name]], color=colour, marker="o", markersize=5)
    axes.set(xlabel="threshold on the probability", ylabel="IoU", ylim=(0, 1.03))
    axes.set_title(
        f"{_readable(result.task).capitalize()}: mIoU {100 * result.miou:.1f} %, best thresholds marked",
        fontsize=11,
    )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(axes)
    return save_figure(figure, path)


def _displacement(result: ControlResult, path: Path) -> Path:
    figure = new_figure(6, 3.8)
    axes = figure.subplots()
    numbers = np.arange(1, len(result.displacement_m) + 1)
    axes.plot(numbers, result.displacement_m, color=COLOURS[0], marker="o", linewidth=1.4)
    axes.set(xlabel="waypoint", ylabel="mean distance, m", xticks=numbers)
    axes.set_ylim(bottom=0)
    axes.set_title(f"Waypoints: ADE {result.ade_m:.2f} m, FDE {result.fde_m:.2f} m", fontsize=11)
    tidy(axes)
    return save_figure(figure, path)


def plot_frame_from_above(
    path: Path,
    sample: Sample,
    boxes: Sequence[Box3D] | None = None,
    probability_khw: NDArray[Any] | None = None,
    layers: Sequence[str] = (),
    threshold: float = 0.5,
) -> Path:
    """Draws a frame from above, truth on the left, what the network says on the right; x points up.

    Args:
        path: PNG to write.
        sample: Points, annotated boxes and map masks are drawn where it has them.
        boxes: Predicted boxes in the ego frame; None: the network has none.
        probability_khw: Predicted map layers, on the grid of the sample's map masks.
        layers: Their names.
        threshold: Of the drawn layers.

    Returns:
        `path`.
    """
    figure = new_figure(11, 5.9)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    masks = sample.map_masks
    if masks is not None:
        _draw_layers(left, masks.masks_khw, masks.class_names, masks.grid)
        if probability_khw is not None:
            _draw_layers(right, np.asarray(probability_khw) >= threshold, layers, masks.grid)
    for axes in (left, right):
        points = sample.points_nc
        axes.scatter(-points[:, 1], points[:, 0], s=0.25, color="#404040", alpha=0.35, linewidths=0)
        axes.plot([0], [0], marker="^", color="black", markersize=6)
    truth = sample.boxes
    if truth is not None:
        _draw_boxes(left, truth.boxes_b9, _TRUTH, [1.0] * len(truth))
        _draw_boxes(right, truth.boxes_b9, _TRUTH, [0.35] * len(truth))
    shown = [box for box in boxes or () if box.score >= _DRAWN_SCORE]
    rows = np.array([[*box.centre, *box.size, box.yaw] for box in shown]).reshape(-1, 7)
    _draw_boxes(right, rows, _PREDICTION, [box.score for box in shown])
    reach = 52.0
    for axes in (left, right):
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="to the right, m")
    left.set_ylabel("ahead, m")
    left.set_title(f"annotated: {0 if truth is None else len(truth)} boxes", fontsize=10)
    found = "" if boxes is None else f": {len(shown)} boxes with a score of {_DRAWN_SCORE:g} or more"
    right.set_title(f"predicted{found}", fontsize=10)
    figure.suptitle(f"{sample.provenance.scene} {sample.provenance.token}".strip(), fontsize=9)
    return save_figure(figure, path)


def _draw_layers(axes: Axes, masks_khw: NDArray[np.bool_], names: Sequence[str], grid: Any) -> None:
    from matplotlib.colors import to_rgb

    picture = np.ones((grid.rows, grid.columns, 3))
    for name in sorted(
        names, key=lambda layer: list(_LAYER_COLOURS).index(layer) if layer in _LAYER_COLOURS else 99
    ):
        picture[masks_khw[list(names).index(name)]] = to_rgb(_LAYER_COLOURS.get(name, _OTHER_LAYER))
    # rows run along +y, columns along +x: x up and y to the left on the picture
    turned = picture.transpose(1, 0, 2)[:, ::-1]
    extent = (-grid.y_max, -grid.y_min, grid.x_min, grid.x_max)
    axes.imshow(turned, extent=extent, origin="lower", interpolation="nearest", aspect="auto")


def _draw_boxes(axes: Axes, boxes_b: NDArray[Any], colour: str, opacity: Sequence[float]) -> None:
    if len(boxes_b) == 0:
        return
    for corners_83, box, alpha in zip(box_corners(boxes_b), boxes_b, opacity, strict=True):
        # the four lower corners, in order around the box
        xy = corners_83[np.argsort(corners_83[:, 2], kind="stable")[:4], :2]
        centre = xy.mean(axis=0)
        xy = xy[np.argsort(np.arctan2(*(xy - centre).T[::-1]))]
        ring = np.vstack([xy, xy[:1]])
        axes.plot(-ring[:, 1], ring[:, 0], color=colour, linewidth=1.2, alpha=alpha)
        nose = box[:2] + box[3] / 2 * np.array([np.cos(box[6]), np.sin(box[6])])
        axes.plot([-box[1], -nose[1]], [box[0], nose[0]], color=colour, linewidth=1.0, alpha=alpha)
