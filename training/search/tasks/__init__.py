"""What all searches have in common: dense tasks, heads, batches, networks and records."""

from training.search.tasks.batches import BatchSource, DatasetBatches, SearchBatch
from training.search.tasks.heads import AsppHead, aspp_heads
from training.search.tasks.network import MultiTaskNetwork
from training.search.tasks.task import DenseTarget, DenseTask, dense_task

__all__ = [
    "AsppHead",
    "BatchSource",
    "DatasetBatches",
    "DenseTarget",
    "DenseTask",
    "MultiTaskNetwork",
    "SearchBatch",
    "aspp_heads",
    "dense_task",
]
