"""Networks for edge devices: EfficientNet-B0 with BiFPN as EDNAS searches it."""

from perception_core.models.edge.architecture import (
    EDGE_BASE,
    NAMED_ARCHITECTURES,
    BlockChoice,
    EdgeArchitecture,
)
from perception_core.models.edge.network import EdgeBackbone, EdgeNetwork

__all__ = [
    "EDGE_BASE",
    "NAMED_ARCHITECTURES",
    "BlockChoice",
    "EdgeArchitecture",
    "EdgeBackbone",
    "EdgeNetwork",
]
