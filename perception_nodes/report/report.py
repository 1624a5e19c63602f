"""Makes the report of a recorded run: `summary.json` and `index.html`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perception_core.atomic_write import write_atomically
from perception_core.deployment import ResolvedDeployment
from perception_nodes.report.control_judge import judge_commands
from perception_nodes.report.frame_scene import FrameScene
from perception_nodes.report.page import MAX_SCENES, render_page, spread
from perception_nodes.report.path_samples import path_records
from perception_nodes.report.recorded_run import RecordedRun, load_run
from perception_nodes.report.run_facts import RunFacts
from perception_nodes.report.scene_loader import load_scene
from perception_nodes.report.summary import SUMMARY_FILE, Summary, summarize

PAGE_FILE = "index.html"


class ReportError(RuntimeError):
    """A part of the report could not be written; the message says which and why."""


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        summary: Its figures.
        page: Path of index.html.
    """

    summary: Summary
    page: Path


def write_report(folder: Path, resolved: ResolvedDeployment, facts: RunFacts) -> Report:
    """Reads what was recorded in a folder and writes the report beside it.

    Args:
        folder: The recorder's output folder.
        resolved: The deployment that ran.
        facts: What is known of the run.

    Raises:
        ReportError: The disk does not take it; no half-written file is left.
    """
    run = load_run(folder)
    paths = path_records(run, resolved.bundle.spec, resolved.rig, resolved.deployment.budgets_ms)
    unsafe = judge_commands(run, resolved)
    scenes = _load_scenes(run, resolved)
    summary = summarize(run, facts, resolved, paths, unsafe)
    for name in (SUMMARY_FILE, PAGE_FILE):
        (folder / name).unlink(missing_ok=True)  # an old report must not pass for this run's
    problems = []
    try:
        summary.write(folder)
    except OSError as error:
        problems.append(f"{folder / SUMMARY_FILE}: {error.strerror or error}")
    page = folder / PAGE_FILE
    try:
        write_atomically(page, render_page(summary, run, resolved, paths, scenes, unsafe).encode())
    except OSError as error:
        problems.append(f"{page}: {error.strerror or error}")
    if problems:
        raise ReportError("the report could not be written: " + "; ".join(problems))
    return Report(summary, page)


def _load_scenes(run: RecordedRun, resolved: ResolvedDeployment) -> list[FrameScene]:
    """Decodes the frames to show: those with task outputs, spread over the run."""
    scenes = []
    for path in spread(run.snapshots, MAX_SCENES):
        try:
            scenes.append(load_scene(path, run, resolved))
        except (OSError, ValueError) as error:
            run.missing.append(f"{path.name}: cannot be shown: {error}")
    complete = [scene for scene in scenes if scene.trace_id]
    return complete or scenes
