"""Losses of the tasks. Each leaves out samples without labels and is 0, with a graph, where there are
none.
"""

from training.losses.configuration import (
    ControlLossConfig,
    DepthLossConfig,
    DetectionLossConfig,
    MaskLossConfig,
)
from training.losses.control import ControlLoss
from training.losses.dense_depth import DenseDepthLoss
from training.losses.depth import DepthLoss
from training.losses.detection import DetectionLoss
from training.losses.masks import BevMaskLoss
from training.losses.mono_configuration import (
    DenseDepthLossConfig,
    MonoDetectionLossConfig,
    MonoLossConfig,
    SegmentationLossConfig,
)
from training.losses.mono_detection import MonoDetectionLoss
from training.losses.semantic_segmentation import SegmentationLoss
from training.losses.task_loss import NonFiniteLossError, TaskLoss

__all__ = [
    "BevMaskLoss",
    "ControlLoss",
    "ControlLossConfig",
    "DenseDepthLoss",
    "DenseDepthLossConfig",
    "DepthLoss",
    "DepthLossConfig",
    "DetectionLoss",
    "DetectionLossConfig",
    "MaskLossConfig",
    "MonoDetectionLoss",
    "MonoDetectionLossConfig",
    "MonoLossConfig",
    "NonFiniteLossError",
    "SegmentationLoss",
    "SegmentationLossConfig",
    "TaskLoss",
]
