"""The experiments: which variants of a recipe each compares. Tables and figures are FULLER's where not said
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perception_core.configuration import ConfigurationError, nearest
from training.datasets.missing_sensor import Sensor

#: The four ways of training that Tab. 1, 2 and 4 compare.
Calibration = Literal["plain", "intra", "inter", "both"]
CALIBRATIONS: dict[Calibration, tuple[str, ...]] = {
    "plain": ("calibration.inter.method=plain", "calibration.intra.enabled=false"),
    "intra": ("calibration.inter.method=plain", "calibration.intra.enabled=true"),
    "inter": ("calibration.inter.method=imtl_g", "calibration.intra.enabled=false"),
    "both": ("calibration.inter.method=imtl_g", "calibration.intra.enabled=true"),
}


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: In tables; variants of one name and settings are one run, whichever experiments share it.
        overrides: Settings of the recipe, `key=value`.
        is_bound: A network of one task: an upper bound that Δ_MTL is measured against.
    """

    name: str
    overrides: tuple[str, ...]
    is_bound: bool = False


@dataclass(frozen=True)
class Experiment:
    """A comparison.

    Attributes:
        name: On the command line.
        title: What is compared.
        variants: What is trained.
        missing: Sensors that each network is evaluated without, too.
        curves: Evaluate after every epoch.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]
    missing: tuple[Sensor, ...] = ()
    curves: bool = False

    @property
    def bounds(self) -> tuple[Variant, ...]:
        """The variants of one task."""
        return tuple(variant for variant in self.variants if variant.is_bound)


def _tasks(*enabled: str) -> tuple[str, ...]:
    names = ("detection", "map_segmentation", "foreground_segmentation")
    return tuple(f"network.{name}.enabled={'true' if name in enabled else 'false'}" for name in names)


_DETECTION_AND_MAP = _tasks("detection", "map_segmentation")
_BOUNDS = (
    Variant("detection only", (*_tasks("detection"), *CALIBRATIONS["plain"]), is_bound=True),
    Variant("map only", (*_tasks("map_segmentation"), *CALIBRATIONS["plain"]), is_bound=True),
)
_FOREGROUND_BOUND = Variant(
    "foreground only", (*_tasks("foreground_segmentation"), *CALIBRATIONS["plain"]), is_bound=True
)


def _calibrated(
    kinds: Sequence[Calibration] = ("plain", "intra", "inter", "both"),
    label: str = "",
    overrides: tuple[str, ...] = (),
) -> tuple[Variant, ...]:
    return tuple(
        Variant(f"{kind}{label}", (*_DETECTION_AND_MAP, *CALIBRATIONS[kind], *overrides)) for kind in kinds
    )


def _weighted(weight: int) -> tuple[Variant, ...]:
    return _calibrated(
        label=f" 1:{weight}", overrides=(f"calibration.initial_weights.map_segmentation={weight}",)
    )


def _three_tasks(kind: Calibration) -> Variant:
    tasks = _tasks("detection", "map_segmentation", "foreground_segmentation")
    return Variant(f"{kind}, three tasks", (*tasks, *CALIBRATIONS[kind]))


def _modalities(name: str, *overrides: str) -> Variant:
    # Weighed between tasks only: a network of one modality has no branches to gate.
    return Variant(name, (*_DETECTION_AND_MAP, *CALIBRATIONS["inter"], *overrides))


_ALL = (
    Experiment("single_task", "upper bounds: a network for each task", (*_BOUNDS, _FOREGROUND_BOUND)),
    Experiment(
        "calibration",
        "plain, intra-, inter-gradient calibration and both at weights 1:1 (Tab. 1 and 4, Fig. 3, 4 and 6)",
        (*_BOUNDS, *_calibrated()),
    ),
    Experiment(
        "loss_weights",
        "the same at initial weights 1:5 and 1:10 of detection and map (Tab. 1)",
        (*_BOUNDS, *_weighted(5), *_weighted(10)),
    ),
    Experiment(
        "annotation",
        "labels of one task a sample, 1:1 and 3:1 (Tab. 2)",
        (
            *_BOUNDS,
            *_calibrated(label=", disjoint-balance", overrides=("data.annotation=disjoint-balance",)),
            *_calibrated(label=", disjoint-normal", overrides=("data.annotation=disjoint-normal",)),
        ),
    ),
    Experiment(
        "three_tasks",
        "foreground segmentation as a third task (Tab. 6)",
        (*_BOUNDS, _FOREGROUND_BOUND, *(_three_tasks(kind) for kind in CALIBRATIONS)),
    ),
    Experiment(
        "convergence",
        "metrics over epochs of single-task and multi-task networks (Fig. 5)",
        (*_BOUNDS, *_calibrated(("plain", "both"))),
        curves=True,
    ),
    Experiment(
        "modality_drop",
        "networks trained with both sensors, evaluated without cameras and without LiDAR (Fig. 7)",
        _calibrated(),
        missing=("camera", "lidar"),
    ),
    Experiment(
        "modalities",
        "camera only, LiDAR only, early and late fusion (MMMT co-design, Fig. 1)",
        (
            _modalities("camera only", "network.modalities=[camera]"),
            _modalities("LiDAR only", "network.modalities=[lidar]"),
            _modalities("early fusion"),
            _modalities("late fusion", "network.fusion=late"),
        ),
    ),
    Experiment(
        "methods",
        "other methods of weighing tasks in the place of IMTL-G",
        (
            *_BOUNDS,
            *(
                Variant(
                    method,
                    (
                        *_DETECTION_AND_MAP,
                        f"calibration.inter.method={method}",
                        "calibration.intra.enabled=false",
                    ),
                )
                for method in ("plain", "imtl_g", "gradnorm", "dwa", "uncertainty", "pcgrad", "mgda")
            ),
        ),
    ),
)

#: By name.
EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}


def find_experiment(name: str) -> Experiment:
    """Returns an experiment.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if name not in EXPERIMENTS:
        raise ConfigurationError(f"unknown experiment '{name}'" + nearest(name, EXPERIMENTS))
    return EXPERIMENTS[name]
