"""Several models in one, and their bundles in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mono_fixtures import SMALL

from perception_core.backends.example_inputs import example_frame, example_inputs
from perception_core.backends.torch_backend import load_with_torch
from perception_core.bundle import Bundle, TrainingRecord
from perception_core.bundle_combination import combine_bundles
from perception_core.bundle_writer import create_seeded_model, write_bundle
from perception_core.configuration import ConfigurationError
from perception_core.deployment import Device
from perception_core.models import create_model

BEV = {
    "grid": {"x_min": -12.8, "x_max": 12.8, "y_min": -12.8, "y_max": 12.8, "cell_size": 0.8},
    "camera": {"image_height": 32, "image_width": 64, "depth_bins": 12, "depth_max": 16.0},
    "detection": {"queries": 16},
}
MODELS = {
    "bev": {"name": "fuller_micro", "arguments": BEV},
    "mono": {"name": "tag_micro", "arguments": SMALL["tag_micro"]},
}


def test_each_model_says_what_it_says_alone() -> None:
    both = create_seeded_model("combined", 0, models=MODELS)
    frame = example_frame(both.bundle_input(), cameras=2, points=500)
    with torch.inference_mode():
        together = both(frame)
        for name in MODELS:
            model = both.models[name]
            for tensor, value in model(frame).items():
                assert torch.equal(value, together[tensor]), tensor
    assert set(together) == set(both.tensor_specs())
    needs = both.bundle_input()
    assert needs.image is not None
    assert needs.mono is not None
    assert (needs.image.height, needs.mono.height) == (32, 64)


@pytest.mark.slow
def test_the_configuration_builds_the_same_models_again() -> None:
    both = create_seeded_model("combined", 0, models=MODELS)
    again = create_seeded_model("combined", 0, **both.configuration())
    assert again.configuration() == both.configuration()
    state = both.state_dict()
    assert {key.split(".", 1)[0] for key in state} == set(both.component_specs())
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state.items())


@pytest.mark.slow
def test_bundles_become_one_with_their_weights(tmp_path: Path) -> None:
    parts = {}
    for seed, (name, reference) in enumerate(MODELS.items(), start=5):
        model = create_seeded_model(reference["name"], seed, **reference["arguments"])
        record = TrainingRecord(trained=True, seed=seed, recipe=name, metrics={"x": 0.5})
        parts[name] = write_bundle(model, reference["name"], tmp_path / name, record)
    both = combine_bundles(parts, tmp_path / "both")
    assert Bundle.open(tmp_path / "both").spec.name == "both"
    assert both.spec.training.trained
    assert both.spec.training.metrics == {"bev/x": 0.5, "mono/x": 0.5}
    assert set(both.task_heads()) == {
        *("detection3d", "map_segmentation"),
        *("mono_detection3d", "semantic_segmentation", "depth"),
    }
    device = Device(kind="cpu", cores=(0,))
    for part in parts.values():
        for component in part.spec.components:
            inputs = example_inputs(part.spec.input, part.spec.tensors, part.spec.components[component])
            alone = load_with_torch(part, component, device).run(inputs)
            within = load_with_torch(both, component, device).run(inputs)
            assert all(torch.equal(value, within[name]) for name, value in alone.items()), component


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": {"a": MODELS["mono"], "b": MODELS["mono"]}}, "has a component 'mono_backbone'"),
        ({"models": {"a": {"nam": "tag_micro"}}}, "needs 'name'"),
        ({"models": {"a": {"name": "tag_mikro"}}}, "did you mean 'tag_micro'"),
        ({"model": {}}, "it takes 'models'"),
    ],
)
def test_what_cannot_be_combined_is_named(arguments, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_model("combined", **arguments)


@pytest.mark.slow
def test_the_monocular_networks_graphs_give_what_torch_gives(tmp_path: Path) -> None:
    from perception_core.backends.onnxruntime_backend import load_with_onnxruntime

    model = create_seeded_model("tag_micro", 0, **SMALL["tag_micro"])
    record = TrainingRecord(trained=False, seed=0)
    bundle = write_bundle(model, "tag_micro", tmp_path / "mono", record, graphs=True)
    device = Device(kind="cpu", cores=(0,), backend="onnxruntime")
    for name, spec in bundle.spec.components.items():
        inputs = example_inputs(bundle.spec.input, bundle.spec.tensors, spec)
        for key, value in inputs.items():
            if key.startswith("mono_") and "attention" in key:
                inputs[key] = value.sigmoid()
        plain = load_with_torch(bundle, name, device.model_copy(update={"backend": "torch"})).run(inputs)
        graph = load_with_onnxruntime(bundle, name, device).run(inputs)
        for key, value in plain.items():
            if value.is_floating_point() and "boxes" not in key and "tilt" not in key:
                assert torch.allclose(value, graph[key], rtol=1e-3, atol=1e-3), (name, key)
