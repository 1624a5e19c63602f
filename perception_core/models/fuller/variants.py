"""FULLER's registered sizes."""

from __future__ import annotations

from typing import Any

from perception_core.configuration import ConfigurationError, nearest
from perception_core.models.fuller.configuration import FullerConfig, build_configuration
from perception_core.models.fuller.model import FullerModel
from perception_core.models.registry import register_model

#: The paper's network (section 3.1 and Tab. 3) at its multi-task voxel size of 0.1 m.
_FULL: dict[str, Any] = {
    "camera": {"kind": "swin"},
    "lidar": {"kind": "voxels"},
    "fuser": {"kind": "second"},
    "detection": {
        "channels": 128,
        "heatmap_channels": 128,
        "queries": 200,
        "heads": 8,
        "hidden_channels": 256,
    },
    "map_segmentation": {
        "mask_channels": 256,
        "cell_subdivision": 2,
        "heads": 8,
        "hidden_channels": 1024,
    },
    "foreground_segmentation": {
        "mask_channels": 256,
        "cell_subdivision": 2,
        "heads": 8,
        "hidden_channels": 1024,
    },
    "control": {"channels": 64},
}

#: Between full and tiny: sparse voxels, a residual image encoder, half of the full size's channels.
_BASE: dict[str, Any] = {
    "camera": {
        "image_height": 256,
        "image_width": 704,
        "stem_channels": 32,
        "stage_channels": (64, 128, 256),
        "stage_blocks": (2, 2, 2),
        "neck_channels": 128,
        "bev_channels": 64,
    },
    "lidar": {"kind": "voxels", "stage_channels": (16, 32, 64, 96), "bev_channels": 128},
    "fuser": {
        "kind": "second",
        "fused_channels": 128,
        "layer_channels": (96, 192),
        "layer_blocks": (3, 3),
        "out_channels": 256,
    },
    "detection": {
        "channels": 128,
        "heatmap_channels": 64,
        "queries": 200,
        "heads": 8,
        "hidden_channels": 256,
    },
    "map_segmentation": {"mask_channels": 128, "heads": 8, "hidden_channels": 256},
    "foreground_segmentation": {"mask_channels": 128, "heads": 8, "hidden_channels": 256},
    "control": {"channels": 48},
}

#: For experiments on two cores: 64 x 64 cells, small images, few channels.
_MICRO: dict[str, Any] = {
    "grid": {"x_min": -38.4, "x_max": 38.4, "y_min": -38.4, "y_max": 38.4, "cell_size": 1.2},
    "camera": {
        "image_height": 64,
        "image_width": 176,
        "stem_channels": 12,
        "stage_channels": (24, 32, 48),
        "neck_channels": 32,
        "bev_channels": 24,
        "depth_max": 45.0,
        "depth_bins": 45,
    },
    "lidar": {"pillar_channels": 16, "stage_channels": (24, 48), "bev_channels": 24, "max_points": 30_000},
    "fuser": {"layer_channels": (32, 48), "out_channels": 32},
    "detection": {"heatmap_channels": 24, "queries": 64, "hidden_channels": 64},
    "map_segmentation": {"mask_channels": 24, "hidden_channels": 48},
    "foreground_segmentation": {"mask_channels": 24, "hidden_channels": 48},
    "control": {"channels": 24},
}


#: What each registered size sets beside FullerConfig's own defaults.
_SIZES: dict[str, dict[str, Any]] = {
    "fuller_full": _FULL,
    "fuller_base": _BASE,
    "fuller_tiny": {},
    "fuller_micro": _MICRO,
}


def fuller_configuration(name: str, **arguments: Any) -> FullerConfig:
    """Returns the whole configuration of a registered size without building the network.

    Args:
        name: A registered name, e.g. `fuller_tiny`.
        arguments: Laid over it group by group, e.g. `control={"enabled": True}`.

    Raises:
        ConfigurationError: The name or an argument is unknown or wrong.
    """
    if name not in _SIZES:
        raise ConfigurationError(f"no size '{name}' of FULLER" + nearest(name, _SIZES))
    return build_configuration(name, _SIZES[name], arguments)


@register_model
def fuller_full(**arguments: Any) -> FullerModel:
    """FULLER at the size of its paper: Swin-T on 256 x 704 images, 0.1 m voxels, 0.8 m cells.

    `fuller_full(grid=FINE_GRID)` has the 0.075 m voxels of its detection benchmark.
    """
    return FullerModel(fuller_configuration("fuller_full", **arguments))


@register_model
def fuller_base(**arguments: Any) -> FullerModel:
    """FULLER with a residual image encoder and about half of the full size's channels."""
    return FullerModel(fuller_configuration("fuller_base", **arguments))


@register_model
def fuller_tiny(**arguments: Any) -> FullerModel:
    """FULLER for two CPU cores: 0.8 m cells, 128 x 352 images, about 4.4 billion multiply-adds a frame."""
    return FullerModel(fuller_configuration("fuller_tiny", **arguments))


@register_model
def fuller_micro(**arguments: Any) -> FullerModel:
    """FULLER for experiments on two CPU cores: 64 x 64 cells of 1.2 m, 64 x 176 images."""
    return FullerModel(fuller_configuration("fuller_micro", **arguments))


#: Grid of 180 x 180 cells of 0.6 m, eight voxels of 0.075 m each: FULLER's and BEVFusion's detection
#: benchmark.
FINE_GRID: dict[str, float] = {
    "x_min": -54.0,
    "x_max": 54.0,
    "y_min": -54.0,
    "y_max": 54.0,
    "cell_size": 0.6,
}
