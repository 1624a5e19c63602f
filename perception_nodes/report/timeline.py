"""Which component ran where and when: one row for each process and device, over about a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perception_nodes.report.svg import Plot, drawing, legend


@dataclass(frozen=True)
class Run:
    """One run of a stage.

    Attributes:
        row: Where, e.g. `perception · cpu0`.
        stage: What.
        trace_id: For which frame.
        queued_ns, started_ns, done_ns: When, CLOCK_MONOTONIC.
    """

    row: str
    stage: str
    trace_id: int
    queued_ns: int
    started_ns: int
    done_ns: int


def busiest_window(runs: Sequence[Run], window_s: float = 1.0) -> tuple[int, int]:
    """Start and end in nanoseconds of the window, one after the first third of the recording, so that
    start-up is over.
    """
    if not runs:
        return (0, int(window_s * 1e9))
    begin = min(run.started_ns for run in runs)
    end = max(run.done_ns for run in runs)
    width = int(window_s * 1e9)
    if end - begin <= width:
        return (begin, begin + width)
    middle = begin + (end - begin) // 2
    # Begins with a frame, so that its way through the stack can be followed from the left edge.
    starts = sorted(run.started_ns for run in runs if run.stage == "sensor_fusion")
    begins = [start for start in starts if start >= middle - width // 2]
    first = begins[0] - width // 50 if begins else middle - width // 2
    return (first, first + width)


def timeline(runs: Sequence[Run], colours: Mapping[str, str], window_s: float = 1.0) -> str:
    """Draws the timeline.

    Args:
        runs: All runs of the recording.
        colours: Colour of each stage.
        window_s: Seconds shown.

    Returns:
        SVG and legend as HTML.
    """
    begin, end = busiest_window(runs, window_s)
    shown = [run for run in runs if run.done_ns >= begin and run.started_ns <= end]
    if not shown:
        return '<p class="absent">No stage ran while the recording lasted.</p>'
    rows = _row_order(runs)
    lane = 34.0
    height = 30 + lane * len(rows) + 44
    plot = Plot(190, 26, 792, lane * len(rows), (0.0, (end - begin) / 1e6), (0.0, float(len(rows))))
    for index, row in enumerate(rows):
        top = plot.top + index * lane
        if index % 2 == 0:
            plot.rectangle(plot.left, top, plot.left + plot.width, top + lane, "lane")
        plot.text(plot.left - 12, top + lane / 2 + 4, row, "row end")
    plot.axes("time [ms]", "", about_y=0)
    parts_of_axes, plot.parts = plot.parts, []
    present: list[str] = []
    for run in sorted(shown, key=lambda item: item.started_ns):
        top = plot.top + rows.index(run.row) * lane
        x0 = max(plot.x((run.started_ns - begin) / 1e6), plot.left)
        x1 = min(plot.x((run.done_ns - begin) / 1e6), plot.left + plot.width)
        waited = max(plot.x((run.queued_ns - begin) / 1e6), plot.left)
        colour = colours.get(run.stage, "#777777")
        if run.stage not in present:
            present.append(run.stage)
        if x0 - waited > 1.5:
            plot.line([(waited, top + lane / 2), (x0, top + lane / 2)], "wait", f"stroke:{colour}")
        duration_ms = (run.done_ns - run.started_ns) / 1e6
        tooltip = (
            f"{run.stage}, frame {run.trace_id}\nran {duration_ms:.1f} ms\n"
            f"waited {(run.started_ns - run.queued_ns) / 1e6:.1f} ms"
        )
        plot.rectangle(
            x0, top + 5, max(x1, x0 + 1.2), top + lane - 5, "run", f"fill:{colour}", tooltip, radius=3
        )
        if x1 - x0 > 7.2 * len(run.stage) + 6:
            plot.text((x0 + x1) / 2, top + lane / 2 + 4, run.stage, "run-label middle")
    order = [stage for stage in colours if stage in present] + [
        stage for stage in present if stage not in colours
    ]
    picture = drawing(1000, height, [*parts_of_axes, *plot.parts], "timeline of stages by process and device")
    return picture + legend((colours.get(stage, "#777777"), stage) for stage in order)


def _row_order(runs: Sequence[Run]) -> list[str]:
    """Rows in the order in which frames first reach them."""
    first: dict[str, int] = {}
    for run in sorted(runs, key=lambda item: (item.trace_id, item.started_ns)):
        first.setdefault(run.row, len(first))
    return list(first)
