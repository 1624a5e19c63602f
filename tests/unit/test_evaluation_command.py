"""`mmmt eval`: tables, JSON and pictures; a bundle on a data set from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nuscenes_set_fixtures import write_nuscenes_set
from typer.testing import CliRunner

from mmmt_cli.eval import eval_app
from perception_core.configuration import ConfigurationError
from training.evaluation.bev_maps import BevMapEvaluator
from training.evaluation.bundle_outputs import read_dense
from training.evaluation.control import ControlEvaluator
from training.evaluation.dense_folders import evaluate_folders
from training.evaluation.plots import plot_result
from training.evaluation.result import EvaluationError
from training.evaluation.semantic import SegmentationEvaluator

runner = CliRunner()
RNG = np.random.default_rng(4)


def run(*arguments: object) -> str:
    done = runner.invoke(eval_app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


def refused(*arguments: object) -> str:
    done = runner.invoke(eval_app, [str(argument) for argument in arguments])
    assert isinstance(done.exception, ConfigurationError), done.output
    return str(done.exception)


def results(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "results.json").read_text())["results"]
    return content


def is_picture(path: Path) -> bool:
    picture = cv2.imread(str(path))
    return picture is not None and picture.std() > 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuscenes_set(tmp_path_factory.mktemp("nuscenes") / "set")


# -- nuScenes ------------------------------------------------------------------------------------------------


def test_ground_truth_judged_as_a_submission(data: Path, tmp_path: Path) -> None:
    said = run("ground-truth", data, tmp_path / "perfect.json")
    assert "pedestrian: 6 boxes that are evaluated" in said
    said = run("submission", tmp_path / "perfect.json", data, "--out", tmp_path / "out")
    assert "mAP" in said
    assert "100.00 %" in said
    assert "traffic cone" in said
    assert results(tmp_path / "out")["detection3d"]["mean_ap"] == pytest.approx(1.0, abs=1e-9)
    assert is_picture(tmp_path / "out" / "detection3d_precision_recall.png")
    as_json = run("submission", tmp_path / "perfect.json", data, "--out", tmp_path / "out", "--json")
    assert json.loads(as_json)["results"]["detection3d"]["samples"] == 3


def test_wrong_submissions_are_one_message(data: Path, tmp_path: Path) -> None:
    assert "missing" in refused("submission", tmp_path / "none.json", data)
    run("ground-truth", data, tmp_path / "train.json", "--split", "train")
    assert "lacks 3 of the 3 samples" in refused(
        "submission", tmp_path / "train.json", data, "--out", tmp_path / "out"
    )
    assert "no split 'valid'; did you mean 'val'" in refused(
        "submission", tmp_path / "train.json", data, "--split", "valid"
    )
    assert not (tmp_path / "out").exists()


# -- dense folders -------------------------------------------------------------------------------------------


def test_segmentation_folders(tmp_path: Path) -> None:
    for index in range(3):
        truth = RNG.integers(0, 3, (20, 30)).astype(np.uint8)
        truth[:2] = 255
        predicted = np.where(RNG.random(truth.shape) < 0.7, truth, 0).astype(np.uint8)
        for kind, image in (("truth", truth), ("predicted", predicted)):
            (tmp_path / kind / "a").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / kind / "a" / f"{index}.png"), image)
    arguments = ("dense", "semantic_segmentation", tmp_path / "predicted", tmp_path / "truth")
    said = run(*arguments, "--classes", "road, car, tree", "--out", tmp_path / "out")
    assert "mIoU" in said
    result = results(tmp_path / "out")["semantic_segmentation"]
    assert result["pixels"] == 3 * 18 * 30
    assert list(result["class_iou"]) == ["road", "car", "tree"]
    assert is_picture(tmp_path / "out" / "semantic_segmentation_confusion.png")
    assert "class names" in refused(*arguments)
    assert "did you mean 'depth'" in refused("dense", "dept", *arguments[2:])
    (tmp_path / "predicted" / "a" / "1.png").unlink()
    assert "no prediction for 1 of 3 files" in refused(*arguments, "--classes", "road,car,tree")


def test_depth_and_normals_folders(tmp_path: Path) -> None:
    depth = RNG.uniform(1, 80, (12, 16))
    depth[0] = 0
    normals = RNG.normal(size=(12, 16, 3))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    for folder in ("npy", "png"):
        (tmp_path / "depth" / folder).mkdir(parents=True)
        (tmp_path / "normals" / folder).mkdir(parents=True)
    np.save(tmp_path / "depth" / "npy" / "0.npy", depth.astype(np.float32)[..., None])
    cv2.imwrite(str(tmp_path / "depth" / "png" / "0.png"), np.round(depth * 256).astype(np.uint16))
    np.save(tmp_path / "normals" / "npy" / "0.npy", normals.astype(np.float32))
    stored = np.round((normals + 1) / 2 * 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "normals" / "png" / "0.png"), stored[..., ::-1])
    run("dense", "depth", tmp_path / "depth" / "npy", tmp_path / "depth" / "png", "--out", tmp_path / "out")
    result = results(tmp_path / "out")["depth"]
    assert result["pixels"] == 11 * 16
    assert result["rmse"] < 1 / 256
    assert result["delta_1"] == 1.0
    angles = evaluate_folders("normals", tmp_path / "normals" / "png", tmp_path / "normals" / "npy")
    assert 0 < angles.scalars()["mean_deg"] < 0.5
    same = evaluate_folders("normals", tmp_path / "normals" / "npy", tmp_path / "normals" / "npy")
    assert same.scalars()["mean_deg"] == 0.0


@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        ("depth", "0.npy", b"", "empty"),
        ("depth", "0.npy", b"nonsense", "plain numbers"),
        ("depth", "0.png", cv2.imencode(".png", np.ones((4, 4), np.uint8))[1].tobytes(), "16 bits"),
        ("normals", "0.png", cv2.imencode(".png", np.ones((4, 4), np.uint8))[1].tobytes(), "H, W, 3"),
        ("edges", "0.png", cv2.imencode(".png", np.ones((5, 4), np.uint8))[1].tobytes(), "shape"),
        ("edges", "0.png", b"\x89PNG\r\n\x1a\n123", "cut off"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, task: str, name: str, content: bytes, message: str) -> None:
    for folder in ("predicted", "truth"):
        (tmp_path / folder).mkdir()
    shape = (4, 4, 3) if task == "normals" else (4, 4)
    np.save(tmp_path / "truth" / "0.npy", np.ones(shape, np.float32))
    (tmp_path / "predicted" / name).write_bytes(content)
    with pytest.raises(EvaluationError, match=rf"predicted/{name}.*{message}"):
        evaluate_folders(task, tmp_path / "predicted", tmp_path / "truth")


# -- relative ------------------------------------------------------------------------------------------------


def test_relative_measures_of_results(tmp_path: Path) -> None:
    def write(name: str, **tasks: dict[str, float]) -> Path:
        (tmp_path / name).write_text(json.dumps({"about": {}, "results": tasks}))
        return tmp_path / name

    detection = write("detection.json", detection3d={"mean_ap": 62.1, "nds": 66.6})
    maps = write("maps.json", map_segmentation={"miou": 62.3})
    model = write("model.json", detection3d={"mean_ap": 59.1, "nds": 65.0}, map_segmentation={"miou": 44.0})
    said = run("relative", model, detection, maps, "--measure", "fuller")
    assert "Δ_MTL +18.30 % (lower is better)" in said
    assert "mean over tasks -16.50 %" in said
    said = run("relative", model, maps, "--metric", "map_segmentation.miou")
    assert "Δ -29.37 % (higher is better)" in said
    assert "no measure 'fuler'; did you mean 'fuller'" in refused(
        "relative", model, maps, "--measure", "fuler"
    )
    assert "no task in common" in refused("relative", model, maps, "--measure", "tag")
    assert "in another baseline" in refused("relative", model, maps, maps)
    assert "no results.json" in refused("relative", tmp_path / "nothing.json", maps)
    assert "the baseline has no" in refused("relative", model, maps, "--metric", "detection3d.mean_ap")


# -- a bundle ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("evaluation")
    bundle = Path(__file__).parents[2] / "bundles" / "fuller-tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMMT_CACHE", str(tmp_path_factory.mktemp("cache")))
        said = run("bundle", bundle, data, "--task", "detection3d", "--pictures", "1", "--out", out)
    return out, said


@pytest.mark.slow
def test_a_bundle_on_a_data_set(evaluated: tuple[Path, str]) -> None:
    out, said = evaluated
    assert "NDS" in said
    result = results(out)["detection3d"]
    assert result["samples"] == 3
    # the weights are random: boxes, but hardly right ones
    assert sum(result["predicted_boxes"].values()) > 0
    assert 0 <= result["mean_ap"] < 0.2
    about = json.loads((out / "results.json").read_text())["about"]
    assert about["samples"] == 3
    (frame,) = (out / "frames").glob("*.png")
    assert is_picture(frame)


def test_a_bundle_without_the_head_is_refused(data: Path) -> None:
    bundle = Path(__file__).parents[2] / "bundles" / "fuller-tiny"
    assert "no head for task 'depth'" in refused("bundle", bundle, data, "--task", "depth")
    assert "no such bundle" in refused("bundle", data / "nothing", data)


def test_a_bundle_on_a_drive_without_its_labels(recordings: Path, tmp_path: Path) -> None:
    bundle = Path(__file__).parents[2] / "bundles" / "fuller-tiny"
    message = refused("bundle", bundle, recordings / "kitti_drive_2011_09_26", "--out", tmp_path / "out")
    assert "nothing to evaluate: detection3d: no labels in this data set" in message


# -- what heads give -----------------------------------------------------------------------------------------


def test_dense_outputs_take_the_form_of_labels() -> None:
    scores = torch.zeros(2, 3, 4, 5)
    scores[:, 1] = 1.0
    assert torch.equal(read_dense("semantic_segmentation", scores, (8, 10)), torch.ones(2, 8, 10).long())
    classes = torch.arange(8).reshape(2, 2, 2)
    resized = read_dense("semantic_segmentation", classes, (4, 4))
    assert resized[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert read_dense("depth", torch.full((2, 1, 4, 5), 7.0), (4, 5)).shape == (2, 4, 5)
    assert read_dense("normals", torch.ones(2, 3, 4, 5), (6, 7)).shape == (2, 6, 7, 3)
    for task, shape in (("depth", (1, 2, 4, 5)), ("normals", (1, 4, 4, 5)), ("edges", (4, 5))):
        with pytest.raises(EvaluationError, match=task):
            read_dense(task, torch.zeros(shape), (4, 5))


# -- pictures ------------------------------------------------------------------------------------------------


def test_every_kind_of_result_has_a_picture(tmp_path: Path) -> None:
    maps = BevMapEvaluator(("drivable_area", "divider"))
    maps.update(RNG.random((2, 9, 9)), RNG.random((2, 9, 9)) < 0.5)
    control = ControlEvaluator(3)
    control.update(([0.1], [2.0], np.ones((1, 3, 2))), ([0.0], [1.0], np.zeros((1, 3, 2))))
    segmentation = SegmentationEvaluator(("road", "car"))
    segmentation.update(RNG.integers(0, 3, (9, 9)), RNG.integers(0, 2, (9, 9)))
    for evaluator in (maps, control, segmentation):
        (file,) = plot_result(evaluator.compute(), tmp_path)
        assert is_picture(file)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".png"] * 3
    assert plot_result(SegmentationEvaluator(("road",)).compute(), tmp_path / "none") == []
