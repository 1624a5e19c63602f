"""Evaluates a bundle on a data set: every task both have, in one pass over the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from perception_core.bundle import Bundle
from perception_core.deployment import Device
from perception_core.precision import Precision
from training.datasets.dataset import SampleDataset
from training.datasets.frame_input import FrameInput
from training.datasets.sample import DENSE_TASKS, Sample
from training.evaluation.bundle_outputs import OfflineBundle, mask_grid
from training.evaluation.cityscapes3d_detection import Cityscapes3dEvaluator
from training.evaluation.judges import (
    Cityscapes3dBoxJudge,
    ControlJudge,
    DenseJudge,
    Judge,
    MaskJudge,
    NuscenesBoxJudge,
)
from training.evaluation.nuscenes_detection import NuscenesDetectionEvaluator
from training.evaluation.nuscenes_split import ALL_SCENES, open_nuscenes
from training.evaluation.result import EvaluationError, Result

#: Called with (samples done, samples in all).
Progress = Callable[[int, int], None]
#: Called with the sample's number, the number of samples, the sample and everything the bundle said of it.
Watch = Callable[[int, int, Sample, dict[str, torch.Tensor]], None]

_BOX_TASKS = ("detection3d", "mono_detection3d")
_MASK_TASKS = ("map_segmentation", "foreground_segmentation")


@dataclass
class BundleEvaluation:
    """What came out.

    Attributes:
        results: By task.
        skipped: Tasks of the bundle that were not evaluated, and why.
        samples: Number of samples.
    """

    results: dict[str, Result] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    samples: int = 0


@dataclass(frozen=True)
class DataChoice:
    """Which data to evaluate on.

    Attributes:
        root: The data set.
        kind: Key of `training.datasets.opening.LAYOUTS`; None: found by the folder's content.
        split: Of a data set in nuScenes' format: a name, see `split_scenes`; else of Cityscapes-3D.
        version: Tables' folder of a data set in nuScenes' format; None: the only one.
        sweeps: LiDAR sweeps a frame.
    """

    root: Path
    kind: str | None = None
    split: str = "val"
    version: str | None = None
    sweeps: int = 1

    @property
    def is_nuscenes(self) -> bool:
        """Whether the folder has tables of nuScenes' format."""
        return self.kind == "nuscenes" or (self.kind is None and any(self.root.glob("v1.0-*/scene.json")))


def open_for_bundle(bundle: Bundle, tasks: Sequence[str], choice: DataChoice) -> SampleDataset:
    """Opens a data set with the image size, classes and grid of a bundle.

    Args:
        bundle: The bundle.
        tasks: Tasks whose labels are wanted.
        choice: Which data.

    Raises:
        DataError: The data set cannot be opened.
        EvaluationError: Heads of the bundle have different grids.
    """
    frame_input = FrameInput.of_bundle(bundle.spec.input, choice.sweeps)
    if not choice.is_nuscenes:
        from training.datasets.opening import open_dataset

        return open_dataset(choice.root, frame_input, choice.kind)
    from training.datasets.ego_track import ControlTargetsConfig
    from training.datasets.nuscenes import NUSCENES_TASKS, NuScenesConfig, NuScenesDataset

    heads = bundle.task_heads()
    options: dict[str, object] = {}
    grids = {
        task: mask_grid(bundle, bundle.spec.components[heads[task]]) for task in tasks if task in _MASK_TASKS
    }
    if len(set(map(repr, grids.values()))) > 1:
        raise EvaluationError(
            f"{bundle.path}: {' and '.join(grids)} have different grids; evaluate them one by one"
        )
    if grids:
        options["grid"] = next(iter(grids.values()))
    for option, sources in (
        ("detection_classes", (*_BOX_TASKS, "foreground_segmentation")),
        ("map_classes", ("map_segmentation",)),
    ):
        for task in sources:
            if task in tasks and option not in options:
                options[option] = bundle.spec.labels[task]
    if "control" in tasks:
        waypoints = bundle.spec.tensors[bundle.spec.components[heads["control"]].outputs[2]].shape[-2]
        options["control"] = ControlTargetsConfig(waypoints=int(waypoints))
    config = NuScenesConfig.model_validate(
        {
            "split": "" if choice.split == ALL_SCENES else choice.split,
            "tasks": tuple(task for task in tasks if task in NUSCENES_TASKS),
            **options,
        }
    )
    return NuScenesDataset(choice.root, choice.version or "", config, frame_input)


def evaluate_bundle(
    bundle: Bundle,
    choice: DataChoice,
    device: Device,
    tasks: Sequence[str] | None = None,
    *,
    precisions: Mapping[str, Precision] | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> BundleEvaluation:
    """Runs a bundle over a data set and judges every task that both have.

    Args:
        bundle: The bundle.
        choice: Which data.
        device: Where the bundle's components run.
        tasks: Tasks to judge; None: all of the bundle's heads.
        precisions: Variants of components that run instead of the device's precision.
        workers: Processes that read samples; 0: this one.
        progress: Told after each sample.
        watch: Shown each sample with the bundle's outputs, e.g. to draw some.

    Raises:
        EvaluationError: The bundle has no head for a task, the data set has no sample or no label of any of
            the tasks, or an output is not what its task needs.
        DataError: The data set or one of its samples cannot be read.
        ConfigurationError: The bundle cannot be loaded.
    """
    wanted = list(bundle.task_heads()) if tasks is None else list(tasks)
    dataset = open_for_bundle(bundle, wanted, choice)
    if len(dataset) == 0:
        raise EvaluationError(f"{choice.root}: no samples")
    there = frozenset().union(*(dataset.labels_of(index) for index in range(len(dataset))))
    evaluation = BundleEvaluation(samples=len(dataset))
    for task in wanted:
        if task not in there:
            evaluation.skipped[task] = f"no labels in this data set ({dataset.name})"
    model = OfflineBundle(bundle, [task for task in wanted if task in there], device, precisions)
    judges: dict[str, Judge] = {}
    for task in model.heads:
        judge = _judge(task, model, dataset, choice)
        if judge is None:
            evaluation.skipped[task] = f"no official evaluation of this task on {dataset.name}"
        else:
            judges[task] = judge
    if not judges:
        reasons = "; ".join(f"{task}: {why}" for task, why in evaluation.skipped.items())
        raise EvaluationError(f"{choice.root}: nothing to evaluate: {reasons}")
    for index, sample in enumerate(_samples(dataset, workers)):
        outputs = model.run(sample)
        for task, judge in judges.items():
            if task in sample.labels_present:
                judge.update(sample, outputs)
        if watch is not None:
            watch(index, len(dataset), sample, outputs)
        if progress is not None:
            progress(index + 1, len(dataset))
    for task, judge in judges.items():
        evaluation.results[task] = judge.compute()
    return evaluation


def _samples(dataset: SampleDataset, workers: int) -> Iterable[Sample]:
    if workers == 0:
        return (dataset[index] for index in range(len(dataset)))
    from torch.utils.data import DataLoader

    return DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(sample: Any) -> Any:
    return sample


def _judge(task: str, model: OfflineBundle, dataset: SampleDataset, choice: DataChoice) -> Judge | None:
    if task in _MASK_TASKS:
        return MaskJudge(task, model)
    if task == "control":
        return ControlJudge(task, model)
    if task in DENSE_TASKS:
        return DenseJudge(task, model)
    if task in _BOX_TASKS and choice.is_nuscenes:

        def by_devkit(evaluator: NuscenesDetectionEvaluator) -> Result:
            return evaluator.compute(open_nuscenes(choice.root, choice.version), choice.split)

        return NuscenesBoxJudge(task, model, by_devkit)
    if task == "mono_detection3d" and dataset.name.startswith("cityscapes"):

        def by_scripts(evaluator: Cityscapes3dEvaluator) -> Result:
            return evaluator.compute(choice.root / "gtBbox3d" / choice.split)

        return Cityscapes3dBoxJudge(task, model, by_scripts)
    return None
