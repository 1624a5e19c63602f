"""Gradient calibration between tasks and between modalities, for networks with a shared layer and branches.

`GradientCalibrator` is FULLER's Algorithm 1 and, with another `inter.method`, its rivals; `CalibrationPoints`
says where in a network it works; `CalibrationRecord` is what a step measured.
"""

from training.gradient_calibration.calibrator import GradientCalibrator, create_task_weighting
from training.gradient_calibration.configuration import (
    BranchGatingConfig,
    GradientCalibrationConfig,
    PrimaryTaskConfig,
    TaskWeightingConfig,
)
from training.gradient_calibration.points import Branch, CalibrationPoints
from training.gradient_calibration.record import CalibrationRecord, NonFiniteGradientError

__all__ = [
    "Branch",
    "BranchGatingConfig",
    "CalibrationPoints",
    "CalibrationRecord",
    "GradientCalibrationConfig",
    "GradientCalibrator",
    "NonFiniteGradientError",
    "PrimaryTaskConfig",
    "TaskWeightingConfig",
    "create_task_weighting",
]
