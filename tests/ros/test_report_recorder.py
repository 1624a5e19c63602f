"""The recorder with real publishers, and the report made of what it wrote."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from report_fixtures import SyntheticStack, resolve

from perception_core.deployment import ResolvedDeployment
from perception_nodes.report.message_log import read_log
from perception_nodes.report.recorder import MESSAGES_FILE, RECORDER_FILE
from perception_nodes.report.report import Report, write_report
from perception_nodes.report.run_facts import RunFacts
from perception_nodes.runtime.parent_death import PARENT_VARIABLE
from perception_nodes.runtime.process_list import ExtraProcess, build_process_list


class RecorderProcess:
    """The recorder as the launcher starts it."""

    def __init__(self, resolved: ResolvedDeployment, limit_bytes: int | None = None) -> None:
        recorder = ExtraProcess("recorder", nodes=("recorder",))
        description = build_process_list(resolved, extra=[recorder])[-1]

        def limit() -> None:
            if limit_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

        self.process = subprocess.Popen(
            description.command,
            env={**os.environ, **description.environment, PARENT_VARIABLE: str(os.getpid())},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=limit,
        )

    def close(self) -> None:
        """Ends it whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def stop(self) -> str:
        """Stops it as the supervisor does; returns all it said."""
        self.process.send_signal(signal.SIGINT)
        try:
            said, _ = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            said, _ = self.process.communicate()
            raise AssertionError(f"the recorder did not stop: {said}") from None
        return said


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def resolved(tmp_path: Path, out: Path) -> ResolvedDeployment:
    return resolve(
        tmp_path / "rig",
        "cpu-2core",
        f"parameters.recorder.out:={out}",
        "parameters.recorder.snapshot_period_s:=0.5",
    )


@pytest.fixture
def start_recorder(resolved: ResolvedDeployment) -> Iterator[Callable[..., RecorderProcess]]:
    started: list[RecorderProcess] = []

    def start(limit_bytes: int | None = None) -> RecorderProcess:
        started.append(RecorderProcess(resolved, limit_bytes))
        return started[-1]

    yield start
    for recorder in started:
        recorder.close()


@pytest.fixture
def stack(resolved: ResolvedDeployment) -> Iterator[SyntheticStack]:
    synthetic = SyntheticStack(resolved)
    yield synthetic
    synthetic.close()


def report_of(out: Path, resolved: ResolvedDeployment) -> Report:
    return write_report(out, resolved, RunFacts(recording="synthetic", deployment_file=str(resolved.path)))


def drive(stack: SyntheticStack, frames: int, latency_ms: float = 60.0) -> None:
    """Some frames at about 10 Hz with two commands each."""
    for _ in range(frames):
        stack.frame(latency_ms)
        stack.command()
        time.sleep(0.05)
        stack.command()
    time.sleep(0.3)


def test_everything_published_is_recorded_and_reported(
    stack: SyntheticStack,
    start_recorder: Callable[..., RecorderProcess],
    resolved: ResolvedDeployment,
    out: Path,
) -> None:
    recorder = start_recorder()
    stack.wait_for_recorder()
    drive(stack, 20)
    stack.fault("sensor_fusion: corrupt_image camera_back", "JPEG is cut off", count=3)
    time.sleep(0.3)
    said = recorder.stop()

    assert recorder.process.returncode == 0, said
    logged: dict[str, int] = {}
    for message in read_log(out / MESSAGES_FILE):
        logged[message.topic] = logged.get(message.topic, 0) + 1
    assert logged["/mmmt/timing"] == stack.sent["timing"]
    assert logged["/mmmt/control/command"] == stack.sent["control/command"]

    report = report_of(out, resolved)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["missing"] == []
    assert summary["frames"]["in"] == summary["frames"]["out"] + summary["frames"]["dropped"] == 22
    assert summary["control"] == {**summary["control"], "ticks": 40, "unsafe_ticks": 0, "stops": 0}
    path = summary["paths"]["lidar->detection3d"]
    assert path["count"] == 20
    assert path["p50_ms"] == pytest.approx(60.0, abs=0.5)
    assert summary["faults"][0]["count"] == 3
    assert summary["objects"]["detection3d"]["labels"] == {"car": 20, "pedestrian": 20}
    assert summary["trained"] is False
    page = report.page.read_text()
    assert "Untrained weights" in page
    assert page.count("<figure>") >= 2
    assert "bev-truth" in page
    assert "bev-map" in page


def test_lost_commands_are_noticed(
    stack: SyntheticStack,
    start_recorder: Callable[..., RecorderProcess],
    resolved: ResolvedDeployment,
    out: Path,
) -> None:
    recorder = start_recorder()
    stack.wait_for_recorder()
    stack.frame()
    stack.command()
    stack.skip_commands(4)
    stack.command()
    time.sleep(0.3)
    recorder.stop()
    report = report_of(out, resolved)
    assert "4 control commands never reached the recorder" in report.summary.missing


def test_a_file_size_limit_ends_the_recording_with_one_error(
    stack: SyntheticStack,
    start_recorder: Callable[..., RecorderProcess],
    resolved: ResolvedDeployment,
    out: Path,
) -> None:
    recorder = start_recorder(limit_bytes=20_000)
    stack.wait_for_recorder()
    drive(stack, 30, latency_ms=20.0)
    said = recorder.stop()
    assert recorder.process.returncode == 0, said
    assert said.count("messages.log: cannot be written") == 1, said
    report = report_of(out, resolved)
    assert any("File too large" in text for text in report.summary.missing), report.summary.missing
    assert any("messages of /mmmt/timing were not written" in text for text in report.summary.missing)


def test_a_full_disk_ends_the_recording_with_one_error(
    stack: SyntheticStack,
    start_recorder: Callable[..., RecorderProcess],
    resolved: ResolvedDeployment,
    out: Path,
) -> None:
    out.mkdir()
    (out / MESSAGES_FILE).symlink_to("/dev/full")
    recorder = start_recorder()
    stack.wait_for_recorder()
    drive(stack, 10, latency_ms=20.0)
    said = recorder.stop()
    assert recorder.process.returncode == 0, said
    assert said.count("No space left on device") == 1, said
    report = report_of(out, resolved)
    assert report.summary.control.ticks == 0
    assert any("No space left on device" in text for text in report.summary.missing)
    assert "Incomplete" in report.page.read_text()


def test_a_killed_recorder_still_gives_a_report(
    stack: SyntheticStack,
    start_recorder: Callable[..., RecorderProcess],
    resolved: ResolvedDeployment,
    out: Path,
) -> None:
    recorder = start_recorder()
    stack.wait_for_recorder()
    drive(stack, 10)
    time.sleep(0.8)
    recorder.process.kill()
    recorder.process.communicate()
    assert not (out / RECORDER_FILE).exists()
    report = report_of(out, resolved)
    assert report.summary.control.ticks == 20
    assert any("the recorder was ended before it could finish" in text for text in report.summary.missing)
