"""Which precision a component runs in: said in the deployment, held by the bundle, refused with words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from deployment_fixtures import BUNDLE, DEPLOYMENT, write_resources

from perception_core.bundle import BundleSpec
from perception_core.bundle_identity import bundle_identity
from perception_core.configuration import ConfigurationError
from perception_core.deployment import load_deployment
from perception_core.platform.machine import this_machine
from perception_core.platform.measured_table import MeasuredTable, Measurement
from perception_core.precision import PRECISIONS, precisions_of, why_not

VARIANTS = {
    "bf16": {"exported": {"torch": "torch", "torch_compile": "torch", "openvino": "fuser.onnx"}},
    "int8": {
        "exported": {"onnxruntime": "fuser.int8.onnx"},
        "calibration": "32 frames",
        "errors": {"onnxruntime": {"bev_bchw": {"max_abs_error": 0.5, "max_rel_error": 0.01}}},
    },
}


def bundle_text(components: tuple[str, ...] = ("bev_fuser",)) -> str:
    spec = yaml.safe_load(BUNDLE)
    for name in components:
        spec["components"][name]["variants"] = VARIANTS
    return yaml.safe_dump(spec)


def deployment_text(**changes: object) -> str:
    content = yaml.safe_load(DEPLOYMENT)
    for key, value in changes.items():
        section, _, entry = key.partition("__")
        if entry:
            content[section][entry] |= value
        else:
            content[section] = value
    return yaml.safe_dump(content)


def test_a_component_gets_its_own_precision_or_its_device_s(tmp_path: Path) -> None:
    everything = ("lidar_net", "camera_net", "bev_fuser", "detection3d_head", "map_segmentation_head")
    path = write_resources(
        tmp_path,
        deployment_text(devices__cpu1={"precision": "bf16"}, precision={"map_segmentation_head": "fp32"}),
        bundle=bundle_text(everything),
    )
    deployment = load_deployment(path, search_paths=[tmp_path]).deployment
    assert {name: deployment.device_for(name).precision for name in everything} == {
        "lidar_net": "fp32",
        "camera_net": "fp32",
        "bev_fuser": "bf16",
        "detection3d_head": "bf16",
        "map_segmentation_head": "fp32",
    }


def test_it_can_be_overridden(tmp_path: Path) -> None:
    path = write_resources(tmp_path, bundle=bundle_text())
    overrides = ["precision.bev_fuser:=int8", "devices.cpu1.backend:=onnxruntime"]
    deployment = load_deployment(path, overrides, [tmp_path]).deployment
    assert deployment.device_for("bev_fuser").precision == "int8"
    assert deployment.device_for("detection3d_head").precision == "fp32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"precision": {"bev_fuser": "int8"}},
            (
                r"split\.yaml:\d+: precision\.bev_fuser: backend 'torch' cannot run int8 on a cpu .* "
                "int8 runs with onnxruntime on a cpu, openvino on a cpu"
            ),
        ),
        (
            {"precision": {"lidar_net": "bf16"}},
            (
                r"component 'lidar_net' has no bf16 variant \(it has no variants\); add it with `mmmt export "
                "--variant bf16`"
            ),
        ),
        (
            {"precision": {"bev_fuser": "int8"}, "devices__cpu1": {"backend": "openvino"}},
            "component 'bev_fuser' has its int8 variant for onnxruntime, not for 'openvino'",
        ),
        (
            {"devices__cpu1": {"precision": "bf16"}},
            (
                r"devices\.cpu1\.precision: component 'detection3d_head' has no bf16 variant .* write "
                r"precision: \{detection3d_head: fp32\}"
            ),
        ),
        ({"precision": {"bev_fuzer": "bf16"}}, "no component 'bev_fuzer'; did you mean 'bev_fuser'"),
        ({"precision": {"bev_fuser": "fp8"}}, "'fp32', 'bf16', 'fp16' or 'int8'"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_resources(tmp_path, deployment_text(**changes), bundle=bundle_text())
    with pytest.raises(ConfigurationError, match=message):
        load_deployment(path, search_paths=[tmp_path])


def test_a_bundle_without_variants_is_as_before(tmp_path: Path) -> None:
    resolved = load_deployment(write_resources(tmp_path), search_paths=[tmp_path])
    assert all(not spec.variants for spec in resolved.bundle.spec.components.values())
    assert {device.precision for device in resolved.deployment.devices.values()} == {"fp32"}
    # A new key with its default makes no older measurement void.
    assert "variants" not in str(resolved.bundle.spec.model_dump(exclude_defaults=True))


def test_how_good_a_variant_was_found_to_be_is_no_part_of_the_bundle_s_identity() -> None:
    content = yaml.safe_load(bundle_text())
    before = bundle_identity(BundleSpec.model_validate(content))
    variant = content["components"]["bev_fuser"]["variants"]["int8"]
    variant["metrics"] = {"detection3d/mean_ap": {"fp32": 0.5, "variant": 0.4}}
    variant["calibration"] = "64 frames"
    assert bundle_identity(BundleSpec.model_validate(content)) == before
    variant["exported"]["openvino"] = "fuser.int8.onnx"
    assert bundle_identity(BundleSpec.model_validate(content)) != before


def test_full_precision_is_no_variant() -> None:
    content = yaml.safe_load(BUNDLE)
    content["components"]["bev_fuser"]["variants"] = {"fp32": {"exported": {}}}
    with pytest.raises(ValueError, match="fp32 is the component itself"):
        BundleSpec.model_validate(content)


def test_every_precision_runs_somewhere_and_why_not_agrees() -> None:
    ways = [(b, k) for b in ("torch", "torch_compile", "onnxruntime", "openvino") for k in ("cpu", "gpu")]
    for precision in PRECISIONS:
        able = [way for way in ways if precision in precisions_of(*way)]
        assert able
        for way in ways:
            assert (why_not(precision, *way) is None) == (way in able)


def test_a_table_answers_for_the_precision_of_the_deployment() -> None:
    def entry(component: str, precision: str, median_ms: float) -> Measurement:
        return Measurement.model_validate(
            {
                "component": component,
                "device": "cpu0",
                "backend": "onnxruntime",
                "precision": precision,
                "threads": 1,
                "repeats": 3,
                "median_ms": median_ms,
                "p95_ms": median_ms,
                "minimum_ms": median_ms,
            }
        )

    table = MeasuredTable.model_validate(
        {
            "deployment": "one",
            "bundle": "b",
            "bundle_identity": "0",
            "machine": this_machine(),
            "date": "2026-01-01T00:00:00+00:00",
            "cameras": 6,
            "points": 100,
            "device_backends": {"cpu0": "onnxruntime"},
            "component_precisions": {"camera_net": "int8"},
            "entries": (
                entry("camera_net", "fp32", 9.0),
                entry("camera_net", "int8", 4.0),
                entry("bev_fuser", "fp32", 7.0),
            ),
        }
    )
    assert table.latency_ms("camera_net", "cpu0") == 4.0
    assert table.latency_ms("bev_fuser", "cpu0") == 7.0
    assert table.measurement("camera_net", "cpu0", precision="fp32").median_ms == 9.0
    assert table.fastest("camera_net", "cpu0").precision == "int8"
    assert table.fastest("camera_net", "cpu0", "fp32").median_ms == 9.0
    with pytest.raises(ConfigurationError, match=r"'bev_fuser' was not measured .* in bf16"):
        table.measurement("bev_fuser", "cpu0", precision="bf16")
