"""Which cores threads may run on: pinning a process, and what the kernel says of every thread."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perception_core.configuration import ConfigurationError


@dataclass(frozen=True)
class ThreadAffinity:
    """What the kernel says of one thread.

    Attributes:
        thread_id: Kernel thread id.
        name: Thread name.
        cores: Cores it may run on.
    """

    thread_id: int
    name: str
    cores: tuple[int, ...]


def pin_process(cores: Iterable[int]) -> None:
    """Pins the calling process; threads started later inherit it, so call this before anything starts
    threads.

    Args:
        cores: CPU cores; none: leave the process as it is.

    Raises:
        ConfigurationError: A core does not exist here.
    """
    wanted = set(cores)
    if not wanted:
        return
    missing = wanted - os.sched_getaffinity(0)
    if missing:
        there = sorted(os.sched_getaffinity(0))
        raise ConfigurationError(f"cannot pin to core {sorted(missing)}: this process may use {there} only")
    os.sched_setaffinity(0, wanted)


def thread_affinities(pid: int | str = "self") -> list[ThreadAffinity]:
    """Reads the affinity of every thread of a process from /proc.

    Args:
        pid: Process id.

    Raises:
        ProcessLookupError: There is no such process.
    """
    folder = Path(f"/proc/{pid}/task")
    if not folder.is_dir():
        raise ProcessLookupError(f"no process {pid}")
    found = []
    for task in sorted(folder.iterdir(), key=lambda path: int(path.name)):
        try:
            text = (task / "status").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended while we looked
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        cores = parse_core_list(fields["Cpus_allowed_list"].strip())
        found.append(ThreadAffinity(int(task.name), fields["Name"].strip(), cores))
    return found


def parse_core_list(text: str) -> tuple[int, ...]:
    """Reads the kernel's list notation, e.g. `0-2,5` is (0, 1, 2, 5)."""
    cores: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cores.extend(range(int(first), int(last or first) + 1))
    return tuple(cores)


def describe_affinities(threads: Iterable[ThreadAffinity]) -> str:
    """Summarizes threads by cores for a log line, e.g. `9 threads on 0; device-cpu0 on 0`."""
    by_cores: dict[tuple[int, ...], list[str]] = {}
    for thread in threads:
        by_cores.setdefault(thread.cores, []).append(thread.name)
    return "; ".join(
        f"{len(names)} thread(s) on cores {','.join(map(str, cores))}"
        for cores, names in sorted(by_cores.items())
    )
