"""`mmmt bench` finds its benchmarks, says what is missing and keeps standard output for the result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmmt_cli import bench
from perception_core.configuration import ConfigurationError


def test_every_benchmark_in_the_tree_is_a_command_with_help() -> None:
    commands = typer.main.get_command(bench.bench_app).commands
    assert {"transport", "sensor-loss"} <= set(commands)
    assert len(commands) == len(bench.benchmark_names())
    for command in commands.values():
        assert {"json_output", "out"} <= {parameter.name for parameter in command.params}, command.name


def test_absent_source_tree_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "package_root", lambda: tmp_path)
    assert bench.benchmark_names() == []
    with pytest.raises(ConfigurationError, match="pip install -e"):
        bench.load_benchmark("transport")


@pytest.fixture
def tiny_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree with one benchmark that writes everywhere it should not."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()  # else a regular package of that name further down sys.path wins
    (folder / "noisy.py").write_text(
        '"""Counts to a limit; unit: one."""\n'
        "import os\n"
        "NAME = 'noisy'\n"
        "def run(limit: int = 3) -> dict:\n"
        "    print('from python')\n"
        "    os.system('echo from a child')\n"
        "    return {'counted': list(range(limit)), 'nothing': None}\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(bench, "package_root", lambda: tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_json_is_all_that_reaches_standard_output(tiny_tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command("noisy")(bench._command_of(bench.load_benchmark("noisy")))
    out = tiny_tree / "results" / "noisy.json"
    command = typer.main.get_command(app)
    command.main(["--json", "--limit", "2", "--out", str(out)], standalone_mode=False)
    written = capfd.readouterr()
    result = json.loads(written.out)
    assert result["counted"] == [0, 1]
    assert result["options"] == {"limit": 2}
    assert {"machine", "commit", "command"} <= result.keys()
    assert json.loads(out.read_text(encoding="utf-8")) == result
    assert "from python" in written.err
    assert "from a child" in written.err


def test_summary_is_for_reading(tiny_tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command("noisy")(bench._command_of(bench.load_benchmark("noisy")))
    typer.main.get_command(app).main([], standalone_mode=False)
    assert "counted" in capfd.readouterr().out


def test_broken_benchmark_says_so_and_harms_no_other() -> None:
    app = typer.Typer()
    app.command("broken")(bench._broken("broken", ImportError("no module named x")))
    outcome = CliRunner().invoke(app, [])
    assert isinstance(outcome.exception, ConfigurationError)
    assert "no module named x" in str(outcome.exception)
