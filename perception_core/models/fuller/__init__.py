"""FULLER: a LiDAR-camera BEV network with query heads for 3D detection and map segmentation."""

from perception_core.models.fuller.model import FullerModel, fuller_tiny

__all__ = ["FullerModel", "fuller_tiny"]
