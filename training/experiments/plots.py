"""Pictures of experiments: FULLER's Fig. 3 to 7 from what was logged and evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.experiments.report import ALL_SENSORS, ExperimentReport, RunReport
from training.figures import COLOURS, new_figure, save_figure, tidy
from training.trainer.metrics_log import read_metrics, series

#: Metric of each task that pictures show.
_SHOWN = {
    "detection3d": ("nds", "NDS"),
    "map_segmentation": ("miou", "map mIoU"),
    "foreground_segmentation": ("miou", "foreground mIoU"),
}


def plot_experiment(report: ExperimentReport, runs: Path, folder: Path) -> list[Path]:
    """Draws what an experiment has data for; of each variant the run with the first seed.

    Args:
        report: The experiment.
        runs: Folder of its runs.
        folder: Written to; names begin with the experiment's.

    Returns:
        The files.
    """
    chosen = [found[0] for variant in report.variants if (found := report.runs_of(variant))]
    multi_task = [run for run in chosen if run.variant not in report.bounds]
    start = f"{report.experiment}_"
    written = [
        _ratios(multi_task, runs, "gamma_task", "γ task (Eq. 2)", folder / f"{start}gamma_task.png"),
        _ratios(multi_task, runs, "gamma_modal", "γ modal (Eq. 4)", folder / f"{start}gamma_modal.png"),
        _calibration(multi_task, runs, folder / f"{start}calibration.png"),
        _convergence(chosen, folder / f"{start}convergence.png"),
        _conditions(report, folder / f"{start}missing_sensors.png"),
    ]
    return [path for path in written if path is not None]


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Returns geometric means over a window that ends at each value: ratios of 10 and 0.1 cancel."""
    logarithms = np.log(np.maximum(np.asarray(values, dtype=np.float64), 1e-12))
    sums = np.concatenate([[0.0], np.cumsum(logarithms)])
    ends = np.arange(1, len(logarithms) + 1)
    starts = np.maximum(ends - window, 0)
    return [float(value) for value in np.exp((sums[ends] - sums[starts]) / (ends - starts))]


def _ratios(runs: Sequence[RunReport], folder: Path, group: str, title: str, path: Path) -> Path | None:
    """Draws a ratio over steps: as the raw losses give it, and as the network was trained."""
    names = {
        name
        for run in runs
        for row in read_metrics(folder / run.folder)
        for name in row
        if name.startswith(f"{group}/")
    }
    if not names:
        return None
    figure = new_figure(11, 3.6 * len(names))
    grid = figure.subplots(len(names), 2, sharex=True, sharey="row", squeeze=False)
    for row, name in enumerate(sorted(names)):
        pair = name.split("/", 1)[1]
        for column, (prefix, what) in enumerate(((group, "before"), (f"{group}_calibrated", "after"))):
            axes = grid[row, column]
            for colour, run in zip(_cycle(len(runs)), runs, strict=True):
                steps, values = series(read_metrics(folder / run.folder), f"{prefix}/{pair}")
                if values:
                    shown = smoothed(values, max(len(values) // 20, 1))
                    axes.plot(steps, shown, color=colour, linewidth=1.3, label=run.variant)
            axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
            axes.set_yscale("log")
            axes.set_title(f"{pair}, {what} calibration", fontsize=10)
            tidy(axes)
    grid[0, 0].legend(fontsize=8)
    figure.supxlabel("step", fontsize=10)
    figure.supylabel(title, fontsize=10)
    return save_figure(figure, path)


def _calibration(runs: Sequence[RunReport], folder: Path, path: Path) -> Path | None:
    """Draws the weights of losses and w_img / w_lid over steps (Fig. 6)."""
    panels = new_figure(11, 4)
    left, right = panels.subplots(1, 2)
    drawn = False
    for colour, run in zip(_cycle(len(runs)), runs, strict=True):
        rows = read_metrics(folder / run.folder)
        for style, task in zip(("-", "--", ":"), _SHOWN, strict=True):
            steps, weights = series(rows, f"loss_weight/{task}")
            if weights and len(set(weights)) > 1:
                shown = smoothed(weights, max(len(weights) // 20, 1))
                left.plot(
                    steps, shown, color=colour, linestyle=style, linewidth=1.2, label=f"{run.variant}: {task}"
                )
                drawn = True
        steps, lidar = series(rows, "gate/lidar")
        _, camera = series(rows, "gate/camera")
        if lidar and len(lidar) == len(camera):
            ratio = [b / a for a, b in zip(lidar, camera, strict=True)]
            right.plot(
                steps,
                smoothed(ratio, max(len(ratio) // 20, 1)),
                color=colour,
                linewidth=1.2,
                label=run.variant,
            )
            drawn = True
    if not drawn:
        return None
    left.set(xlabel="step", ylabel="weight of the loss", yscale="log")
    right.set(xlabel="step", ylabel="w camera / w LiDAR")
    right.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    for axes in (left, right):
        if axes.lines:
            axes.legend(fontsize=8)
        tidy(axes)
    return save_figure(panels, path)


def _convergence(runs: Sequence[RunReport], path: Path) -> Path | None:
    """Draws metrics over epochs (Fig. 5)."""
    curves = [run for run in runs if len(run.curve) > 1]
    tasks = [task for task in _SHOWN if any(task in run.curve[-1]["metrics"] for run in curves)]
    if not tasks:
        return None
    figure = new_figure(5.5 * len(tasks), 4)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        metric, title = _SHOWN[task]
        for colour, run in zip(_cycle(len(curves)), curves, strict=True):
            points = [
                (point["epoch"], 100 * point["metrics"][task][metric])
                for point in run.curve
                if metric in point["metrics"].get(task, {})
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=colour, marker="o", markersize=3, label=run.variant
                )
        axes.set(xlabel="epoch", ylabel=f"{title}, %")
        axes.legend(fontsize=8)
        tidy(axes)
    return save_figure(figure, path)


def _conditions(report: ExperimentReport, path: Path) -> Path | None:
    """Draws metrics with and without sensors (Fig. 7), means over seeds with their deviation."""
    spreads = {variant: report.spreads(variant) for variant in report.variants}
    conditions = list(dict.fromkeys(name for by_condition in spreads.values() for name in by_condition))
    if conditions in ([], [ALL_SENSORS]):
        return None
    tasks = [task for task in _SHOWN if any(task in found.get(ALL_SENSORS, {}) for found in spreads.values())]
    figure = new_figure(5.5 * len(tasks), 4)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        metric, title = _SHOWN[task]
        width = 0.8 / len(spreads)
        for index, (variant, found) in enumerate(spreads.items()):
            bars = [found.get(condition, {}).get(task, {}).get(metric) for condition in conditions]
            heights = [math.nan if bar is None or bar.mean is None else 100 * bar.mean for bar in bars]
            errors = [0.0 if bar is None or bar.deviation is None else 100 * bar.deviation for bar in bars]
            places = np.arange(len(conditions)) + (index - (len(spreads) - 1) / 2) * width
            axes.bar(places, heights, width, yerr=errors, color=_cycle(len(spreads))[index], label=variant)
        axes.set_xticks(range(len(conditions)), conditions)
        axes.set_ylabel(f"{title}, %")
        axes.legend(fontsize=8)
        tidy(axes)
    return save_figure(figure, path)


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
