"""Tests of what `mmmt demo` knows of the stack it runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.report.run_monitor import RunMonitor
from perception_nodes.report.run_status import PathFigures, RunStatus

figures = st.floats(0, 1e6)
paths = st.builds(PathFigures, st.text(), st.text(), figures, figures)


@given(
    st.builds(
        RunStatus,
        progress=st.none() | st.floats(0, 1),
        finished=st.booleans(),
        whole=st.booleans(),
        frames_in=st.integers(0),
        frames_out=st.integers(0),
        path=st.none() | paths,
        state=st.none() | st.integers(0, 3),
    )
)
def test_a_status_survives_its_line(status: RunStatus) -> None:
    line = status.to_line()
    assert "\n" not in line
    assert RunStatus.from_line(line) == status


@pytest.mark.parametrize("line", ["", "{", "[]", '{"frames": 3}', '{"path": {"modality": "lidar"}}'])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        RunStatus.from_line(line)


def listening(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> RunMonitor:
    """A monitor whose listener runs `text`."""
    (folder / "stand_in_listener.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return RunMonitor("stand_in_listener")


def wait_for_frames(monitor: RunMonitor, count: int) -> None:
    deadline = time.monotonic() + 60
    while monitor.status.frames_in != count:
        assert time.monotonic() < deadline, monitor.status
        time.sleep(0.01)


def test_a_listener_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast DDS can lock a process up while others leave (eProsima/Fast-DDS issue 6502)."""
    text = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"print({RunStatus(frames_in=5).to_line()!r}, flush=True)\n"
        "while True: signal.pause()\n"
    )
    with listening(tmp_path, monkeypatch, text) as monitor:
        wait_for_frames(monitor, 5)
        begun = time.monotonic()
    assert time.monotonic() - begun < 30
    assert monitor._listener.returncode == -9


def test_a_listener_that_dies_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "mark"
    text = (
        "import pathlib, sys, time\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists():\n"
        "    mark.touch()\n"
        "    sys.exit(7)\n"
        f"print({RunStatus(frames_in=9).to_line()!r}, flush=True)\n"
        "time.sleep(600)\n"
    )
    with listening(tmp_path, monkeypatch, text) as monitor:
        wait_for_frames(monitor, 9)
    assert "ended with code 7" in capfd.readouterr().err


def test_the_starter_needs_no_middleware() -> None:
    """Else the starter itself could be locked up."""
    import subprocess

    code = "import sys, perception_nodes.report.run_monitor; print('rclpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
