"""Backends: the same results whatever runs a component, and clear words where one cannot."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch
import yaml

from perception_core.backends import available_backends, load_component
from perception_core.backends.example_inputs import example_frame
from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationError
from perception_core.deployment import Device
from perception_core.models import create_model
from perception_core.weights import load_component_weights

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "fuller-tiny"
CPU = Device(kind="cpu", cores=(0,))


@pytest.fixture(scope="module", autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(BUNDLE)


@pytest.fixture(scope="module")
def frames(bundle: Bundle):
    """Frames of different sizes with what the eager model, without any backend, makes of them."""
    model = create_model(bundle.spec.model.name, **bundle.spec.model.arguments)
    for name, component in model.components.items():
        load_component_weights(bundle, name, component.network)
    result = []
    for cameras, points in ((2, 3000), (3, 0), (0, 500)):
        frame = example_frame(bundle.spec.input, cameras, points)
        with torch.inference_mode():
            result.append((frame, model(frame)))
    return result


def assert_agrees(bundle: Bundle, frames, device: Device, names=None) -> None:
    """Feeds each component what the eager model's producers made, and compares what it makes of it."""
    for name in names or bundle.spec.components:
        runner = load_component(bundle, name, device)
        assert runner.component == name
        spec = bundle.spec.components[name]
        for frame, expected in frames:
            outputs = runner.run({tensor: {**frame, **expected}[tensor] for tensor in spec.inputs})
            assert list(outputs) == list(spec.outputs)
            for tensor, value in outputs.items():
                assert value.dtype == expected[tensor].dtype
                assert value.shape == expected[tensor].shape
                # 1e-3 of the largest value: sums in another order, normalization folded into weights.
                tolerance = 1e-3 * max(1.0, expected[tensor].abs().max().item())
                assert torch.allclose(value, expected[tensor], atol=tolerance), f"{name}: {tensor}"


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_agrees_with_the_eager_model(bundle: Bundle, frames, backend: str) -> None:
    available, why = available_backends()[backend]
    if not available:
        pytest.skip(why)
    assert_agrees(bundle, frames, CPU.model_copy(update={"backend": backend}))


@pytest.mark.slow
def test_compiled_agrees_with_the_eager_model(bundle: Bundle, frames) -> None:
    available, why = available_backends()["torch_compile"]
    if not available:
        pytest.skip(why)
    assert_agrees(bundle, frames, CPU.model_copy(update={"backend": "torch_compile"}))


@pytest.mark.gpu
def test_gpu_agrees_with_the_eager_model(bundle: Bundle, frames) -> None:
    assert_agrees(bundle, frames, Device(kind="gpu"))


def test_a_runner_uses_as_many_threads_as_its_device_has_cores(bundle: Bundle) -> None:
    """And sets them for the thread it runs on, leaving the rest of the process alone."""
    counts: dict[int, int] = {}

    def work(cores: int) -> None:
        device = Device(kind="cpu", cores=tuple(range(cores)))
        runner = load_component(bundle, "map_segmentation_head", device)
        runner.run({"bev_feature_bchw": torch.zeros(1, 64, 128, 128)})
        counts[cores] = torch.get_num_threads()

    for cores in (1, 2):
        thread = threading.Thread(target=work, args=(cores,))
        thread.start()
        thread.join()
    assert counts == {1: 1, 2: 2}
    assert torch.get_num_threads() == 1


def test_every_backend_of_the_schema_is_accounted_for() -> None:
    backends = available_backends()
    assert set(backends) == set(Device.model_fields["backend"].annotation.__args__)
    assert backends["torch"][0]
    assert all(why for _, why in backends.values())


def damaged(tmp_path: Path, change) -> Bundle:
    path = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    file = path / "bundle.yaml"
    spec = yaml.safe_load(file.read_text())
    change(path, spec)
    file.write_text(yaml.safe_dump(spec))
    return Bundle.open(path)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
class TestExportedGraphs:
    def device(self, backend: str) -> Device:
        available, why = available_backends()[backend]
        if not available:
            pytest.skip(why)
        return CPU.model_copy(update={"backend": backend})

    def test_a_missing_graph_is_never_replaced_silently(self, tmp_path: Path, backend: str) -> None:
        bundle = damaged(tmp_path, lambda _, spec: spec["components"]["bev_fuser"]["exported"].pop(backend))
        with pytest.raises(ConfigurationError, match=f"'bev_fuser' has no graph for backend '{backend}'"):
            load_component(bundle, "bev_fuser", self.device(backend))

    def test_the_bundle_may_say_that_a_component_runs_in_torch(
        self, tmp_path: Path, frames, backend: str
    ) -> None:
        bundle = damaged(
            tmp_path, lambda _, spec: spec["components"]["bev_fuser"].update(exported={backend: "torch"})
        )
        assert_agrees(bundle, frames, self.device(backend), names=["bev_fuser"])

    def test_a_damaged_graph_is_refused(self, tmp_path: Path, backend: str) -> None:
        def cut(path: Path, _) -> None:
            graph = path / "bev_fuser.onnx"
            graph.write_bytes(graph.read_bytes()[:-100])

        with pytest.raises(ConfigurationError, match=r"bev_fuser\.onnx: this is not the graph"):
            load_component(damaged(tmp_path, cut), "bev_fuser", self.device(backend))

    def test_a_graph_that_is_none_is_refused(self, tmp_path: Path, backend: str) -> None:
        def replace(path: Path, spec) -> None:
            graph = path / "bev_fuser.onnx"
            graph.write_bytes(b"not a graph")
            from perception_core.weights import sha256_of

            spec["exported_sha256"][graph.name] = sha256_of(graph)

        with pytest.raises(ConfigurationError, match=r"bev_fuser\.onnx: .* cannot load this graph"):
            load_component(damaged(tmp_path, replace), "bev_fuser", self.device(backend))

    def test_a_missing_file_is_named(self, tmp_path: Path, backend: str) -> None:
        bundle = damaged(tmp_path, lambda path, _: (path / "bev_fuser.onnx").unlink())
        with pytest.raises(ConfigurationError, match=r"graph 'bev_fuser\.onnx' .* is missing"):
            load_component(bundle, "bev_fuser", self.device(backend))

    def test_a_gpu_is_refused(self, bundle: Bundle, backend: str) -> None:
        device = self.device(backend).model_copy(update={"kind": "gpu"})
        with pytest.raises(ConfigurationError, match="runs on cpu devices"):
            load_component(bundle, "bev_fuser", device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_not_there_is_named(bundle: Bundle) -> None:
    with pytest.raises(ConfigurationError, match="sees no CUDA device"):
        load_component(bundle, "bev_fuser", Device(kind="gpu"))


@pytest.mark.parametrize("kind", ["npu", "fpga"])
def test_a_device_torch_cannot_use_is_named(bundle: Bundle, kind: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device of kind '{kind}'"):
        load_component(bundle, "bev_fuser", Device(kind=kind))


def test_tensorrt_says_that_it_is_not_there(bundle: Bundle) -> None:
    with pytest.raises(ConfigurationError, match="no TensorRT backend"):
        load_component(bundle, "bev_fuser", Device(kind="gpu", backend="tensorrt"))
