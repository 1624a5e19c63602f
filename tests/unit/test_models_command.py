"""`mmmt models` and `mmmt export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmmt_cli.export import export_app
from mmmt_cli.models import models_app
from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationError
from perception_core.models import list_models


def test_list_names_every_model() -> None:
    result = CliRunner().invoke(models_app, ["list"])
    assert result.exit_code == 0
    assert result.stdout.split() == list_models()


def test_show_prints_one_json_object() -> None:
    result = CliRunner().invoke(
        models_app, ["show", "fuller_tiny", "--json", "--cameras", "1", "--points", "100"]
    )
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["name"] == "fuller_tiny"
    assert shown["input"]["image"] == {"height": 128, "width": 352}
    for total in ("parameters", "multiply_adds"):
        assert shown[total] == sum(component[total] for component in shown["components"].values())
        assert all(component[total] > 0 for component in shown["components"].values())


def test_show_takes_other_inputs_and_arguments() -> None:
    shown = []
    for options in (["--input", "32x64"], ["--input", "64x64", "--set", "control.enabled=true"]):
        result = CliRunner().invoke(
            models_app, ["show", "fuller_micro", "--json", "--cameras", "1", "--points", "100", *options]
        )
        assert result.exit_code == 0, result.output
        shown.append(json.loads(result.stdout))
    assert shown[0]["input"]["image"] == {"height": 32, "width": 64}
    small, large = (entry["components"]["camera_net"]["multiply_adds"] for entry in shown)
    assert large == pytest.approx(2 * small, rel=0.01)
    assert "control_head" in shown[1]["components"]


def test_a_wrong_input_size_is_named() -> None:
    result = CliRunner().invoke(models_app, ["show", "fuller_micro", "--input", "large"])
    assert result.exit_code == 2
    assert "HEIGHTxWIDTH" in result.output


def test_show_prints_a_table() -> None:
    result = CliRunner().invoke(models_app, ["show", "fuller_tiny", "--cameras", "0", "--points", "100"])
    assert result.exit_code == 0
    assert "fuller_tiny" in result.stdout
    assert "multiply-adds" in result.stdout


def test_export_writes_a_bundle_as_asked(tmp_path: Path) -> None:
    out = tmp_path / "with-control"
    result = CliRunner().invoke(
        export_app,
        [
            "fuller_tiny",
            "--seed",
            "7",
            "--out",
            str(out),
            "--set",
            "control.enabled=true",
            "--set",
            "detection.queries=9",
        ],
    )
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(out)
    assert bundle.spec.training.seed == 7
    assert not bundle.spec.training.trained
    assert bundle.spec.components["control_head"].decoder == "control_proposal"
    assert bundle.spec.tensors["detection_scores_q"].shape == (9,)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("control.enabled", "expected KEY=VALUE"),
        (".enabled=true", "expected KEY=VALUE"),
        ("control.enabled=[", "not valid YAML"),
        ("control.enabeld=true", "did you mean 'enabled'"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path: Path, assignment: str, message: str) -> None:
    result = CliRunner().invoke(
        export_app, ["fuller_tiny", "--out", str(tmp_path / "x"), "--set", assignment]
    )
    assert isinstance(result.exception, ConfigurationError)
    assert message in str(result.exception)
    assert not (tmp_path / "x").exists()
