"""Runs a stack with a recorder beside it and writes the report: `mmmt demo`, `mmmt launch --report`."""

from __future__ import annotations

import datetime
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_core.configuration import ConfigurationError
from perception_core.deployment import ResolvedDeployment, load_deployment
from perception_nodes.runtime.supervisor import StopTimeouts, Supervisor

if TYPE_CHECKING:
    from rich.console import Console

    from perception_nodes.report.report import Report
    from perception_nodes.report.run_monitor import RunMonitor
    from perception_nodes.report.run_status import RunStatus

#: Processes have this long to start: networks are loaded and exported meanwhile.
START_LIMIT_S = 180.0
#: The time asked for begins with the first frame, which has to come within this long.
FIRST_FRAME_LIMIT_S = 45.0
#: Where nobody asked for a time, a machine that has shown no output by the end of it gets so much longer.
FIRST_OUTPUT_LIMIT_S = 60.0
#: After the end of the recording the frames under way have this long to come out.
DRAIN_S = 10.0
#: A report wants every process' last words; a vehicle would not wait so long.
STOP_TIMEOUTS = StopTimeouts(interrupt_s=25.0, terminate_s=5.0)
_POLL_S = 0.1
#: Lines of trouble shown on the terminal; the log files have all.
_SHOWN_LINES = 25
_TROUBLE = ("[ERROR]", "[FATAL]", "Traceback", "Error:")
_STATES = {0: "disengaged", 1: "driving", 2: "comfortable stop", 3: "full stop"}


@dataclass(frozen=True)
class RunOptions:
    """What to run.

    Attributes:
        recording: Played into the stack; None: live sensors.
        out: Folder of the report.
        duration_s: Stop after so long with the stack ready; a shorter recording is looped. None: to the
            recording's end.
        use_sim_time: Nodes follow /clock.
        engage: Control engages by itself.
        rate: Seconds of data played in a second; None: as the deployment has it.
        wait_for_output: `duration_s` is a guess: go on for a while when nothing has come out by then.
    """

    recording: Path | None
    out: Path
    duration_s: float | None = None
    use_sim_time: bool = False
    engage: bool = False
    rate: float | None = None
    wait_for_output: bool = False


def run_with_report(
    resolved: ResolvedDeployment,
    recording: Path | None,
    report: Path,
    duration: float | None,
    use_sim_time: bool = False,
    dry_run: bool = False,
) -> int:
    """`mmmt launch --report`: returns the exit code, see `run`."""
    options = RunOptions(recording, report, duration, use_sim_time)
    if dry_run:
        from mmmt_cli.launch import print_process_table

        prepared, processes = prepare(resolved, options)
        print_process_table(prepared, processes)
        return 0
    return run(resolved, options)


def prepare(resolved: ResolvedDeployment, options: RunOptions) -> tuple[ResolvedDeployment, list[Any]]:
    """Adds replay and recorder to a deployment.

    Returns:
        The deployment with their parameters, and the processes to start.
    """
    from perception_nodes.runtime.process_list import RANK_RECORDER, REPLAY, ExtraProcess, build_process_list

    given = [*resolved.overrides, f"parameters.recorder.out:={options.out.resolve()}"]
    if options.recording is not None:
        given.append(f"parameters.replay.recording:={options.recording.resolve()}")
        if options.duration_s is not None and "loop" not in resolved.deployment.parameters.get("replay", {}):
            given.append("parameters.replay.loop:=0")
        if options.rate is not None:
            given.append(f"parameters.replay.rate:={options.rate:g}")
    if options.engage and "engage_on_start" not in resolved.deployment.parameters.get("control", {}):
        given.append("parameters.control.engage_on_start:=true")
    prepared = load_deployment(resolved.path, given)
    recorder = ExtraProcess("recorder", nodes=("recorder",), shutdown_rank=RANK_RECORDER)
    extra = [recorder] if options.recording is None else [recorder, REPLAY]
    return prepared, build_process_list(prepared, use_sim_time=options.use_sim_time, extra=extra)


def run(resolved: ResolvedDeployment, options: RunOptions) -> int:
    """Runs the stack to its end, writes the report and prints the main figures.

    Returns:
        0: frames were processed and all is well. 1: nothing came out, a process gave up, a command was
        unsafe or the report is incomplete; the reason is printed. 2: a configuration error.
    """
    from rich.console import Console

    from perception_core.host import check_host
    from perception_nodes.report.machine import machine_details, source_commit
    from perception_nodes.report.run_facts import RunFacts

    console = Console(stderr=True)
    check_host(resolved)
    prepared, processes = prepare(resolved, options)
    _make_folder(options.out)
    lines = _TroubleLines(console)
    supervisor = Supervisor(
        processes, log_directory=options.out / "logs", on_line=lines.take, timeouts=STOP_TIMEOUTS
    )
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    begun = time.monotonic()
    code, ended = _supervise(supervisor, options, console)
    facts = RunFacts(
        recording=None if options.recording is None else recording_name(options.recording),
        deployment_file=str(prepared.path),
        overrides=prepared.overrides,
        started_at=started,
        duration_s=round(time.monotonic() - begun, 2),
        commit=source_commit(),
        machine=machine_details(),
        ended=ended,
        processes=_process_facts(supervisor, code),
        notes=(),
    )
    return _conclude(prepared, options, facts, code, console)


def recording_name(path: Path) -> str:
    """Name of a recording for titles: that of its file or folder."""
    return path.resolve().name


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"report folder {folder} cannot be created: {error.strerror}") from error


class _TroubleLines:
    """Shows what processes complain about above the progress bar, not their every word."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = 0

    def take(self, name: str, line: str) -> None:
        """Takes one line of a process."""
        if name != "supervisor" and not any(word in line for word in _TROUBLE):
            return
        self._shown += 1
        if self._shown <= _SHOWN_LINES:
            self._console.print(f"{name}: {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
        elif self._shown == _SHOWN_LINES + 1:
            self._console.print("… more in the log files", style="dim")


def _supervise(supervisor: Supervisor, options: RunOptions, console: Console) -> tuple[int, str]:
    """Starts, watches and stops the stack.

    Returns:
        The supervisor's exit code and why the run ended.
    """
    from perception_nodes.report.run_monitor import RunMonitor

    interrupted: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        interrupted.append(number)
        if len(interrupted) > 1:
            supervisor.request_stop()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with RunMonitor() as monitor:
            supervisor.start()
            with _Progress(console, options) as progress:
                ended = _await_ready(supervisor, interrupted, progress)
                if ended is None:
                    ended = _await_end(supervisor, monitor, options, interrupted, progress)
                progress.describe("stopping")
                code = supervisor.stop()
        return code, ended
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _await_ready(supervisor: Supervisor, interrupted: Sequence[int], progress: _Progress) -> str | None:
    """Waits for all processes; returns why the run ended where it did."""
    deadline = time.monotonic() + START_LIMIT_S
    progress.describe("starting")
    while time.monotonic() < deadline:
        if supervisor.wait_ready(_POLL_S):
            return None
        if supervisor.wait(0.0) is not None:
            return "A process could not be started."
        if interrupted:
            return "Interrupted while starting."
    return f"The processes were not ready after {START_LIMIT_S:g} s."


def _await_end(
    supervisor: Supervisor,
    monitor: RunMonitor,
    options: RunOptions,
    interrupted: Sequence[int],
    progress: _Progress,
) -> str:
    """Waits for the end of recording or time; returns why the run ended."""
    ready = time.monotonic()
    begun: float | None = None if options.recording is not None else ready
    while True:
        ended = supervisor.wait(_POLL_S) is not None
        status = monitor.status
        if ended:
            return "A process ended the run." if status.finished else "The stack could not be kept running."
        if interrupted:
            return "Interrupted."
        now = time.monotonic()
        if begun is None and status.frames_in:
            begun = now  # the time asked for is that of data, not of discovery
        elapsed = 0.0 if begun is None else (now - begun) * (options.rate or 1.0)
        progress.show(status, elapsed)
        if status.finished:
            progress.describe("draining")
            supervisor.wait(DRAIN_S)
            whole = "was played to its end" if status.whole else "broke off before its end"
            return f"The recording {whole}."
        if options.duration_s is not None and elapsed >= options.duration_s:
            hopeful = options.wait_for_output and status.path is None
            if hopeful and elapsed / (options.rate or 1.0) < options.duration_s + FIRST_OUTPUT_LIMIT_S:
                continue
            return f"The time asked for, {options.duration_s:g} s, was over."
        if options.duration_s is not None and begun is None and now - ready > FIRST_FRAME_LIMIT_S:
            return f"No frame came in within {FIRST_FRAME_LIMIT_S:g} s."


class _Progress:
    """The bar on the terminal; a few plain lines where there is none."""

    def __init__(self, console: Console, options: RunOptions) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._options = options
        self._console = console
        self._last_line = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=5,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None, figures="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def describe(self, text: str) -> None:
        """Says what is being done."""
        self._bar.update(self._task, description=text)
        if not self._console.is_terminal:
            self._console.print(text, highlight=False)

    def show(self, status: RunStatus, elapsed_s: float) -> None:
        """Shows the state of the run."""
        share = status.progress
        if self._options.duration_s:
            share = elapsed_s / self._options.duration_s
        state = "" if status.state is None else _STATES.get(status.state, "")
        figures = f"{status.frames_out} of {status.frames_in} frames"
        if status.path is not None:
            path = status.path
            figures += f"  {path.modality}→{path.task} p50 {path.p50_ms:.0f} p99 {path.p99_ms:.0f} ms"
        self._bar.update(
            self._task,
            description=state or "running",
            total=None if share is None else 1.0,
            completed=0.0 if share is None else min(share, 1.0),
            figures=figures,
        )
        if not self._console.is_terminal and time.monotonic() - self._last_line > 5.0:
            self._last_line = time.monotonic()
            self._console.print(f"{figures}  {state}", highlight=False)


def _process_facts(supervisor: Supervisor, code: int) -> tuple[Any, ...]:
    from perception_nodes.report.run_facts import ProcessFacts

    restarts, codes = supervisor.restart_counts, supervisor.exit_codes
    facts = []
    for name in restarts:
        last = codes[name][-1] if codes[name] else None
        facts.append(ProcessFacts(name, restarts[name], last, gave_up=name in supervisor.given_up))
    return tuple(facts)


def _conclude(
    resolved: ResolvedDeployment, options: RunOptions, facts: Any, code: int, console: Console
) -> int:
    """Writes the report, prints the figures and finds the exit code."""
    from perception_nodes.report.report import ReportError, write_report

    problems = []
    try:
        facts.write(options.out)
    except OSError as error:
        problems.append(f"{options.out / 'run.json'}: {error.strerror or error}")
    report: Report | None = None
    try:
        with console.status("writing the report"):
            report = write_report(options.out, resolved, facts)
    except ReportError as error:
        problems.append(str(error))
    if report is not None:
        _print_figures(report)
        problems += _problems_of(report)
    if code != 0:
        problems.insert(0, f"{facts.ended} (supervisor's exit code {code}; see {options.out / 'logs'})")
    for problem in problems:
        console.print(f"✗ {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if report is not None:
        print(report.page, flush=True)
    return code or (1 if problems else 0)


def _problems_of(report: Report) -> list[str]:
    """What keeps a run from being a success."""
    summary = report.summary
    problems = []
    outputs = sum(path.count for path in summary.paths.values())
    if summary.frames.out + summary.frames.fallback == 0:
        problems.append("no frame came out of sensor_fusion; the page lists the faults")
    elif outputs == 0:
        problems.append(
            "frames came in but no task output came out; the page lists the faults "
            "(a machine that is too slow for the recording may manage with `mmmt demo --rate 0.2`)"
        )
    if summary.control.unsafe_ticks:
        kinds = "; ".join(f"{count}× {reason}" for reason, count in summary.control.unsafe_reasons.items())
        problems.append(f"{summary.control.unsafe_ticks} control ticks were unsafe: {kinds}")
    problems += [f"the report is incomplete: {text}" for text in summary.missing]
    problems += [f"process {process.name} was given up" for process in summary.processes if process.gave_up]
    return problems


def _print_figures(report: Report) -> None:
    """A small table on stdout."""
    from rich.console import Console
    from rich.table import Table

    summary = report.summary
    frames, control = summary.frames, summary.control
    table = Table(
        title=f"{summary.recording or 'live sensors'} on {summary.deployment}", title_justify="left"
    )
    for column in (
        "path",
        "outputs",
        "p50 [ms]",
        "p95 [ms]",
        "p99 [ms]",
        "max [ms]",
        "budget [ms]",
        "misses",
    ):
        table.add_column(column, justify="left" if column == "path" else "right")
    for name, path in summary.paths.items():
        figures = (path.p50_ms, path.p95_ms, path.p99_ms, path.max_ms, path.budget_ms)
        cells = ["–" if value is None else f"{value:.1f}" for value in figures]
        table.add_row(name, str(path.count), *cells, str(path.deadline_misses))
    console = Console(file=sys.stdout)
    console.print(table)
    fallback = f", {frames.fallback} more without the trigger sensor" if frames.fallback else ""
    console.print(
        f"frames: {frames.received} in = {frames.out} out + {frames.dropped} dropped; "
        f"{frames.masked} masked{fallback}\n"
        f"control: {control.ticks} ticks, {control.unsafe_ticks} unsafe, {control.stops} stops",
        highlight=False,
        soft_wrap=True,
    )
    if not summary.trained:
        console.print(
            f"bundle {summary.bundle} is untrained: objects and map mean nothing",
            style="yellow",
            highlight=False,
        )
