"""The compiler's supermodel is the backbone where all share, independent copies where none does, and every
policy's compact model computes exactly what the supermodel computes.
"""

from __future__ import annotations

import copy

import pytest
import torch
from automtl_fixtures import Awkward, BranchOnData, LooseParameter, Nested, random_image, randomized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx, nn

from perception_core.configuration import ConfigurationError
from training.search import automtl
from training.search.automtl.policy import Option, Policy
from training.search.automtl.skip import SkipConnection, skip_of
from training.search.automtl.supermodel import Supermodel
from training.search.backbones import PAPER_PARAMETERS_M, create_backbone

TASKS = ("semantic_segmentation", "depth", "normals")


def specific_weights(supermodel: Supermodel, seed: int = 5) -> Supermodel:
    """Makes every copy of every operator different from all others."""
    randomized(supermodel.nodes, seed)
    return supermodel


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return randomized(Awkward()).eval()


@pytest.fixture(scope="module", params=[True, False], ids=["folded", "every-operator"])
def supermodel(request: pytest.FixtureRequest, backbone: nn.Module) -> Supermodel:
    return specific_weights(automtl.compile(backbone, TASKS, fold_normalization=request.param))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return random_image()


def test_all_shared_is_the_backbone_exactly(backbone: nn.Module, image: torch.Tensor) -> None:
    expected = backbone(image)
    for fold in (True, False):
        compiled = automtl.compile(backbone, TASKS, fold_normalization=fold)
        outputs = compiled(image, policy=compiled.all_shared())
        assert set(outputs) == set(TASKS)
        for task in TASKS:
            assert torch.equal(outputs[task], expected)


def test_all_shared_is_the_backbone_in_training_too(backbone: nn.Module, image: torch.Tensor) -> None:
    own = copy.deepcopy(backbone).train()
    compiled = automtl.compile(own, TASKS)
    expected = own(image)
    assert compiled.training
    outputs = compiled(image, policy=compiled.all_shared())
    assert torch.equal(outputs["depth"], expected)
    statistics = dict(own.named_buffers())
    shared = {node.name: node.shared for node in compiled.virtual_nodes()}
    assert torch.equal(shared["stem"][1].running_mean, statistics["stem_norm.running_mean"])
    assert int(shared["stem"][1].num_batches_tracked) == 1


def test_all_specific_is_independent_copies(backbone: nn.Module, image: torch.Tensor) -> None:
    compiled = specific_weights(automtl.compile(backbone, TASKS))
    outputs = compiled(image, policy=compiled.all_specific())
    for task in TASKS:
        independent = copy.deepcopy(backbone)
        modules = dict(independent.named_modules())
        for node in compiled.virtual_nodes():
            parts = node.specific[task]
            parts = list(parts) if isinstance(parts, nn.Sequential) else [parts]
            for name, part in zip(_parts_of(node.name), parts, strict=True):
                modules[name].load_state_dict(part.state_dict())
        assert torch.equal(outputs[task], independent(image))


def _parts_of(operator: str) -> list[str]:
    followers = {"stem": "stem_norm", "back": "back_norm"}
    return [operator, followers[operator]] if operator in followers else [operator]


def test_compiling_leaves_the_backbone_as_it_was(backbone: nn.Module, image: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    expected = backbone(image)
    compiled = specific_weights(automtl.compile(backbone, TASKS))
    compiled(image, policy=compiled.all_specific())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert backbone.relu.inplace
    assert torch.equal(backbone(image), expected)


@st.composite
def policies(draw: st.DrawFn, operators: int) -> tuple[tuple[Option, ...], ...]:
    row = st.lists(st.sampled_from(list(Option)), min_size=operators, max_size=operators).map(tuple)
    return tuple(draw(row) for _ in TASKS)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_compact_model_is_the_supermodel(
    supermodel: Supermodel, image: torch.Tensor, data: st.DataObject
) -> None:
    choices = data.draw(policies(len(supermodel.operators)))
    policy = Policy(supermodel.tasks, supermodel.operators, choices)
    network = automtl.compact(supermodel, policy)
    with torch.no_grad():
        expected, found = supermodel(image, policy=policy), network(image)
    for task in TASKS:
        assert torch.equal(found[task], expected[task])
    assert sum(p.numel() for p in network.parameters()) == supermodel.parameter_count(policy)


def test_one_hot_weights_are_the_discrete_policy(supermodel: Supermodel, image: torch.Tensor) -> None:
    policy = Policy.random(supermodel.tasks, supermodel.operators, seed=3)
    weights = torch.zeros(len(TASKS), len(supermodel.operators), 3)
    for task, row in enumerate(policy.choices):
        for operator, option in enumerate(row):
            weights[task, operator, option] = 1.0
    with torch.no_grad():
        soft, hard = supermodel(image, weights_tl3=weights), supermodel(image, policy=policy)
    for task in TASKS:
        torch.testing.assert_close(soft[task], hard[task], rtol=1e-4, atol=1e-4)


def test_pretraining_averages_the_options(image: torch.Tensor) -> None:
    single = randomized(nn.Sequential(nn.Conv2d(3, 3, 1))).eval()
    compiled = specific_weights(automtl.compile(single, ("depth",)))
    node = compiled.virtual_nodes()[0]
    expected = (node.shared(image) + node.specific["depth"](image) + image) / 3
    torch.testing.assert_close(compiled(image)["depth"], expected)


def test_what_tasks_share_is_computed_once(backbone: nn.Module, image: torch.Tensor) -> None:
    compiled = automtl.compile(backbone, TASKS)
    calls = []
    compiled.virtual_nodes()[0].shared.register_forward_hook(lambda *_: calls.append(1))
    compiled(image, policy=compiled.all_shared())
    assert len(calls) == 1
    network = automtl.compact(compiled, compiled.all_shared())
    stems = [node for node in network.graph.nodes if node.target == "shared.stem"]
    assert len(stems) == 1


def test_skipping_everything_costs_no_parameters(supermodel: Supermodel, image: torch.Tensor) -> None:
    policy = Policy.uniform(supermodel.tasks, supermodel.operators, Option.SKIP)
    network = automtl.compact(supermodel, policy)
    assert list(network.parameters()) == []
    assert supermodel.parameter_count(policy) == 0
    assert network(image)["depth"].shape == supermodel(image, policy=supermodel.all_shared())["depth"].shape


def test_compact_model_has_nothing_of_the_supermodel(supermodel: Supermodel) -> None:
    policy = Policy.random(supermodel.tasks, supermodel.operators, seed=1)
    network = automtl.compact(supermodel, policy)
    assert type(network).__mro__[1] is fx.GraphModule
    kinds = {type(module).__module__ for module in network.modules()}
    assert not any("supermodel" in kind or "virtual_node" in kind for kind in kinds)
    own = {tensor.data_ptr() for tensor in supermodel.parameters()}
    assert not own & {tensor.data_ptr() for tensor in network.parameters()}


def test_depths_and_parents_follow_the_graph(backbone: nn.Module) -> None:
    compiled = automtl.compile(backbone, TASKS)
    nodes = {node.name: node for node in compiled.virtual_nodes()}
    assert nodes["stem"].depth == 1
    assert nodes["stem"].parents == ()
    assert nodes["back"].parents == ("depthwise",)
    assert set(nodes["twice"].parents) == {"stem", "back"}
    assert nodes["gate"].depth == nodes["twice"].depth + 1
    assert nodes["unpadded"].depth == nodes["gate"].depth + 1


@pytest.mark.parametrize(
    "operator",
    [
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 9, 5, stride=2, padding=2),
        nn.Conv2d(7, 3, 3),
        nn.Conv2d(4, 4, (1, 7), padding=(0, 3)),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, stride=3, padding=2, dilation=2),
        nn.Conv2d(4, 6, 2, stride=2),
        nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1),
        nn.ConvTranspose2d(5, 3, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(5),
        nn.GroupNorm(1, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(9, 14), (16, 16)])
def test_skip_has_the_form_of_its_operator(operator: nn.Module, size: tuple[int, int]) -> None:
    channels = getattr(operator, "in_channels", 5)
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    skip = skip_of(operator.eval())
    assert skip(x).shape == operator(x).shape
    if skip.is_identity:
        assert skip(x) is x


def test_skip_downsamples_by_means_and_fills_with_zeros() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    smaller = SkipConnection(1, 2, stride=(2, 2), kernel=(3, 3), padding=(1, 1))(x)
    assert torch.equal(smaller[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    assert not smaller[0, 1].any()
    mean = SkipConnection(4, 2)(torch.arange(4.0).view(1, 4, 1, 1))
    assert mean.flatten().tolist() == [0.5, 2.5]


def test_control_flow_is_refused_with_its_line() -> None:
    with pytest.raises(automtl.UnsupportedOperatorError) as caught:
        automtl.compile(BranchOnData(), TASKS)
    assert "if y.sum() > 0" in str(caught.value)
    assert "automtl_fixtures.py:" in caught.value.source
    assert "behind node 'gt'" in str(caught.value)


def test_control_flow_of_a_part_names_the_part() -> None:
    with pytest.raises(automtl.UnsupportedOperatorError) as caught:
        automtl.compile(Nested(), TASKS)
    assert caught.value.node == "inner"


def test_backbone_without_convolution_is_refused() -> None:
    with pytest.raises(automtl.UnsupportedOperatorError, match="has no convolution"):
        automtl.compile(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), TASKS)


def test_parameter_outside_of_layers_is_refused_with_its_line() -> None:
    with pytest.raises(
        automtl.UnsupportedOperatorError, match="'scale' is used outside of a layer"
    ) as caught:
        automtl.compile(LooseParameter(), TASKS)
    assert "return self.scale * self.convolution(x)" in caught.value.source


def test_unsupported_layer_is_refused_by_name() -> None:
    with pytest.raises(automtl.UnsupportedOperatorError, match="Conv3d") as caught:
        automtl.compile(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv3d(3, 3, 1)), TASKS)
    assert caught.value.node == "_1"


def test_tied_parameters_are_refused() -> None:
    tied = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    tied[1].weight = tied[0].weight
    with pytest.raises(automtl.UnsupportedOperatorError, match="shares a parameter with '0'"):
        automtl.compile(tied, TASKS)


@pytest.mark.parametrize("tasks", [(), ("depth", "depth")])
def test_tasks_must_be_there_and_differ(backbone: nn.Module, tasks: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"at least one task|must differ"):
        automtl.compile(backbone, tasks)


def test_policy_of_another_model_is_refused(supermodel: Supermodel, image: torch.Tensor) -> None:
    with pytest.raises(ConfigurationError, match="only the backbone and tasks"):
        supermodel(image, policy=Policy.uniform(("depth",), ("stem",), Option.SHARED))


def test_deeplab_resnet34_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        compiled = automtl.compile(create_backbone("deeplab_resnet34"), TASKS[:2])
    paper = PAPER_PARAMETERS_M["deeplab_resnet34"]
    shared = compiled.parameter_count(compiled.all_shared())
    assert round(shared / 1e6, 3) == paper["multi_task"]
    assert round(compiled.parameter_count(compiled.all_specific()) / 1e6, 3) == paper["two_models"]
    assert len(compiled.operators) == 36


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet", "efficientnet_b0", "resnet34_micro"])
def test_common_backbones_compile_exactly(name: str) -> None:
    network = create_backbone(name).eval()
    compiled = automtl.compile(network, TASKS[:2])
    image = random_image(side=64, batch=1)
    with torch.no_grad():
        expected = network(image)
        assert torch.equal(compiled(image, policy=compiled.all_shared())["depth"], expected)
        policy = Policy.random(compiled.tasks, compiled.operators, seed=2)
        found, soft = automtl.compact(compiled, policy)(image), compiled(image, policy=policy)
    for task in compiled.tasks:
        assert torch.equal(found[task], soft[task])
    assert compiled.parameter_count(compiled.all_shared()) == sum(p.numel() for p in network.parameters())
