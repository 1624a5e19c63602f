"""Charts of a co-search: its front, and schedules side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.schedule import Schedule
from training.figures import new_figure
from training.search.codesign.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that colour-blind readers can tell apart (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
_CRITICAL = "#000000"


@dataclass(frozen=True)
class ScheduleView:
    """A schedule to draw.

    Attributes:
        title: Above it.
        problem: Names of stages and devices.
        schedule: What is drawn.
    """

    title: str
    problem: PlacementProblem
    schedule: Schedule


def draw_front(study: Study) -> Figure:
    """Quality over latency, power as colour; dominated candidates small, baselines as crosses."""
    figure = new_figure(8.0, 4.6)
    axes = figure.add_subplot()
    everything, front = study.candidates, study.front
    axes.scatter(
        [one.longest_path_ms for one in everything], [one.loss_sw for one in everything],
        s=8, color="#BBBBBB", label="judged", zorder=1,
    )  # fmt: skip
    points = axes.scatter(
        [one.longest_path_ms for one in front], [one.loss_sw for one in front],
        s=42, c=[one.power_w for one in front], cmap="viridis", edgecolors="black", linewidths=0.5,
        label="Pareto front", zorder=3,
    )  # fmt: skip
    figure.colorbar(points, ax=axes, label="power [W]")
    best = study.best
    axes.scatter(
        [best.longest_path_ms], [best.loss_sw], s=160, facecolors="none", edgecolors=_COLOURS[1],
        linewidths=1.8, label="least Loss_sw + γ1·Loss_hw", zorder=4,
    )  # fmt: skip
    for number, (name, one) in enumerate(study.baselines.items()):
        axes.scatter(
            [one.longest_path_ms], [one.loss_sw], marker="x", s=70, color=_COLOURS[3 + number % 5],
            linewidths=2.2, label=name, zorder=5,
        )  # fmt: skip
    axes.set_xlabel("longest path, predicted [ms]")
    axes.set_ylabel("Loss_sw (Eq. 1)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def draw_schedules(views: Sequence[ScheduleView]) -> Figure:
    """Devices over time, one chart a schedule on one scale; the critical path has black rims."""
    rows = [len(_devices(view)) for view in views]
    figure = new_figure(9.5, 1.1 * len(views) + 0.55 * sum(rows))
    charts = figure.subplots(len(views), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": rows})
    stages = list(dict.fromkeys(stage for view in views for stage in view.problem.stages))
    for view, (axes,) in zip(views, charts, strict=True):
        _draw_schedule(axes, view, stages)
    charts[-1][0].set_xlabel("ms since the sensors' data")
    return figure


def _draw_schedule(axes: Axes, view: ScheduleView, stages: Sequence[str]) -> None:
    devices = _devices(view)
    longest = view.schedule.longest_path_ms
    for slot in view.schedule.slots:
        width = (slot.end_us - slot.start_us) / 1000
        stage = view.problem.stages[slot.stage]
        row = devices.index(view.problem.devices[slot.device].name)
        if not width:
            continue
        critical = stage in view.schedule.critical_path
        axes.barh(
            row, width, left=slot.start_us / 1000, height=0.72,
            color=_COLOURS[stages.index(stage) % len(_COLOURS)],
            edgecolor=_CRITICAL if critical else "white", linewidth=1.8 if critical else 0.5,
        )  # fmt: skip
        if width > 0.04 * longest:
            middle = slot.start_us / 1000 + width / 2
            axes.text(middle, row, _short(stage), ha="center", va="center", fontsize=7, clip_on=True)
    axes.set_yticks(range(len(devices)), devices)
    axes.set_ylim(-0.6, len(devices) - 0.4)
    axes.invert_yaxis()
    axes.axvline(longest, color=_CRITICAL, linestyle="--", linewidth=1)
    axes.set_title(
        f"{view.title}: longest path {longest:.1f} ms, {view.schedule.power_w:.1f} W, "
        f"{view.schedule.energy_j * 1000:.0f} mJ a frame",
        fontsize=9,
        loc="left",
    )
    axes.grid(axis="x", alpha=0.3)


def _devices(view: ScheduleView) -> list[str]:
    used = {slot.device for slot in view.schedule.slots if slot.end_us > slot.start_us}
    return [d.name for k, d in enumerate(view.problem.devices) if not d.host or k in used]


def _short(stage: str) -> str:
    return stage.removesuffix("_head").removesuffix("_net").replace("_", " ")


def as_svg(figure: Figure) -> str:
    """Returns a picture as an SVG element, to stand in a page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    text = stream.getvalue()
    return text[text.index("<svg") :]
