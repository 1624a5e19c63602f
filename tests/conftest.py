"""What every test run needs: a ROS domain of its own, shared memory of its own, and the recordings."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no deadline: how long one takes tells of the machine, not of the code.
settings.register_profile("mmmt", deadline=None, derandomize=True)
settings.load_profile("mmmt")

REPOSITORY = Path(__file__).resolve().parent.parent
ROS_TESTS = REPOSITORY / "tests" / "ros"
#: Tests with real nodes whose outcome does not depend on how busy the machine is. The others start several
#: processes and wait for them to react in time: `make test-all` runs them, on a machine that does nothing
#: else.
ALWAYS_RUN = frozenset({"test_component_chain.py"})
#: Simulations and property tests that take minutes on two slow cores.
NEED_MUCH_TIME = frozenset(
    {
        "test_control_closed_loop.py",
        "test_synth.py",
        "test_synth_adashare.py",
        "test_synth_analytic.py",
        "test_synth_cityscapes3d.py",
        "test_synth_nuscenes.py",
        "test_synth_world.py",
        "test_transport_processes.py",
        "test_models.py",
        "test_backends.py",
        "test_variants.py",
    }
)
#: Tests of training, searches and planning that have not been timed file by file yet. Together they would
#: double what `make test` takes: `make test-all` runs them until each has shown what it costs.
NOT_TIMED_YET = frozenset(
    {
        "test_automtl_compiler.py",
        "test_automtl_policy.py",
        "test_automtl_prototxt.py",
        "test_automtl_search.py",
        "test_codesign.py",
        "test_control_stand_in.py",
        "test_dense_images.py",
        "test_ednas_proxy.py",
        "test_ednas_space.py",
        "test_ednas_study.py",
        "test_fuller_training.py",
        "test_latency_models.py",
        "test_live_replacement_parts.py",
        "test_measured_table.py",
        "test_model_combination.py",
        "test_mono_decoders.py",
        "test_mono_frame.py",
        "test_mono_losses.py",
        "test_mono_training.py",
        "test_object_fusion.py",
        "test_placement_differentiable.py",
        "test_placement_solvers.py",
        "test_plan.py",
        "test_replacement.py",
        "test_schedule.py",
        "test_search_command.py",
        "test_sharing.py",
        "test_synth_image_formats.py",
        "test_tag_decoding.py",
        "test_tag_model.py",
        "test_trainer.py",
    }
)
DOMAINS = range(1, 101)  # above that, Fast DDS's ports run into those the kernel hands out

# Held open as long as this process lives: the lock in it is what keeps the domain ours.
_domain_lock: int | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Seal the run off from other runs and from the network, before anything imports rclpy."""
    global _domain_lock
    domain, _domain_lock = _claim_domain()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["MMMT_RUN_ID"] = f"test_{os.getpid()}_{secrets.token_hex(3)}"
    for name in ("ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER"):
        os.environ.pop(name, None)
    # A failing node's log belongs to the run, not to the home folder.
    os.environ.setdefault("ROS_LOG_DIR", str(Path(tempfile.gettempdir()) / f"ros_log_{os.getuid()}"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files of slow tests unread where slow tests are not asked for: reading them all takes minutes."""
    if collection_path.suffix == ".py" and "not slow" in config.option.markexpr and _is_slow(collection_path):
        return True
    return None


def _is_slow(path: Path) -> bool:
    if ROS_TESTS in path.parents:
        return path.name.startswith("test_") and path.name not in ALWAYS_RUN
    return path.name in NEED_MUCH_TIME | NOT_TIMED_YET


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what lies in tests/ros, and skip what needs a GPU where there is none."""
    for item in items:
        if ROS_TESTS in item.path.parents:
            item.add_marker(pytest.mark.ros)
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    with_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if with_gpu and not _has_cuda():
        for item in with_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _claim_domain() -> tuple[int, int]:
    """Take a ROS domain that no other test run on this machine has; returns it and its lock's descriptor."""
    import fcntl

    start = os.getpid()
    for offset in range(len(DOMAINS)):
        domain = DOMAINS[(start + offset) % len(DOMAINS)]
        path = Path(tempfile.gettempdir()) / f"mmmt_ros_domain_{domain}.lock"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return domain, descriptor
    raise pytest.UsageError(f"all ROS domains of {DOMAINS} are taken by other test runs")


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def ros_domain_id() -> int:
    """The ROS domain of this run, which child processes inherit through the environment."""
    return int(os.environ["ROS_DOMAIN_ID"])


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder with real recordings, which are too large for the repository."""
    folder = Path(os.environ.get("MMMT_RECORDINGS", REPOSITORY.parent / "shared" / "recordings"))
    if not folder.is_dir():
        pytest.skip(f"no recordings: {folder} does not exist (MMMT_RECORDINGS names another folder)")
    return folder
