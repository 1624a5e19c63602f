"""The ROS wheels' CMake files are made to point at this environment, without touching what others share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy
import pytest

from perception_core.resources import package_root

TARGETS = """set_target_properties(messages::py PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${_IMPORT_PREFIX}/include/messages;PATH;/usr/include/python3.11"
)
"""


@pytest.fixture(scope="module")
def build_interfaces() -> ModuleType:
    path = package_root() / "tools" / "build_interfaces.py"
    spec = importlib.util.spec_from_file_location("build_interfaces", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "lay_at",
    [
        "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include",
        "/home/somebody/clone/.venv/lib/python3.11/site-packages/numpy/core/include",
    ],
)
def test_numpy_is_that_of_this_environment(build_interfaces: ModuleType, tmp_path: Path, lay_at: str) -> None:
    cached, installed = tmp_path / "cache.cmake", tmp_path / "share" / "targets.cmake"
    cached.write_text(TARGETS.replace("PATH", lay_at))
    installed.parent.mkdir()
    os.link(cached, installed)

    for _ in range(2):  # the second time there is nothing left to do
        build_interfaces._mend_cmake_paths(installed.parent)

        assert installed.read_text() == TARGETS.replace("PATH", numpy.get_include())
        assert cached.read_text() == TARGETS.replace("PATH", lay_at), "the installer's cache was written to"
        assert [path.name for path in installed.parent.iterdir()] == ["targets.cmake"]
