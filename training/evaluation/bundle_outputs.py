"""Runs a bundle on samples, as the vehicle would on frames, and reads what its heads say, by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.nn import functional

from perception_core.backends import ComponentRunner, load_component
from perception_core.boxes import Box3D, decode_boxes
from perception_core.bundle import SENSOR_TENSORS, Bundle, ComponentSpec
from perception_core.configuration import nearest
from perception_core.deployment import Device
from perception_core.host import available_cores
from perception_core.ops.bev_grid import BevGrid
from perception_core.precision import Precision
from training.datasets.sample import Sample
from training.evaluation.mono_frame import mono_tensors
from training.evaluation.nuscenes_submission import MAX_BOXES
from training.evaluation.result import EvaluationError

Tensors = Mapping[str, torch.Tensor]


def evaluation_device(kind: str = "cpu", backend: str = "torch") -> Device:
    """Returns the device bundles are evaluated on: all cores this process may use, or the first GPU."""
    cores = available_cores() if kind == "cpu" else ()
    return Device.model_validate({"kind": kind, "cores": cores, "backend": backend})


def in_precision(device: Device, precision: Precision | None) -> Device:
    """Returns a device in another precision; None: as it is."""
    return device if precision is None else device.model_copy(update={"precision": precision})


class OfflineBundle:
    """The components of a bundle that some tasks need, run one after the other.

    Attributes:
        bundle: The bundle.
        heads: Component by task.
    """

    def __init__(
        self,
        bundle: Bundle,
        tasks: Sequence[str],
        device: Device,
        precisions: Mapping[str, Precision] | None = None,
    ) -> None:
        """Loads the components.

        Args:
            bundle: The bundle.
            tasks: Tasks to run; others' heads are left out.
            device: Where all of them run.
            precisions: Variants of components that run instead of the device's precision.

        Raises:
            EvaluationError: The bundle has no head for a task.
            ConfigurationError: A component cannot be loaded.
        """
        self.bundle = bundle
        known = bundle.task_heads()
        for task in tasks:
            if task not in known:
                raise EvaluationError(f"{bundle.path}: no head for task '{task}'" + nearest(task, known))
        self.heads = {task: known[task] for task in tasks}
        needed = _needed(bundle, self.heads.values())
        self._runners: dict[str, ComponentRunner] = {
            name: load_component(bundle, name, in_precision(device, (precisions or {}).get(name)))
            for name in bundle.spec.components
            if name in needed
        }

    def run(self, sample: Sample) -> dict[str, torch.Tensor]:
        """Runs one frame.

        Returns:
            Every tensor the components output, on the CPU, by graph name.

        Raises:
            EvaluationError: The bundle needs a tensor that the sample does not have.
        """
        tensors = dict(sample.frame())
        mono = self.bundle.spec.input.mono
        if mono is not None:
            tensors |= mono_tensors(sample, mono)
        for name, runner in self._runners.items():
            spec = self.bundle.spec.components[name]
            for tensor in spec.inputs:
                if tensor not in tensors:
                    raise EvaluationError(
                        f"{self.bundle.path}: component '{name}' needs '{tensor}', which sample "
                        f"{sample.provenance.token} of {sample.provenance.dataset} does not have"
                    )
            tensors.update(runner.run({tensor: tensors[tensor] for tensor in spec.inputs}))
        return {name: value.cpu() for name, value in tensors.items() if name not in SENSOR_TENSORS}

    def head(self, task: str) -> ComponentSpec:
        """Returns the head of a task."""
        return self.bundle.spec.components[self.heads[task]]

    def labels(self, task: str) -> tuple[str, ...]:
        """Returns the class names of a task.

        Raises:
            EvaluationError: The bundle does not list them.
        """
        if task not in self.bundle.spec.labels:
            raise EvaluationError(f"{self.bundle.path}: no class names of '{task}' under 'labels'")
        return self.bundle.spec.labels[task]


def _needed(bundle: Bundle, heads: Iterable[str]) -> set[str]:
    """Returns the components that heads depend on, themselves included."""
    wanted = list(heads)
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        for tensor in bundle.spec.components[name].inputs:
            if tensor not in SENSOR_TENSORS:
                wanted.append(bundle.producer_of(tensor))
    return found


def read_boxes(spec: ComponentSpec, labels: Sequence[str], outputs: Tensors) -> list[Box3D]:
    """Returns the boxes of a head with outputs boxes, scores, labels (and tilt); all of them, best first.

    The vehicle's score threshold is not applied: precision and recall are measured over all scores.

    Raises:
        EvaluationError: The head has other outputs.
    """
    if len(spec.outputs) not in (3, 4):
        raise EvaluationError(f"a box head has outputs boxes, scores, labels, not {list(spec.outputs)}")
    boxes_q9, scores_q, labels_q = (outputs[name] for name in spec.outputs[:3])
    return decode_boxes(boxes_q9, scores_q, labels_q, labels, max_boxes=MAX_BOXES)


def mask_grid(bundle: Bundle, spec: ComponentSpec) -> BevGrid:
    """Returns where the cells of a mask head's output lie.

    Raises:
        EvaluationError: The bundle does not say.
    """
    options = spec.decoder_options
    shape = bundle.spec.tensors[spec.outputs[0]].shape
    try:
        cell, (x, y) = float(options["resolution_m"]), options["origin_xy"]
        rows, columns = int(shape[-2]), int(shape[-1])
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"{bundle.path}: head of '{spec.task}' must give resolution_m and origin_xy in its "
            f"decoder_options and a fixed shape of '{spec.outputs[0]}': {type(error).__name__}: {error}"
        ) from error
    return BevGrid(x_min=x, x_max=x + columns * cell, y_min=y, y_max=y + rows * cell, cell_size=cell)


def read_dense(task: str, output: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Returns a dense head's output in the form of the labels, at their size.

    Args:
        task: One of `training.datasets.sample.DENSE_TASKS`.
        output: [V, C, h, w] scores of classes, or one value or vector a pixel; [V, h, w] also for class
            numbers and single values.
        size: Height and width of the labels. Scores and values are resized bilinearly before the best class
            is taken, class numbers to the nearest.

    Returns:
        [V, H, W] int64 classes or float32 values, [V, H, W, 3] for normals.

    Raises:
        EvaluationError: The output has another form.
    """
    if output.ndim not in (3, 4):
        raise EvaluationError(f"{task}: a head's output has 3 or 4 axes, not shape {tuple(output.shape)}")
    image_vchw = output if output.ndim == 4 else output.unsqueeze(1)
    channels = image_vchw.shape[1]
    if tuple(image_vchw.shape[2:]) != size:
        smooth = image_vchw.is_floating_point()
        options = {"mode": "bilinear", "align_corners": False} if smooth else {"mode": "nearest"}
        resized = functional.interpolate(image_vchw.float(), size=size, **options)
        image_vchw = resized if smooth else resized.to(image_vchw.dtype)
    if task == "semantic_segmentation":
        return image_vchw[:, 0].long() if channels == 1 else image_vchw.argmax(dim=1)
    if task == "normals":
        if channels != 3:
            raise EvaluationError(f"normals: a head gives [V, 3, H, W], not shape {tuple(output.shape)}")
        return image_vchw.movedim(1, -1).float()
    if channels != 1:
        raise EvaluationError(f"{task}: a head gives one value a pixel, not shape {tuple(output.shape)}")
    return image_vchw[:, 0].float()
