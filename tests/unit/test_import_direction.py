"""Imports run one way: training → perception_core ← perception_nodes, and mmmt_cli above them all."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("perception_core", "perception_nodes", "training", "mmmt_cli")

ROS = (
    *("rclpy", "rcl_interfaces", "builtin_interfaces", "std_srvs"),
    *("launch", "launch_ros", "tf2_ros", "ament_index_python"),
)
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "perception_core": ("perception_nodes", "training", "mmmt_cli", *ROS),
    "perception_nodes": ("training", "mmmt_cli"),
    "training": ("perception_nodes", "mmmt_cli", *ROS),
    "mmmt_cli": (),
}
#: Packages that may not touch ROS may not touch its messages either.
WITHOUT_MESSAGES = ("perception_core", "training")


def imported_modules(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Find every module a source imports, wherever in the file and in whatever way.

    Args:
        source: Python source.
        package: Dotted name of the package the source lies in, which relative imports start from.

    Yields:
        Line and dotted name of each import.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.lineno, node.module or ""
            else:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                yield node.lineno, ".".join([*parents, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and node.args:
            # import_module("training.synth") is an import as well.
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield node.lineno, name


def offences(source: str, package: str) -> list[str]:
    """List what a source in `package` imports against the direction, as `line: module`."""
    top = package.split(".")[0]
    found = []
    for line, module in imported_modules(source, package):
        root = module.split(".")[0]
        if root in FORBIDDEN[top] or (top in WITHOUT_MESSAGES and root.endswith("_msgs")):
            found.append(f"{line}: {module}")
    return found


def sources(package: str) -> list[Path]:
    return sorted(path for path in (REPOSITORY / package).rglob("*.py"))


def dotted(folder: Path) -> str:
    return ".".join(folder.relative_to(REPOSITORY).parts)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_in_its_direction(package: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{offence}"
        for path in sources(package)
        for offence in offences(path.read_text(encoding="utf-8"), dotted(path.parent))
    ]
    assert not found, "imports against the direction:\n" + "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_source_folder_is_a_package(package: str) -> None:
    # setup.py's find_packages would silently leave a folder without __init__.py out of an installed package.
    missing = {path.parent for path in sources(package) if not (path.parent / "__init__.py").exists()}
    assert not missing


def test_launch_folder_is_no_package() -> None:
    # It would shadow ROS's own `launch` for everything started in the repository's root.
    assert not (REPOSITORY / "launch" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("perception_core", "import rclpy"),
        ("perception_core.models", "def f():\n    from training.losses import x"),
        ("perception_core", "from sensor_msgs.msg import Image"),
        ("perception_core.platform", "from ...perception_nodes import x"),
        ("perception_core", "import importlib\nimportlib.import_module('mmmt_cli.main')"),
        ("perception_nodes.runtime", "import training"),
        ("perception_nodes", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mmmt_cli.main"),
        ("training", "from perception_nodes.transport import x"),
        ("training.synth", "import mmmt_msgs.msg"),
    ],
)
def test_an_import_against_the_direction_is_found(package: str, source: str) -> None:
    assert offences(source, package)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("perception_core.models", "from . import registry\nfrom ..ops import bev_pool\nimport torch"),
        (
            "perception_nodes",
            "import rclpy\nfrom mmmt_msgs.msg import X\nimport perception_core.rig",
        ),
        ("training", "from perception_core import rig"),
        ("mmmt_cli", "import training, perception_nodes, perception_core, rclpy"),
    ],
)
def test_an_import_in_the_direction_passes(package: str, source: str) -> None:
    assert not offences(source, package)
