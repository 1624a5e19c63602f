"""Registers everything of FULLER with mmdet3d; the module that a config names under `custom_imports`."""

from __future__ import annotations

from training.mmdet3d_extension.calibration_hook import GradientCalibrationHook
from training.mmdet3d_extension.data import FullerDataPreprocessor, FullerDrivingSet
from training.mmdet3d_extension.detector import FullerDetector3D
from training.mmdet3d_extension.heads import HEADS

__all__ = [
    "HEADS",
    "FullerDataPreprocessor",
    "FullerDetector3D",
    "FullerDrivingSet",
    "GradientCalibrationHook",
]
