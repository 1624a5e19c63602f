"""The `mmmt` command itself: fast help, listed sub-commands, one clear message for a wrong configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from deployment_fixtures import DEPLOYMENT, write_resources

from mmmt_cli.main import COMMANDS, load_command
from perception_core.resources import package_root


def mmmt(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package_root()), "COLUMNS": "200", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, "-m", "mmmt_cli.main", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=110,
    )


def test_help_lists_the_commands_that_are_there() -> None:
    done = mmmt("--help")

    assert done.returncode == 0
    for name in ("launch", "doctor"):
        assert f" {name} " in done.stdout
        assert COMMANDS[name].help in done.stdout


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from mmmt_cli import main\n"
        "sys.argv = ['mmmt', '--help']\n"
        "try:\n    main.main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'rclpy', 'numpy', 'pydantic', 'cv2'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package_root())},
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if (package_root() / "mmmt_cli" / f"{name}.py").is_file()]
)
def test_every_command_that_is_there_loads(name: str) -> None:
    assert load_command(name).name == name


def test_an_unknown_command_is_refused() -> None:
    done = mmmt("lunch")
    assert done.returncode == 2
    assert "lunch" in done.stderr


def test_a_wrong_deployment_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    path = write_resources(tmp_path, DEPLOYMENT.replace("bev_fuser: cpu1", "bev_fuser: cpu2"))

    done = mmmt("launch", str(path), "rig:=kitti", "--dry-run", folder=tmp_path)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{path}:16: placement.bev_fuser: no device 'cpu2'" in done.stderr


def test_a_dry_run_prints_the_process_table_and_starts_nothing() -> None:
    done = mmmt("launch", "cpu-2core", "placement.detection3d_head:=cpu0", "--dry-run")

    assert done.returncode == 0
    assert "4 processes" in done.stdout
    assert "detection3d_head @ cpu0" in done.stdout
    assert "lidar_net @ cpu1" in done.stdout


def test_a_deployment_for_other_hardware_is_refused_before_anything_starts() -> None:
    done = mmmt("launch", "cpu-2core", "devices.cpu1.cores:=[4095]")

    assert done.returncode == 2
    assert "device 'cpu1' wants core 4095" in done.stderr


def test_doctor_says_what_is_there_as_one_json_object() -> None:
    done = mmmt("doctor", "--json")

    report = json.loads(done.stdout)
    by_name = {check["name"]: check for check in report["checks"]}
    assert done.returncode == (0 if report["ok"] else 1)
    assert {
        "Python",
        "ROS 2",
        "messages",
        "backend torch",
        "shared memory",
        "CPU",
        "Fast DDS profile",
    } <= set(by_name)
    assert by_name["Python"]["state"] == "ok"
    assert by_name["deployment cpu-1process"]["state"] in ("ok", "note")
    for check in report["checks"]:
        assert check["state"] in ("ok", "missing", "note")
        assert check["state"] != "missing" or check["remedy"]


def test_doctor_prints_a_table() -> None:
    done = mmmt("doctor")
    assert "how to mend" in done.stdout
    assert "shared memory" in done.stdout
