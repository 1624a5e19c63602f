"""`mmmt plan`: from measurements to a deployment that can be launched, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from deployment_fixtures import BUNDLE, write_resources
from hypothesis import given
from hypothesis import strategies as st

from mmmt_cli.plan_latency import Measurements
from perception_core import resources
from perception_core.configuration import ConfigurationError
from perception_core.deployment import load_deployment
from perception_core.deployment_for_bundle import load_for_bundle
from perception_core.deployment_writer import write_deployment
from perception_core.platform.component_latency import TableLatency
from perception_core.platform.component_work import edge_bytes, tensor_bytes, weight_bytes, work_of_bundle
from perception_core.platform.devices import (
    list_presets,
    load_platform,
    platform_of,
    unsourced_figures,
)
from perception_core.platform.fpga import FpgaFabric, FpgaImplementation, implement
from perception_core.platform.placement.build import HOST, HardwareLoss, HostTimes, build_problem
from perception_core.platform.placement.greedy import GreedySolver
from perception_core.platform.placement_plan import BudgetError, plan_placement
from perception_core.platform.refit import RefittedLatency, alike_devices, path_offsets
from perception_core.platform.run_observations import check_same_bundle, read_run
from perception_core.platform.task_graph import CAMERA_PREPROCESSING, task_graph

STAGES_MS = {
    "lidar_net": ("cpu0", 20.0),
    "camera_net": ("cpu0", 60.0),
    "bev_fuser": ("cpu1", 30.0),
    "detection3d_head": ("cpu1", 20.0),
    "map_segmentation_head": ("cpu1", 10.0),
    "sensor_fusion": ("", 15.0),
}


def summary(bundle: str = "fuller-tiny", count: int = 40, **stages_ms: float) -> dict[str, Any]:
    """A run's summary.json, as far as planning reads it."""
    figures = {
        name: {"process": "p", "device": device, "count": count, "run_p50_ms": stages_ms.get(name, run_ms)}
        for name, (device, run_ms) in STAGES_MS.items()
    }
    # 15 ms of sensor fusion, both nets on cpu0 one after the other, then fuser and heads
    paths = {
        "lidar->detection3d": {"count": count, "p50_ms": 160.0},
        "camera_front->map_segmentation": {"count": count, "p50_ms": 175.0},
        "camera_back->control": {"count": 1, "p50_ms": 999.0},
    }
    return {"recording": "r", "bundle": bundle, "deployment": "split", "stages": figures, "paths": paths}


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment with two alike CPU devices in a resource folder of its own."""
    path = write_resources(tmp_path / "root")
    monkeypatch.setattr(resources, "package_root", lambda: tmp_path / "root")
    monkeypatch.setattr("perception_core.deployment_writer.package_root", lambda: tmp_path / "root")
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary()), encoding="utf-8")
    return folder


def run_plan(*arguments: str) -> str:
    """What the command prints; its errors pass through."""
    from typer.testing import CliRunner

    from mmmt_cli.plan import plan_app

    result = CliRunner().invoke(plan_app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


# -- the command


def test_a_run_is_planned_anew_and_the_file_can_be_launched(
    deployment: Path, run_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "planned.yaml"
    text = run_plan(
        str(deployment), "--measured", str(run_folder), "--out", str(out), "--solver", "greedy", "--json"
    )
    found = json.loads(text)
    # The nets ran one after the other on cpu0; side by side the slower one alone is waited for.
    assert found["placement"]["lidar_net"] != found["placement"]["camera_net"]
    assert found["gain_ms"] == pytest.approx(175.0 - 142.3, abs=0.5)
    # What the run took beyond its own schedule is expected again.
    assert found["before"]["path_ms"]["lidar->detection3d"] == pytest.approx(160.0, abs=0.01)
    planned = load_deployment(out)
    assert planned.deployment.placement == found["placement"]
    assert planned.deployment.name == "planned"
    assert planned.bundle.path == load_deployment(deployment).bundle.path
    assert "Planned from deployment 'split'" in out.read_text(encoding="utf-8")


def test_tables_are_printed_for_people(deployment: Path, run_folder: Path) -> None:
    text = run_plan(str(deployment), "--measured", str(run_folder), "--solver", "greedy")
    assert "predicted gain" in text
    assert "longest path" in text


def test_what_is_kept_stays(deployment: Path, run_folder: Path) -> None:
    text = run_plan(
        str(deployment), "--measured", str(run_folder), "--solver", "greedy", "--json",
        "--keep", "lidar_net", "--keep", "camera_net",
    )  # fmt: skip
    placement = json.loads(text)["placement"]
    assert (placement["lidar_net"], placement["camera_net"]) == ("cpu0", "cpu0")
    with pytest.raises(ConfigurationError, match="did you mean 'lidar_net'"):
        run_plan(str(deployment), "--measured", str(run_folder), "--keep", "lidar_nett")


def test_a_budget_nothing_can_meet_is_refused_and_nothing_written(
    deployment: Path, run_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "planned.yaml"
    with pytest.raises(BudgetError, match=r"lidar->detection3d would take .* ms of its 50 ms"):
        run_plan(
            str(deployment), "budgets_ms.lidar->detection3d:=50", "--measured", str(run_folder),
            "--out", str(out), "--solver", "greedy",
        )  # fmt: skip
    assert not out.exists()
    run_plan(
        str(deployment), "budgets_ms.lidar->detection3d:=50", "--measured", str(run_folder),
        "--solver", "greedy", "--ignore-budgets",
    )  # fmt: skip


def test_average_power_needs_a_period(deployment: Path, run_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="--period-ms"):
        run_plan(str(deployment), "--measured", str(run_folder), "--power", "average")
    with pytest.raises(ConfigurationError, match="--power much"):
        run_plan(str(deployment), "--measured", str(run_folder), "--power", "much")


# -- what was measured


def test_a_run_of_another_bundle_is_refused(deployment: Path, run_folder: Path) -> None:
    (run_folder / "summary.json").write_text(json.dumps(summary("tag-tiny")), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="measured with bundle 'tag-tiny', not with 'fuller-tiny'"):
        run_plan(str(deployment), "--measured", str(run_folder))
    wrong = summary()
    wrong["stages"]["mono_backbone"] = wrong["stages"].pop("camera_net")
    (run_folder / "summary.json").write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="'mono_backbone' is no component of bundle 'fuller-tiny'"):
        run_plan(str(deployment), "--measured", str(run_folder))


def test_too_short_a_run_and_other_files_are_refused(deployment: Path, tmp_path: Path) -> None:
    short = tmp_path / "summary.json"
    short.write_text(json.dumps(summary(count=2)), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="let the stack run longer"):
        read_run(short)
    with pytest.raises(ConfigurationError, match="no such file"):
        run_plan(str(deployment), "--measured", str(tmp_path / "absent.json"))
    other = tmp_path / "notes.txt"
    other.write_text("nothing", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"neither a run's summary.json"):
        read_run(other)


def timing(stage: str, device: str, took_ms: float, task: str = "", **changes: Any) -> str:
    """A line of the latency monitor's record."""
    done_ns = 10**9 + round(took_ms * 1e6)
    line = {
        "trace_id": 1, "stage": stage, "task": task, "host": "h", "queued_ns": 10**9, "started_ns": 10**9,
        "done_ns": done_ns, "compute_ns": 0, "outcome": "DONE", "detail": "", "device": device,
        "process": "p",
        "sensors": [["lidar", True, 10**9 - 5_000_000, 2_000_000], ["camera_front", False, 0, 0]],
    }  # fmt: skip
    return json.dumps(line | changes)


def test_a_record_of_timings_is_read_up_to_where_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "timings.jsonl"
    lines = [timing("detection3d_head", "cpu1", took, "detection3d") for took in (10, 12, 14, 11, 13, 12)]
    lines += [timing("detection3d_head", "cpu1", 0, outcome="DROPPED")]
    path.write_text("\n".join(lines) + '\n{"trace_id": 7, "sta', encoding="utf-8")
    run = read_run(path)
    assert run.stages["detection3d_head"].run_ms == pytest.approx(12.0)
    assert run.stages["detection3d_head"].count == 6
    # from the sensor's stamp: 2 ms old when received, 5 ms before the head began
    assert run.path_ms == {"lidar->detection3d": pytest.approx(12.0 + 5.0 + 2.0)}


def test_what_came_before_a_re_placement_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "timings.jsonl"
    lines = [timing("camera_net", "cpu0", 50) for _ in range(6)] + [
        timing("camera_net", "cpu1", 20) for _ in range(6)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    seen = read_run(path).stages["camera_net"]
    assert (seen.device, seen.run_ms) == ("cpu1", pytest.approx(20.0))


# -- refitting


def test_measured_latencies_stand_and_others_are_corrected_by_what_they_share() -> None:
    base = TableLatency({(c, d): ms for c, ms in (("a", 10.0), ("b", 20.0)) for d in ("slow", "fast")})
    refitted = RefittedLatency(base, {("a", "slow"): 20.0, ("b", "slow"): 40.0})
    assert refitted.latency_ms("a", "slow") == 20.0
    # Both components missed by the same factor: that is the device, not the components.
    assert refitted.device_factor["slow"] == pytest.approx(2.0, rel=0.1)
    assert refitted.latency_ms("a", "fast") == pytest.approx(10.0, rel=0.1)
    assert RefittedLatency(None, {}).latency_ms("a", "slow") is None


def test_a_device_of_the_same_make_is_as_fast(deployment: Path) -> None:
    devices = load_deployment(deployment).deployment.devices
    alike = alike_devices(devices)
    assert alike == {"cpu0": ("cpu1",), "cpu1": ("cpu0",)}
    assert RefittedLatency(None, {("a", "cpu0"): 7.0}, alike).latency_ms("a", "cpu1") == pytest.approx(7.0)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), st.floats(0.5, 500), min_size=1
    )
)
def test_refitting_never_changes_what_was_measured(measured: dict[tuple[str, str], float]) -> None:
    base = TableLatency({(c, d): 10.0 for c in "abc" for d in "xyz"})
    refitted = RefittedLatency(base, measured)
    assert all(refitted.latency_ms(c, d) == ms for (c, d), ms in measured.items())
    assert all(0.0 < (refitted.latency_ms(c, d) or 0.0) < math.inf for c in "abc" for d in "xyz")


# -- graph, work and platform


def test_graph_of_a_bundle_on_a_rig(deployment: Path) -> None:
    resolved = load_deployment(deployment)
    spec, rig = resolved.bundle.spec, resolved.rig
    work = work_of_bundle(resolved.bundle, rig)
    graph = task_graph(spec, rig, work, {"*->detection3d": 300.0})
    assert list(graph.stages) == ["sensor_fusion", *spec.components, "control"]
    assert graph.stages["bev_fuser"].feeds_from == {"lidar_net": 2**20, "camera_net": 2**20}
    assert graph.stages["control"].feeds_from == {"detection3d_head": 0}
    budgets = {path.name: path.budget_ms for path in graph.paths}
    assert budgets["camera_back->detection3d"] == 300.0
    assert budgets["lidar->control"] is None
    assert len(graph.paths) == 3 * 3  # modalities: lidar and two cameras; tasks: detection, map and control
    split = task_graph(spec, rig, work, split_preprocessing=True)
    assert split.stages["camera_net"].feeds_from == {CAMERA_PREPROCESSING: 2 * 128 * 352 * 3 + 2}


def test_bytes_of_tensors(deployment: Path) -> None:
    resolved = load_deployment(deployment)
    spec = resolved.bundle.spec
    assert tensor_bytes("images_vhwc", spec, 2) == 2 * 128 * 352 * 3
    assert tensor_bytes("points_nc", spec, 2) == 40_000 * 5 * 4
    assert edge_bytes(spec, 2, "bev_fuser", "detection3d_head") == 2**20
    assert weight_bytes(resolved.bundle) == {}
    shipped = load_deployment("cpu-2core", search_paths=[Path(__file__).parents[2]])
    sizes = weight_bytes(shipped.bundle)
    assert set(sizes) == set(shipped.bundle.spec.components)
    file_size = (shipped.bundle.path / shipped.bundle.spec.weights).stat().st_size
    assert 0.9 * file_size < sum(sizes.values()) < file_size


def test_every_figure_of_a_preset_names_its_source() -> None:
    assert set(list_presets()) == {"cpu-2core", "orin-like", "gpu+cpu", "gpu+dla+fpga"}
    for name in list_presets():
        assert unsourced_figures(load_platform(name)) == [], name


def test_unknown_platform_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'orin-like'"):
        load_platform("orin-lik")


def test_pre_processing_can_be_placed_where_a_device_does_it(deployment: Path) -> None:
    resolved = load_deployment(deployment)
    graph = task_graph(resolved.bundle.spec, resolved.rig, {}, split_preprocessing=True)
    table = {
        (stage, device): 10.0 for stage in resolved.bundle.spec.components for device in ("cpu0", "cpu1")
    }
    table[CAMERA_PREPROCESSING, "cpu1"] = 3.0
    host = HostTimes({CAMERA_PREPROCESSING: 25.0, "lidar_preprocessing": 4.0})
    problem = build_problem(graph, platform_of(resolved.deployment), TableLatency(table), None, host)
    number = problem.stages.index(CAMERA_PREPROCESSING)
    assert {problem.devices[d].name for d in problem.choices[number]} == {"cpu1", HOST}
    found = GreedySolver().solve(problem)
    assert problem.devices[found.placement[number]].name == "cpu1"


def test_a_plan_never_moves_without_a_gain(deployment: Path) -> None:
    resolved = load_deployment(deployment)
    graph = task_graph(resolved.bundle.spec, resolved.rig, {})
    table = TableLatency({(c, d): 10.0 for c in resolved.bundle.spec.components for d in ("cpu0", "cpu1")})
    problem = build_problem(graph, platform_of(resolved.deployment), table, HardwareLoss(gamma2=0.0))
    best = plan_placement(problem, resolved.deployment.placement, GreedySolver())
    again = plan_placement(problem, best.after, GreedySolver())
    assert again.moves == {}
    assert again.gain_ms == 0.0


def test_offsets_are_what_the_schedule_does_not_explain(deployment: Path, run_folder: Path) -> None:
    resolved = load_deployment(deployment)
    run = read_run(run_folder)
    check_same_bundle(run, resolved.bundle.spec)
    graph = task_graph(resolved.bundle.spec, resolved.rig, {})
    table = TableLatency({(stage, device): ms for stage, (device, ms) in STAGES_MS.items() if device})
    problem = build_problem(
        graph, platform_of(resolved.deployment), table, HardwareLoss(), HostTimes({"sensor_fusion": 15.0})
    )
    offsets = path_offsets(problem, run)
    # sensor fusion 15, LiDAR 20, camera 60, link < 1, fuser 30, detection 20, map 10
    assert offsets["lidar->detection3d"] == pytest.approx(160 - 145, abs=0.5)
    assert offsets["camera_front->map_segmentation"] == pytest.approx(175 - 155, abs=0.5)
    assert offsets["camera_back->detection3d"] == offsets["lidar->detection3d"]


# -- deployments for other bundles, and writing them


def test_a_bundle_with_other_components_gets_places_to_begin_with(deployment: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    text = BUNDLE.replace("name: fuller-tiny", "name: other", 1).replace("map_segmentation", "depth")
    (other / "bundle.yaml").write_text(text, encoding="utf-8")
    (other / "weights.safetensors").write_bytes(b"")
    resolved, notes = load_for_bundle(str(deployment), ["budgets_ms.lidar->control:=400"], other)
    assert resolved.deployment.placement["depth_head"] == "cpu0"
    assert "map_segmentation_head" not in resolved.deployment.placement
    assert any("depth_head is not placed" in note for note in notes)


def test_a_deployment_that_does_not_fit_replaces_nothing(deployment: Path, tmp_path: Path) -> None:
    resolved = load_deployment(deployment)
    out = tmp_path / "kept.yaml"
    out.write_text("kept", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no device 'gpu9'"):
        write_deployment(resolved, resolved.deployment.placement | {"lidar_net": "gpu9"}, out)
    assert out.read_text(encoding="utf-8") == "kept"
    assert list(tmp_path.glob(".*unfinished*")) == []
    with pytest.raises(ConfigurationError, match=r"ends in .yaml"):
        write_deployment(resolved, resolved.deployment.placement, tmp_path / "kept.txt")


def test_what_was_written_says_the_same_as_what_was_read(deployment: Path, tmp_path: Path) -> None:
    resolved = load_deployment(deployment)
    written = write_deployment(resolved, resolved.deployment.placement, tmp_path / "same.yaml", name="split")
    before = resolved.deployment.model_copy(update={"rig": "", "bundle": ""})
    assert written.deployment.model_copy(update={"rig": "", "bundle": ""}) == before
    assert written.rig_path == resolved.rig_path


# -- FPGA


def test_an_fpga_is_as_fast_as_its_implementation() -> None:
    device = load_platform("gpu+dla+fpga").devices["fpga0"]
    fabric = FpgaFabric(dsp_blocks=1000, clock_mhz=300, efficiency=0.3, static_w=3, watts_per_block=0.01)
    wide = implement(device, fabric, FpgaImplementation(parallelism=800, bits=16))
    narrow = implement(device, fabric, FpgaImplementation(parallelism=800, bits=8))
    assert wide.compute is not None
    assert narrow.compute is not None
    assert wide.compute.multiply_adds_per_s == pytest.approx(800 * 300e6)
    assert narrow.compute.multiply_adds_per_s == pytest.approx(2 * 800 * 300e6)
    assert (wide.busy_w, narrow.busy_w) == (pytest.approx(11.0), pytest.approx(7.0))
    with pytest.raises(ConfigurationError, match="needs 2000 multiplier blocks"):
        implement(device, fabric, FpgaImplementation(parallelism=2000, bits=8))
    with pytest.raises(ConfigurationError, match="16, 8 bits"):
        implement(device, fabric, FpgaImplementation(parallelism=100, bits=4))


def test_measurements_read_runs(deployment: Path, run_folder: Path) -> None:
    found = Measurements.read([run_folder], load_deployment(deployment))
    assert len(found.runs) == 1
    assert found.tables == ()


def test_a_run_on_devices_of_another_deployment_is_refused(deployment: Path, run_folder: Path) -> None:
    wrong = summary()
    wrong["stages"]["bev_fuser"]["device"] = "gpu0"
    (run_folder / "summary.json").write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="measured on device 'gpu0', which deployment 'split'"):
        run_plan(str(deployment), "--measured", str(run_folder))
