"""Build the ROS 2 interface packages into the virtual environment this script runs in.

For machines where ROS 2 comes from wheels. The packages end up in the environment's own prefix, beside the
interfaces the wheels brought: what finds those (the interpreter's `site-packages` for the Python modules, the
wheels' bootstrapper for the shared libraries) then finds ours too, and nobody has to source a set-up file.

A build is skipped while the interface sources and the environment are unchanged. On a machine with a real
ROS 2 this script is not used: `colcon build` in `ros_ws` is all it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = (Path("ros_ws/src/mmmt_msgs"), Path("ros_ws/pip_interfaces/tf2_msgs"))
#: Raise it when a change in this script makes another build of the same sources necessary.
RECIPE = b"3"
SELF_TEST = (
    "from mmmt_msgs.msg import StageTiming; from tf2_msgs.msg import TFMessage; StageTiming(); TFMessage()"
)

# The ROS wheels are built in a manylinux container and their exported CMake targets still name its paths.
# After a set-up that wrote into the cache they come from, they name those of another environment.
FOREIGN_NUMPY = re.compile(
    r"(?<![\w}])/[^\s\";]*/lib/python3\.\d+/site-packages/numpy/(?:_core|core)/include"
)
CONTAINER_PYTHON = re.compile(r"/opt/python/cp\d+-cp\d+t?/include/python3\.\d+t?")


class BuildError(RuntimeError):
    """The interfaces could not be built; the message says what to do."""


def main(argv: list[str] | None = None) -> int:
    """Build what is out of date and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--force", action="store_true", help="build even where nothing has changed")
    parser.add_argument("--verbose", action="store_true", help="show the compiler's output while it builds")
    arguments = parser.parse_args(argv)
    try:
        build(force=arguments.force, verbose=arguments.verbose)
    except BuildError as error:
        print(f"build_interfaces: {error}", file=sys.stderr)
        return 1
    return 0


def build(*, force: bool = False, verbose: bool = False) -> bool:
    """Bring the interface packages in this environment up to date.

    Args:
        force: Build even where nothing has changed.
        verbose: Show the compiler's output while it builds.

    Returns:
        Whether anything had to be built.

    Raises:
        BuildError: A tool is missing or a build step failed.
    """
    prefix = Path(sys.prefix)
    if sys.prefix == sys.base_prefix:
        raise BuildError("run it with a virtual environment's interpreter, for example .venv/bin/python")
    work = prefix / "var" / "ros_interfaces"
    work.mkdir(parents=True, exist_ok=True)
    with _only_one_at_a_time(work / "lock"):
        stamp = work / "stamp"
        fingerprint = _fingerprint()
        if not force and stamp.exists() and stamp.read_text() == fingerprint and _self_test():
            return False
        stamp.unlink(missing_ok=True)
        _require_tools()
        _mend_cmake_paths(prefix / "share")
        stage = work / "stage"
        for folder in (stage, work / "build"):
            shutil.rmtree(folder, ignore_errors=True)
        _run_colcon(work, prefix, stage, verbose=verbose)
        _publish(stage, prefix, work / "manifest")
        if not _self_test():
            raise BuildError(
                f"the packages were built but cannot be imported: {sys.executable} -c '{SELF_TEST}'"
            )
        stamp.write_text(fingerprint)
        return True


@contextlib.contextmanager
def _only_one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fingerprint() -> str:
    """Describe everything the built packages depend on."""
    sources = hashlib.sha256(RECIPE)
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*")):
            if path.is_file():
                sources.update(f"{path.relative_to(REPOSITORY)}\0".encode())
                sources.update(path.read_bytes())
    # Read from the folders' names: opening every distribution's metadata takes seconds.
    site_packages = Path(sysconfig.get_path("purelib"))
    versions = sorted(
        path.name.removesuffix(".dist-info")
        for path in site_packages.glob("*.dist-info")
        if path.name.lower().startswith(("ros_", "colcon_", "numpy-"))
    )
    return json.dumps(
        {"python": sys.version, "prefix": sys.prefix, "sources": sources.hexdigest(), "packages": versions},
        indent=1,
    )


def _self_test() -> bool:
    # A child, because this process may have been started before the libraries existed. The bootstrapper's
    # guard is dropped so that the child computes its library path itself, as a newcomer's interpreter does.
    environment = _clean_environment()
    run = subprocess.run([sys.executable, "-c", SELF_TEST], env=environment, capture_output=True, check=False)
    return run.returncode == 0


def _clean_environment() -> dict[str, str]:
    dropped = {"LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "PYTHONPATH", "PYTHONHOME"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _require_tools() -> None:
    missing = [name for name in ("cmake", "c++", "cc") if shutil.which(name) is None]
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python.h")
    if missing:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(
            f"{', '.join(missing)} not found; on Debian or Ubuntu: "
            f"apt-get install cmake g++ python{version}-dev"
        )


def _mend_cmake_paths(share: Path) -> None:
    import numpy

    python_include = sysconfig.get_path("include")
    numpy_include = numpy.get_include()
    for path in share.rglob("*.cmake"):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        mended = FOREIGN_NUMPY.sub(lambda _: numpy_include, text)
        mended = CONTAINER_PYTHON.sub(lambda _: python_include, mended)
        if mended != text:
            # Not into the file itself: uv installs hard links into its cache, which other environments share.
            beside = path.with_name(path.name + ".mended")
            beside.write_text(mended, encoding="utf-8", errors="surrogateescape")
            beside.replace(path)


def _publish(stage: Path, prefix: Path, manifest: Path) -> None:
    """Move what was built into the environment, and out of it what an earlier build had and this one has not.

    The build itself takes a while and may fail; until it is through, whoever uses the environment keeps the
    old packages. Only the packages' own files move: colcon's set-up scripts beside them would, once sourced,
    put site-packages on PYTHONPATH.
    """
    built = sorted(
        str(path.relative_to(stage))
        for folder in ("include", "lib", "share")
        for path in (stage / folder).rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
    for name in built:
        target = prefix / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Within one file system this replaces the file at once; a process that has the old one open keeps it.
        (stage / name).replace(target)
    earlier = manifest.read_text().splitlines() if manifest.exists() else []
    for name in set(earlier).difference(built):
        (prefix / name).unlink(missing_ok=True)
    manifest.write_text("\n".join(built) + "\n")


def _run_colcon(work: Path, prefix: Path, stage: Path, *, verbose: bool) -> None:
    environment = _clean_environment()
    environment.update(
        VIRTUAL_ENV=str(prefix),
        PATH=f"{prefix / 'bin'}{os.pathsep}{environment.get('PATH', os.defpath)}",
        AMENT_PREFIX_PATH=str(prefix),
        CMAKE_PREFIX_PATH=str(prefix),
        # CMake runs the message generators; ours is the environment whose libraries they need.
        LD_LIBRARY_PATH=str(prefix / "lib"),
        COLCON_LOG_LEVEL="error",
    )
    # Set over what a parent `make` left there: without a -j of ours colcon adds -l as well, and on a machine
    # that is busy with something else the build would wait for it.
    environment["MAKEFLAGS"] = f"-j{os.cpu_count() or 1}"
    for name in ("COLCON_DEFAULTS_FILE", "COLCON_PREFIX_PATH", "ROS_DISTRO"):
        environment.pop(name, None)
    command = [
        *(str(prefix / "bin" / "colcon"), "--log-base", str(work / "log"), "build"),
        *("--base-paths", *(str(REPOSITORY / package) for package in PACKAGES)),
        *("--build-base", str(work / "build"), "--install-base", str(stage), "--merge-install"),
        *("--executor", "sequential"),
        *("--event-handlers", "console_direct+" if verbose else "console_cohesion-"),
        # Ten times a second they look whether a terminal wants to be told something.
        *("status-", "terminal_title-", "desktop_notification-"),
        "--cmake-args",
        # The generated sources are small and their headers large: as one source a library and with little
        # optimization they compile in a fraction of the time. They warn of nothing that could be mended here.
        "-GNinja",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_TESTING=OFF",
        "-DCMAKE_UNITY_BUILD=ON",
        "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0",
        "-DCMAKE_C_FLAGS_RELEASE=-O1 -w",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -w",
        f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DPYTHON_EXECUTABLE={sys.executable}",
        "-DPython3_FIND_VIRTUALENV=ONLY",
        "--no-warn-unused-cli",
    ]
    output = None if verbose else subprocess.PIPE
    # From a folder of its own: colcon would otherwise leave marker files in whatever folder one stands in.
    run = subprocess.run(
        command, cwd=work, env=environment, check=False, text=True, stdout=output, stderr=subprocess.STDOUT
    )
    if run.returncode != 0:
        raise BuildError(f"colcon failed with status {run.returncode}\n{run.stdout or ''}")


if __name__ == "__main__":
    sys.exit(main())
