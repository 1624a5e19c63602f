"""One run's corner of the host's shared memory: its iceoryx2 node, who lives in it, and how it is reclaimed.

Every process that uses shared memory in a run holds a lock on a file of its own in the run's folder. The
kernel drops the lock however the process dies, so whoever finds no held lock knows that nobody lives there
and may remove the whole corner.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import iceoryx2 as iox2

from perception_nodes.transport.identity import SHARED_MEMORY_FOLDER, process_token
from perception_nodes.transport.interface import TensorError

#: Seconds between two looks for processes that died without saying goodbye.
CLEANUP_PERIOD_S = 2.0

_log = logging.getLogger(__name__)


def base_folder() -> Path:
    """Returns the folder of all runs of this user, private to that user."""
    base = Path("/tmp") / f"mmmt-transport-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.getuid():
        raise TensorError(f"{base} belongs to another user; remove it or run as that user")
    return base


def run_name(run_id: str) -> str:
    """Returns a file-name-safe and unique form of a run id."""
    readable = re.sub(r"[^A-Za-z0-9-]", "-", run_id)[:32]
    return f"{readable}-{hashlib.sha1(run_id.encode(), usedforsecurity=False).hexdigest()[:10]}"


def segment_prefix(run_id: str) -> str:
    """Returns what the names of a run's segments in /dev/shm begin with."""
    return f"mmmt_{run_name(run_id)}_"


def segments(run_id: str) -> list[Path]:
    """Lists the shared-memory segments of a run that exist now."""
    return sorted(SHARED_MEMORY_FOLDER.glob(f"{segment_prefix(run_id)}*"))


@contextlib.contextmanager
def _runs_locked() -> Iterator[Path]:
    """Serializes coming, going and reclaiming between all processes of the host."""
    base = base_folder()
    with (base / "runs.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield base


def _is_inhabited(folder: Path) -> bool:
    for path in folder.glob("*.owner"):
        try:
            with path.open("r", encoding="ascii") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            continue
    return False


def _remove(folder: Path) -> int:
    removed = 0
    for segment in SHARED_MEMORY_FOLDER.glob(f"mmmt_{folder.name}_*"):
        segment.unlink(missing_ok=True)
        removed += 1
    shutil.rmtree(folder, ignore_errors=True)
    return removed


def reclaim(run_id: str) -> int:
    """Removes everything a run left in shared memory; for the supervisor once the run's processes have ended.

    Processes that still live keep what they use: then only what belonged to dead ones is removed.

    Returns:
        Number of segments removed.
    """
    with _runs_locked() as base:
        folder = base / run_name(run_id)
        if not _is_inhabited(folder):
            return _remove(folder)
    before = len(segments(run_id))
    node = _create_node(run_id, folder)
    node.blocking_cleanup_dead_nodes(iox2.Duration.from_millis(500))
    return max(0, before - len(segments(run_id)))


def sweep_stale_runs() -> int:
    """Removes the shared memory of every run whose processes are all gone; called before a new run begins.

    Returns:
        Number of segments removed.
    """
    removed = 0
    with _runs_locked() as base:
        for folder in base.iterdir():
            if folder.is_dir() and not _is_inhabited(folder):
                removed += _remove(folder)
    if removed:
        _log.info("removed %d shared-memory segments that earlier runs left behind", removed)
    return removed


def _create_node(run_id: str, folder: Path) -> Any:
    config = iox2.config.default()
    config.global_cfg.prefix = iox2.FileName.new(segment_prefix(run_id))
    config.global_cfg.root_path = iox2.Path.new(str(folder / "iceoryx2"))
    return (
        iox2.NodeBuilder.new()
        .config(config)
        .signal_handling_mode(iox2.SignalHandlingMode.Disabled)  # signals belong to rclpy
        .create(iox2.ServiceType.Ipc)
    )


class SharedMemoryRun:
    """This process' membership in a run; obtained by `enter`, shared by its writers and readers.

    Attributes:
        node: The iceoryx2 node.
    """

    def __init__(self, run_id: str) -> None:
        """Registers the process and starts to clean up after dead ones; use `enter` instead."""
        self.run_id = run_id
        self._users = 0
        self._stopped = threading.Event()
        with _runs_locked() as base:
            self._folder = base / run_name(run_id)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._owner_path = self._folder / f"{process_token()}.owner"
            self._owner = self._owner_path.open("w", encoding="ascii")
            fcntl.flock(self._owner, fcntl.LOCK_EX)
        iox2.set_log_level_from_env_or(iox2.LogLevel.Error)
        self.node: Any = _create_node(run_id, self._folder)
        self._thread = threading.Thread(
            target=self._clean_up_after_the_dead, name="shared-memory-cleanup", daemon=True
        )
        self._thread.start()

    @classmethod
    def enter(cls, run_id: str) -> SharedMemoryRun:
        """Returns this process' membership, made on first use; each call needs one `leave`."""
        key = (process_token(), run_id)
        with _memberships_lock:
            run = _memberships.get(key)
            if run is None:
                run = _memberships[key] = cls(run_id)
            run._users += 1
            return run

    def leave(self) -> None:
        """Gives back one `enter`; the last process to leave removes what is left of the run."""
        with _memberships_lock:
            self._users -= 1
            if self._users > 0:
                return
            _memberships.pop((process_token(), self.run_id), None)
        self._stopped.set()
        self._thread.join(timeout=1.0)
        self.node = None
        with _runs_locked():
            self._owner_path.unlink(missing_ok=True)
            self._owner.close()
            if not _is_inhabited(self._folder):
                _remove(self._folder)

    def clean_up_dead(self) -> None:
        """Removes the segments and connections of processes of this run that died."""
        node = self.node
        if node is not None:
            node.try_cleanup_dead_nodes()

    def _clean_up_after_the_dead(self) -> None:
        while not self._stopped.wait(CLEANUP_PERIOD_S):
            self.clean_up_dead()


_memberships: dict[tuple[str, str], SharedMemoryRun] = {}
_memberships_lock = threading.Lock()
