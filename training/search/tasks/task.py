"""The dense tasks the searches learn: channels, losses and metrics (AutoMTL and EDNAS, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

from perception_core.configuration import ConfigurationError, nearest
from training.datasets.sample import DENSE_TASKS, IGNORED_CLASS
from training.evaluation.judges import dense_evaluator
from training.evaluation.relative import PAPER_METRICS
from training.losses.jared import jared_loss

#: Output channels of a task's head; segmentation has one a class.
_CHANNELS: Mapping[str, int] = {"depth": 1, "normals": 3, "edges": 1, "keypoints": 1}

DepthLossName = Literal["l1", "jared"]


@dataclass(frozen=True)
class DenseTarget:
    """Labels of one dense task.

    Attributes:
        value: Classes int64 (B, H, W), unit vectors (B, H, W, 3), or values (B, H, W).
        valid_bhw: bool.
    """

    value: torch.Tensor
    valid_bhw: torch.Tensor

    def to(self, device: torch.device | str) -> DenseTarget:
        """Returns it on a device."""
        return DenseTarget(self.value.to(device), self.valid_bhw.to(device))


@dataclass(frozen=True)
class DenseTask:
    """A dense task with its loss and its metrics.

    Attributes:
        name: One of DENSE_TASKS.
        class_names: Of semantic segmentation.
        depth_loss: `l1`, as both papers' baselines, or `jared` (EDNAS, Eq. 8).
        jared_weight: λ of Eq. 8.
    """

    name: str
    class_names: tuple[str, ...] = ()
    depth_loss: DepthLossName = "l1"
    jared_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuses what is no dense task.

        Raises:
            ConfigurationError: The name is unknown, or segmentation has no classes.
        """
        if self.name not in DENSE_TASKS:
            raise ConfigurationError(f"'{self.name}' is no dense task" + nearest(self.name, DENSE_TASKS))
        if self.name == "semantic_segmentation" and not self.class_names:
            raise ConfigurationError("semantic_segmentation needs the names of its classes")

    @property
    def channels(self) -> int:
        """Output channels of the head."""
        return len(self.class_names) or _CHANNELS[self.name]

    def loss(self, prediction_bchw: torch.Tensor, target: DenseTarget) -> torch.Tensor:
        """Returns the loss averaged over valid pixels; 0, with a graph, where there are none.

        Segmentation: cross-entropy. Normals: 1 - cosine of the angle ("the inverse of cosine similarity").
        Others: L1, or JAReD for depth.
        """
        prediction_bchw = prediction_bchw.float()
        valid = target.valid_bhw
        if self.name == "semantic_segmentation":
            valid = valid & (target.value != IGNORED_CLASS)
        if not bool(valid.any()):
            return prediction_bchw.flatten()[:0].sum()
        chosen_nc = prediction_bchw.movedim(1, -1)[valid]
        truth = target.value[valid]
        if self.name == "semantic_segmentation":
            return functional.cross_entropy(chosen_nc, truth.long())
        if self.name == "normals":
            return 1.0 - functional.cosine_similarity(chosen_nc, truth, dim=-1).mean()
        if self.name == "depth" and self.depth_loss == "jared":
            return jared_loss(chosen_nc[:, 0], truth, self.jared_weight)
        return functional.l1_loss(chosen_nc[:, 0], truth)

    def evaluator(self) -> Any:
        """Returns a new evaluator; feed it by `judge`."""
        return dense_evaluator(self.name, self.class_names)

    def judge(self, evaluator: Any, prediction_bchw: torch.Tensor, target: DenseTarget) -> None:
        """Adds a prediction to an evaluator."""
        prediction_bchw = prediction_bchw.float().cpu()
        target = target.to("cpu")
        if self.name == "semantic_segmentation":
            evaluator.update_probabilities(prediction_bchw.softmax(dim=1), target.value, target.valid_bhw)
        elif self.name == "normals":
            evaluator.update(prediction_bchw.movedim(1, -1), target.value, target.valid_bhw)
        else:
            evaluator.update(prediction_bchw[:, 0], target.value, target.valid_bhw)

    def metrics(self, paper: str) -> tuple[str, ...]:
        """Returns the metrics a paper (`automtl`, `ednas`) compares this task by; any other paper's where it
        does not have the task.
        """
        found = PAPER_METRICS[paper].get(self.name) or PAPER_METRICS["automtl"].get(self.name)
        assert found is not None
        return found


def dense_task(
    name: str, class_names: Sequence[str] = (), depth_loss: DepthLossName = "l1", jared_weight: float = 1.0
) -> DenseTask:
    """Makes a task by name; class names are used only by segmentation.

    Raises:
        ConfigurationError: See `DenseTask`.
    """
    return DenseTask(
        name, tuple(class_names) if name == "semantic_segmentation" else (), depth_loss, jared_weight
    )
