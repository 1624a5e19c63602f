"""Variants of a bundle's components: made, compared with fp32, recorded, and run by the backends."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from perception_core.backends import available_backends, load_component
from perception_core.backends.example_inputs import example_frame
from perception_core.backends.exported_graph import graph_of
from perception_core.backends.reduced_precision import ReducedPrecision
from perception_core.bundle import Bundle, TrainingRecord
from perception_core.bundle_writer import create_seeded_model, write_bundle
from perception_core.configuration import ConfigurationError
from perception_core.deployment import Device
from training.export.calibration_frames import CalibrationFrames, FrameChoice
from training.export.dense_calls import DensePartRecorder
from training.export.quantization import RecordedArguments, last_layers
from training.export.variants import VariantReport, add_variants, compared

SMALL = {
    "grid": {"x_min": -12.8, "x_max": 12.8, "y_min": -12.8, "y_max": 12.8, "cell_size": 1.6},
    "camera": {"image_height": 16, "image_width": 32, "depth_bins": 8},
    "detection": {"queries": 8},
}
COMPONENTS = ("camera_net", "bev_fuser")
CPU = Device(kind="cpu", cores=(0,))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    if not available_backends()["onnxruntime"][0]:
        pytest.skip("onnxruntime is not installed")
    folder = tmp_path_factory.mktemp("bundles") / "plain"
    model = create_seeded_model("fuller_micro", 3, **SMALL)
    return write_bundle(model, "fuller_micro", folder, TrainingRecord(trained=False, seed=3), graphs=True)


@pytest.fixture(scope="module")
def made(plain: Bundle) -> tuple[Bundle, tuple[VariantReport, ...]]:
    folder = Path(shutil.copytree(plain.path, plain.path.parent / "made"))
    frames = CalibrationFrames(plain, FrameChoice(calibration=2, comparison=1))
    return add_variants(Bundle.open(folder), ("int8", "bf16"), frames, COMPONENTS)


def test_the_bundle_records_variants_beside_fp32(plain: Bundle, made) -> None:
    bundle, reports = made
    assert [(report.precision, report.component) for report in reports] == [
        (precision, name) for precision in ("bf16", "int8") for name in COMPONENTS
    ]
    for name, spec in bundle.spec.components.items():
        assert spec.exported == plain.spec.components[name].exported
        assert set(spec.variants) == ({"int8", "bf16"} if name in COMPONENTS else set())
        for variant in spec.variants.values():
            # What works is compared with the network, output by output.
            assert variant.errors
            for errors in variant.errors.values():
                for error in errors.values():
                    assert 0 < error.max_rel_error < 0.5
    assert set(bundle.spec.components["bev_fuser"].variants["int8"].errors["onnxruntime"]) == {
        "bev_feature_bchw"
    }
    assert set(bundle.spec.components["camera_net"].variants["int8"].errors["onnxruntime"]) == {
        "image_encoder.0",
        "image_encoder.1",
    }
    assert "2 generated example frames" in bundle.spec.components["bev_fuser"].variants["int8"].calibration
    assert bundle.spec.exported_sha256.keys() > plain.spec.exported_sha256.keys()
    assert not [file for file in bundle.path.iterdir() if file.name.startswith(".")]


def test_integers_are_what_the_graph_computes_in(made) -> None:
    import onnx

    bundle, _ = made
    graph = graph_of(bundle, "bev_fuser", "onnxruntime", "int8")
    assert graph is not None
    model = onnx.load(graph)
    assert [item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8]
    fp32 = graph_of(bundle, "bev_fuser", "onnxruntime")
    assert fp32 is not None
    assert graph.stat().st_size < 0.6 * fp32.stat().st_size


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "int8"), ("torch", "bf16")])
def test_backends_run_the_variant_that_the_deployment_asks_for(made, backend: str, precision: str) -> None:
    bundle, _ = made
    frame = example_frame(bundle.spec.input, 2, 500)
    recorder = DensePartRecorder(bundle)
    calls = recorder.run(frame)
    inputs = dict(zip(("lidar_bev_bchw", "camera_bev_bchw"), calls["bev_fuser"].arguments, strict=True))
    outputs = {}
    for name in ("fp32", precision):
        device = CPU.model_copy(update={"backend": backend, "precision": name})
        outputs[name] = load_component(bundle, "bev_fuser", device).run(inputs)["bev_feature_bchw"]
    assert outputs[precision].dtype == torch.float32
    difference = float((outputs[precision] - outputs["fp32"]).abs().max())
    assert 0 < difference < 0.5 * float(outputs["fp32"].abs().max())


def test_what_is_not_there_is_named(plain: Bundle, made) -> None:
    bundle, _ = made
    int8 = CPU.model_copy(update={"backend": "onnxruntime", "precision": "int8"})
    with pytest.raises(ConfigurationError, match=r"bundle\.yaml: component 'bev_fuser' has no int8 variant"):
        load_component(plain, "bev_fuser", int8)
    with pytest.raises(ConfigurationError, match="backend 'torch' cannot run int8 on a cpu"):
        load_component(bundle, "bev_fuser", int8.model_copy(update={"backend": "torch"}))
    with pytest.raises(ConfigurationError, match="no variant 'int4'"):
        add_variants(bundle, ("int4",), CalibrationFrames(bundle, FrameChoice()))
    with pytest.raises(ConfigurationError, match="no component 'bev_fuzer'"):
        add_variants(bundle, ("bf16",), CalibrationFrames(bundle, FrameChoice()), ("bev_fuzer",))
    with pytest.raises(ConfigurationError, match="at least one frame"):
        CalibrationFrames(bundle, FrameChoice(calibration=0))


def test_integers_need_graphs(tmp_path: Path) -> None:
    model = create_seeded_model("fuller_micro", 3, **SMALL)
    bundle = write_bundle(model, "fuller_micro", tmp_path / "b", TrainingRecord(trained=False, seed=3))
    before = (bundle.path / "bundle.yaml").read_bytes()
    frames = CalibrationFrames(bundle, FrameChoice(calibration=1, comparison=1))
    with pytest.raises(ConfigurationError, match="export the bundle with --graphs"):
        add_variants(bundle, ("int8",), frames)
    assert (bundle.path / "bundle.yaml").read_bytes() == before


def test_calibration_and_comparison_share_no_frame(plain: Bundle) -> None:
    frames = CalibrationFrames(plain, FrameChoice(calibration=5, comparison=3))
    calibrated = [len(frame["points_nc"]) for frame in frames.calibration()]
    other = [len(frame["points_nc"]) for frame in frames.comparison()]
    assert (len(calibrated), len(other)) == (5, 3)
    assert not set(calibrated) & set(other)


def test_reduced_precision_returns_fp32_and_leaves_integers() -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.linear(x)
            return y, y.argmax(dim=-1)

    torch.manual_seed(0)
    module = Both().eval()
    x = torch.randn(4, 8)
    expected = module(x)[0]
    reduced = ReducedPrecision(module, torch.bfloat16)
    assert module.linear.weight.dtype == torch.bfloat16
    found, index = reduced(x)
    assert found.dtype == torch.float32
    assert index.dtype == torch.int64
    assert 0 < float((found - expected).abs().max()) < 0.05


def test_errors_are_the_largest_over_calls_and_infinities_are_none() -> None:
    first, second = torch.tensor([1.0, -4.0]), torch.tensor([2.0])
    (error,) = compared([(first,), (second,)], [(first + 0.1,), (second - 0.5,)])
    assert error.max_abs_error == pytest.approx(0.5)
    assert error.max_rel_error == pytest.approx(0.125)
    with pytest.raises(ArithmeticError, match="not finite"):
        compared([(first,)], [(torch.tensor([1.0, float("inf")]),)])


def test_recorded_arguments_come_back_in_order(tmp_path: Path) -> None:
    recorded = RecordedArguments(tmp_path, ("a", "b"))
    for number in range(3):
        recorded.add((np.full(2, number), np.full(3, -number)))
    for _ in range(2):
        for number in range(3):
            arguments = recorded.get_next()
            assert arguments is not None
            assert arguments["a"].tolist() == [number] * 2
            assert arguments["b"].tolist() == [-number] * 3
        assert recorded.get_next() is None
        recorded.rewind()


def test_last_layers_are_those_no_layer_comes_after() -> None:
    import onnx.helper as helper

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Conv", ["b", "w"], ["c"], name="boxes"),
            helper.make_node("Gemm", ["b", "w"], ["d"], name="hidden"),
            helper.make_node("MatMul", ["d", "w"], ["e"], name="scores"),
            helper.make_node("Sigmoid", ["e"], ["f"], name="sigmoid"),
        ],
        "g",
        [],
        [],
    )
    assert last_layers(graph) == ["boxes", "scores"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "int4"], "no such precision"),
        (["fuller_micro", "--variant", "int8"], "add --graphs"),
        (["--bundle", "nowhere"], "name what to add"),
        (["fuller_micro", "--bundle", "x", "--variant", "bf16"], "leave out MODEL"),
        (["fuller_micro", "--data", "x"], "are for variants"),
    ],
)
def test_options_that_contradict_each_other_write_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    from mmmt_cli.export import export_app

    out = tmp_path / "out"
    result = CliRunner().invoke(export_app, [*arguments, "--out", str(out)])
    assert isinstance(result.exception, ConfigurationError)
    assert message in str(result.exception)
    assert not out.exists()
