"""FULLER: a LiDAR-camera BEV network with query heads for 3D detection and map segmentation."""

from perception_core.models.fuller.model import FullerModel
from perception_core.models.fuller.variants import (
    FINE_GRID,
    fuller_base,
    fuller_configuration,
    fuller_full,
    fuller_micro,
    fuller_tiny,
)

__all__ = [
    "FINE_GRID",
    "FullerModel",
    "fuller_base",
    "fuller_configuration",
    "fuller_full",
    "fuller_micro",
    "fuller_tiny",
]
