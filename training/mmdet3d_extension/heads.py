"""FULLER's heads under names of mmdet3d's registry, for detectors and configs that build them one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from perception_core.configuration import StrictModel
from perception_core.models.fuller.configuration import (
    ControlHeadConfig,
    DenseDetectionHeadConfig,
    DenseMapHeadConfig,
    DetectionHeadConfig,
    ForegroundHeadConfig,
    MapHeadConfig,
)
from perception_core.models.fuller.control_head import ControlHead
from perception_core.models.fuller.dense_heads import DenseDetectionHead, DenseMapHead
from perception_core.models.fuller.detection_head import DetectionHead
from perception_core.models.fuller.map_head import MapHead
from perception_core.ops.bev_grid import BevGrid
from training.mmdet3d_extension.requirements import import_mmdet3d

import_mmdet3d()

from mmdet3d.registry import MODELS  # noqa: E402

#: Registered name to the head and the settings it takes.
HEADS: dict[str, tuple[Any, type[StrictModel]]] = {
    "FullerDetectionHead": (DetectionHead, DetectionHeadConfig),
    "FullerDenseDetectionHead": (DenseDetectionHead, DenseDetectionHeadConfig),
    "FullerMapHead": (MapHead, MapHeadConfig),
    "FullerDenseMapHead": (DenseMapHead, DenseMapHeadConfig),
    "FullerForegroundHead": (MapHead, ForegroundHeadConfig),
    "FullerControlHead": (ControlHead, ControlHeadConfig),
}


def _builder(name: str) -> Any:
    head, settings = HEADS[name]

    def build(in_channels: int, grid: Mapping[str, float], **arguments: Any) -> nn.Module:
        """Builds a head on a feature (B, in_channels, H, W) over a grid; the rest are its settings."""
        built: nn.Module = head(settings.model_validate(arguments), in_channels, BevGrid(**dict(grid)))
        return built

    build.__name__ = name
    return build


for _name in HEADS:
    MODELS.register_module(name=_name, module=_builder(_name))
