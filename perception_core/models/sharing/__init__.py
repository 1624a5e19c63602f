"""Ways for tasks to share one backbone of stages, behind one interface, so that cost and quality compare."""

from perception_core.models.sharing.building import TOPOLOGIES, build_sharing
from perception_core.models.sharing.interface import SharingCost, SharingNetwork, measure_sharing
from perception_core.models.sharing.stages import StagePlan

__all__ = [
    "TOPOLOGIES",
    "SharingCost",
    "SharingNetwork",
    "StagePlan",
    "build_sharing",
    "measure_sharing",
]
