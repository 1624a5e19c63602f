"""Monocular networks: TAG against its equations, its baselines, and what every model has to be."""

from __future__ import annotations

import json

import pytest
import torch
from mono_fixtures import SMALL
from torch.nn import functional
from typer.testing import CliRunner

from mmmt_cli.models import models_app
from perception_core.backends.example_inputs import example_frame
from perception_core.bundle import BundleSpec, ModelReference, TrainingRecord
from perception_core.bundle_writer import create_seeded_model
from perception_core.configuration import ConfigurationError
from perception_core.models import create_model
from perception_core.models.profile import profile_model
from perception_core.models.tag.aggregation import IterativeAggregation
from perception_core.models.tag.attention import adapt, heat
from perception_core.models.tag.backbone import TagBackbone


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# TAG itself in every run, its baselines where there is time.
@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=() if n == "tag_micro" else pytest.mark.slow) for n in sorted(SMALL)],
)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str):
    return create_seeded_model(name, 0, **SMALL[name])


def run(model, frame):
    with torch.inference_mode():
        return model(frame)


def small_tag(**changes):
    merged = {**SMALL["tag_micro"]}
    for key, value in changes.items():
        merged[key] = {**merged.get(key, {}), **value}
    return create_seeded_model("tag_micro", 0, **merged)


def count(name: str, **arguments) -> tuple[float, float]:
    """Multiply-adds in 10^9 and weights in 10^6, on the meta device."""
    with torch.device("meta"):
        model = create_model(name, **arguments)
    profiles = profile_model(model).values()
    return sum(p.multiply_adds for p in profiles) / 1e9, sum(p.parameters for p in profiles) / 1e6


def test_outputs_fit_the_signature(model) -> None:
    outputs = run(model, example_frame(model.bundle_input()))
    specs = model.tensor_specs()
    assert set(outputs) == set(specs)
    for name, tensor in outputs.items():
        assert str(tensor.dtype) == f"torch.{specs[name].dtype}", name
        assert tuple(tensor.shape) == specs[name].shape, name
        assert torch.isfinite(tensor).all(), name
    assert (outputs["depth_vhw"] > 0).all()
    assert (outputs["mono_detection_scores_q"].diff() <= 0).all()


def test_an_untrained_detector_is_silent(model) -> None:
    outputs = run(model, example_frame(model.bundle_input()))
    threshold = model.component_specs()["mono_detection3d_head"].decoder_options["score_threshold"]
    assert (outputs["mono_detection_scores_q"] < threshold).all()
    assert (outputs["mono_detection_scores_q"] > 0).any()


def test_a_masked_camera_says_nothing(model) -> None:
    frame = example_frame(model.bundle_input())
    seen = run(model, frame)
    frame["mono_valid"][:] = False
    masked = run(model, frame)
    frame["mono_image_hwc"] = torch.zeros_like(frame["mono_image_hwc"])
    frame["mono_intrinsics_33"] = torch.full((3, 3), float("nan"))
    spoilt = run(model, frame)
    for outputs in (masked, spoilt):
        assert not outputs["mono_detection_scores_q"].any()
        assert not outputs["depth_vhw"].any()
        assert not outputs["depth_points_nc"].any()
        assert not outputs["semantic_logits_vkhw"].any()
    for name in ("mono_detection_scores_q", "depth_vhw", "semantic_logits_vkhw"):
        assert seen[name].any(), name


def test_the_image_matters_to_every_task(model) -> None:
    frame = example_frame(model.bundle_input())
    other = {**frame, "mono_image_hwc": frame["mono_image_hwc"].flip(1)}
    first, second = run(model, frame), run(model, other)
    for name in ("mono_detection_boxes_q9", "depth_vhw", "semantic_logits_vkhw"):
        assert not torch.allclose(first[name], second[name]), name


def test_components_own_all_weights_and_form_a_whole_graph(model) -> None:
    specs = model.component_specs()
    assert list(specs) == list(model.components)
    assert {key.split(".", 1)[0] for key in model.state_dict()} <= set(specs)
    graph = BundleSpec(
        format=1,
        name="x",
        model=ModelReference(name="x"),
        input=model.bundle_input(),
        tensors=model.tensor_specs(),
        components=specs,
        labels=model.labels(),
        weights_sha256="",
        training=TrainingRecord(trained=False, seed=0),
    )
    assert set(graph.components) == {
        "mono_backbone",
        "mono_detection3d_head",
        "semantic_segmentation_head",
        "depth_head",
    }


def test_the_configuration_builds_the_same_model_again(name: str, model) -> None:
    again = create_seeded_model(name, 0, **model.configuration())
    assert again.configuration() == model.configuration()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_every_weight_learns(name: str) -> None:
    network = create_seeded_model(name, 0, **SMALL[name]).train()
    images = torch.randint(0, 256, (2, 64, 128, 3), generator=torch.Generator().manual_seed(0))
    feature = network.shared_feature(images)
    detection = network.heads["mono_detection3d"](*feature)
    total = (detection.heatmap_logits_bkhw**2).mean() + (detection.code_behw**2).mean()
    total = total + (network.heads["semantic_segmentation"](*feature) ** 2).mean()
    total = total + (network.heads["depth"](*feature) ** 2).mean()
    total.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_a_batch_of_one_can_be_trained_on(name: str) -> None:
    """Poolings that leave one cell must not meet a normalization without statistics."""
    network = create_seeded_model(name, 0, **SMALL[name]).train()
    images = torch.randint(0, 256, (1, 64, 128, 3), generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(network.shared_feature(images)[0]).all()


def test_folded_normalization_changes_nothing(name: str) -> None:
    model = create_seeded_model(name, 0, **SMALL[name])
    frame = example_frame(model.bundle_input())
    with torch.no_grad():  # statistics other than the initial ones
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    plain = run(model, frame)
    for component in model.components.values():
        component.fuse_normalization()
    folded = run(model, frame)
    for key in ("depth_vhw", "semantic_logits_vkhw"):
        assert torch.allclose(plain[key], folded[key], rtol=1e-3, atol=1e-3), key


# -- the paper's figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "multiply_adds", "weights"), [("tag_full_no_tag", 218, 32.8), ("tag_full", 219, 33.9)]
)
def test_tag_has_the_papers_size(name: str, multiply_adds: float, weights: float) -> None:
    """Within 5 % of Tab. II."""
    found = count(name)
    assert found[0] == pytest.approx(multiply_adds, rel=0.05)
    assert found[1] == pytest.approx(weights, rel=0.05)


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("mono_ddrnet23_slim", 75),
        pytest.param("mono_ddrnet23", 216, marks=pytest.mark.slow),
        ("mono_pidnet_s", 84),
        pytest.param("mono_pidnet_l", 339, marks=pytest.mark.slow),
    ],
)
def test_baselines_cost_what_the_paper_says(name: str, multiply_adds: float) -> None:
    """Within 5 % of Tab. II, where the paper's figures agree with the baselines' own papers."""
    assert count(name)[0] == pytest.approx(multiply_adds, rel=0.05)


@pytest.mark.slow
def test_the_generator_costs_next_to_nothing() -> None:
    with_tag, without = count("tag_full"), count("tag_full_no_tag")
    assert 0 < with_tag[0] - without[0] < 1.0
    assert 0.9 < with_tag[1] - without[1] < 1.2


def test_tag_tiny_stays_within_its_budget() -> None:
    multiply_adds, weights = count("tag_tiny")
    assert 1.5 < multiply_adds < 2.3
    # Weights twice, in safetensors and in graphs, within the 10 MB of a bundle.
    assert weights * 8 < 9.9


# -- the paper's equations -----------------------------------------------------------------------------------


def test_aggregation_follows_algorithm_1() -> None:
    torch.manual_seed(0)
    layer = IterativeAggregation((4, 6, 8), 3, 1).eval()
    x1, x2, x3 = torch.rand(1, 4, 16, 16), torch.rand(1, 6, 8, 8), torch.rand(1, 8, 4, 4)

    def f(i: int, j: int, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        node = layer.nodes[f"node_{i}_{j}"]
        raised = functional.interpolate(
            node.project(coarse), scale_factor=2, mode="bilinear", align_corners=False
        )
        return node.node(torch.cat((raised, fine), dim=1))

    with torch.no_grad():
        first = f(1, 1, x1, x2)
        second = f(2, 2, x2, x3)
        expected = f(2, 1, first, second)
        assert torch.allclose(layer([x1, x2, x3]), expected)
    assert set(layer.nodes) == {"node_1_1", "node_2_2", "node_2_1"}


def test_attention_follows_equations_3_and_4() -> None:
    model = small_tag()
    backbone, attention = model.mono_backbone.dense_net.backbone, model.mono_backbone.dense_net.attention
    images = torch.randint(0, 256, (2, 64, 128, 3), generator=torch.Generator().manual_seed(0)).float()
    net = model.mono_backbone.dense_net
    with torch.no_grad():
        normalized = (images.permute(0, 3, 1, 2) - net.image_mean) / net.image_deviation
        output = backbone(normalized)
        feature, alpha, beta = model.shared_feature(images)
        assert torch.allclose(feature, output.feature_bchw)
        pooled = functional.adaptive_avg_pool2d(output.semantic_bchw, 1).flatten(1)
        assert torch.allclose(alpha[:, 1], attention.channel[1](pooled).sigmoid(), atol=1e-6)
        assert torch.allclose(beta, attention.spatial(output.detail_bchw).sigmoid(), atol=1e-6)
        adapted = adapt(feature, alpha, beta, 2)
        expected = alpha[:, 2].view(2, -1, 1, 1) * feature + beta
        assert torch.allclose(adapted, expected)
        head = model.heads["depth"].dense_net
        direct = head.output(functional.relu(head.hidden(expected)))
        assert torch.allclose(head(feature, alpha, beta), direct, atol=1e-5)
        picture = heat(adapted, (64, 128))
    assert picture.shape == (2, 64, 128)
    assert 0 <= picture.min() <= picture.max() <= 1


def test_each_task_has_its_own_channel_attention() -> None:
    model = small_tag()
    images = torch.randint(0, 256, (1, 64, 128, 3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, alpha, _ = model.shared_feature(images)
    assert alpha.shape[1] == 3
    assert not torch.allclose(alpha[:, 0], alpha[:, 1])


def test_two_pathways_meet_at_an_eighth() -> None:
    backbone = TagBackbone(create_model("tag_micro").config.backbone)
    with torch.no_grad():
        output = backbone.eval()(torch.rand(1, 3, 128, 256))
    assert output.feature_bchw.shape == (1, 32, 16, 32)
    assert output.semantic_bchw.shape == (1, 48, 2, 4)
    assert output.detail_bchw.shape == (1, 24, 16, 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"detail": False}},
        {"backbone": {"aggregation": "pyramid_pooling"}},
        {"attention": {"channel": False}},
        {"attention": {"spatial": False}},
        {"attention": {"channel": False, "spatial": False}},
    ],
    ids=["branch", "aggregation", "channel", "spatial", "no_tag"],
)
def test_ablations_of_table_iii(changes) -> None:
    model = small_tag(**changes)
    outputs = run(model, example_frame(model.bundle_input()))
    assert set(outputs) == set(model.tensor_specs())
    whole = sum(p.numel() for p in small_tag().parameters())
    assert sum(p.numel() for p in model.parameters()) != whole
    attention = changes.get("attention", {})
    assert ("mono_channel_attention_btc" in outputs) == attention.get("channel", True)
    assert ("mono_spatial_attention_b1hw" in outputs) == attention.get("spatial", True)
    assert model.components["mono_backbone"].exportable == (
        changes.get("backbone", {}).get("aggregation") is None
    )


@pytest.mark.parametrize("task", ["mono_detection3d", "semantic_segmentation", "depth"])
def test_a_single_task_network_has_one_head(task: str) -> None:
    tasks = ("mono_detection3d", "semantic_segmentation", "depth")
    model = small_tag(**{other: {"enabled": False} for other in tasks if other != task})
    assert list(model.components) == ["mono_backbone", f"{task}_head"]
    outputs = run(model, example_frame(model.bundle_input()))
    assert outputs["mono_channel_attention_btc"].shape[1] == 1


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("tag_micro", {"backbon": {}}, "did you mean 'backbone'"),
        ("tag_micro", {"backbone": {"detial": False}}, "did you mean 'detail'"),
        ("tag_micro", {"backbone": {"kind": "dla"}}, "did you mean 'dla34'"),
        ("tag_micro", {"camera": {"image_width": 100}}, "multiple of 64"),
        ("tag_micro", {"backbone": {"kind": "dla34"}}, "attention.channel and attention.spatial to false"),
        ("mono_dla34", {"attention": {"channel": True}}, "has no semantic and detail branch"),
        ("tag_micro", {"mono_detection3d": {"usual_sizes": {"cra": (1, 1, 1)}}}, "did you mean 'car'"),
        (
            "tag_micro",
            {task: {"enabled": False} for task in ("mono_detection3d", "semantic_segmentation", "depth")},
            "no head is enabled",
        ),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_model(name, **arguments)


@pytest.mark.slow
def test_the_profile_of_meta_is_that_of_the_real_thing() -> None:
    model = small_tag()
    on_meta = profile_model(model)
    assert not next(model.parameters()).is_meta  # the model itself stays where it was
    model.runs_on_meta = False
    computed = profile_model(model)
    assert on_meta == computed


def test_models_show_counts_a_monocular_network() -> None:
    result = CliRunner().invoke(models_app, ["show", "tag_micro", "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["input"]["mono"] == {"height": 128, "width": 256, "camera": "camera_front"}
    found = count("tag_micro")
    assert shown["multiply_adds"] == pytest.approx(found[0] * 1e9)
    assert shown["parameters"] == pytest.approx(found[1] * 1e6)
    half = CliRunner().invoke(models_app, ["show", "tag_micro", "--json", "--input", "64x256"])
    assert json.loads(half.stdout)["multiply_adds"] == pytest.approx(shown["multiply_adds"] / 2, rel=0.01)
    table = CliRunner().invoke(models_app, ["show", "tag_micro"])
    assert "128 x 256 pixels of camera_front" in " ".join(table.stdout.split())
