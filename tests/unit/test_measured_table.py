"""Measured latencies: the file planning reads, and the measuring itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mmmt_cli.profile import profile_app
from perception_core.bundle import Bundle, TrainingRecord
from perception_core.bundle_identity import bundle_identity
from perception_core.bundle_writer import create_seeded_model, write_bundle
from perception_core.configuration import ConfigurationError
from perception_core.deployment import Deployment
from perception_core.host import available_cores
from perception_core.platform.component_timing import TimingOptions, measure_deployment, time_component
from perception_core.platform.machine import this_machine
from perception_core.platform.measured_table import MeasuredTable, Measurement, Unmeasured

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "fuller-tiny"
SMALL = {
    "grid": {"x_min": -12.8, "x_max": 12.8, "y_min": -12.8, "y_max": 12.8, "cell_size": 1.6},
    "camera": {"image_height": 16, "image_width": 32, "depth_bins": 8},
    "detection": {"queries": 8},
}


def entry(component: str, device: str, backend: str, median_ms: float) -> Measurement:
    return Measurement(
        component=component,
        device=device,
        backend=backend,
        threads=1,
        repeats=3,
        median_ms=median_ms,
        p95_ms=median_ms * 2,
        minimum_ms=median_ms / 2,
    )


def table(bundle: Bundle) -> MeasuredTable:
    return MeasuredTable(
        deployment="two",
        bundle=bundle.spec.name,
        bundle_identity=bundle_identity(bundle.spec),
        machine=this_machine(),
        date="2026-01-01T00:00:00+00:00",
        cameras=6,
        points=1000,
        device_backends={"cpu0": "torch", "cpu1": "openvino", "npu": "tensorrt"},
        entries=(
            entry("lidar_net", "cpu0", "torch", 12.5),
            entry("lidar_net", "cpu0", "onnxruntime", 7.0),
            entry("lidar_net", "cpu1", "openvino", 9.0),
        ),
        unmeasured=(Unmeasured(device="npu", backend="tensorrt", why="no such device"),),
    )


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    bundle = Bundle.open(BUNDLE)
    written = table(bundle)
    written.save(tmp_path / "deep" / "table.json")
    read = MeasuredTable.load(tmp_path / "deep" / "table.json", bundle)
    assert read == written
    assert read.latency_ms("lidar_net", "cpu0") == 12.5
    assert read.latency_ms("lidar_net", "cpu1") == 9.0
    assert read.fastest("lidar_net", "cpu0").backend == "onnxruntime"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["table.json"]


def test_what_is_missing_is_said_with_its_reason() -> None:
    measured = table(Bundle.open(BUNDLE))
    with pytest.raises(ConfigurationError, match=r"no device 'cpu2'; did you mean 'cpu[01]'"):
        measured.latency_ms("lidar_net", "cpu2")
    with pytest.raises(ConfigurationError, match="no component 'lidar_nett'; did you mean 'lidar_net'"):
        measured.latency_ms("lidar_nett", "cpu0")
    with pytest.raises(ConfigurationError, match="on device 'npu' with tensorrt: no such device"):
        measured.latency_ms("lidar_net", "npu")


def test_measurements_of_another_bundle_are_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(BUNDLE)
    measured = table(bundle)
    measured.save(tmp_path / "table.json")
    renamed = bundle.spec.model_copy(update={"name": "other name"})
    assert MeasuredTable.load(tmp_path / "table.json", renamed) == measured
    changed = bundle.spec.model_copy(update={"weights_sha256": "0" * 64})
    with pytest.raises(ConfigurationError, match=r"table\.json: was measured with another bundle"):
        MeasuredTable.load(tmp_path / "table.json", changed)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(ConfigurationError, match="no such file"):
        MeasuredTable.load(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no measurements of `mmmt profile`"):
        MeasuredTable.load(path)
    content = table(Bundle.open(BUNDLE)).model_dump(mode="json")
    path.write_text(json.dumps({**content, "formatt": 1}), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="formatt"):
        MeasuredTable.load(path)


class Counting:
    """A component that only counts its frames."""

    component = "counting"
    torch_device = torch.device("cpu")

    def __init__(self) -> None:
        self.frames = 0

    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.frames += 1
        return {}


def test_repeats_and_budget() -> None:
    runner = Counting()
    assert len(time_component(runner, {}, repeats=7, budget_s=10.0)) == 7
    assert runner.frames == 8  # one more to warm up
    assert len(time_component(Counting(), {}, repeats=10**6, budget_s=0.0)) == 3


def test_a_deployment_is_measured(tmp_path: Path) -> None:
    """Every component on a device that is there; one that is not is said so."""
    model = create_seeded_model("fuller_micro", 0, **SMALL)
    record = TrainingRecord(trained=False, seed=0)
    bundle = write_bundle(model, "fuller_micro", tmp_path / "bundle", record)
    core = available_cores()[0]
    deployment = Deployment.model_validate(
        {
            "name": "test",
            "bundle": str(tmp_path / "bundle"),
            "devices": {
                "cpu0": {"kind": "cpu", "cores": [core], "backend": "torch"},
                "far": {"kind": "cpu", "cores": [4095], "backend": "torch"},
            },
            "processes": {},
            "placement": {},
        }
    )
    options = TimingOptions(repeats=3, cameras=2, points=200, every_backend=False)
    measured = measure_deployment(deployment, bundle, options)
    measured.require_bundle(bundle)
    assert measured.components == tuple(bundle.spec.components)
    for item in measured.entries:
        assert item.device == "cpu0"
        assert item.threads == 1
        assert 0 < item.minimum_ms <= item.median_ms <= item.p95_ms
    assert [item.device for item in measured.unmeasured] == ["far"]
    assert "no core 4095" in measured.unmeasured[0].why
    with pytest.raises(ConfigurationError, match="no core 4095"):
        measured.latency_ms("lidar_net", "far")
    with pytest.raises(ConfigurationError, match="nothing could be measured here"):
        measure_deployment(
            deployment.model_copy(update={"devices": {"far": deployment.devices["far"]}}), bundle, options
        )


@pytest.mark.slow  # runs the demo's network with every runtime
def test_the_command_writes_a_table(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    done = CliRunner().invoke(
        profile_app, ["cpu-1process", "--out", str(out), "--json", "--repeats", "3", "--points", "2000"]
    )
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    measured = MeasuredTable.load(out, Bundle.open(BUNDLE))
    assert MeasuredTable.model_validate_json(done.stdout.strip().splitlines()[-1]) == measured
    backends = {item.backend for item in measured.entries}
    assert {"torch", "onnxruntime", "openvino"} <= backends
