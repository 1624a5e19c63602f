"""`mmmt search` from the command line: whole runs on a tiny data set, and mistakes said in one message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from mmmt_cli.search import search_app
from perception_core.configuration import ConfigurationError
from training.search.data import open_part

SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in AdaShare's layout of Cityscapes: stripes whose brightness tells class and depth."""
    root = tmp_path_factory.mktemp("cityscapes")
    generator = np.random.default_rng(0)
    groups: dict[str, list[list[str]]] = {"train": [], "test": []}
    for index in range(6):
        bright = generator.random((SIDE, 1)).repeat(SIDE, axis=1)
        files = {
            "image": np.stack([bright] * 3, axis=-1).astype(np.float32),
            "depth": (0.1 + 0.4 * bright).astype(np.float32),
            "two": (bright > 0.5).astype(np.int64),
            "seven": (bright * 6.9).astype(np.int64),
            "nineteen": (bright * 18.9).astype(np.int64),
        }
        names = []
        for name, values in files.items():
            path = root / f"{index}_{name}.npy"
            np.save(path, values)
            names.append(path.name)
        groups["train" if index < 4 else "test"].append(names)
    (root / "cityscape.json").write_text(json.dumps(groups), encoding="utf-8")
    return root


def call(*arguments: str) -> Result:
    return CliRunner().invoke(search_app, list(arguments))


def common(folder: Path, out: Path) -> list[str]:
    return [
        *("--task", "semantic_segmentation", "--task", "depth", "--image", f"{SIDE}x{SIDE}"),
        *("--judged-part", "test", "--batch", "2", "--out", str(out), "--json"),
    ]


def test_commands_are_listed() -> None:
    commands = typer.main.get_command(search_app).commands  # type: ignore[attr-defined]
    assert {"automtl", "ednas", "edge-train", "architectures"} <= set(commands)


def test_architectures_are_shown_beside_the_papers() -> None:
    outcome = call("architectures", "--json")
    assert outcome.exit_code == 0, outcome.output
    rows = {row["name"]: row for row in json.loads(outcome.stdout)}
    assert rows["ednas"]["paper_parameters_m"] == 4.3
    assert rows["ednas"]["parameters"] > 12e6
    assert "edge-base" in call("architectures").output


def test_automtl_runs_and_writes_everything(folder: Path, tmp_path: Path) -> None:
    arguments = [
        *("automtl", str(folder), *common(folder, tmp_path), "--backbone", "resnet34_micro"),
        *("--pretrain-steps", "2", "--policy-steps", "4", "--posttrain-steps", "2", "--head-channels", "4"),
    ]
    outcome = call(*arguments)
    assert outcome.exit_code == 0, outcome.output
    record = json.loads(outcome.stdout)["networks"][0]
    assert record["parameters"] > 0
    assert set(record["stages"]) == {"pretrain", "policy", "posttrain"}
    assert set(record["metrics"]) == {"semantic_segmentation", "depth"}
    written = {path.name for path in tmp_path.iterdir()}
    assert {"policy.json", "policy.png", "network.safetensors", "results.json"} <= written
    again = json.loads(call(*arguments).stdout)["networks"][0]
    assert again["metrics"] == record["metrics"]


def test_ednas_runs_and_resumes(folder: Path, tmp_path: Path) -> None:
    arguments = [
        *("ednas", str(folder), *common(folder, tmp_path), "--target-ms", "20", "--steps", "1"),
        *("--checks", "1", "--population", "3", "--tournament", "2"),
    ]
    outcome = call(*arguments, "--trials", "2")
    assert outcome.exit_code == 0, outcome.output
    outcome = call(*arguments, "--trials", "3")
    best = json.loads(outcome.stdout)
    assert best["latency_ms"] > 0
    assert len((tmp_path / "study.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    trained = call(
        *("edge-train", str(folder), str(tmp_path / "best.json"), *common(folder, tmp_path / "full")),
        *("--steps", "1"),
    )
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["networks"][0]["details"]["architecture"] == best["architecture"]


def test_a_target_nobody_meets_says_so(folder: Path, tmp_path: Path) -> None:
    outcome = call("ednas", str(folder), *common(folder, tmp_path), "--target-ms", "0.0001")
    assert isinstance(outcome.exception, ConfigurationError)
    assert "the nearest that was found takes" in str(outcome.exception)
    assert not (tmp_path / "study.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--task", "normals"), "labels are missing: 'normals'"),
        (("--backbone", "resnet"), "unknown backbone 'resnet'"),
        (("--policy", "learnt"), "did you mean 'learned'"),
        (("--image", "big"), "expected HEIGHTxWIDTH"),
        (("--judged-part", "tset"), "did you mean 'test'"),
    ],
)
def test_mistakes_are_one_message(
    folder: Path, tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    outcome = call("automtl", str(folder), *common(folder, tmp_path), *changes)
    assert isinstance(outcome.exception, ConfigurationError)
    assert message in str(outcome.exception)


def test_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no data set of images with dense labels"):
        open_part(tmp_path, "train", ("depth",), (32, 32))
