"""The root package `mmmt_perception`: colcon builds it as ament_python on a ROS machine, pip elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import find_packages, setup

NAME = "mmmt_perception"
TOP_LEVEL = ("perception_core", "perception_nodes", "training", "mmmt_cli")
# colcon runs this file from the repository root, but pip may not.
ROOT = Path(__file__).resolve().parent


def shared_files() -> list[tuple[str, list[str]]]:
    """List what goes to `share/mmmt_perception`: launch files, deployments, rigs and bundles.

    An editable install needs none of it, since the source tree is found first. Copies in the environment
    would only go stale and keep offering what has been deleted.
    """
    if "editable_wheel" in sys.argv:
        return []
    share = Path("share") / NAME
    wanted = [
        *(Path("launch").glob("*.py") if Path("launch").is_dir() else ()),
        *(path for folder in ("hw_configs", "bundles") for path in Path(folder).rglob("*") if path.is_file()),
    ]
    by_folder: dict[str, list[str]] = {
        "share/ament_index/resource_index/packages": [f"resource/{NAME}"],
        str(share): ["package.xml", "README.md"] if Path("README.md").exists() else ["package.xml"],
    }
    for path in sorted(wanted):
        by_folder.setdefault(str(share / path.parent), []).append(str(path))
    return sorted(by_folder.items())


def package_data() -> dict[str, list[str]]:
    """List the files beside the Python modules (report templates, profiles), which setuptools leaves out."""
    data: dict[str, list[str]] = {}
    for package in TOP_LEVEL:
        files = [
            str(path.relative_to(package))
            for path in Path(package).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
        ]
        data[package] = sorted(files)
    return data


def requirements(name: str = "requirements-vehicle.txt") -> list[str]:
    """Read what the vehicle side needs, or an extra; the offline side has the lock file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name=NAME,
    version="0.1.0",
    description="Multi-task, multi-sensor perception on ROS 2, measured end to end, placed device by device.",
    license="Apache-2.0",
    maintainer="MMMT Perception maintainers",
    maintainer_email="maintainers@mmmt-perception.invalid",
    python_requires=">=3.10",
    packages=find_packages(include=[pattern for name in TOP_LEVEL for pattern in (name, f"{name}.*")]),
    package_data=package_data(),
    data_files=shared_files(),
    install_requires=requirements(),
    extras_require={"mmdet3d": requirements("requirements-mmdet3d.txt")},
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "mmmt = mmmt_cli.main:main",
            "mmmt_process = perception_nodes.runtime.process:main",
            "mmmt_recorder = perception_nodes.report.recorder:main",
        ],
    },
)
