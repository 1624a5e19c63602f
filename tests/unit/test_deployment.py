"""Deployments: what is refused and how clearly, what overrides do, how processes are expanded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from deployment_fixtures import BUNDLE, DEPLOYMENT, RIG, write_resources

from perception_core.configuration import ConfigurationError
from perception_core.deployment import load_deployment
from perception_core.host import HostFacts, check_host
from perception_core.overrides import parse_overrides, parse_value
from perception_core.resources import names_in, package_root


def line_of(text: str, fragment: str) -> int:
    """Returns the 1-based line of the first line containing `fragment`."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if fragment in line)


def refusal(root: Path, deployment: str = DEPLOYMENT, overrides: tuple[str, ...] = (), **files: str) -> str:
    path = write_resources(root, deployment, **files)
    with pytest.raises(ConfigurationError) as caught:
        load_deployment(path, overrides, [root])
    return str(caught.value)


def test_a_correct_deployment_is_resolved(tmp_path: Path) -> None:
    resolved = load_deployment(write_resources(tmp_path), (), [tmp_path])

    assert resolved.processes == {
        "sensing": ("sensor_fusion",),
        "perception": ("lidar_net", "camera_net", "bev_fuser", "detection3d_head", "map_segmentation_head"),
        "safety": ("latency_monitor", "control"),
    }
    assert resolved.rig.modalities == ("lidar", "camera_front", "camera_back")
    assert resolved.bundle.spec.name == "fuller-tiny"
    assert resolved.cores_of("perception") == (0, 1)
    assert resolved.cores_of("safety") == ()
    assert resolved.notes == ()


# (what is replaced, by what, fragment of the line the error must name, what the message must say)
BAD_FILES = [
    (
        "name: split",
        "name: split\nprocess: 3",
        "process: 3",
        "unknown key 'process'; did you mean 'processes'?",
    ),
    (
        "backend: torch}\nlinks",
        "backnd: torch}\nlinks",
        "cpu1:",
        "unknown key 'backnd'; did you mean 'backend'?",
    ),
    ("kind: cpu, cores: [0]", "kind: cpux, cores: [0]", "cpu0:", "'cpu', 'gpu', 'npu' or 'fpga'"),
    (
        "cores: [1], backend: torch",
        "cores: [1], backend: tensorrt",
        "cpu1:",
        "'tensorrt' does not run on a cpu",
    ),
    ("cores: [1]", "cores: [0]", "cpu1:", "core 0 already belongs to device 'cpu0'"),
    ("cores: [1]", "cores: [-1]", "cpu1:", "core -1 is negative"),
    ("cpu0->cpu1: {", "cpu0->cpu2: {", "cpu0->cpu2", "no device 'cpu2'; did you mean 'cpu1'?"),
    ("cpu0->cpu1: {", "cpu0-cpu1: {", "cpu0-cpu1", "a link is written DEVICE->DEVICE"),
    ("cpu0->cpu1: {", "cpu0->cpu0: {", "cpu0->cpu0", "two different devices"),
    (
        "  bev_fuser: cpu1\n",
        "",
        "placement:",
        "component 'bev_fuser' of bundle 'fuller-tiny' is placed nowhere",
    ),
    ("bev_fuser: cpu1", "bev_fusr: cpu1", "bev_fusr", "no component 'bev_fusr'; did you mean 'bev_fuser'?"),
    (
        "  bev_fuser: cpu1\n",
        "  bev_fuser: cpu1\n  lidar_net: cpu1\n",
        "lidar_net: cpu1",
        "'lidar_net' is written twice",
    ),
    ("bev_fuser: cpu1", "bev_fuser: cpu2", "bev_fuser", "no device 'cpu2'; did you mean 'cpu1'?"),
    (
        "[sensor_fusion]",
        "[sensor_fusin]",
        "sensing:",
        "no node or component 'sensor_fusin'; did you mean 'sensor_fusion'?",
    ),
    ("[sensor_fusion]", "[sensor_fusion, control]", "safety:", "'control' is already in process 'sensing'"),
    (
        "[sensor_fusion]",
        "[sensor_fusion, sensor_fusion]",
        "sensing:",
        "'sensor_fusion' is twice in this process",
    ),
    ("[latency_monitor, control]", "[latency_monitor]", "processes:", "node 'control' is in no process"),
    ("[components]", "[components@cpu1]", "processes:", "component 'lidar_net' is in no process"),
    ("[components]", "[components@cpu3]", "perception:", "no node or component 'components@cpu3'"),
    ("sensing: {executor: single", "sensing: {executor: singel", "sensing:", "'single', 'multi' or 'events'"),
    ("sensing: {", "replay: {", "replay:", "'replay' is the name of a process the launcher adds"),
    ("sensing: {", "sen.sing: {", "sen.sing:", "a name is letters, digits"),
    (
        "sensing: {",
        "sensing: {one_process_per_component: true, ",
        "sensing:",
        "'sensor_fusion' is not a component",
    ),
    ("threads: 3", "threads: 0", "perception:", "greater than 0"),
    ('"lidar->detection3d"', '"lidr->detection3d"', "lidr->", "no modality 'lidr'; did you mean 'lidar'?"),
    ('"lidar->detection3d"', '"lidar->detection3"', "lidar->detection3", "did you mean 'detection3d'?"),
    ('"lidar->detection3d"', '"lidar-detection3d"', "lidar-detection3d", "a path is written MODALITY->TASK"),
    (
        '"lidar->detection3d": 400',
        '"lidar->detection3d": -4',
        "lidar->detection3d",
        "a positive number of milliseconds",
    ),
    ("  control: {", "  contrl: {", "contrl", "no node 'contrl'; did you mean 'control'?"),
    ("engage_on_start: true", "engage_on_start: {a: 1}", "engage_on_start", "a ROS parameter is"),
    ("rig: two-cameras", "rig: two-camera", "rig:", "did you mean 'two-cameras'?"),
    (
        "bundle: bundles/fuller-tiny",
        "bundle: bundles/nothing",
        "bundle:",
        "no bundle folder 'bundles/nothing'",
    ),
    ("rig: two-cameras", "rig: }", "rig: }", "not valid YAML"),
]


@pytest.mark.parametrize(
    ("old", "new", "where", "message"), BAD_FILES, ids=[f"{b[1][:40]!r}" for b in BAD_FILES]
)
def test_a_wrong_file_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, where: str, message: str
) -> None:
    assert old in DEPLOYMENT
    text = DEPLOYMENT.replace(old, new, 1)

    said = refusal(tmp_path, text)

    matching = [line for line in said.splitlines() if message in line]
    assert matching, said
    lines = [int(number) for line in matching for number in re.findall(r"split\.yaml:(\d+):", line)]
    assert lines, said
    assert where in text.splitlines()[lines[0] - 1], said


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = DEPLOYMENT.replace("bev_fuser: cpu1", "bev_fuser: gpu0").replace("[sensor_fusion]", "[sensor]")

    said = refusal(tmp_path, text).splitlines()

    assert any("no device 'gpu0'" in line for line in said)
    assert any("no node or component 'sensor'" in line for line in said)
    assert any("node 'sensor_fusion' is in no process" in line for line in said)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "max_points: 40000",
            "max_points: 40000, needs_lidar: true",
            "it needs a LiDAR and the rig has none",
        ),
        ("max_points: 40000", "max_points: 40000, min_cameras: 4", "at least 4 camera(s) and the rig has 2"),
        ("max_cameras: 6", "max_cameras: 1", "at most 1 camera(s) and the rig has 2"),
    ],
)
def test_a_bundle_that_cannot_run_on_the_rig_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    rig = RIG.replace("lidar: {topic: /lidar/points}\n", "")

    said = refusal(tmp_path, bundle=BUNDLE.replace(old, new), rig=rig)

    assert message in said
    assert "bundle 'fuller-tiny' cannot run on rig 'two-cameras'" in said
    assert f"split.yaml:{line_of(DEPLOYMENT, 'rig:')}" in said


# -- overrides
# -----------------------------------------------------------------------------------------------------------


def test_overrides_are_typed_and_applied(tmp_path: Path) -> None:
    overrides = [
        "placement.detection3d_head:=cpu0",
        "processes.perception.executor:=single",
        "processes.safety.cores:=[1]",
        "processes.safety.environment.LIMIT:=5",
        "devices.cpu0.backend:=onnxruntime",
        "devices.cpu0.power_w.idle:=2",
        "devices.cpu0.power_w.busy:=4.5",
        "links.cpu0->cpu1.latency_us:=12",
        "budgets_ms.lidar->control:=300",
        "budgets_ms.lidar->detection3d:=null",
        "transport.ring_size:=6",
        "parameters.control.engage_on_start:=false",
        "parameters.control.limit.of.something:=1e-3",
        "parameters.sensor_fusion.topics:=[a, b]",
    ]

    resolved = load_deployment(write_resources(tmp_path), overrides, [tmp_path])
    deployment = resolved.deployment

    assert deployment.placement["detection3d_head"] == "cpu0"
    assert deployment.processes["perception"].executor == "single"
    assert resolved.cores_of("safety") == (1,)
    assert deployment.processes["safety"].environment == {"LIMIT": "5"}
    assert deployment.devices["cpu0"].backend == "onnxruntime"
    assert deployment.devices["cpu0"].power_w is not None
    assert deployment.devices["cpu0"].power_w.busy == 4.5
    assert deployment.links["cpu0->cpu1"].latency_us == 12
    assert deployment.budgets_ms == {"*->control": 500, "lidar->control": 300}
    assert deployment.transport.ring_size == 6
    assert deployment.parameters["control"] == {"engage_on_start": False, "limit.of.something": 1e-3}
    assert deployment.parameters["sensor_fusion"] == {"topics": ["a", "b"]}
    assert resolved.overrides == tuple(overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("placement.detection3d_hed:=cpu0", "did you mean 'placement.detection3d_head'?"),
        ("placment.lidar_net:=cpu0", "did you mean 'placement.lidar_net'?"),
        ("placement.lidar_net:=cpu7", "no device 'cpu7'"),
        ("processes.safty.executor:=multi", "did you mean 'processes.safety.executor'?"),
        ("processes.safety.executer:=multi", "did you mean 'processes.safety.executor'?"),
        ("processes.safety.executor:=many", "'single', 'multi' or 'events'"),
        ("devices.cpu0.cores:=none", "devices.cpu0.cores"),
        ("devices.cpu5.backend:=torch", "there is no such key"),
        ("budgets_ms.lidr->control:=3", "did you mean 'budgets_ms.lidar->control'?"),
        ("budgets_ms.lidar->control:=soon", "should be a valid number"),
        ("parameters.contrl.gain:=3", "did you mean 'control'?"),
        ("transport.ring:=3", "did you mean 'transport.ring_size'?"),
        ("nonsense:=3", "forms are: rig:=NAME"),
        ("placement.lidar_net:=[cpu0", "not valid YAML"),
        ("rig:=nowhere", "no rig 'nowhere'"),
        ("bundle:=nowhere", "no bundle folder 'nowhere'"),
    ],
)
def test_a_wrong_override_is_refused_by_name(tmp_path: Path, override: str, message: str) -> None:
    said = refusal(tmp_path, overrides=(override,))

    assert message in said
    assert f"override '{override}'" in said


def test_malformed_override_texts_are_refused() -> None:
    for text in ("placement.lidar_net=cpu0", ":=cpu0", "lidar"):
        with pytest.raises(ConfigurationError, match="is not written KEY:=VALUE"):
            parse_overrides([text])
    with pytest.raises(ConfigurationError, match="given twice: cpu0 and cpu1"):
        parse_overrides(["a:=cpu0", "a:=cpu1"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("2", 2),
        ("2.5", 2.5),
        ("1e3", 1000.0),
        ("-2E-2", -0.02),
        ("[0, 1]", [0, 1]),
        ("cpu0", "cpu0"),
    ],
)
def test_override_values_are_yaml(text: str, value: object) -> None:
    parsed = parse_value(text, "override")
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_budget_for_a_sensor_of_the_files_rig_survives_another_rig(tmp_path: Path) -> None:
    text = DEPLOYMENT.replace('"lidar->detection3d"', '"camera_back->detection3d"')
    path = write_resources(tmp_path, text)
    other = tmp_path / "hw_configs" / "rigs" / "one-camera.yaml"
    other.write_text("name: one-camera\ncameras: {camera_front: {topic: /front}}\n", encoding="utf-8")

    resolved = load_deployment(path, ["rig:=one-camera"], [tmp_path])

    assert resolved.deployment.budgets_ms == {"*->control": 500}
    assert resolved.notes == (
        "budget 'camera_back->detection3d' is not watched: rig 'one-camera' has no camera_back",
    )
    with pytest.raises(ConfigurationError, match="no modality 'camera_back'"):
        load_deployment(
            write_resources(tmp_path / "again", text, rig=other.read_text(encoding="utf-8")),
            (),
            [tmp_path / "again"],
        )


# -- processes
# -----------------------------------------------------------------------------------------------------------


def test_components_of_a_device_go_where_they_are_asked_for(tmp_path: Path) -> None:
    text = DEPLOYMENT.replace(
        "  perception: {executor: multi, threads: 3, nodes: [components]}\n",
        "  heads: {nodes: [detection3d_head]}\n"
        "  on_one: {nodes: [components@cpu1]}\n"
        "  rest: {nodes: [components], one_process_per_component: true}\n",
    )

    resolved = load_deployment(write_resources(tmp_path, text), (), [tmp_path])

    assert resolved.processes == {
        "sensing": ("sensor_fusion",),
        "heads": ("detection3d_head",),
        "on_one": ("bev_fuser", "map_segmentation_head"),
        "rest.lidar_net": ("lidar_net",),
        "rest.camera_net": ("camera_net",),
        "safety": ("latency_monitor", "control"),
    }
    assert resolved.cores_of("on_one") == (1,)
    assert resolved.cores_of("rest.lidar_net") == (0,)


def test_a_process_that_an_override_empties_is_left_out_with_a_note(tmp_path: Path) -> None:
    text = DEPLOYMENT.replace(
        "  perception: {executor: multi, threads: 3, nodes: [components]}\n",
        "  on_zero: {nodes: [components@cpu0]}\n  on_one: {nodes: [components@cpu1]}\n",
    )
    to_one = ["placement.lidar_net:=cpu1", "placement.camera_net:=cpu1"]

    resolved = load_deployment(write_resources(tmp_path, text), to_one, [tmp_path])

    assert "on_zero" not in resolved.processes
    assert len(resolved.processes["on_one"]) == 5
    assert resolved.notes == ("process 'on_zero' has no nodes and is not started",)


def test_one_process_cannot_span_hosts(tmp_path: Path) -> None:
    text = DEPLOYMENT.replace("cores: [1], backend: torch", "cores: [1], backend: torch, host: second")

    said = refusal(tmp_path, text)

    assert "its components are placed on devices of several hosts: local, second" in said


# -- the host -----------------------------------------------------------------------------------------------
# -------------

HOST = HostFacts(cores=(0, 1), gpus=(), modules={"torch"})


def test_a_host_with_all_that_is_needed_is_accepted(tmp_path: Path) -> None:
    check_host(load_deployment(write_resources(tmp_path), (), [tmp_path]), facts=HOST)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["devices.cpu1.cores:=[1, 7]"], ["device 'cpu1' wants core 7, this machine offers 0, 1"]),
        (["processes.safety.cores:=[5]"], ["process 'safety' wants core 5"]),
        (["devices.cpu1.kind:=gpu", "devices.cpu1.cores:=[]"], ["device 'cpu1' is GPU 0, torch sees none"]),
        (
            ["devices.cpu0.backend:=onnxruntime"],
            ["'onnxruntime' of device 'cpu0' needs the module 'onnxruntime'"],
        ),
        (
            ["devices.cpu0.cores:=[4]", "devices.cpu1.backend:=openvino"],
            ["wants core 4", "'openvino' of device 'cpu1' needs"],
        ),
    ],
)
def test_a_host_that_lacks_something_is_refused(
    tmp_path: Path, overrides: list[str], messages: list[str]
) -> None:
    resolved = load_deployment(write_resources(tmp_path), overrides, [tmp_path])

    with pytest.raises(ConfigurationError) as caught:
        check_host(resolved, facts=HOST)

    for message in messages:
        assert message in str(caught.value)


def test_devices_of_other_hosts_are_not_asked_of_this_one(tmp_path: Path) -> None:
    text = (
        DEPLOYMENT.replace("[components]", "[components@cpu0, ]")
        .replace("  safety:", "  far: {nodes: [components@cpu1]}\n  safety:")
        .replace("cores: [1], backend: torch", "cores: [64], backend: torch, host: second")
    )

    resolved = load_deployment(write_resources(tmp_path, text), (), [tmp_path])

    check_host(resolved, facts=HOST)
    assert resolved.host_of("far") == "second"
    assert resolved.host_of("safety") == "local"


# -- what is shipped
# -------------------------------------------------------------------------------------------------------

SHIPPED = names_in("hw_configs", [package_root()])


def test_the_promised_deployments_are_shipped() -> None:
    assert {"cpu-1process", "cpu-2core", "cpu-isolated", "gpu-single", "orin", "gpu-cpu-split"} <= set(
        SHIPPED
    )


@pytest.mark.parametrize("name", sorted(SHIPPED))
@pytest.mark.parametrize("rig", sorted(names_in("hw_configs/rigs", [package_root()])))
def test_every_shipped_deployment_is_correct_with_every_shipped_rig(name: str, rig: str) -> None:
    resolved = load_deployment(SHIPPED[name], [f"rig:={rig}"])

    assert resolved.deployment.name == name
    assert resolved.deployment.description
    placed = [node for nodes in resolved.processes.values() for node in nodes]
    assert sorted(placed) == sorted(
        (*resolved.bundle.spec.components, "sensor_fusion", "latency_monitor", "control")
    )
    assert resolved.deployment.budgets_ms
