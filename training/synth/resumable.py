"""Data sets that are made scene by scene: in parallel, taken up again after a kill, never with half a scene.

A scene is rendered into a folder of its own; its files move to their places when all are there, and its
record last of all: a scene counts only when `.synth/scenes/<name>.json` exists.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from perception_core.configuration import ConfigurationError

#: Called with (images or keyframes done, in all).
Progress = Callable[[int, int], None]
#: Called after each of them.
Step = Callable[[], None]
Scene = TypeVar("Scene")

_STATE = ".synth"
_LARGEST_POOL = 32


@dataclass(frozen=True)
class SceneFolder:
    """Where a data set's scenes are made.

    Attributes:
        folder: The data set.
    """

    folder: Path

    @property
    def _unfinished(self) -> Path:
        return self.folder / _STATE / "unfinished"

    def _record(self, scene: str) -> Path:
        return self.folder / _STATE / "scenes" / f"{scene}.json"

    def claim(self, wanted: Mapping[str, Any]) -> None:
        """Makes the folder ours, or takes it up again.

        Args:
            wanted: Everything that decides what is written; plain JSON.

        Raises:
            ConfigurationError: The folder holds something else, or was begun with other options.
        """
        record = self.folder / _STATE / "options.json"
        if record.is_file():
            try:
                found = json.loads(record.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ConfigurationError(
                    f"{record}: not readable ({error}); choose another folder"
                ) from error
            if found != wanted:
                names = sorted(
                    name for name in {*wanted, *found} if found.get(name, ...) != wanted.get(name, ...)
                )
                raise ConfigurationError(
                    f"{self.folder}: was begun with other options ({', '.join(names)}); "
                    "choose another folder or the same options"
                )
        elif self.folder.exists() and not self._is_free():
            raise ConfigurationError(
                f"{self.folder}: holds something else; choose a folder that is empty or absent"
            )
        else:
            self._write(record, json.dumps(wanted))
        self.drop_unfinished()

    def _is_free(self) -> bool:
        # a kill right at the beginning leaves our own folder and nothing else
        return self.folder.is_dir() and all(path.name == _STATE for path in self.folder.iterdir())

    def is_finished(self, scene: str) -> bool:
        """Tells whether a scene counts."""
        return self._record(scene).is_file()

    def content(self, scene: str) -> Any:
        """Returns what `finish` was told of a finished scene."""
        return json.loads(self._record(scene).read_text(encoding="utf-8"))

    def workshop(self, scene: str) -> Path:
        """Returns an empty folder to render a scene (or anything else of that name) into."""
        folder = self._unfinished / scene
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def finish(self, scene: str, content: Any, last: str = "") -> None:
        """Moves a scene's files to their places and makes it count.

        Args:
            scene: Rendered into its workshop.
            content: Record of the scene, plain JSON.
            last: Top folder that is moved after all others: its files are those by which readers find the
                rest.
        """
        workshop = self._unfinished / scene
        for path in sorted(workshop.rglob("*"), key=lambda path: (_top(path, workshop) == last, path)):
            target = self.folder / path.relative_to(workshop)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                path.replace(target)
        self._write(self._record(scene), json.dumps(content))
        shutil.rmtree(workshop)

    def publish(self, name: str, text: str) -> None:
        """Writes a file of the whole data set, such as its list of files; whole or not at all.

        Args:
            name: In the data set's folder.
            text: Its content.
        """
        self._write(self.folder / name, text)

    def _write(self, path: Path, text: str) -> None:
        # begun among what is dropped after a kill, so that no leftover lies beside the data
        beside = self._unfinished / f"{path.name}.{os.getpid()}"
        beside.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)

    def drop_unfinished(self) -> None:
        """Removes what an interrupted run left."""
        shutil.rmtree(self._unfinished, ignore_errors=True)


def _top(path: Path, folder: Path) -> str:
    return path.relative_to(folder).parts[0]


# -- in parallel ---------------------------------------------------------------------------------------------


def render_all(
    job: Callable[[Scene, Step], None], scenes: Sequence[Scene], processes: int | None, step: Step
) -> None:
    """Renders scenes, in processes of their own where there are several.

    Args:
        job: Renders one and calls its second argument after each image; it must be picklable.
        scenes: What it is called with.
        processes: At most so many; None: one per core this process may use.
        step: Called once for each image, in this process.
    """
    if processes is None:
        processes = min(len(os.sched_getaffinity(0)), _LARGEST_POOL)
    processes = min(processes, len(scenes))
    if processes <= 1:
        for scene in scenes:
            job(scene, step)
        return
    # spawned, not forked: Open3D's thread pool does not survive a fork
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin_process, initargs=(counter,)
    ) as pool:
        pending: set[Future[None]] = {pool.submit(_run_in_process, job, scene) for scene in scenes}
        seen = 0
        try:
            while pending:
                finished_now, pending = wait(pending, timeout=0.3, return_when=FIRST_COMPLETED)
                for future in finished_now:
                    future.result()
                for _ in range(counter.value - seen):
                    seen += 1
                    step()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_images_done: Any = None


def _begin_process(counter: Any) -> None:
    global _images_done
    _images_done = counter


def _count_image() -> None:
    with _images_done.get_lock():
        _images_done.value += 1


def _run_in_process(job: Callable[[Any, Step], None], scene: Any) -> None:
    job(scene, _count_image)
