"""What became of the frames, as one bar: emitted whole, emitted with a sensor masked, dropped."""

from __future__ import annotations

from perception_nodes.report.svg import Plot, drawing, legend

_WHOLE, _MASKED, _DROPPED = "#2a9d5c", "#e9a23b", "#d1495b"


def frame_flow(received: int, out: int, masked: int, dropped: int, fallback: int) -> str:
    """Draws the bar with its figures.

    Args:
        received: Trigger messages.
        out: Frames emitted for them.
        masked: Those of `out` that lacked a sensor.
        dropped: The rest of `received`.
        fallback: Frames emitted without a trigger message, apart from the others.
    """
    if received <= 0 and fallback <= 0:
        return '<p class="absent">No frame came in.</p>'
    shares = [("complete", out - masked, _WHOLE), ("masked", masked, _MASKED), ("dropped", dropped, _DROPPED)]
    plot = Plot(0, 0, 600, 34, (0.0, float(max(received, 1))), (0.0, 1.0))
    begin = 0
    for name, count, colour in shares:
        if count <= 0:
            continue
        x0, x1 = plot.x(begin), plot.x(begin + count)
        plot.rectangle(x0, 2, x1, 32, "", f"fill:{colour}", f"{count} {name}", radius=4)
        if x1 - x0 > 8 * len(str(count)) + 10:
            plot.text((x0 + x1) / 2, 22, str(count), "run-label middle", "font-size:15px")
        begin += count
    entries = [(colour, f"{name} {count}") for name, count, colour in shares]
    text = (
        f"<p class='scene-note'><strong>{received}</strong> in = <strong>{out}</strong> out + "
        f"<strong>{dropped}</strong> dropped"
        + (f"; {fallback} more without the trigger sensor" if fallback else "")
        + "</p>"
    )
    return drawing(600, 34, plot.parts, "frames in, out, masked and dropped") + legend(entries) + text
