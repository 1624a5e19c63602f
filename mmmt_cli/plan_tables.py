"""Tables of a placement plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from perception_core.platform.placement_plan import PlacementPlan


def component_table(planned: PlacementPlan) -> Table:
    """Where each component is and goes, and how much slack that leaves it."""
    table = Table(title="placement", title_justify="left")
    for column in ("component", "before", "after"):
        table.add_column(column)
    for column in ("ms", "slack ms", "critical"):
        table.add_column(column, justify="right")
    problem, after = planned.problem, planned.schedule_after
    names = [device.name for device in problem.devices]
    for i, stage in enumerate(problem.stages):
        device = planned.after.get(stage)
        if device is None:
            continue
        duration = problem.duration_us[i][names.index(device)] or 0
        changed = planned.before.get(stage) != device
        table.add_row(
            stage,
            planned.before.get(stage, "-"),
            f"[bold]{device}[/bold]" if changed else device,
            f"{duration / 1000:.1f}",
            f"{after.slack_ms[stage]:.1f}",
            "yes" if stage in after.critical_path else "",
        )
    return table


def path_table(planned: PlacementPlan) -> Table:
    """Predicted latency of every task's slowest modality, before and after."""
    table = Table(title="predicted paths", title_justify="left")
    table.add_column("path")
    for column in ("before ms", "after ms", "budget ms"):
        table.add_column(column, justify="right")
    budgets = {path.name: path.budget_us for path in planned.problem.paths}
    before = planned.schedule_before.path_ms if planned.schedule_before else {}
    for name, value in sorted(planned.schedule_after.path_ms.items(), key=lambda item: -item[1]):
        budget = budgets[name]
        table.add_row(
            name,
            f"{before[name]:.1f}" if name in before else "-",
            f"{value:.1f}",
            "-" if budget is None else f"{budget / 1000:g}",
        )
    return table


def figure_table(planned: PlacementPlan) -> Table:
    """Longest path, power, energy, Loss_hw and rate, before and after."""
    table = Table(title="predicted gain", title_justify="left")
    table.add_column("figure")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    rows = (
        ("longest path [ms]", lambda one: one.longest_path_ms),
        ("power [W]", lambda one: one.power_w),
        ("energy a frame [J]", lambda one: one.energy_j),
        ("Loss_hw (Eq. 3)", lambda one: one.loss_hw),
        ("most frames a second", lambda one: one.max_rate_hz),
    )
    for label, of in rows:
        after = of(planned.schedule_after)
        before = None if planned.schedule_before is None else of(planned.schedule_before)
        table.add_row(
            label,
            "-" if before is None else f"{before:.2f}",
            f"{after:.2f}",
            "-" if not before else f"{100 * (after - before) / before:+.1f} %",
        )
    return table
