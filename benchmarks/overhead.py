"""Runs the demo's stack on a recording and asks what the stack itself costs beside the networks' own work.

    replay ─► sensor_fusion ─┬─ lidar_net ──┬─ bev_fuser ─► detection3d_head ─► DetectedObjectArray
                             └─ camera_net ─┘

In milliseconds, medians over frames of one run: `end_to_end` from the arrival of the sweep at the stack to
the published objects; `compute` is the work on the critical chain: the networks' own time (`networks`) and
sensor_fusion's image decoding and frame assembly (`preparation`); `overhead` is the median of the
difference frame by frame: announcements, transport, executors, waiting. The chain goes through the data a
stage needed and through the device it had to wait for, whichever came last. Frames that began while another
was under way are left out, or the figure would measure the load instead; where these are most of them, the
recording is played more slowly. So are frames in which the machine itself stood still (the host of a virtual
machine runs something else), unless hardly any is left: `with_stalls` is the same with them. `handover`: what
the machine alone takes to wake a process on another core.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks._handover import measure_handover
from benchmarks._stack import StageListener, recording_and_rig, replay_overrides, running
from benchmarks._stalls import StallWatch, disturbed

NAME = "overhead"

DEPLOYMENTS = ("cpu-1process", "cpu-2core")
OUTPUT = "detection3d_head"

#: How often the replay is slowed down, and the share of frames that may come while another is under way.
_ATTEMPTS, _TOLERATED_OVERLAP = 4, 0.5
#: As few frames without a stall of the machine are still counted by themselves.
_FEWEST_FRAMES = 5

_log = logging.getLogger(__name__)


def run(
    recording: Annotated[
        Path | None, typer.Option(help="Recording to play; default: the generated demo drive.")
    ] = None,
    rig: Annotated[str | None, typer.Option(help="Rig of the recording; default: that of its kind.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds measured in each deployment.", min=5.0)] = 30.0,
    rate: Annotated[
        float, typer.Option(help="Speed of the replay; halved while most frames overlap.", min=0.001)
    ] = 0.2,
    warm_up: Annotated[int, typer.Option(help="Frames not counted at the start.", min=0)] = 5,
) -> dict[str, Any]:
    """Runs each deployment in turn."""
    result: dict[str, Any] = {"seconds": seconds, "output": OUTPUT, "handover": measure_handover()}
    for deployment in DEPLOYMENTS:
        found: tuple[float, list[dict[str, float]]] | None = None
        for attempt in range(_ATTEMPTS):
            slowed = rate / 2**attempt
            _log.info("%s at rate %g …", deployment, slowed)
            frames = _frames_of(deployment, recording, rig, seconds, slowed)[warm_up:]
            if frames:
                _log.info("%d frames, %.0f %% overlapping", len(frames), 100 * _overlap(frames))
                found = slowed, frames
            if not frames and found is not None:
                break  # played still more slowly, nothing is left to count
            if frames and _overlap(frames) <= _TOLERATED_OVERLAP:
                break
        if found is None:
            raise RuntimeError(
                f"{deployment}: no frame came through in {seconds} s; run `mmmt demo` to see why"
            )
        result[deployment] = {"rate": found[0], **_summary(found[1])}
    return result


def _frames_of(
    deployment: str, recording: Path | None, rig: str | None, seconds: float, rate: float
) -> list[dict[str, float]]:
    path, rig = recording_and_rig(recording, rig)
    with StageListener() as listener:
        with (
            running(deployment, replay_overrides(path, rig, rate)) as (resolved, supervisor),
            StallWatch() as watch,
        ):
            supervisor.wait(seconds)
        time.sleep(0.5)  # the last reports are still on their way when the processes end
        frames = _whole_frames(list(listener.timings), resolved.bundle)
    for frame in frames:
        begin, end = frame["begun"] / 1e3, (frame["begun"] + frame["end_to_end"]) / 1e3
        frame["stalled"] = float(disturbed(begin, end, watch.stalls))
    return frames


def _whole_frames(timings: list[Any], bundle: Any) -> list[dict[str, float]]:
    """End-to-end and compute times of every frame that came through whole, in order."""
    from mmmt_msgs.msg import StageTiming

    from perception_core.bundle import SENSOR_FUSION
    from perception_core.platform.critical_chain import StageRun, critical_chain

    feeds = {
        name: tuple({bundle.producer_of(tensor) for tensor in spec.inputs})
        for name, spec in bundle.spec.components.items()
    }
    by_trace: dict[int, dict[str, Any]] = defaultdict(dict)
    for timing in timings:
        if timing.outcome == StageTiming.OUTCOME_DONE:
            by_trace[timing.trace_id][timing.stage] = timing
    frames = []
    for trace in sorted(by_trace):
        stages = by_trace[trace]
        if not {SENSOR_FUSION, *_needed(OUTPUT, feeds)} <= stages.keys():
            continue
        runs = {
            name: StageRun(name, f"{t.process}/{t.device or name}", t.started_ns, t.done_ns, t.compute_ns)
            for name, t in stages.items()
        }
        chain = critical_chain(OUTPUT, runs, feeds)
        preparation = sum(run.compute_ns for run in chain if run.stage == SENSOR_FUSION) / 1e6
        networks = sum(run.compute_ns for run in chain if run.stage != SENSOR_FUSION) / 1e6
        end_to_end = (runs[OUTPUT].done_ns - stages[SENSOR_FUSION].queued_ns) / 1e6
        frames.append(
            {
                "begun": stages[SENSOR_FUSION].queued_ns / 1e6,
                "end_to_end": end_to_end,
                "preparation": preparation,
                "networks": networks,
            }
        )
    return frames


def _alone(frames: list[dict[str, float]]) -> list[dict[str, float]]:
    """Returns the frames that began after all before them were done: the others measure the load."""
    found, busy_until = [], 0.0
    for frame in frames:
        if frame["begun"] >= busy_until:
            found.append(frame)
        busy_until = max(busy_until, frame["begun"] + frame["end_to_end"])
    return found


def _overlap(frames: list[dict[str, float]]) -> float:
    """Returns the share of frames that began while another was under way."""
    return 1.0 - len(_alone(frames)) / len(frames)


def _needed(stage: str, feeds: dict[str, tuple[str, ...]]) -> set[str]:
    found = {stage}
    for name in feeds.get(stage, ()):
        found |= _needed(name, feeds)
    return found


def _summary(every_frame: list[dict[str, float]]) -> dict[str, Any]:
    alone = _alone(every_frame)
    calm = [frame for frame in alone if not frame["stalled"]]
    counted = calm if len(calm) >= _FEWEST_FRAMES else alone
    return {
        **_medians(counted),
        "overlapping_left_out": len(every_frame) - len(alone),
        "stalled_left_out": len(alone) - len(counted),
        "with_stalls": _medians(alone),
    }


def _medians(frames: list[dict[str, float]]) -> dict[str, float | int | bool]:
    end_to_end = statistics.median(frame["end_to_end"] for frame in frames)
    overhead = statistics.median(
        frame["end_to_end"] - frame["preparation"] - frame["networks"] for frame in frames
    )
    return {
        "frames": len(frames),
        "end_to_end_p50_ms": round(end_to_end, 3),
        "compute_p50_ms": round(statistics.median(f["preparation"] + f["networks"] for f in frames), 3),
        "preparation_p50_ms": round(statistics.median(f["preparation"] for f in frames), 3),
        "networks_p50_ms": round(statistics.median(f["networks"] for f in frames), 3),
        "overhead_ms": round(overhead, 3),
        "limit_ms": round(max(10.0, 0.1 * end_to_end), 3),
        "within_limit": overhead < max(10.0, 0.1 * end_to_end),
    }
