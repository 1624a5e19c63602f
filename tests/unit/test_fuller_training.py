"""FULLER from recipe to bundle on a small data set in nuScenes' format."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fuller_training_fixtures import SMALL, small, write_driving_set
from typer.testing import CliRunner

from mmmt_cli.export import export_app
from mmmt_cli.train import repeat_seeds, train_app
from mmmt_cli.train_tables import print_experiment
from perception_core.backends.torch_backend import build_component
from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationError
from training.datasets.batch import collate
from training.datasets.missing_sensor import MissingSensor, without_sensor
from training.experiments.catalog import EXPERIMENTS, Experiment, Variant
from training.experiments.plots import plot_experiment
from training.experiments.report import ALL_SENSORS, ExperimentReport
from training.experiments.running import ExperimentOptions, run_experiment, variant_recipe
from training.export.agreement import Agreement, compare_graphs
from training.fuller.learner import FullerLearner
from training.recipes import TrainingSetup, create_recipe
from training.recipes.fuller import read_weights
from training.recipes.running import train_recipe
from training.trainer.checkpoints import network_state, read_checkpoint
from training.trainer.evaluating import evaluate
from training.trainer.fitting import FitOptions
from training.trainer.module import CHECKPOINT_KEY

OPTIONS = FitOptions(accelerator="cpu", progress=False)
ALL_HEADS = (
    "network.foreground_segmentation.enabled=true",
    "network.control.enabled=true",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_driving_set(tmp_path_factory.mktemp("driving") / "set")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMMT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def build(data: Path, *overrides: str) -> TrainingSetup:
    return create_recipe("fuller_micro", small(*overrides)).build(data)


@pytest.fixture(scope="module")
def built(data: Path) -> TrainingSetup:
    return build(data, *ALL_HEADS)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(train_app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


# -- from command to bundle ----------------------------------------------------------------------------------


@pytest.mark.slow  # exports and compares graphs
def test_train_resume_and_bundle(data: Path, tmp_path: Path) -> None:
    """`mmmt train fuller_micro --limit 2`: two steps, checkpoint, evaluation; then resumed into a bundle."""
    out, bundle = tmp_path / "run", tmp_path / "micro"
    settings = [
        part for key in (*SMALL, "training.epochs=1", "training.evaluate_every=1") for part in ("--set", key)
    ]
    said = run("fuller_micro", "--data", data, "--out", out, "--limit", 2, "--accelerator", "cpu", *settings)
    assert "2 steps" in said
    assert "map_segmentation: mIoU" in said
    assert "detection3d: mAP" in said
    checkpoint = read_checkpoint(out / "last.ckpt")
    about = json.loads((out / "run.json").read_text())
    assert about["recipe"] == "fuller_micro"
    assert about["data"]["train_split"] == "own_train"
    assert about["settings"]["training"]["batch_size"] == 2
    settings[settings.index("training.epochs=1")] = "training.epochs=2"
    said = run(
        *("fuller_micro", "--data", data, "--out", out, "--limit", 2, "--accelerator", "cpu", "--resume"),
        *("--bundle", bundle, *settings),
    )
    assert "4 steps" in said
    assert "onnxruntime differs by at most" in said
    opened = Bundle.open(bundle)
    record = opened.spec.training
    assert record.trained
    assert record.recipe == "fuller_micro"
    assert "training.epochs=2" in record.overrides
    assert record.metrics["map_segmentation/miou"] >= 0
    trained = network_state(read_checkpoint(out / "last.ckpt"))
    assert not torch.equal(
        trained["bev_fuser.first.convolution.weight"],
        network_state(checkpoint)["bev_fuser.first.convolution.weight"],
    )
    component, _ = build_component(opened, "bev_fuser")
    state = component.network.state_dict()
    assert torch.equal(state["first.convolution.weight"], trained["bev_fuser.first.convolution.weight"])
    agreements = compare_graphs(opened, cameras=2, points=500)
    assert [item.component for item in agreements] == list(opened.spec.components)
    for item in agreements:
        assert item.values > 0
        assert item.max_abs_error < 1e-3
    again = tmp_path / "again"
    done = CliRunner().invoke(
        export_app, ["--checkpoint", str(out / "last.ckpt"), "--out", str(again), "--no-graphs"]
    )
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert Bundle.open(again).spec.weights_sha256 == opened.spec.weights_sha256


@pytest.mark.slow  # the full-size network, at 64 x 128 pixels and with every other size as in the paper
def test_the_full_size_recipe_takes_two_steps(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = (
        *(
            "network.camera.image_height=64",
            "network.camera.image_width=128",
            "network.lidar.max_points=2000",
        ),
        *("training.batch_size=2", "training.workers=0", "training.epochs=1"),
    )
    said = run(
        *("fuller_full", "--data", data, "--out", out, "--limit", 2, "--accelerator", "cpu"),
        *(part for key in settings for part in ("--set", key)),
    )
    assert "2 steps" in said
    assert "map_segmentation: mIoU" in said
    assert read_checkpoint(out / "last.ckpt")[CHECKPOINT_KEY]["learner"]["name"] == "fuller_full"


@pytest.mark.slow  # automatic mixed precision is slow on a CPU
def test_bf16_trains(data: Path, tmp_path: Path) -> None:
    recipe = create_recipe("fuller_micro", [*SMALL, "training.precision=bf16-mixed", "training.epochs=1"])
    setup = recipe.build(data)
    result = train_recipe(recipe, setup, tmp_path, options=OPTIONS)
    assert result.steps == 2
    assert result.results["map_segmentation"].scalars()["miou"] >= 0


def test_the_lists_of_recipes_and_experiments(data: Path) -> None:
    listed = run("--list")
    for name in ("fuller_full", "fuller_tiny", "fuller_micro"):
        assert name in listed
    listed = run("experiment", "--list")
    assert all(name in listed for name in EXPERIMENTS)
    assert "weight_decay: 0.01" in run("fuller_full", "--show")
    assert repeat_seeds(["x", "--seeds", "0", "12", "--out", "3"]) == [
        *("x", "--seeds", "0", "--seeds", "12", "--out", "3")
    ]
    failed = CliRunner().invoke(train_app, ["fuller_mikro", "--show"])
    assert isinstance(failed.exception, ConfigurationError)
    assert "did you mean 'fuller_micro'" in str(failed.exception)


def test_divergence_is_said_with_its_samples(data: Path, tmp_path: Path) -> None:
    settings = (*SMALL, "losses.map_segmentation.dice_weight=.inf", "training.epochs=1")
    done = CliRunner().invoke(
        train_app,
        [
            *("fuller_micro", "--data", str(data), "--out", str(tmp_path / "run"), "--accelerator", "cpu"),
            *(part for key in settings for part in ("--set", key)),
        ],
    )
    assert done.exit_code == 1
    assert "loss of task 'map_segmentation': term 'dice' is" in done.output
    assert "samples of the step: nuscenes:" in done.output
    assert "no checkpoint yet" in done.output


# -- recipes -------------------------------------------------------------------------------------------------


def test_the_full_recipe_holds_the_papers_settings() -> None:
    """FULLER, section 4.1."""
    recipe: Any = create_recipe("fuller_full")
    training, calibration = recipe.training, recipe.calibration
    assert (training.epochs, training.batch_size) == (10, 16)
    assert training.optimizer.learning_rate == 1e-3
    assert training.optimizer.weight_decay == 1e-2
    assert training.optimizer.momentum == 0.9
    assert calibration.inter.method == "imtl_g"
    assert (calibration.intra.alpha, calibration.intra.momentum) == (0.1, 0.2)
    assert calibration.initial_weights == {}
    assert recipe.network.tasks == ("detection3d", "map_segmentation")
    assert recipe.network.camera.kind == "swin"
    assert recipe.losses.depth.weight == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown setting 'training.epoch'; did you mean 'training.epochs'"),
        ("network.detection.querys=3", "did you mean 'network.detection.queries'"),
        ("training.epochs=0", "training.epochs: Input should be greater than 0"),
        ("training.epochs", "expected KEY=VALUE"),
        ("network.camera.kind=swim", "network.camera"),
        ("data.bev.grid.cell_size=1", "data.bev"),
    ],
)
def test_wrong_settings_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_recipe("fuller_micro", [override])
    assert message in str(caught.value)


def test_settings_reach_their_places() -> None:
    recipe: Any = create_recipe(
        "fuller_micro",
        [
            *("training.optimizer.learning_rate=1e-4", "network.modalities=[lidar]"),
            *("calibration.primary.task=control", "calibration.initial_weights.map_segmentation=5"),
            *("network.detection.kind=dense", "network.detection.queries=30", "network.fusion=late"),
        ],
    )
    assert recipe.training.optimizer.learning_rate == 1e-4
    assert recipe.network.modalities == ("lidar",)
    assert recipe.calibration.primary.task == "control"
    assert recipe.calibration.initial_weights == {"map_segmentation": 5}
    assert recipe.network.detection.kind == "dense"
    assert recipe.network.detection.queries == 30
    with pytest.raises(ConfigurationError, match="given twice"):
        create_recipe("fuller_micro", ["training.epochs=1", "training.epochs=2"])


def test_image_weights_are_refused_where_they_do_not_fit(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save({"features.0": torch.zeros(1)}, weights)
    assert list(read_weights(weights)) == ["features.0"]
    with pytest.raises(ConfigurationError, match="has no Swin-T"):
        build(data, f"image_weights={weights}")
    weights.write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match="weights cannot be read"):
        read_weights(weights)


def test_data_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no v1"):
        build(tmp_path)


# -- a learner on hard batches -------------------------------------------------------------------------------


def step_of(built: TrainingSetup, batch: Any) -> dict[str, float]:
    learner = built.learner
    learner.network.train()
    learner.network.zero_grad()
    losses = learner.losses(batch)
    total = torch.stack([loss.total for loss in (*losses.tasks.values(), *losses.auxiliary.values())]).sum()
    total.backward()
    for name, parameter in learner.network.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    return {name: float(loss.total.detach()) for name, loss in {**losses.tasks, **losses.auxiliary}.items()}


def test_every_head_has_a_loss(built: TrainingSetup) -> None:
    batch = collate([built.training[0], built.training[1]])
    found = step_of(built, batch)
    assert list(found) == [
        *("detection3d", "map_segmentation", "foreground_segmentation", "control", "depth"),
    ]
    assert all(value > 0 for value in found.values())


@pytest.mark.parametrize("missing", [("camera",), ("lidar",), ("camera", "lidar")])
def test_missing_sensors(built: TrainingSetup, missing: tuple[Any, ...]) -> None:
    """All cameras masked, an empty cloud, both: losses and gradients stay finite."""
    samples = [built.training[0], built.training[1]]
    for sensor in missing:
        samples = [without_sensor(sample, sensor) for sample in samples]
    found = step_of(built, collate(samples))
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    assert ("depth" in found) == ("camera" not in missing)
    if missing == ("camera",):
        mixed = collate([samples[0], built.training[1]])  # one sample of the batch has its cameras
        assert step_of(built, mixed)["map_segmentation"] > 0


def test_late_fusion_is_calibrated_where_the_modalities_meet(data: Path) -> None:
    late = build(data, "network.fusion=late")
    points = late.learner.calibration_points()
    assert points is not None
    assert (points.shared_layer, points.fusion_layer) == ("bev_fuser.first", "bev_fuser.first.convolution")
    weight = points.fusion_weight(late.learner.network)
    assert [branch.first_channel for branch in points.branches] == [0, weight.shape[1] // 2]
    found = step_of(late, collate([late.training[0], late.training[1]]))
    assert found["detection3d"] > 0
    assert weight.grad is not None
    assert weight.grad[:, : weight.shape[1] // 2].abs().sum() > 0
    assert weight.grad[:, weight.shape[1] // 2 :].abs().sum() > 0


def test_labels_of_other_classes_are_refused(built: TrainingSetup, data: Path) -> None:
    other = build(data, "network.map_segmentation.classes=[drivable_area]")
    with pytest.raises(ConfigurationError, match="map_segmentation: labels of nuscenes"):
        other.learner.losses(collate([built.training[0]]))
    coarser = build(data, "network.grid.cell_size=6.4")
    with pytest.raises(ConfigurationError, match="open the data with the network's grid"):
        coarser.learner.losses(collate([built.training[0]]))


def test_evaluation_judges_every_head(built: TrainingSetup) -> None:
    assert built.validation is not None
    results = evaluate(built.learner, built.validation, batch_size=2)
    assert set(results) == {"detection3d", "map_segmentation", "foreground_segmentation", "control"}
    assert results["detection3d"].to_json()["samples"] == len(built.validation) == 4
    part = evaluate(built.learner, built.validation, batch_size=2, limit=1)
    assert part["detection3d"].to_json()["samples"] == 2
    blind = evaluate(built.learner, MissingSensor(built.validation, "camera"), batch_size=2)
    seen, unseen = (found["map_segmentation"].to_json()["iou_at"] for found in (results, blind))
    assert seen["drivable_area"] != unseen["drivable_area"]
    assert isinstance(built.learner, FullerLearner)


def test_augmented_masks_fill_the_networks_grid(data: Path) -> None:
    turned = build(data, "data.bev.rotate_deg=20", "data.bev.scale=[0.9,1.1]")
    sample = turned.training[0]
    assert sample.map_masks is not None
    assert sample.map_masks.masks_khw.shape[1:] == (16, 16)
    assert not torch.equal(
        torch.tensor(sample.map_masks.masks_khw), torch.tensor(build(data).training[0].map_masks.masks_khw)
    )


# -- experiments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_variant_is_a_valid_recipe(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert len({variant.name for variant in experiment.variants}) == len(experiment.variants)
    for variant in experiment.variants:
        recipe, _ = variant_recipe(variant, experiment, ExperimentOptions(), seed=3)
        assert recipe.training.seed == 3
        tasks = recipe.network.tasks  # type: ignore[attr-defined]
        assert (len(tasks) == 1) == variant.is_bound


@pytest.mark.slow  # four trainings and evaluations
def test_an_experiment_is_resumed_and_compared(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = EXPERIMENTS["calibration"].variants
    chosen = tuple(variant for variant in plain if variant.name in ("map only", "both"))
    experiment = Experiment("trial", "a trial", chosen, missing=("camera",), curves=True)
    options = ExperimentOptions(
        overrides=(*SMALL, "training.epochs=2"), limit=1, accelerator="cpu", seeds=(0,)
    )
    runs, out = tmp_path / "runs", tmp_path / "trial.json"
    said: list[str] = []
    report = run_experiment(experiment, data, runs, out, options, said.append)
    assert len(said) == 2
    assert report == ExperimentReport.read(out)
    assert report.complete
    both = report.runs_of("both")[0]
    assert both.steps == 2
    assert set(both.results) == {ALL_SENSORS, "without camera"}
    assert both.imbalance["gamma_task/detection3d:map_segmentation"] >= 1
    assert [point["epoch"] for point in both.curve] == [1, 2]
    summary = json.loads(out.read_text())["summary"]
    assert summary["both"]["metrics"][ALL_SENSORS]["map_segmentation"]["miou"]["mean"] is not None
    times = {path: path.stat().st_mtime_ns for path in runs.rglob("last.ckpt")}
    assert len(times) == 2
    again = run_experiment(experiment, data, runs, out, options)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("last.ckpt")} == times
    assert again.runs == report.runs
    print_experiment(report)
    printed = capsys.readouterr().out
    assert "without camera" in printed
    assert "NDS" in printed
    pictures = plot_experiment(report, runs, tmp_path / "pictures")
    assert {path.name for path in pictures} == {
        *("trial_gamma_task.png", "trial_gamma_modal.png", "trial_calibration.png"),
        *("trial_convergence.png", "trial_missing_sensors.png"),
    }


def test_delta_mtl_is_equation_9_against_the_bounds() -> None:
    """The first rows of FULLER's Tab. 1, with Tab. 3's bounds."""

    def result(variant: str, seed: int, **metrics: float) -> dict[str, Any]:
        tasks: dict[str, dict[str, float]] = {}
        for name, value in metrics.items():
            tasks.setdefault("map_segmentation" if name == "miou" else "detection3d", {})[name] = value
        return {
            "variant": variant,
            "seed": seed,
            "folder": "",
            "results": {ALL_SENSORS: tasks},
            "steps": 1,
            "wall_s": 1.0,
        }

    report = ExperimentReport.model_validate(
        {
            "experiment": "calibration",
            "title": "",
            "recipe": "fuller_full",
            "variants": {"det": (), "map": (), "plain": (), "both": ()},
            "bounds": ("det", "map"),
            "data": {},
            "seeds": (0, 1),
            "runs": [
                result("det", 0, mean_ap=62.1, nds=66.6),
                result("map", 0, miou=62.3),
                result("plain", 0, mean_ap=59.1, nds=65.0, miou=44.0),
                result("both", 0, mean_ap=60.5, nds=65.3, miou=58.4),
                result("both", 1, mean_ap=60.5, nds=65.3, miou=62.3),
            ],
        }
    )
    assert report.delta_mtl("plain").mean == pytest.approx(18.3, abs=0.05)
    both = report.delta_mtl("both")
    assert both.values[0] == pytest.approx(5.4, abs=0.05)
    assert both.values[1] == pytest.approx(2.3, abs=0.05)
    assert both.deviation is not None
    assert report.delta_mtl("det").mean is None


def test_agreement_is_absolute_or_relative() -> None:
    assert Agreement(component="a", max_abs_error=0.5, max_rel_error=1e-6).within_tolerance
    assert not Agreement(component="a", max_abs_error=0.5, max_rel_error=0.1).within_tolerance


def test_variants_of_one_name_are_one_run(data: Path) -> None:
    """Experiments share runs through the folder's name, which follows from the settings."""
    by_name: dict[str, set[tuple[str, ...]]] = {}
    for experiment in EXPERIMENTS.values():
        if experiment.curves or experiment.name == "methods":
            continue
        for variant in experiment.variants:
            by_name.setdefault(variant.name, set()).add(variant.overrides)
    assert all(len(overrides) == 1 for overrides in by_name.values())
    assert isinstance(EXPERIMENTS["calibration"].variants[0], Variant)


@pytest.mark.slow  # test_trainer.py holds the same of a smaller network
def test_a_checkpoint_is_resumed_in_the_middle_of_training(data: Path, tmp_path: Path) -> None:
    """Two epochs at once, and one epoch then another: the same weights, bit by bit."""
    recipe = create_recipe("fuller_micro", [*SMALL, "training.epochs=2", "data.bev.rotate_deg=20"])
    setups = [recipe.build(data) for _ in range(3)]
    whole = train_recipe(recipe, setups[0], tmp_path / "whole", options=OPTIONS)

    class Stop(Exception):  # noqa: N818 - it is no error
        pass

    losses = setups[1].learner.losses
    calls = []

    def until_the_second_epoch(batch: Any) -> Any:
        calls.append(batch)
        if len(calls) > 2:
            raise Stop
        return losses(batch)

    setups[1].learner.losses = until_the_second_epoch  # type: ignore[method-assign]
    with pytest.raises(Stop):
        train_recipe(recipe, setups[1], tmp_path / "broken", options=OPTIONS)
    resumed = train_recipe(
        recipe,
        setups[2],
        tmp_path / "broken",
        options=FitOptions(accelerator="cpu", progress=False, resume=tmp_path / "broken" / "last.ckpt"),
    )
    first, second = (read_checkpoint(result.checkpoint) for result in (whole, resumed))
    for name, tensor in first["state_dict"].items():
        assert torch.equal(second["state_dict"][name], tensor), name


def test_a_checkpoint_of_another_size_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = create_recipe("fuller_micro", [*SMALL, "training.epochs=1"])
    train_recipe(
        recipe,
        recipe.build(data),
        tmp_path,
        options=FitOptions(accelerator="cpu", progress=False, limit=1),
    )
    wider = create_recipe("fuller_micro", small("training.epochs=2", "network.lidar.bev_channels=12"))
    with pytest.raises(ConfigurationError) as caught:
        train_recipe(
            wider,
            wider.build(data),
            tmp_path,
            options=FitOptions(accelerator="cpu", progress=False, resume=tmp_path / "last.ckpt"),
        )
    assert "checkpoint of another architecture" in str(caught.value)
    assert "component 'lidar_net'" in str(caught.value)
    assert "shape" in str(caught.value)
