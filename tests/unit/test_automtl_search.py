"""The three stages: they learn, they resume as if never killed, and what they find is a plain network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from automtl_fixtures import random_image
from torch import nn

from perception_core.configuration import ConfigurationError
from training.search import automtl
from training.search.tasks import DenseTarget, MultiTaskNetwork, dense_task
from training.search.tasks.batches import TensorBatches
from training.search.tasks.network import evaluate
from training.search.tasks.task import DenseTask

TASKS = (dense_task("semantic_segmentation", ("dark", "bright")), dense_task("depth", depth_loss="jared"))
NAMES = tuple(task.name for task in TASKS)
CONFIG = automtl.SearchConfig(
    pretrain_steps=4,
    policy_steps=8,
    posttrain_steps=6,
    head_channels=4,
    head_rates=(1, 2),
    checkpoint_every=3,
    learning_rate=5e-3,
)


class KilledError(Exception):
    """Stands for the end of the process."""


def tiny_backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        *(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.1)),
    )


def batches(tasks: tuple[str, ...] = NAMES) -> TensorBatches:
    """Brightness tells the class and the depth."""
    image = random_image(seed=7, batch=12, side=16)
    smooth = nn.functional.avg_pool2d(image.mean(1, keepdim=True), 5, 1, 2)[:, 0]
    valid = torch.ones_like(smooth, dtype=torch.bool)
    targets = {
        "semantic_segmentation": DenseTarget((smooth > 0).to(torch.uint8), valid),
        "depth": DenseTarget(1.0 + smooth.abs(), valid),
    }
    return TensorBatches(image, {task: targets[task] for task in tasks}, batch_size=4)


def state_of(found: automtl.SearchResult) -> dict[str, torch.Tensor]:
    return {**found.supermodel.state_dict(), **{f"h.{k}": v for k, v in found.heads.state_dict().items()}}


def run(folder: Path | None, kill_at: tuple[str, int] | None = None) -> automtl.SearchResult:
    supermodel = automtl.compile(tiny_backbone().train(), TASKS)

    def progress(stage: str, done: int, total: int) -> None:
        if (stage, done) == kill_at:
            raise KilledError

    return automtl.search(supermodel, TASKS, batches(), CONFIG, folder, progress=progress)


@pytest.fixture(scope="module")
def found() -> automtl.SearchResult:
    return run(None)


def test_search_trains_weights_and_policies(found: automtl.SearchResult) -> None:
    fresh = automtl.compile(tiny_backbone().train(), TASKS)
    assert (found.supermodel.policy_logits_tl3 != 0).any()
    changed = [
        name
        for (name, after), before in zip(found.supermodel.named_parameters(), fresh.parameters(), strict=True)
        if not torch.equal(after, before)
    ]
    assert len(changed) > 0.8 * len(list(fresh.parameters()))
    assert [(stage.stage, stage.steps) for stage in found.stages] == [("pretrain", 4), ("policy", 8)]
    assert all(stage.seconds > 0 for stage in found.stages)


@pytest.mark.parametrize("kill_at", [("pretrain", 2), ("pretrain", 4), ("policy", 4), ("policy", 7)])
def test_killed_search_ends_as_an_uninterrupted_one(
    found: automtl.SearchResult, tmp_path: Path, kill_at: tuple[str, int]
) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, kill_at)
    resumed = run(tmp_path)
    expected = state_of(found)
    for name, tensor in state_of(resumed).items():
        assert torch.equal(tensor, expected[name]), name


def test_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    supermodel = automtl.compile(tiny_backbone().train(), TASKS)
    other = CONFIG.model_copy(update={"regularization": 0.1})
    with pytest.raises(ConfigurationError, match=r"pretrain\.pt: .*another regularization"):
        automtl.search(supermodel, TASKS, batches(), other, tmp_path)


def test_broken_checkpoint_is_said(tmp_path: Path) -> None:
    (tmp_path / "pretrain.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ConfigurationError, match="is no checkpoint"):
        run(tmp_path)


def test_sampling_follows_the_learned_distribution() -> None:
    supermodel = automtl.compile(tiny_backbone(), TASKS)
    with torch.no_grad():
        supermodel.policy_logits_tl3[0, :, automtl.Option.SKIP] = 50.0
        supermodel.policy_logits_tl3[1, :, automtl.Option.SPECIFIC] = 50.0
    for seed in (None, 0, 1):
        policy = automtl.sample(supermodel, seed)
        assert set(policy.choices[0]) == {automtl.Option.SKIP}
        assert set(policy.choices[1]) == {automtl.Option.SPECIFIC}
    shares = automtl.option_shares(policy)
    assert shares["depth"] == {"shared": 0.0, "specific": 1.0, "skip": 0.0}


def test_strong_regularization_leads_to_sharing() -> None:
    supermodel = automtl.compile(tiny_backbone().train(), TASKS)
    config = CONFIG.model_copy(
        update={
            "regularization": 50.0,
            "pretrain_steps": 0,
            "policy_steps": 60,
            "policy_learning_rate": 0.1,
            "weight_turn": 1,
            "policy_turn": 4,
        }
    )
    automtl.search(supermodel, TASKS, batches(), config)
    first = supermodel.probabilities_tl3()[:, 0]
    assert (first[:, automtl.Option.SHARED] > 0.5).all()


def test_posttraining_starts_from_scratch_and_resumes(found: automtl.SearchResult, tmp_path: Path) -> None:
    policy = automtl.Policy.random(found.supermodel.tasks, found.supermodel.operators, seed=2)

    def trained(folder: Path | None, kill_at: int | None = None) -> MultiTaskNetwork:
        network = automtl.build(found, policy, seed=3)

        def progress(stage: str, done: int, total: int) -> None:
            if done == kill_at:
                raise KilledError

        automtl.posttrain(network, TASKS, batches(), CONFIG, folder, progress)
        return network

    scratch, again = automtl.build(found, policy, seed=3), automtl.build(found, policy, seed=3)
    kept = automtl.build(found, policy, from_scratch=False)
    assert all(torch.equal(a, b) for a, b in zip(scratch.parameters(), again.parameters(), strict=True))
    if any(option is not automtl.Option.SKIP for row in policy.choices for option in row):
        assert any(
            not torch.equal(a, b)
            for a, b in zip(scratch.backbone.parameters(), kept.backbone.parameters(), strict=True)
        )
    uninterrupted = trained(None)
    with pytest.raises(KilledError):
        trained(tmp_path, kill_at=5)
    resumed = trained(tmp_path)
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, uninterrupted.state_dict()[name]), name


def test_posttraining_learns(found: automtl.SearchResult) -> None:
    config = CONFIG.model_copy(update={"posttrain_steps": 60, "learning_rate": 2e-2})
    shared = found.supermodel.all_shared()
    network = automtl.build(found, shared, seed=1)
    before = evaluate(network, batches().all_batches(), TASKS)
    automtl.posttrain(network, TASKS, batches(), config)
    after = evaluate(network, batches().all_batches(), TASKS)
    assert after["depth"].scalars()["abs_error"] < before["depth"].scalars()["abs_error"]
    assert (
        after["semantic_segmentation"].scalars()["pixel_accuracy"]
        > before["semantic_segmentation"].scalars()["pixel_accuracy"]
    )


def test_tasks_without_labels_are_refused() -> None:
    supermodel = automtl.compile(tiny_backbone(), TASKS)
    with pytest.raises(ConfigurationError, match="no labels of depth"):
        automtl.search(supermodel, TASKS, batches(("semantic_segmentation",)), CONFIG)


def test_tasks_must_be_the_compiled_ones() -> None:
    supermodel = automtl.compile(tiny_backbone(), ("depth",))
    with pytest.raises(ConfigurationError, match="was compiled for depth"):
        automtl.search(supermodel, TASKS, batches(), CONFIG)


def test_losses_leave_out_what_is_not_valid() -> None:
    prediction = torch.zeros(1, 1, 1, 2, requires_grad=True)
    target = DenseTarget(torch.tensor([[[2.0, 100.0]]]), torch.tensor([[[True, False]]]))
    assert float(DenseTask("depth").loss(prediction, target).detach()) == 2.0
    assert float(dense_task("depth", depth_loss="jared").loss(prediction, target).detach()) == 3.0
    nothing = DenseTarget(target.value, torch.zeros(1, 1, 2, dtype=torch.bool))
    loss = DenseTask("depth").loss(prediction, nothing)
    loss.backward()
    assert float(loss.detach()) == 0.0


@pytest.mark.slow
def test_compact_network_exports(found: automtl.SearchResult, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    policy = automtl.Policy.random(found.supermodel.tasks, found.supermodel.operators, seed=5)
    network = automtl.build(found, policy).eval()
    image = random_image(seed=1, batch=1, side=32)
    program = torch.onnx.export(network, (image,), dynamo=True, verbose=False)
    assert program is not None
    path = tmp_path / "network.onnx"
    program.save(str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = network(image)
    for output, tensor in zip(outputs, expected.values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(output), tensor, rtol=1e-3, atol=1e-4)
