"""A torch DataLoader over typed samples, with workers that do not fight for the processor's cores."""

from __future__ import annotations

from typing import Any, cast

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from training.datasets.batch import Batch, collate
from training.datasets.dataset import SampleDataset


def make_loader(
    dataset: SampleDataset,
    batch_size: int = 1,
    *,
    workers: int = 0,
    shuffle: bool = False,
    seed: int = 0,
    sampler: Sampler[list[int]] | None = None,
    pin_memory: bool = False,
    drop_last: bool = False,
) -> DataLoader[Batch]:
    """Creates a loader of `Batch`es.

    Workers start anew each epoch, so that what `set_epoch` of data sets and samplers draws reaches them.

    Args:
        dataset: The data set.
        batch_size: Samples a batch; not used with a sampler.
        workers: Processes that read; 0: this one.
        shuffle: Another order each epoch; the same for the same seed.
        seed: Of the order.
        sampler: Draws the batches itself, e.g. `MixingSampler`.
        pin_memory: Hand batches over in page-locked memory, for a GPU.
        drop_last: Leave out a last batch that is not full.
    """
    # A loader is typed by what it reads; what it hands out is what `collate` makes of that.
    loader: Any
    if sampler is not None:
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=_begin_worker,
        )
        return cast("DataLoader[Batch]", loader)
    order = torch.Generator()
    order.manual_seed(seed)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        generator=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        drop_last=drop_last,
        worker_init_fn=_begin_worker,
    )
    return cast("DataLoader[Batch]", loader)


def _begin_worker(worker: int) -> None:
    """One thread each: the workers themselves are what runs in parallel."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
