"""Monocular networks in the trainer's harness: learner, evaluator, data and recipes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from mono_fixtures import SMALL, write_cityscapes

from perception_core.bundle_writer import create_seeded_model
from perception_core.configuration import ConfigurationError
from perception_core.models.tag.model import MonoModel
from training.datasets.batch import collate
from training.datasets.files import DataError
from training.gradient_calibration.points import find_module
from training.losses.mono_configuration import (
    DenseDepthLossConfig,
    MonoLossConfig,
    SegmentationLossConfig,
)
from training.recipes import create_recipe, list_recipes
from training.recipes.tag import MonoRecipe, mono_recipe
from training.tag.data import MonoDataConfig, open_mono_data
from training.tag.learner import MonoLearner
from training.trainer.configuration import ScheduleConfig, TrainingConfig
from training.trainer.optimization import learning_rate_ratio

TASKS = ("mono_detection3d", "semantic_segmentation", "depth")
FAST = MonoLossConfig(
    semantic_segmentation=SegmentationLossConfig(full_resolution=False, weight=1.0),
    depth=DenseDepthLossConfig(kind="l1", full_resolution=False),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cityscapes")
    write_cityscapes(root, 2, "train")
    return write_cityscapes(root, 1, "val")


def make(root: Path, name: str = "tag_micro"):
    network = create_seeded_model(name, 0, **SMALL[name])
    assert isinstance(network, MonoModel)
    data = open_mono_data(root, MonoDataConfig(), network.config)
    return MonoLearner(network, FAST, name, data.truth), data


@pytest.mark.parametrize("name", ["tag_micro", pytest.param("mono_ddrnet39", marks=pytest.mark.slow)])
def test_a_few_steps_lessen_every_loss(root: Path, name: str) -> None:
    learner, data = make(root, name)
    batch = collate([data.training[0], data.training[1]])
    network = learner.network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    history = []
    for _ in range(12):
        losses = learner.losses(batch)
        assert set(losses.tasks) == set(learner.tasks) == set(TASKS)
        total = torch.stack([loss.total for loss in losses.tasks.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({task: float(loss.total.detach()) for task, loss in losses.tasks.items()})
    for task in TASKS:
        assert history[-1][task] < history[0][task], task


def test_what_a_sample_lacks_is_not_learned(root: Path) -> None:
    learner, data = make(root)
    batch = collate(
        [data.training[0].keeping(["depth"]), data.training[1].keeping(["semantic_segmentation"])]
    )
    losses = learner.losses(batch).tasks
    assert {task: loss.samples for task, loss in losses.items()} == {
        "mono_detection3d": 0,
        "semantic_segmentation": 1,
        "depth": 1,
    }
    total = torch.stack([loss.total for loss in losses.values()]).sum()
    total.backward()
    masked = collate([data.training[0]])
    masked.cameras.camera_valid_bv[:] = False
    assert all(loss.samples == 0 for loss in learner.losses(masked).tasks.values())


def test_labels_of_other_classes_are_refused(root: Path) -> None:
    learner, data = make(root)
    batch = collate([data.training[0]])
    batch.semantic_classes = ("road", "rest")
    with pytest.raises(ConfigurationError, match="segmentation labels have the classes road, rest"):
        learner.losses(batch)
    batch = collate([data.training[0]])
    batch.cameras = None
    with pytest.raises(ConfigurationError, match="no camera number 0"):
        learner.losses(batch)


@pytest.mark.slow
def test_evaluation_judges_every_task(root: Path) -> None:
    learner, data = make(root)
    network = learner.network.eval()
    evaluator = learner.evaluator()
    with torch.no_grad():
        learner.evaluate(collate([data.validation[0]]), evaluator)
    other = pickle.loads(pickle.dumps(learner.evaluator()))
    evaluator.merge(other)
    results = evaluator.compute()
    assert set(results) == set(TASKS)
    assert 0 <= results["mono_detection3d"].detection_score <= 1
    assert 0 <= results["semantic_segmentation"].miou <= 1
    assert results["depth"].rmse > 0
    assert not network.training


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_layer_all_tasks_share_exists(name: str) -> None:
    network = create_seeded_model(name, 0, **SMALL[name])
    learner = MonoLearner(network, FAST, name)
    points = learner.calibration_points()
    assert points.shared_weights(network)
    assert find_module(network, points.shared_layer) is not None
    again = create_seeded_model(learner.describe()["name"], 0, **learner.describe()["arguments"])
    assert again.configuration() == network.configuration()


def test_only_the_labels_that_are_there_are_asked_for(root: Path, tmp_path: Path) -> None:
    network = create_seeded_model("tag_micro", 0, **SMALL["tag_micro"])
    write_cityscapes(tmp_path, 1, "train")
    for path in sorted((tmp_path / "gtBbox3d").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "gtBbox3d").rmdir()
    data = open_mono_data(tmp_path, MonoDataConfig(), network.config)
    assert data.training.labels_of(0) == {"semantic_segmentation", "depth"}
    assert data.validation is None
    assert data.truth is None
    assert open_mono_data(root, MonoDataConfig(), network.config).record["train_samples"] == 2
    with pytest.raises(ConfigurationError, match="labels of none of the tasks"):
        open_mono_data(root, MonoDataConfig(train_split="tran"), network.config)
    with pytest.raises((DataError, ConfigurationError)):
        open_mono_data(tmp_path / "nowhere", MonoDataConfig(), network.config)


# -- recipes -------------------------------------------------------------------------------------------------


def test_recipes_are_in_the_registry() -> None:
    assert {"tag_full", "tag_tiny", "tag_micro"} <= set(list_recipes())


def test_tag_full_has_the_settings_of_its_paper() -> None:
    """Section IV-D and III-D."""
    recipe = create_recipe("tag_full")
    assert isinstance(recipe, MonoRecipe)
    camera = recipe.network.camera
    assert (camera.image_height, camera.image_width) == (1024, 2048)
    training = recipe.training
    assert training.batch_size == 2
    assert training.optimizer.learning_rate == 2e-5
    assert training.optimizer.weight_decay == 0
    assert (training.schedule.kind, training.schedule.power) == ("polynomial", 0.9)
    weights = [getattr(recipe.losses, task).weight for task in TASKS]
    assert weights == [1.0, 100.0, 1.0]
    assert recipe.losses.depth.kind == "smooth_l1"
    assert recipe.losses.depth.relative_weight == 0
    assert recipe.calibration is None


def test_a_polynomial_schedule_falls_as_its_power_says() -> None:
    ratio = learning_rate_ratio(ScheduleConfig(kind="polynomial", power=0.9, final_ratio=0.0), 1000)
    assert ratio(0) == 1.0
    assert ratio(500) == pytest.approx(0.5**0.9)
    assert ratio(1000) == 0.0


def test_a_recipe_builds_what_it_trains(root: Path) -> None:
    recipe = create_recipe(
        "tag_micro", ["network.camera.image_height=64", "network.camera.image_width=128", "training.seed=4"]
    )
    setup, again = recipe.build(root), recipe.build(root)
    assert setup.learner.tasks == TASKS
    assert len(setup.training) == 2
    assert setup.validation is not None
    first, second = setup.learner.network.state_dict(), again.learner.network.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.slow
def test_any_monocular_network_has_a_recipe(root: Path) -> None:
    recipe = mono_recipe("x", "mono_dla34", FAST, TrainingConfig(epochs=1), **SMALL["mono_dla34"])
    assert recipe.network.backbone.kind == "dla34"
    assert recipe.build(root).learner.describe()["name"] == "mono_dla34"
    with pytest.raises(ConfigurationError, match="is no monocular network"):
        mono_recipe("x", "combined", FAST, TrainingConfig())


def test_backbone_weights_are_loaded_or_refused(root: Path, tmp_path: Path) -> None:
    recipe = create_recipe("tag_micro", ["network.camera.image_height=64", "network.camera.image_width=128"])
    network = MonoModel(recipe.network)
    torch.save(network.mono_backbone.dense_net.backbone.state_dict(), tmp_path / "weights.pth")
    chosen = recipe.model_copy(update={"backbone_weights": tmp_path / "weights.pth"})
    loaded = chosen.build(root).learner.network.mono_backbone.dense_net.backbone.state_dict()
    for key, value in network.mono_backbone.dense_net.backbone.state_dict().items():
        assert torch.equal(value, loaded[key]), key
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigurationError, match="weights do not fit this backbone"):
        recipe.model_copy(update={"backbone_weights": tmp_path / "other.pth"}).build(root)
