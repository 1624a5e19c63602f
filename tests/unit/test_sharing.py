"""Sharing topologies: what each computes, and what it costs."""

from __future__ import annotations

import pytest
import torch

from perception_core.configuration import ConfigurationError
from perception_core.models.sharing import TOPOLOGIES, StagePlan, build_sharing, measure_sharing

PLAN = StagePlan(stem_channels=4, channels=(4, 8, 8), blocks=(1, 2, 1), strides=(2, 2, 1))
TASKS = ("segmentation", "depth", "normals")
SIZE = (32, 64)


def built(name: str, tasks=TASKS, **options):
    torch.manual_seed(1)
    return build_sharing(name, PLAN, tasks, **options)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_every_topology_gives_one_feature_a_task_and_learns(name: str, image: torch.Tensor) -> None:
    network = built(name)
    for training in (True, False):
        network.train(training)
        features = network(image)
        assert list(features) == list(TASKS)
        assert all(x.shape == (2, 8, 4, 8) for x in features.values())
    network.train()
    features = network(image)
    (sum(x.square().mean() for x in features.values()) + network.regularizer()).backward()
    without = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_costs_are_the_same_on_the_meta_device(name: str) -> None:
    real = measure_sharing(built(name).eval(), SIZE)
    with torch.device("meta"):
        meta = build_sharing(name, PLAN, TASKS)
    assert measure_sharing(meta, SIZE) == real


def test_costs_add_up() -> None:
    hard, independent = (measure_sharing(built(name), SIZE) for name in ("hard", "independent"))
    assert independent.parameters == 3 * hard.parameters
    assert independent.multiply_adds == 3 * hard.multiply_adds
    feature = 8 * 4 * 8 * 4
    assert hard.moved_bytes == 3 * feature
    assert independent.moved_bytes == 0
    stitched = measure_sharing(built("cross_stitch"), SIZE)
    # After every stage each task takes the maps of both others.
    maps = (4 * 8 * 16 + 8 * 4 * 8 + 8 * 4 * 8) * 4
    assert stitched.moved_bytes == 3 * 2 * maps
    assert stitched.parameters == independent.parameters + 9 * (4 + 8 + 8)
    assert measure_sharing(built("nddr_cnn"), SIZE).moved_bytes == stitched.moved_bytes
    assert measure_sharing(built("nddr_cnn"), SIZE).multiply_adds > independent.multiply_adds
    attended = measure_sharing(built("mtan"), SIZE)
    assert hard.multiply_adds < attended.multiply_adds


def test_measuring_leaves_the_network_as_it_was() -> None:
    network = built("hard").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    measure_sharing(network, SIZE)
    assert network.training
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


def test_cross_stitch_without_exchange_is_independence(image: torch.Tensor) -> None:
    stitched, independent = built("cross_stitch", own_weight=1.0).eval(), built("independent").eval()
    for index, task in enumerate(TASKS):
        independent.columns[task].load_state_dict(stitched.columns[index].state_dict())
    with torch.no_grad():
        for task, feature in stitched(image).items():
            assert torch.allclose(feature, independent(image)[task], atol=1e-6)


def test_cross_stitch_mixes_as_its_weights_say(image: torch.Tensor) -> None:
    network = built("cross_stitch", tasks=("a", "b")).eval()
    with torch.no_grad():
        for stitch in network.stitches:
            stitch.zero_()
        network.stitches[-1][0, 1] = 2.0  # a takes twice b's last map
        network.stitches[0][:] = torch.eye(2)[:, :, None]
        network.stitches[1][:] = torch.eye(2)[:, :, None]
        network.stitches[-1][1, 1] = 1.0
        features = network(image)
    assert torch.allclose(features["a"], 2 * features["b"], atol=1e-6)


def test_sluice_mixes_subspaces(image: torch.Tensor) -> None:
    network = built("sluice", tasks=("a", "b")).eval()
    with torch.no_grad():
        for alpha in network.alphas[:-1]:
            alpha.copy_(torch.eye(4))
        network.alphas[-1].zero_()
        network.alphas[-1][0, 2] = 1.0  # a's first half is b's first half
        network.alphas[-1][2, 2] = 1.0
        features = network(image)
    assert torch.allclose(features["a"][:, :4], features["b"][:, :4])
    assert not features["a"][:, 4:].any()


def test_subspaces_that_are_alike_are_punished() -> None:
    network = built("sluice", tasks=("a",), orthogonality=1.0)
    before = float(network.regularizer().detach())
    with torch.no_grad():
        weight = network.columns[0].stages[-1][-1].second.convolution.weight
        weight[4:] = weight[:4]
    assert float(network.regularizer().detach()) > before


def test_nddr_starts_close_to_each_tasks_own_map() -> None:
    network = built("nddr_cnn", tasks=("a", "b"))
    weight = network.reductions[0][1].convolution.weight[:, :, 0, 0]
    assert torch.allclose(weight, torch.cat((0.1 * torch.eye(4), 0.9 * torch.eye(4)), dim=1))


def test_adashare_shares_while_tasks_decide_alike(image: torch.Tensor) -> None:
    network, hard = built("adashare").eval(), built("hard").eval()
    assert measure_sharing(network, SIZE).parameters == measure_sharing(hard, SIZE).parameters
    alike = measure_sharing(network, SIZE)
    with torch.no_grad():
        network.policy_logits[2, 2] = torch.tensor([0.0, 1.0])  # normals skips the third block
    apart = measure_sharing(network, SIZE)
    assert apart.multiply_adds > alike.multiply_adds
    with torch.no_grad():
        features = network(image)
        assert torch.equal(features["segmentation"], features["depth"])
        assert not torch.allclose(features["segmentation"], features["normals"])
        network.policy_logits[:, 2] = torch.tensor([0.0, 1.0])  # now all skip it
        skipped = measure_sharing(network, SIZE)
        assert skipped.multiply_adds < alike.multiply_adds
        assert skipped.parameters < alike.parameters


def test_adashare_in_training_follows_its_draws(image: torch.Tensor) -> None:
    network = built("adashare").train()
    with torch.no_grad():
        network.policy_logits[:] = torch.tensor([1e4, -1e4])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    drawn = network(image)
    decided = network.eval()(image)
    for task in TASKS:
        assert torch.allclose(drawn[task], decided[task], atol=1e-5)


def test_a_tree_runs_only_what_leads_to_a_task(image: torch.Tensor) -> None:
    network, hard = built("learn_to_branch").eval(), measure_sharing(built("hard"), SIZE)
    assert measure_sharing(network, SIZE).parameters == hard.parameters
    assert measure_sharing(network, SIZE).multiply_adds == hard.multiply_adds
    with torch.no_grad():
        network.choice_logits[-1][2, 2] = 1.0  # normals comes from node 2 of the last stage
    branched = measure_sharing(network, SIZE)
    assert hard.multiply_adds < branched.multiply_adds < 3 * hard.multiply_adds
    with torch.no_grad():
        features = network(image)
    assert torch.equal(features["segmentation"], features["depth"])
    assert not torch.allclose(features["segmentation"], features["normals"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cros_stitch", {}, "did you mean 'cross_stitch'"),
        ("sluice", {"subspaces": 3}, "cannot be divided into 3 subspaces"),
        ("hard", {"temperature": 1.0}, "temperature"),
    ],
)
def test_wrong_topologies_are_named(name: str, options, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        built(name, **options)


def test_tasks_must_differ() -> None:
    with pytest.raises(ConfigurationError, match="each once"):
        built("hard", tasks=("a", "a"))
