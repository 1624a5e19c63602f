"""Bundles on disk: written the same every time, and refused clearly when damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from perception_core.backends.torch_backend import build_component
from perception_core.bundle import Bundle, TrainingRecord
from perception_core.bundle_writer import create_seeded_model, write_bundle
from perception_core.configuration import ConfigurationError
from perception_core.models import create_model
from perception_core.weights import sha256_of

REPOSITORY = Path(__file__).resolve().parents[2]
RECORD = TrainingRecord(trained=False, seed=3)
SMALL = {
    "grid": {"x_min": -12.8, "x_max": 12.8, "y_min": -12.8, "y_max": 12.8, "cell_size": 0.8},
    "camera": {"image_height": 32, "image_width": 64, "depth_bins": 12, "depth_max": 16.0},
    "detection": {"queries": 16},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "small"
    write_bundle(create_seeded_model("fuller_tiny", 3, **SMALL), "fuller_tiny", path, RECORD)
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A bundle a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def rewrite_weights(path: Path, change) -> None:
    """Changes the tensors and signs them, as if they had been exported that way."""
    weights = path / "weights.safetensors"
    tensors = safetensors.torch.load(weights.read_bytes())
    weights.write_bytes(safetensors.torch.save(change(tensors)))
    rewrite_spec(path, lambda spec: {**spec, "weights_sha256": sha256_of(weights)})


def rewrite_spec(path: Path, change) -> None:
    file = path / "bundle.yaml"
    file.write_text(yaml.safe_dump(change(yaml.safe_load(file.read_text()))))


def test_the_same_model_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "small"
    write_bundle(create_seeded_model("fuller_tiny", 3, **SMALL), "fuller_tiny", again, RECORD)
    assert sorted(file.name for file in again.iterdir()) == ["bundle.yaml", "weights.safetensors"]
    for file in again.iterdir():
        assert file.read_bytes() == (written / file.name).read_bytes(), file.name


def test_what_is_read_is_what_was_written(written: Path) -> None:
    bundle = Bundle.open(written)
    model = create_seeded_model("fuller_tiny", 3, **SMALL)
    assert bundle.spec.components == model.component_specs()
    assert bundle.spec.tensors == model.tensor_specs()
    assert bundle.spec.training == RECORD
    assert bundle.task_heads() == {
        "detection3d": "detection3d_head",
        "map_segmentation": "map_segmentation_head",
    }
    for name, component in model.components.items():
        built, spec = build_component(bundle, name)
        assert spec == bundle.spec.components[name]
        for key, tensor in component.network.state_dict().items():
            assert torch.equal(built.network.state_dict()[key], tensor), f"{name}.{key}"


def test_an_export_that_fails_leaves_the_earlier_bundle(copy: Path, monkeypatch) -> None:
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    model = create_seeded_model("fuller_tiny", 4, **SMALL)
    monkeypatch.setattr(model, "tensor_specs", dict)  # a graph with holes
    with pytest.raises(ValueError, match="not listed under 'tensors'"):
        write_bundle(model, "fuller_tiny", copy, RECORD)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert list(copy.parent.iterdir()) == [copy]


@pytest.mark.parametrize("size", [0, 4, 1000, -1])
def test_truncated_weights_are_refused(copy: Path, size: int) -> None:
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ConfigurationError, match=r"weights\.safetensors: SHA-256 .* damaged"):
        build_component(Bundle.open(copy), "lidar_net")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 64, b"\x10" + bytes(7) + b"not json at all!"],
    ids=["empty", "header of a huge size", "header that is no JSON"],
)
def test_signed_garbage_is_refused(copy: Path, content: bytes) -> None:
    weights = copy / "weights.safetensors"
    weights.write_bytes(content)
    rewrite_spec(copy, lambda spec: {**spec, "weights_sha256": sha256_of(weights)})
    with pytest.raises(ConfigurationError, match=r"weights\.safetensors: weights cannot be read"):
        build_component(Bundle.open(copy), "lidar_net")


def test_missing_weights_are_named(copy: Path) -> None:
    (copy / "weights.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"'weights\.safetensors' is missing"):
        Bundle.open(copy)


def test_tensors_that_do_not_fit_are_named(copy: Path) -> None:
    def rename(tensors):
        tensors["bev_fuser.frist.convolution.weight"] = tensors.pop("bev_fuser.first.convolution.weight")
        return tensors

    rewrite_weights(copy, rename)
    with pytest.raises(ConfigurationError) as error:
        build_component(Bundle.open(copy), "bev_fuser")
    assert "component 'bev_fuser'" in str(error.value)
    assert "lacks 'first.convolution.weight'; did you mean 'frist.convolution.weight'" in str(error.value)
    build_component(Bundle.open(copy), "lidar_net")  # other components do not suffer


def test_tensors_of_another_shape_are_named(copy: Path) -> None:
    key = "bev_fuser.first.convolution.weight"
    rewrite_weights(copy, lambda tensors: {**tensors, key: tensors[key][:, :-1].contiguous()})
    with pytest.raises(
        ConfigurationError, match=r"has shape \(48, 87, 3, 3\), the model needs \(48, 88, 3, 3\)"
    ):
        build_component(Bundle.open(copy), "bev_fuser")


def test_a_component_without_weights_is_named(copy: Path) -> None:
    rewrite_weights(
        copy, lambda tensors: {k: t for k, t in tensors.items() if not k.startswith("lidar_net.")}
    )
    with pytest.raises(ConfigurationError, match="no weights of component 'lidar_net'"):
        build_component(Bundle.open(copy), "lidar_net")


def test_an_unknown_component_is_named(written: Path) -> None:
    with pytest.raises(ConfigurationError, match="no component 'lidar_ned'; did you mean 'lidar_net'"):
        build_component(Bundle.open(written), "lidar_ned")


def test_a_model_this_version_lacks_is_named(copy: Path) -> None:
    rewrite_spec(copy, lambda spec: {**spec, "model": {"name": "fuller_tidy", "arguments": {}}})
    with pytest.raises(ConfigurationError, match="unknown model 'fuller_tidy'; did you mean 'fuller_tiny'"):
        build_component(Bundle.open(copy), "lidar_net")


def test_a_signature_of_another_version_is_refused(copy: Path) -> None:
    def swap(spec):
        spec["components"]["bev_fuser"]["inputs"].reverse()
        return spec

    rewrite_spec(copy, swap)
    with pytest.raises(ConfigurationError, match="component 'bev_fuser' is listed as"):
        build_component(Bundle.open(copy), "bev_fuser")


def test_the_shipped_bundle_is_what_its_command_makes(tmp_path: Path) -> None:
    """Names and shapes of `mmmt export fuller_tiny --seed 0 --graphs`: torch's draws differ by version."""
    shipped = Bundle.open(REPOSITORY / "bundles" / "fuller-tiny")
    model = create_seeded_model("fuller_tiny", 0)
    assert not shipped.spec.training.trained
    # Its arguments may be fewer than today's: what they leave out has kept its meaning.
    built = create_model(shipped.spec.model.name, **shipped.spec.model.arguments)
    assert built.configuration() == model.configuration()
    for name, spec in model.component_specs().items():
        graph = f"{name}.onnx"
        expected = spec.model_copy(update={"exported": {"onnxruntime": graph, "openvino": graph}})
        assert shipped.spec.components[name] == expected
        build_component(shipped, name)
