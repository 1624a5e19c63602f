"""The package's metadata agree with the code: dependencies declared, locked and installable."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = REPOSITORY / "requirements.lock"
VEHICLE = REPOSITORY / "requirements-vehicle.txt"

#: Used where they are installed, done without elsewhere.
OPTIONAL_ROS = {"ackermann_msgs", "autoware_control_msgs"}
ROS_MODULES = re.compile(r"^(rclpy|rcl_interfaces|builtin_interfaces|std_srvs|launch|launch_ros|\w+_msgs)$")


def requirements(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def locked_versions() -> dict[str, str]:
    pairs = (line.split("==") for line in requirements(LOCK))
    return {canonicalize_name(name): version for name, version in pairs}


def test_lock_names_exact_versions_and_nothing_else() -> None:
    odd = [line for line in requirements(LOCK) if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!]+", line)]
    assert not odd


def test_lock_is_for_the_cpu() -> None:
    assert not [name for name in locked_versions() if re.match(r"nvidia|cuda|triton|cupy|tensorrt", name)]


def test_lock_is_what_is_installed() -> None:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the lock is for Python 3.11")
    try:
        installed = {name: metadata.version(name).split("+")[0] for name in locked_versions()}
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"not the environment of the lock: {error}")
    assert installed == locked_versions()


@pytest.mark.parametrize("line", requirements(VEHICLE))
def test_lock_satisfies_what_the_vehicle_asks_for(line: str) -> None:
    requirement = Requirement(line)
    locked = locked_versions()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(locked)


def test_extra_mmdet3d_agrees_with_the_lock(setup_arguments: dict[str, Any]) -> None:
    locked = locked_versions()
    extra = {
        canonicalize_name(Requirement(line).name): line.split("==")[1]
        for line in setup_arguments["extras_require"]["mmdet3d"]
    }
    assert {"mmcv", "mmdet", "mmdet3d", "mmengine-lite"} <= set(extra)
    assert {name: version for name, version in extra.items() if name in locked} == {
        name: locked[name] for name in extra if name in locked
    }


def test_package_xml_names_every_ros_package_in_use() -> None:
    root = ElementTree.parse(REPOSITORY / "package.xml").getroot()
    assert root.get("format") == "3"
    declared = {element.text for element in root.findall("exec_depend")}
    used: set[str] = set()
    for folder in ("perception_nodes", "mmmt_cli", "launch"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            used |= top_level_imports(path)
    # `launch` is also the folder of our own launch files, which nothing imports.
    missing = {name for name in used if ROS_MODULES.match(name)} - declared - OPTIONAL_ROS
    assert not missing, f"package.xml lacks exec_depend of {sorted(missing)}"


def top_level_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.fixture(scope="module")
def setup_arguments() -> dict[str, Any]:
    """What setup.py hands to setuptools for a full install."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr("setuptools.setup", given.update)
        patch.setattr(sys, "argv", ["setup.py", "install"])
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return given


def test_every_shipped_file_is_installed(setup_arguments: dict[str, Any]) -> None:
    installed = {
        f"{Path(folder).relative_to('share')}/{Path(name).name}"
        for folder, names in setup_arguments["data_files"]
        for name in names
    }
    shipped = [
        *(REPOSITORY / "launch").glob("*.py"),
        *(REPOSITORY / "hw_configs").rglob("*.yaml"),
        *(path for path in (REPOSITORY / "bundles").rglob("*") if path.is_file()),
    ]
    for path in shipped:
        assert f"mmmt_perception/{path.relative_to(REPOSITORY)}" in installed
    assert "ament_index/resource_index/packages/mmmt_perception" in installed


def test_every_source_folder_is_installed(setup_arguments: dict[str, Any]) -> None:
    folders = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for package in ("perception_core", "perception_nodes", "training", "mmmt_cli")
        for path in (REPOSITORY / package).rglob("__init__.py")
    }
    assert folders == set(setup_arguments["packages"])


def test_console_scripts_exist(setup_arguments: dict[str, Any]) -> None:
    for script in setup_arguments["entry_points"]["console_scripts"]:
        module, _, attribute = script.partition("=")[2].strip().partition(":")
        source = (REPOSITORY / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        functions = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        assert attribute in functions, script
