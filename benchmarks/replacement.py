"""replay ─► running stack ─► a component moved there and back, while frames come.

Each move is asked for through the service, as `mmmt move` does. `frames_lost` counts frames that
sensor_fusion put together during the moves and that the component did not work on, `frames_twice` those it
worked on more than once; both should be 0. Milliseconds: `gap_ms` is the longest time between two outputs of
a task while moves were under way, `usual_gap_ms` the longest before the first move, `before_p50_ms` and
`after_p50_ms` the latency from the sweep's arrival to the output before and after each move; seconds:
`move_s` from the request to the old node's release.
"""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks._stack import StageListener, recording_and_rig, replay_overrides, running

NAME = "replacement"


def run(
    deployment: Annotated[str, typer.Option(help="A name in hw_configs/ or a file.")] = "cpu-2core",
    component: Annotated[str, typer.Option(help="What to move.")] = "camera_net",
    device: Annotated[str, typer.Option(help="Where to; every second move brings it back.")] = "cpu1",
    recording: Annotated[
        Path | None, typer.Option(help="Recording to play; default: the generated demo drive.")
    ] = None,
    rig: Annotated[str | None, typer.Option(help="Rig of the recording; default: that of its kind.")] = None,
    moves: Annotated[int, typer.Option(help="Moves, one after the other.", min=1)] = 4,
    seconds: Annotated[float, typer.Option(help="Seconds before, between and after moves.", min=5.0)] = 15.0,
    rate: Annotated[float, typer.Option(help="Speed of the replay.", min=0.01)] = 0.2,
    output: Annotated[str, typer.Option(help="Stage whose outputs are watched.")] = "detection3d_head",
) -> dict[str, Any]:
    """Moves the component to and fro."""
    from perception_nodes.move_client import move_component

    path, rig = recording_and_rig(recording, rig)
    overrides = [*replay_overrides(path, rig, rate), f"movable:=[{component}]"]
    with StageListener() as listener:
        with running(deployment, overrides) as (resolved, supervisor):
            home = resolved.deployment.placement[component]
            supervisor.wait(seconds)
            spans = []
            for number in range(moves):
                began_ns = time.monotonic_ns()
                outcome = move_component(component, home if number % 2 else device)
                if not outcome.done:
                    raise RuntimeError(f"move {number + 1} was taken back: {outcome.reason}")
                spans.append((began_ns, time.monotonic_ns(), outcome))
                supervisor.wait(seconds)
        time.sleep(0.5)  # the last reports are still on their way when the processes end
        timings = [timing for timing in listener.timings if timing.outcome == timing.OUTCOME_DONE]
    return {
        "deployment": deployment,
        "component": component,
        "output": output,
        **_frames(timings, component, spans),
        **_gaps(timings, output, spans),
        "moves": [_latencies(timings, output, span, seconds) for span in spans],
    }


def _frames(timings: list[Any], component: str, spans: list[Any]) -> dict[str, Any]:
    """Account of the frames between the first request and the end of the last move."""
    began_ns, ended_ns = spans[0][0], spans[-1][1]
    worked: dict[int, int] = {}
    for timing in timings:
        if timing.stage == component:
            worked[timing.trace_id] = worked.get(timing.trace_id, 0) + 1
    frames = [
        timing.trace_id
        for timing in timings
        if timing.stage == "sensor_fusion" and began_ns <= timing.done_ns <= ended_ns
    ]
    return {
        "frames": len(frames),
        "frames_lost": sum(frame not in worked for frame in frames),
        "frames_twice": sum(count > 1 for count in worked.values()),
    }


def _gaps(timings: list[Any], output: str, spans: list[Any]) -> dict[str, float | None]:
    at_ns = sorted(timing.done_ns for timing in timings if timing.stage == output)
    pairs = list(itertools.pairwise(at_ns))
    during = [
        later - earlier
        for earlier, later in pairs
        if any(later >= began and earlier <= ended for began, ended, _ in spans)
    ]
    before = [later - earlier for earlier, later in pairs if later < spans[0][0]]
    return {
        "gap_ms": max(during, default=0) * 1e-6 if during else None,
        "usual_gap_ms": max(before, default=0) * 1e-6 if before else None,
    }


def _latencies(timings: list[Any], output: str, span: Any, seconds: float) -> dict[str, Any]:
    began_ns, ended_ns, outcome = span
    window_ns = int(seconds * 1e9)

    def p50_ms(first_ns: int, last_ns: int) -> float | None:
        found = [
            timing.done_ns - sensor.received_ns
            for timing in timings
            if timing.stage == output and first_ns <= timing.done_ns <= last_ns
            for sensor in timing.sensors
            if sensor.valid and sensor.modality == "lidar"
        ]
        return statistics.median(found) * 1e-6 if found else None

    return {
        "move_s": outcome.elapsed_s,
        "switch_frame": outcome.switch_frame,
        "before_p50_ms": p50_ms(began_ns - window_ns, began_ns),
        "after_p50_ms": p50_ms(ended_ns, ended_ns + window_ns),
    }
