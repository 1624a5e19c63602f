"""Tables of experiments on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.experiments.report import ExperimentReport, Spread

#: Columns by task: metric, title, factor.
_COLUMNS = {
    "detection3d": (("mean_ap", "mAP %", 100.0), ("nds", "NDS %", 100.0)),
    "map_segmentation": (("miou", "map mIoU %", 100.0),),
    "foreground_segmentation": (("miou", "foreground mIoU %", 100.0),),
    "control": (("steering_deg", "steering °", 1.0), ("ade_m", "ADE m", 1.0)),
}


def print_experiment(report: ExperimentReport) -> None:
    """Prints means and deviations over seeds of every variant and condition."""
    from rich.console import Console
    from rich.table import Table

    spreads = {variant: report.spreads(variant) for variant in report.variants}
    tasks = [
        task
        for task in _COLUMNS
        if any(task in metrics for found in spreads.values() for metrics in found.values())
    ]
    table = Table(title=f"{report.experiment}: {report.title}; seeds {', '.join(map(str, report.seeds))}")
    table.add_column("variant", overflow="fold")
    for task in tasks:
        for _, title, _ in _COLUMNS[task]:
            table.add_column(title, justify="right")
    has_bounds = bool(report.bounds)
    if has_bounds:
        table.add_column("Δ_MTL %", justify="right")
    for variant, by_condition in spreads.items():
        for condition, by_task in by_condition.items():
            cells = [variant if condition == "all sensors" else f"  {condition}"]
            for task in tasks:
                for metric, _, factor in _COLUMNS[task]:
                    cells.append(_cell(by_task.get(task, {}).get(metric), factor))
            if has_bounds:
                cells.append(_cell(report.delta_mtl(variant), 1.0) if condition == "all sensors" else "")
            table.add_row(*cells)
    Console().print(table)


def _cell(spread: Spread | None, factor: float) -> str:
    if spread is None or spread.mean is None:
        return "–"
    deviation = "" if spread.deviation is None else f" ± {factor * spread.deviation:.1f}"
    return f"{factor * spread.mean:.1f}{deviation}"
