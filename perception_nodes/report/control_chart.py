"""What the control node commanded over time, with its states as a shaded background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perception_nodes.report.palette import STATE_COLOURS
from perception_nodes.report.svg import Plot, drawing, legend, nice_ceiling


@dataclass(frozen=True)
class ControlSample:
    """One command; SI units.

    Attributes:
        time_s: Seconds since the recording began.
        state: Value of ControlCommand.state.
    """

    time_s: float
    state: int
    speed: float
    measured_speed: float
    speed_limit: float
    acceleration: float
    steering_angle: float
    reaction_time: float
    perception_age: float


_SPEED, _LIMIT, _MEASURED = "#2f6fed", "#d1495b", "#44aa99"
_ACCELERATION, _STEERING = "#aa3377", "#ee8a3c"
_REACTION, _AGE = "#4477aa", "#999933"


def control_chart(samples: Sequence[ControlSample], duration_s: float) -> str:
    """Draws speeds, acceleration, steering and reaction time over a common time axis.

    Returns:
        SVG and legend as HTML.
    """
    if not samples:
        return '<p class="absent">No control command was recorded.</p>'
    x_range = (0.0, max(duration_s, 1e-3))
    speeds = [value for s in samples for value in (s.speed, s.measured_speed, s.speed_limit)]
    strongest = max(0.5, max(abs(s.acceleration) for s in samples))
    angle = max(0.05, max(abs(s.steering_angle) for s in samples))
    slowest = max(0.1, max(min(s.reaction_time, 60.0) for s in samples))
    plots = [
        (Plot(62, 26, 920, 150, x_range, (0.0, nice_ceiling(1.05 * max(1.0, *speeds)))), "speed [m/s]"),
        (Plot(62, 216, 920, 70, x_range, _symmetric(strongest)), "acceleration [m/s²]"),
        (Plot(62, 326, 920, 70, x_range, _symmetric(angle)), "steering angle [rad], positive left"),
        (
            Plot(62, 436, 920, 70, x_range, (0.0, nice_ceiling(1.05 * slowest))),
            "reaction time and age of perception [s]",
        ),
    ]
    curves = {
        0: (("speed_limit", _LIMIT, True), ("speed", _SPEED, False), ("measured_speed", _MEASURED, False)),
        1: (("acceleration", _ACCELERATION, False),),
        2: (("steering_angle", _STEERING, False),),
        3: (("reaction_time", _REACTION, False), ("perception_age", _AGE, False)),
    }
    parts: list[str] = []
    for index, (plot, label) in enumerate(plots):
        for begin, end, state in state_spans(samples, x_range[1]):
            name, colour = STATE_COLOURS.get(state, (f"state {state}", "#777777"))
            plot.rectangle(
                plot.x(begin), plot.top, plot.x(end), plot.top + plot.height, "state", f"fill:{colour}",
                f"{name} from {begin:.2f} s to {end:.2f} s",
            )  # fmt: skip
        plot.axes(
            "time since start [s]", label, x_ticks=index == len(plots) - 1, about_y=4 if index == 0 else 2
        )
        for attribute, colour, dashed in curves[index]:
            style = f"stroke:{colour}" + (";stroke-dasharray:6 4" if dashed else "")
            plot.curve([(s.time_s, getattr(s, attribute)) for s in samples], "curve", style)
        parts += plot.parts
    present = {sample.state for sample in samples}
    entries = [
        (_SPEED, "target speed"), (_MEASURED, "measured speed"), (_LIMIT, "speed limit from sight distance"),
        (_ACCELERATION, "acceleration"), (_STEERING, "steering angle"), (_REACTION, "reaction time"),
        (_AGE, "age of perception"),
    ]  # fmt: skip
    shades = [(f"{colour}55", name) for state, (name, colour) in STATE_COLOURS.items() if state in present]
    return drawing(1000, 560, parts, "control command over time") + legend([*entries, *shades])


def state_spans(samples: Sequence[ControlSample], end_s: float) -> list[tuple[float, float, int]]:
    """Begin, end and state of each stretch of one state."""
    spans: list[tuple[float, float, int]] = []
    begin, state = samples[0].time_s, samples[0].state
    for sample in samples[1:]:
        if sample.state != state:
            spans.append((begin, sample.time_s, state))
            begin, state = sample.time_s, sample.state
    spans.append((begin, max(min(end_s, samples[-1].time_s), begin), state))
    return spans


def _symmetric(extent: float) -> tuple[float, float]:
    top = nice_ceiling(1.1 * extent)
    return (-top, top)
