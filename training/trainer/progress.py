"""The bar of a training run on standard error: epoch, step, losses, and the evaluation in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.trainer.lightning_import import lightning


class TrainingProgress(lightning.Callback):
    """Shows a bar of the whole run; only the first process shows it."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._training: Any = None
        self._losses = ""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the bar at the step the run is at."""
        if not trainer.is_global_zero:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._training = self._bar.add_task(
            "Training", total=pl_module.total_steps, completed=trainer.global_step, losses=""
        )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar after each step."""
        if self._bar is not None:
            self._bar.update(
                self._training,
                completed=trainer.global_step,
                description=f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
                losses=pl_module.shown_losses,
            )

    def begin(self, title: str) -> Callable[[int, int], None]:
        """Adds a bar that goes away when it is full; returns what moves it."""
        if self._bar is None:
            return lambda done, total: None
        bar = self._bar
        task = bar.add_task(title, total=None, losses="")

        def move(done: int, total: int) -> None:
            if done >= total:
                bar.remove_task(task)
            else:
                bar.update(task, completed=done, total=total)

        return move

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends the bar."""
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Ends the bar, so that the message stands on a line of its own."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
