"""Evaluators fed with samples and a bundle's outputs, one a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from perception_core.boxes import Box3D
from training.datasets.sample import DENSE_TASKS, BevMasks, Sample
from training.evaluation.bev_maps import BevMapEvaluator, BevMapResult, ForegroundMapResult
from training.evaluation.bundle_outputs import OfflineBundle, Tensors, mask_grid, read_boxes, read_dense
from training.evaluation.cityscapes3d_detection import Cityscapes3dEvaluator, VehicleBox
from training.evaluation.control import ControlEvaluator
from training.evaluation.depth import DepthEvaluator
from training.evaluation.normals import NormalsEvaluator
from training.evaluation.nuscenes_detection import NuscenesDetectionEvaluator
from training.evaluation.pixel_error import EdgesResult, KeypointsResult, PixelErrorEvaluator
from training.evaluation.result import EvaluationError, Result
from training.evaluation.semantic import SegmentationEvaluator


class Judge(ABC):
    """Judges one task of a bundle.

    Attributes:
        task: The task.
    """

    def __init__(self, task: str, model: OfflineBundle) -> None:
        """Prepares for the outputs of a model's head."""
        self.task = task
        self.spec = model.head(task)

    @abstractmethod
    def update(self, sample: Sample, outputs: Tensors) -> None:
        """Adds a sample that has the task's label, with what the bundle said of it."""

    @abstractmethod
    def compute(self) -> Result:
        """Returns the result over everything seen so far."""


class NuscenesBoxJudge(Judge):
    """`detection3d` by the devkit, which needs the data set's tables at the end."""

    def __init__(
        self,
        task: str,
        model: OfflineBundle,
        compute: Callable[[NuscenesDetectionEvaluator], Result],
    ) -> None:
        """Takes what judges the collected boxes."""
        super().__init__(task, model)
        self.evaluator = NuscenesDetectionEvaluator()
        self._labels = model.labels(task)
        self._compute = compute

    def update(self, sample: Sample, outputs: Tensors) -> None:
        """Collects boxes."""
        if sample.world_from_ego_44 is None:
            raise EvaluationError(f"sample {sample.provenance.token} has no pose in the world")
        self.evaluator.update(sample.provenance.token, self.boxes(outputs), sample.world_from_ego_44)

    def boxes(self, outputs: Tensors) -> list[Box3D]:
        """Returns a frame's boxes."""
        return read_boxes(self.spec, self._labels, outputs)

    def compute(self) -> Result:
        """Lets the devkit judge."""
        return self._compute(self.evaluator)


class Cityscapes3dBoxJudge(Judge):
    """`mono_detection3d` by Cityscapes' scripts; samples are named as images are."""

    def __init__(
        self, task: str, model: OfflineBundle, compute: Callable[[Cityscapes3dEvaluator], Result]
    ) -> None:
        """Takes what judges the collected boxes."""
        super().__init__(task, model)
        self.evaluator = Cityscapes3dEvaluator()
        self._labels = model.labels(task)
        self._compute = compute

    def update(self, sample: Sample, outputs: Tensors) -> None:
        """Collects boxes; a fourth output of the head holds their pitch and roll."""
        pitch_roll_q2 = None
        spec = self.spec
        if len(spec.outputs) == 4:
            pitch_roll_q2 = outputs[spec.outputs[3]].double().numpy()
            spec = spec.model_copy(update={"outputs": spec.outputs[:3]})
        boxes = []
        boxes_q9, scores_q, labels_q = (outputs[name] for name in spec.outputs)
        for index in range(len(boxes_q9)):
            one = read_boxes(
                spec,
                self._labels,
                dict(
                    zip(
                        spec.outputs,
                        (
                            boxes_q9[index : index + 1],
                            scores_q[index : index + 1],
                            labels_q[index : index + 1],
                        ),
                        strict=True,
                    )
                ),
            )
            angles = (0.0, 0.0) if pitch_roll_q2 is None else pitch_roll_q2[index]
            boxes += [
                VehicleBox.from_angles(box.label, box.score, (*box.centre, *box.size, box.yaw), angles)
                for box in one
            ]
        self.evaluator.update(sample.provenance.token, boxes)

    def compute(self) -> Result:
        """Lets the scripts judge."""
        return self._compute(self.evaluator)


class MaskJudge(Judge):
    """`map_segmentation` and `foreground_segmentation`."""

    def __init__(self, task: str, model: OfflineBundle) -> None:
        """Takes class names and grid from the bundle."""
        super().__init__(task, model)
        self._labels = model.labels(task)
        self._grid = mask_grid(model.bundle, self.spec)
        result = ForegroundMapResult if task == "foreground_segmentation" else BevMapResult
        self._evaluator = BevMapEvaluator(self._labels, result=result)

    def update(self, sample: Sample, outputs: Tensors) -> None:
        """Adds a sample's masks."""
        self._evaluator.update(outputs[self.spec.outputs[0]], self.truth(sample))

    def truth(self, sample: Sample) -> torch.Tensor:
        """Returns the masks of the bundle's classes, bool [K, H, W].

        Raises:
            EvaluationError: The sample's masks lie on another grid or lack a class.
        """
        masks = sample.map_masks if self.task == "map_segmentation" else sample.foreground_masks
        assert isinstance(masks, BevMasks)
        if masks.grid != self._grid:
            raise EvaluationError(
                f"{self.task}: the data set's masks lie on {masks.grid}, the bundle's head on {self._grid}; "
                "open the data set with the bundle's grid"
            )
        missing = [name for name in self._labels if name not in masks.class_names]
        if missing:
            raise EvaluationError(
                f"{self.task}: the data set has no masks of {', '.join(missing)}, only of "
                f"{', '.join(masks.class_names)}"
            )
        order = [masks.class_names.index(name) for name in self._labels]
        return torch.from_numpy(masks.masks_khw[order])

    def compute(self) -> Result:
        """Returns the result over everything seen so far."""
        return self._evaluator.compute()


class ControlJudge(Judge):
    """`control`."""

    def __init__(self, task: str, model: OfflineBundle) -> None:
        """Reads the number of waypoints from the bundle."""
        super().__init__(task, model)
        if len(self.spec.outputs) != 3:
            raise EvaluationError(
                f"a control head has outputs steering, speed, waypoints, not {list(self.spec.outputs)}"
            )
        self._evaluator: ControlEvaluator | None = None

    def update(self, sample: Sample, outputs: Tensors) -> None:
        """Adds a sample's proposal."""
        truth = sample.control
        assert truth is not None
        steering, speed, waypoints_k2 = (outputs[name] for name in self.spec.outputs)
        if self._evaluator is None:
            self._evaluator = ControlEvaluator(len(truth.waypoints_k2))
        self._evaluator.update(
            (steering.reshape(1), speed.reshape(1), waypoints_k2.reshape(1, -1, 2)),
            ([truth.steering_rad], [truth.speed_mps], truth.waypoints_k2[np.newaxis]),
            truth.waypoint_valid_k[np.newaxis],
            steering_valid_b=[truth.steering_valid],
        )

    def compute(self) -> Result:
        """Returns the result over everything seen so far."""
        return (self._evaluator or ControlEvaluator(0)).compute()


class DenseJudge(Judge):
    """The dense tasks of images."""

    def __init__(self, task: str, model: OfflineBundle) -> None:
        """Takes class names from the bundle."""
        super().__init__(task, model)
        self._labels = model.labels(task) if task == "semantic_segmentation" else ()
        self._evaluator = dense_evaluator(task, self._labels)

    def update(self, sample: Sample, outputs: Tensors) -> None:
        """Adds a sample's images."""
        label = getattr(sample.dense, self.task)
        height, width = label.valid.shape[1:]
        if self._labels and sample.dense.semantic_classes != self._labels:
            raise EvaluationError(
                f"classes of the data set ({', '.join(sample.dense.semantic_classes)}) are not the bundle's "
                f"({', '.join(self._labels)})"
            )
        predicted = read_dense(self.task, outputs[self.spec.outputs[0]], (height, width))
        self._evaluator.update(predicted, label.value, label.valid)

    def compute(self) -> Result:
        """Returns the result over everything seen so far."""
        result: Result = self._evaluator.compute()
        return result


def dense_evaluator(task: str, class_names: Sequence[str] = ()) -> Any:
    """Returns a new evaluator of a dense task.

    Args:
        task: One of DENSE_TASKS.
        class_names: Of semantic segmentation.

    Raises:
        EvaluationError: There is no such task.
    """
    makers: dict[str, Callable[[], Any]] = {
        "semantic_segmentation": lambda: SegmentationEvaluator(class_names),
        "depth": DepthEvaluator,
        "normals": NormalsEvaluator,
        "edges": lambda: PixelErrorEvaluator(EdgesResult),
        "keypoints": lambda: PixelErrorEvaluator(KeypointsResult),
    }
    if task not in makers:
        raise EvaluationError(f"'{task}' is no dense task; there are {', '.join(DENSE_TASKS)}")
    return makers[task]()
