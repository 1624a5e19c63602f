"""The HTML page of a co-search; one file, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from perception_core.atomic_write import write_atomically
from training.search.codesign.charts import ScheduleView, as_svg, draw_front, draw_schedules
from training.search.codesign.study import Candidate, Study

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 9px; border-bottom: 1px solid #ccc; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { max-width: 100%; height: auto; background: white; }
.note { color: #666; }
"""


def write_page(study: Study, path: Path, schedules: Sequence[ScheduleView] = ()) -> Path:
    """Writes the page, whole or not at all.

    Args:
        study: The search.
        path: File to write.
        schedules: Schedules to show.

    Raises:
        ConfigurationError: The study has no candidate.
    """
    best = study.best
    fitted = sum(not one.measured for one in study.front)
    parts = [
        f"<h1>Co-search of {escape(study.space.model)}</h1>",
        f"<p>{len({one.architecture for one in study.candidates})} networks judged of {study.space.size}, "
        f"{len(study.candidates)} with their placements; {len(study.refused)} fit nowhere. "
        f"{len(study.front)} candidates are on the front of quality, longest path and power"
        + (f"; the quality of {fitted} of them is fitted, not trained" if fitted else "")
        + ".</p>",
        "<p class=note>Latencies, power and energy are predicted by the schedule model.</p>",
        as_svg(draw_front(study)),
        "<h2>Least Loss_sw + γ1·Loss_hw, and what to compare it with</h2>",
        _table(study, {"joint search": best, **study.baselines}),
    ]
    if schedules:
        parts += ["<h2>Schedules</h2>", as_svg(draw_schedules(schedules))]
    parts += [
        "<h2>The front</h2>",
        _table(study, {str(number): one for number, one in enumerate(study.front, start=1)}),
        "<h2>Settings</h2>",
        "<table>"
        + "".join(
            f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>"
            for key, value in study.settings.items()
        )
        + "</table>",
    ]
    text = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>Co-search of {escape(study.space.model)}</title><style>{_STYLE}</style>"
        f"{''.join(parts)}</html>\n"
    )
    write_atomically(path, text)
    return path


def _table(study: Study, rows: dict[str, Candidate]) -> str:
    heads = (
        "",
        "objective",
        "Loss_sw",
        "Loss_hw",
        "longest path ms",
        "W",
        "mJ a frame",
        "network",
        "placement",
    )
    cells = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for name, one in rows.items():
        numbers = (
            f"{one.objective:.4f}",
            f"{one.loss_sw:.4f}" + ("" if one.measured else " *"),
            f"{one.loss_hw:.2f}",
            f"{one.longest_path_ms:.1f}",
            f"{one.power_w:.1f}",
            f"{one.energy_j * 1000:.0f}",
        )
        network = ", ".join(f"{k} {v}" for k, v in study.space.names_of(one.architecture).items())
        placed = ", ".join(f"{k} → {v}" for k, v in one.placement.items())
        if len(one.implementation) > 0 and one.implementation != "as it is":
            placed += f" ({one.implementation})"
        cells.append(
            f"<tr><td>{escape(name)}</td>"
            + "".join(f"<td class=number>{number}</td>" for number in numbers)
            + f"<td>{escape(network)}</td><td>{escape(placed)}</td></tr>"
        )
    return "<table>" + "".join(cells) + "</table><p class=note>* fitted, not trained</p>"
