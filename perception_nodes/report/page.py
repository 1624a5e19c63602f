"""The page of a run: one self-contained HTML file."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jinja2
from markupsafe import Markup

from perception_core.bundle import SENSOR_FUSION
from perception_core.deployment import ResolvedDeployment
from perception_core.platform.path_latency import CONTROL, SENSOR_SHARE, TRANSPORT_SHARE
from perception_nodes.report import palette
from perception_nodes.report.bev_view import MAX_BOXES, bev_view
from perception_nodes.report.camera_view import camera_title, camera_view, mosaic
from perception_nodes.report.control_chart import ControlSample, control_chart
from perception_nodes.report.control_judge import UnsafeTicks
from perception_nodes.report.frame_flow import frame_flow
from perception_nodes.report.frame_scene import FrameScene
from perception_nodes.report.latency_chart import SENSOR_AGE_NAME, TRANSPORT_NAME, PathSample, latency_chart
from perception_nodes.report.path_samples import PathRecord
from perception_nodes.report.recorded_run import RecordedRun
from perception_nodes.report.summary import PathFigures, Summary
from perception_nodes.report.timeline import Run, timeline

#: Paths drawn over time at most; the table has all.
MAX_CHARTS = 4
#: Frames shown at most; more would make the page heavy.
MAX_SCENES = 4

_STAGES_WITHOUT_BUNDLE = (SENSOR_FUSION, CONTROL)


@dataclass(frozen=True)
class KeyFigure:
    """One large number at the top; tone is `good`, `bad`, `warn` or empty."""

    name: str
    value: str
    unit: str = ""
    detail: str = ""
    tone: str = ""


@dataclass
class PageContent:
    """What the template shows besides pictures and summary."""

    title: str
    subtitle: str
    identity: list[tuple[str, str]]
    warnings: list[str]
    figures: list[KeyFigure]
    footer: str
    layers: list[dict[str, str]] = field(default_factory=list)
    map_layers: list[dict[str, str]] = field(default_factory=list)
    path_rows: list[dict[str, Any]] = field(default_factory=list)
    stage_rows: list[dict[str, Any]] = field(default_factory=list)
    frame_rows: list[dict[str, Any]] = field(default_factory=list)
    object_rows: list[dict[str, Any]] = field(default_factory=list)
    process_rows: list[dict[str, Any]] = field(default_factory=list)
    machine: list[tuple[str, str]] = field(default_factory=list)
    unsafe_examples: tuple[str, ...] = ()


def render_page(
    summary: Summary,
    run: RecordedRun,
    resolved: ResolvedDeployment,
    paths: Mapping[str, PathRecord],
    scenes: Sequence[FrameScene],
    unsafe: UnsafeTicks,
) -> str:
    """Renders the page.

    Args:
        summary: The figures.
        run: The recording.
        resolved: The deployment that ran.
        paths: From `path_samples.path_records`.
        scenes: Decoded frames, in order of time; any part of them may be missing.
        unsafe: From `control_judge.judge_commands`.
    """
    colours = palette.stage_colours(_stage_order(resolved))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perception_nodes.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("index.html.j2").render(
        page=_content(summary, run, colours, scenes, unsafe),
        summary=summary,
        scenes=[_scene(scene, resolved) for scene in scenes],
        latency_charts=_latency_charts(run, summary, paths, colours),
        timeline=Markup(timeline(timeline_runs(run), colours)),
        control_chart=Markup(control_chart(control_samples(run), run.duration_s)),
        frame_flow=Markup(frame_flow(*_flow(summary))),
        style=Markup(_resource("page.css")),
        script=Markup(_resource("page.js")),
    )


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spread, first and last among them."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def timeline_runs(run: RecordedRun) -> list[Run]:
    """Every run of every stage; rows are devices within processes."""
    return [
        Run(
            row=f"{message.process} · {message.device}" if message.device else message.process,
            stage=message.stage,
            trace_id=message.trace_id,
            queued_ns=message.queued_ns,
            started_ns=message.started_ns,
            done_ns=message.done_ns,
        )
        for message in (item.message for item in run.timings)
        if message.outcome == message.OUTCOME_DONE and message.stage != CONTROL
    ]


def control_samples(run: RecordedRun) -> list[ControlSample]:
    """Commands as the chart takes them."""
    names = [name for name in ControlSample.__dataclass_fields__ if name not in ("time_s", "state")]
    return [
        ControlSample(
            time_s=run.seconds(item.received_ns),
            state=item.message.state,
            **{name: float(getattr(item.message, name)) for name in names},
        )
        for item in run.commands
    ]


def path_samples(run: RecordedRun, record: PathRecord) -> list[PathSample]:
    """Outputs of a path as the chart takes them; one whose stages are not all known is one grey bar."""
    names = {SENSOR_SHARE: SENSOR_AGE_NAME, TRANSPORT_SHARE: TRANSPORT_NAME}
    return [
        PathSample(
            time_s=run.seconds(output.done_ns),
            segments_ms={names.get(key, key): value for key, value in output.shares_ms.items() if value > 0}
            or {TRANSPORT_NAME: output.latency_ms},
        )
        for output in record.outputs
    ]


def charted_paths(paths: Mapping[str, PathRecord]) -> list[str]:
    """The paths worth a chart: for each task the path of the first modality that has outputs, control
    last.
    """
    by_task: dict[str, str] = {}
    for name, record in paths.items():
        if record.outputs and record.path.task not in by_task:
            by_task[record.path.task] = name
    ordered = sorted(by_task, key=lambda task: task == CONTROL)
    return [by_task[task] for task in ordered][-MAX_CHARTS:]


def _stage_order(resolved: ResolvedDeployment) -> list[str]:
    return [SENSOR_FUSION, *resolved.bundle.spec.components, CONTROL]


def _latency_charts(
    run: RecordedRun, summary: Summary, paths: Mapping[str, PathRecord], colours: Mapping[str, str]
) -> list[dict[str, Any]]:
    charts = []
    for name in charted_paths(paths):
        figures = summary.paths[name]
        picture = latency_chart(
            path_samples(run, paths[name]),
            colours,
            figures.budget_ms,
            f"latency of {name} over time",
            run.duration_s,
        )
        detail = f"p50 {_ms(figures.p50_ms)} ms, p99 {_ms(figures.p99_ms)} ms"
        charts.append({"name": _arrow(name), "detail": detail, "picture": Markup(picture)})
    return charts


def _scene(scene: FrameScene, resolved: ResolvedDeployment) -> dict[str, Any]:
    rows = mosaic(scene.cameras)
    shown = [
        f"{task}: {len(objects)} objects"
        + (f", the best {MAX_BOXES} drawn" if len(objects) > MAX_BOXES else "")
        for task, objects in scene.objects.items()
    ]
    if scene.ground_truth is not None:
        shown.append(f"ground truth: {len(scene.ground_truth)} objects")
    if scene.points_n3 is not None:
        shown.append(f"{len(scene.points_n3):,} points".replace(",", "\u202f"))
    if not scene.trace_id:
        shown.append("no task output came for this frame")
    return {
        "title": f"{scene.time_s:.1f} s",
        "bev": Markup(bev_view(scene, resolved.rig.vehicle)),
        "camera_rows": [
            [
                {"title": camera_title(camera.name), "picture": Markup(camera_view(camera, scene))}
                for camera in row
            ]
            for row in rows
        ],
        "columns": max((len(row) for row in rows), default=1),
        "note": (f"Frame {scene.trace_id}. " if scene.trace_id else "") + "; ".join(shown) + ".",
        "problems": scene.notes,
    }


def _content(
    summary: Summary,
    run: RecordedRun,
    colours: Mapping[str, str],
    scenes: Sequence[FrameScene],
    unsafe: UnsafeTicks,
) -> PageContent:
    return PageContent(
        title=summary.recording or "Live sensors",
        subtitle=f"{summary.duration_s:.1f} s on deployment {summary.deployment}, rig {summary.rig}, "
        f"bundle {summary.bundle}",
        identity=[
            ("deployment", summary.deployment),
            ("started", summary.started_at.replace("T", " ")),
            ("commit", summary.commit or "unknown"),
            ("processor", _short_cpu(summary.machine)),
        ],
        warnings=_warnings(summary),
        figures=_key_figures(summary),
        footer=f"Written by mmmt. {len(run.timings)} stage timings, {len(run.commands)} control commands, "
        f"{len(run.snapshots)} whole frames recorded. {summary.ended}",
        layers=_layers(scenes),
        map_layers=_map_layers(scenes),
        path_rows=[_path_row(name, figures) for name, figures in summary.paths.items()],
        stage_rows=_stage_rows(summary, colours),
        frame_rows=[
            {"name": name, "masked": count, "rejected": summary.frames.rejected_by_modality.get(name, 0)}
            for name, count in summary.frames.masked_by_modality.items()
        ],
        object_rows=_object_rows(summary),
        process_rows=[
            {
                "name": process.name,
                "respawns": process.respawns,
                "ended": "gave up" if process.gave_up else _ended(process.exit_code),
            }
            for process in summary.processes
        ],
        machine=[(key.replace("_", " "), value) for key, value in summary.machine.items()],
        unsafe_examples=unsafe.examples,
    )


def _warnings(summary: Summary) -> list[str]:
    warnings = [f"Incomplete: {text}." for text in summary.missing]
    if summary.frames.received + summary.frames.fallback == 0:
        warnings.append("No frame came in: check that the recording's topics are those of the rig.")
    warnings += [f"Process {process.name} was given up." for process in summary.processes if process.gave_up]
    return warnings


def _key_figures(summary: Summary) -> list[KeyFigure]:
    frames, control = summary.frames, summary.control
    figures = [
        KeyFigure(
            "frames processed",
            str(frames.out),
            f"of {frames.received}",
            f"{frames.dropped} dropped, {frames.masked} with a sensor masked",
            "good" if frames.out and frames.dropped <= 0.05 * frames.received else "warn",
        )
    ]
    shown = [summary.paths[name] for name in _headline_paths(summary)]
    for name, path in zip(_headline_paths(summary), shown, strict=True):
        within = path.budget_ms is None or (path.p99_ms or math.inf) <= path.budget_ms
        budget = "" if path.budget_ms is None else f", budget {path.budget_ms:g} ms"
        figures.append(
            KeyFigure(
                _arrow(name),
                _ms(path.p50_ms),
                "ms",
                f"median; p99 {_ms(path.p99_ms)} ms{budget}",
                "good" if within else "bad",
            )
        )
    if shown and shown[0].rate_hz is not None:
        figures.append(
            KeyFigure("output rate", f"{shown[0].rate_hz:.1f}", "Hz", _arrow(_headline_paths(summary)[0]))
        )
    figures.append(
        KeyFigure(
            "unsafe control ticks",
            str(control.unsafe_ticks),
            f"of {control.ticks}",
            f"{control.stops} stop{'' if control.stops == 1 else 's'} while driving",
            "" if not control.ticks else ("good" if control.unsafe_ticks == 0 else "bad"),
        )
    )
    misses = sum(path.deadline_misses for path in summary.paths.values())
    outputs = sum(path.count for path in summary.paths.values())
    figures.append(
        KeyFigure(
            "missed deadlines",
            str(misses),
            "",
            f"{outputs} outputs over all paths",
            "good" if not misses else "warn",
        )
    )
    return figures


def _headline_paths(summary: Summary) -> list[str]:
    """Up to two paths for the top of the page: the first with outputs, and the one to control of the same
    modality.
    """
    measured = [name for name, figures in summary.paths.items() if figures.count]
    first = next((name for name in measured if not name.endswith(f"->{CONTROL}")), None)
    last = next((name for name in measured if name.endswith(f"->{CONTROL}")), None)
    return [name for name in (first, last) if name is not None]


def _layers(scenes: Sequence[FrameScene]) -> list[dict[str, str]]:
    layers = []
    if any(scene.objects for scene in scenes):
        layers.append({"key": "detections", "name": "detections", "colour": palette.DETECTION})
    if any(scene.ground_truth for scene in scenes):
        layers.append({"key": "truth", "name": "ground truth", "colour": palette.GROUND_TRUTH})
    if any(scene.path_xy is not None for scene in scenes):
        layers.append({"key": "path", "name": "commanded path", "colour": palette.PLANNED_PATH})
    if any(scene.points_n3 is not None for scene in scenes):
        layers.append(
            {
                "key": "points",
                "name": "points by height",
                "colour": "linear-gradient(90deg,#44548c,#309696,#e0be3c)",
            }
        )
    if any(scene.map is not None for scene in scenes):
        layers.append({"key": "map", "name": "map", "colour": "#9db8d9"})
    return layers


def _map_layers(scenes: Sequence[FrameScene]) -> list[dict[str, str]]:
    for scene in scenes:
        if scene.map is not None:
            colours = palette.layer_colours(scene.map.layers)
            return [{"name": layer.replace("_", " "), "colour": colours[layer]} for layer in scene.map.layers]
    return []


def _path_row(name: str, figures: PathFigures) -> dict[str, Any]:
    return {
        "name": _arrow(name),
        "count": figures.count,
        "rate": "–" if figures.rate_hz is None else f"{figures.rate_hz:.1f}",
        "p50": _ms(figures.p50_ms),
        "p95": _ms(figures.p95_ms),
        "p99": _ms(figures.p99_ms),
        "max": _ms(figures.max_ms),
        "budget": "–" if figures.budget_ms is None else f"{figures.budget_ms:g}",
        "misses": figures.deadline_misses,
        "missed": figures.deadline_misses > 0,
    }


def _stage_rows(summary: Summary, colours: Mapping[str, str]) -> list[dict[str, Any]]:
    order = [stage for stage in colours if stage in summary.stages]
    order += [stage for stage in summary.stages if stage not in colours]
    rows = []
    for stage in order:
        values = asdict(summary.stages[stage])
        rows.append(
            {
                "name": stage,
                "colour": colours.get(stage, "#777777"),
                "process": values["process"],
                "device": values["device"] or "–",
                "count": values["count"],
                "compute_p50": _ms(values["compute_p50_ms"]),
                "compute_p95": _ms(values["compute_p95_ms"]),
                "run_p50": _ms(values["run_p50_ms"]),
                "wait_p50": _ms(values["wait_p50_ms"]),
                "dropped": values["dropped"],
                "failed": values["failed"],
            }
        )
    return rows


def _object_rows(summary: Summary) -> list[dict[str, Any]]:
    rows = []
    entries = dict(summary.objects)
    if summary.ground_truth.messages:
        entries["ground truth"] = summary.ground_truth
    for task, figures in entries.items():
        best = list(figures.labels)[:4]
        rows.append(
            {
                "task": task,
                "messages": figures.messages,
                "mean": "–" if figures.mean_per_message is None else f"{figures.mean_per_message:.1f}",
                "labels": ", ".join(best) + (" …" if len(figures.labels) > len(best) else ""),
            }
        )
    return rows


def _flow(summary: Summary) -> tuple[int, int, int, int, int]:
    frames = summary.frames
    return frames.received, frames.out, frames.masked, frames.dropped, frames.fallback


def _ended(exit_code: int | None) -> str:
    if exit_code is None:
        return "–"
    return (
        "as asked"
        if exit_code == 0
        else (f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}")
    )


def _short_cpu(machine: Mapping[str, str]) -> str:
    cores = machine.get("cores", "")
    cpu = machine.get("cpu", "unknown").replace("(R)", "").replace("(TM)", "").split(" @ ")[0].strip()
    return f"{cpu}, {cores} core{'' if cores == '1' else 's'}" if cores else cpu


def _arrow(name: str) -> str:
    return name.replace("->", " → ")


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _resource(name: str) -> str:
    return (
        importlib.resources.files("perception_nodes.report")
        .joinpath("templates", name)
        .read_text(encoding="utf-8")
    )
