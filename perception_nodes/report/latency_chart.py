"""Latency of one path over time: a stacked bar of stages for each frame, with the budget as a line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perception_nodes.report.palette import SENSOR_AGE, TRANSPORT
from perception_nodes.report.svg import Plot, drawing, legend, nice_ceiling

#: Segments of a path that are no stage of the graph.
SENSOR_AGE_NAME = "sensor to arrival"
TRANSPORT_NAME = "transport"
WAITING_NAME = "waiting"

_MAX_BARS = 220


@dataclass(frozen=True)
class PathSample:
    """One frame's way along a path.

    Attributes:
        time_s: When the output was there, seconds since the recording began.
        segments_ms: Milliseconds by segment, in order along the path; they add up to the latency.
    """

    time_s: float
    segments_ms: dict[str, float]

    @property
    def total_ms(self) -> float:
        """End-to-end latency."""
        return sum(self.segments_ms.values())


def latency_chart(
    samples: Sequence[PathSample],
    colours: Mapping[str, str],
    budget_ms: float | None,
    title: str,
    duration_s: float,
    height: float = 250,
) -> str:
    """Draws the chart.

    Args:
        samples: In order of time.
        colours: Colour of each stage.
        budget_ms: None: no line.
        title: Read to those who cannot see it.
        duration_s: End of the time axis.
        height: Drawing units; the width is 1000.

    Returns:
        SVG and legend as HTML.
    """
    if not samples:
        return '<p class="absent">No output of this path was recorded.</p>'
    shown = _bins(samples, duration_s)
    totals = sorted(sample.total_ms for sample in samples)
    typical = totals[min(len(totals) - 1, int(0.99 * len(totals)))]
    top = nice_ceiling(1.08 * max(typical, budget_ms or 0.0))
    plot = Plot(62, 26, 920, height - 76, (0.0, max(duration_s, 1e-3)), (0.0, top))
    plot.axes("time since start [s]", "latency [ms]")
    names = segment_order(samples)
    bar = max(_typical_spacing(shown, duration_s) * 0.82, duration_s / 900)
    for sample in shown:
        base = 0.0
        x0, x1 = plot.x(sample.time_s - bar / 2), plot.x(sample.time_s + bar / 2)
        tooltip = f"{sample.time_s:.2f} s: {sample.total_ms:.1f} ms\n" + "\n".join(
            f"{name} {value:.1f} ms" for name, value in sample.segments_ms.items()
        )
        for name in names:
            value = sample.segments_ms.get(name, 0.0)
            if value <= 0 or base >= top:
                continue
            end = min(base + value, top)
            plot.rectangle(
                x0, plot.y(base), x1, plot.y(end), "", f"fill:{segment_colour(name, colours)}", tooltip
            )
            base += value
        if sample.total_ms > top:
            plot.text((x0 + x1) / 2, plot.top + 9, "▲", "clipped middle")
    if budget_ms is not None:
        y = plot.y(budget_ms)
        plot.line([(plot.left, y), (plot.left + plot.width, y)], "budget")
        plot.text(plot.left + plot.width - 4, y - 6, f"budget {budget_ms:g} ms", "budget-label end")
    entries = [(segment_colour(name, colours), name) for name in names]
    return drawing(1000, height, plot.parts, title) + legend(entries)


def segment_colour(name: str, colours: Mapping[str, str]) -> str:
    """Colour of a segment."""
    if name == SENSOR_AGE_NAME:
        return SENSOR_AGE
    if name in (TRANSPORT_NAME, WAITING_NAME):
        return TRANSPORT if name == TRANSPORT_NAME else "#b3bcc6"
    return colours.get(name, "#777777")


def segment_order(samples: Sequence[PathSample]) -> list[str]:
    """All segments in the order they come along the path."""
    names: list[str] = []
    for sample in samples:
        for name in sample.segments_ms:
            if name not in names:
                names.append(name)
    trailing = [name for name in (WAITING_NAME, TRANSPORT_NAME) if name in names]
    return [name for name in names if name not in trailing] + trailing


def _bins(samples: Sequence[PathSample], duration_s: float) -> list[PathSample]:
    """Keeps single frames while they can be told apart, else the slowest frame of each interval: nothing bad
    is hidden.
    """
    if len(samples) <= _MAX_BARS:
        return list(samples)
    width = duration_s / _MAX_BARS
    slowest: dict[int, PathSample] = {}
    for sample in samples:
        index = int(sample.time_s / width)
        if index not in slowest or sample.total_ms > slowest[index].total_ms:
            slowest[index] = sample
    return [PathSample((index + 0.5) * width, slowest[index].segments_ms) for index in sorted(slowest)]


def _typical_spacing(samples: Sequence[PathSample], duration_s: float) -> float:
    gaps = sorted(b.time_s - a.time_s for a, b in itertools.pairwise(samples))
    gaps = [gap for gap in gaps if gap > 0 and math.isfinite(gap)]
    return gaps[len(gaps) // 4] if gaps else duration_s / 50
