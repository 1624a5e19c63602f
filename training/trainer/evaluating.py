"""Runs a learner over a data set, on all processes of a distributed run, and judges what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from training.datasets.dataset import SampleDataset
from training.datasets.loading import make_loader
from training.evaluation.accumulate import gather
from training.evaluation.result import Result, write_json
from training.trainer.learner import Learner
from training.trainer.lightning_import import lightning
from training.trainer.module import MultiTaskModule
from training.trainer.sampling import EvaluationBatches

#: Called with (batches done, batches in all).
Progress = Callable[[int, int], None]


def evaluate(
    learner: Learner,
    dataset: SampleDataset,
    *,
    batch_size: int = 1,
    workers: int = 0,
    device: torch.device | str = "cpu",
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Result]:
    """Judges a learner on a data set; in single precision, whatever it is trained in.

    Under torch.distributed every process takes its share of the samples, and all get the same results.

    Args:
        learner: Whose network is on `device`; it is left in the mode it was in.
        dataset: Not augmented.
        batch_size: Samples at once.
        workers: Processes that read samples.
        device: Where the network is.
        limit: Batches of each process at most.
        progress: Told after each batch.

    Returns:
        Results by task; empty for a learner that cannot be judged.
    """
    evaluator = learner.evaluator()
    if evaluator is None:
        return {}
    rank, processes = _place()
    batches = EvaluationBatches(len(dataset), batch_size, rank, processes)
    loader = make_loader(dataset, workers=workers, sampler=batches)
    count = len(batches) if limit is None else min(limit, len(batches))
    network = learner.network
    _share_buffers(network)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            for done, batch in enumerate(loader, start=1):
                learner.evaluate(batch.to(device, non_blocking=True), evaluator)
                if progress is not None:
                    progress(done, count)
                if done == count:
                    break
    finally:
        network.train(was_training)
    return _computed(gather(evaluator), rank)


def _computed(evaluator: Any, rank: int) -> dict[str, Result]:
    """Lets the first process judge, which may take the official tools minutes, and tells the others."""
    results: list[Any] = [evaluator.compute() if rank == 0 else None]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(results, src=0)
    return dict(results[0])


def _place() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _share_buffers(network: torch.nn.Module) -> None:
    """Gives every process the first one's running statistics: those are in the checkpoint."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, src=0)


def headline(results: Mapping[str, Result]) -> dict[str, float]:
    """Returns the headline numbers of results as `task/metric`."""
    return {
        f"{task}/{name}": value
        for task, result in results.items()
        for name, value in result.scalars().items()
    }


class EpochEvaluation(lightning.Callback):
    """Evaluates after every so many epochs and after the last; writes and logs the results.

    Attributes:
        results: Of the last evaluation; None before the first.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        folder: Path,
        *,
        every: int,
        epochs: int,
        batch_size: int,
        workers: int,
        limit: int | None,
        progress: Callable[[str], Progress] | None = None,
    ) -> None:
        self.dataset, self.folder = dataset, folder
        self.every, self.epochs = every, epochs
        self.batch_size, self.workers, self.limit = batch_size, workers, limit
        self.progress = progress
        self.results: dict[str, Result] | None = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Evaluates; comes before the checkpoint, which keeps the headline numbers."""
        epoch = trainer.current_epoch + 1
        if epoch != self.epochs and (self.every == 0 or epoch % self.every):
            return
        assert isinstance(pl_module, MultiTaskModule)
        shown = self.progress("Evaluating") if self.progress and trainer.is_global_zero else None
        self.results = evaluate(
            pl_module.learner,
            self.dataset,
            batch_size=self.batch_size,
            workers=self.workers,
            device=pl_module.device,
            limit=self.limit,
            progress=shown,
        )
        values = headline(self.results)
        # Checkpoints hold plain numbers only.
        pl_module.results = {name: float(value) for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"evaluation/{name}": value for name, value in values.items()}, step=trainer.global_step
            )
        if trainer.is_global_zero:
            content = {"epoch": epoch, "step": trainer.global_step, "results": self.results}
            write_json(self.folder / f"epoch-{epoch:04d}.json", content)
