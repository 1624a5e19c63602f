"""Recordings made by hand, with figures known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from mmmt_msgs.msg import ControlCommand, FusionStatus, SensorStamp, StageTiming

from perception_core.deployment import ResolvedDeployment, load_deployment
from perception_nodes.report.recorded_run import Received, RecordedRun
from perception_nodes.report.run_facts import RunFacts

MS = 1_000_000
SECOND = 1_000_000_000
HOST = "this host"
BEGIN = 50 * SECOND

RIGS = {
    "whole": "lidar: {topic: /points}\n"
    "cameras: {camera_front: {topic: /front/image}, camera_back: {topic: /back/image}}",
    "no_camera": "lidar: {topic: /points}",
    "no_lidar": "cameras: {camera_front: {topic: /front/image}}",
}


def resolve(folder: Path, rig: str = "whole", *overrides: str) -> ResolvedDeployment:
    """Deployment cpu-2core on one of `RIGS`."""
    path = folder / "rig.yaml"
    path.write_text(f"name: {rig}\n{RIGS[rig]}\n")
    return load_deployment("cpu-2core", [f"rig:={path}", *overrides])


def facts() -> RunFacts:
    """Of a run that went well."""
    return RunFacts(
        recording="by hand", deployment_file="cpu-2core.yaml", started_at="2026-01-01T00:00:00+00:00"
    )


def frame_timings(
    resolved: ResolvedDeployment,
    trace_id: int,
    latency_ms: float,
    masked: tuple[str, ...] = (),
    age_ms: float = 10.0,
) -> list[Received[StageTiming]]:
    """All stages of one frame, 10 ms each; task outputs are done `latency_ms` after the sensors' stamps."""
    received_ns = BEGIN + trace_id * 100 * MS
    done_ns = received_ns + round((latency_ms - age_ms) * MS)
    sensors = [
        SensorStamp(
            modality=name,
            valid=name not in masked,
            received_ns=received_ns,
            age_at_reception_ns=round(age_ms * MS),
        )
        for name in resolved.rig.modalities
    ]
    found = [timing("sensor_fusion", trace_id, received_ns, 10, sensors)]
    at = received_ns + 10 * MS
    for name, component in resolved.bundle.spec.components.items():
        if component.task is None:
            found.append(timing(name, trace_id, at, 10, sensors, resolved.deployment.placement[name]))
            at += 10 * MS
    for name, component in resolved.bundle.spec.components.items():
        if component.task is not None:
            head = timing(name, trace_id, done_ns - 10 * MS, 10, sensors, resolved.deployment.placement[name])
            head.message.task = component.task
            found.append(head)
    return found


def timing(
    stage: str, trace_id: int, started_ns: int, run_ms: float, sensors: list[SensorStamp], device: str = ""
) -> Received[StageTiming]:
    """One stage that waited 1 ms and computed for half of the time it ran."""
    done_ns = started_ns + round(run_ms * MS)
    message = StageTiming(
        trace_id=trace_id,
        stage=stage,
        device=device,
        process=f"process_{device or 'sensing'}",
        host=HOST,
        queued_ns=started_ns - MS,
        started_ns=started_ns,
        done_ns=done_ns,
        compute_ns=(done_ns - started_ns) // 2,
        sensors=sensors,
    )
    return Received(done_ns + MS, message)


def run_of(timings: list[Received[StageTiming]], **lists: Any) -> RecordedRun:
    """A recording with these messages."""
    ordered = sorted(timings, key=lambda item: item.received_ns)
    end = max((item.received_ns for item in ordered), default=BEGIN)
    return RecordedRun(begun_ns=BEGIN, ended_ns=end + 100 * MS, host=HOST, timings=ordered, **lists)


def command(
    sequence: int, time_s: float, state: int = ControlCommand.STATE_DRIVING, **values: Any
) -> Received[ControlCommand]:
    """A lawful command of a slow vehicle, changed by `values`."""
    fields: dict[str, Any] = {
        "engaged": True,
        "speed": 3.0,
        "measured_speed": 3.0,
        "speed_limit": 8.0,
        "sight_distance": 40.0,
        "reaction_time": 0.4,
        "perception_age": 0.1,
        **values,
    }
    message = ControlCommand(sequence=sequence, state=state, **fields)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(time_s * SECOND), SECOND)
    return Received(BEGIN + round(time_s * SECOND), message)


def fusion(time_s: float, received: int, out: int, masked: int = 0) -> Received[FusionStatus]:
    """An account."""
    status = FusionStatus(
        frames_in=received,
        frames_out=out,
        frames_dropped=received - out,
        frames_masked=masked,
        modalities=["lidar", "camera_back"],
        masked=[0, masked],
        rejected=[0, 1],
        drop_reasons=["busy"],
        drop_counts=[received - out],
    )
    return Received(BEGIN + round(time_s * SECOND), status)


def diagnostic(time_s: float, name: str, level: bytes, count: int | None = None) -> Received[DiagnosticArray]:
    """A diagnostic."""
    values = [] if count is None else [KeyValue(key="count", value=str(count))]
    status = DiagnosticStatus(name=name, level=level, message=f"about {name}", values=values)
    return Received(BEGIN + round(time_s * SECOND), DiagnosticArray(status=[status]))
